# intent_ref: tests.open-files
"""The limit of open files: raised as far as is allowed and useful, never lowered."""

import pytest

from quantum.open_files import wanted_limit

INFINITE = -1


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1_024, 4_096, 4_096),
        (1_024, 1_048_576, 65_536),
        (1_024, INFINITE, 65_536),
        (4_096, 4_096, None),
        (100_000, 1_048_576, None),
        (INFINITE, INFINITE, None),
        (65_536, INFINITE, None),
    ],
)
def test_the_soft_limit_goes_to_the_hard_one_within_bounds_and_never_down(soft: int, hard: int, wanted: int | None) -> None:
    assert wanted_limit(soft, hard, 65_536, INFINITE) == wanted
