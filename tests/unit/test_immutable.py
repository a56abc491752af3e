# intent_ref: domain.immutable
"""Value classes: equal by what they hold, without room for anything else, and read-only for the type checker."""

from dataclasses import field, replace
from typing import Any

import pytest
from mypy import api

from domain.immutable import immutable

_SNIPPET = """
from domain.immutable import immutable

@immutable
class Point:
    x: int
    y: int = 0

point = Point(1)
{line}
"""


@immutable
class Point:
    """A place."""

    x: int
    y: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)


def test_values_are_equal_by_what_they_hold():
    assert Point(1) == Point(1, 0, ())
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert replace(Point(1), y=3) == Point(1, 3)
    match Point(1, 2):
        case Point(x=1, y=found):
            assert found == 2


def test_a_value_has_no_room_for_other_fields():
    point: Any = Point(1)
    with pytest.raises(AttributeError):
        point.z = 1


@pytest.mark.parametrize(("line", "is_allowed"), [("print(point.x)", True), ("point.x = 2", False), ("Point('a')", False)])
def test_the_type_checker_lets_nobody_change_one(line: str, is_allowed: bool):
    said, _, status = api.run(["--config-file=", "--strict", "-c", _SNIPPET.format(line=line)])
    assert (status == 0) == is_allowed, said
