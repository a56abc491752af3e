# intent_ref: bench.benchmarks
"""docs/benchmarks.md knows every part of the benchmarks, and says of Restate what is measured."""

from pathlib import Path

import pytest

from bench.__main__ import PARTS
from bench.peer_restate import IN_FLIGHT, SETTINGS, Setting

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_place_on_the_page(part: str):
    headings = [line for line in PAGE.splitlines() if line.startswith("## ")]
    assert any(f"`{part}`" in heading for heading in headings)


def test_the_page_names_the_settings_of_restate_that_are_measured():
    assert (Setting(4, 1), Setting(4, 2, streams=8), Setting(1, 1)) == SETTINGS
    text = " ".join(PAGE.split())
    assert "4 partitions with one granian worker, 4 partitions with two (over connections of 8 requests" in text
    assert f"{IN_FLIGHT} connections of kept-alive HTTP/1.1 call it" in text
