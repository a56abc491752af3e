# intent_ref: domain.immutable
"""Value classes: equal by what they hold, and read-only for the type checker."""

from dataclasses import field, replace

import orjson
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


def test_a_value_is_written_as_its_fields():
    assert orjson.dumps(Point(1, notes=("here",))) == b'{"x":1,"y":0,"notes":["here"]}'


@pytest.mark.parametrize(
    ("line", "is_allowed"),
    [("print(point.x)", True), ("point.x = 2", False), ("point.z = 1", False), ("Point('a')", False)],
)
def test_the_type_checker_lets_nobody_change_one(line: str, is_allowed: bool):
    said, _, status = api.run(["--config-file=", "--strict", "-c", _SNIPPET.format(line=line)])
    assert (status == 0) == is_allowed, said
