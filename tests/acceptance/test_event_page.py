# intent_ref: tests.events
"""docs/events.md says what there is: every type with its meaning, and examples that its schema takes."""

import re

import jsonschema_rs
import orjson
import pytest

from event_store import codec
from streaming.asyncapi import envelope_schema
from streaming.event_types import EventType, event_types
from tests.event_page import PAGE

SECTIONS = {
    name: (meaning, orjson.loads(example))
    for name, meaning, example in re.findall(
        r"^### (quantum\.\S+)\n(.*?)\n\n(?:Its `data`:\n\n)?```json\n(.*?)\n```$", PAGE.read_text(encoding="utf-8"), re.M | re.S
    )
}
CURRENT = [one for one in event_types() if one.topic in codec.TOPICS]


def test_the_page_shows_the_types_that_there_are() -> None:
    assert set(SECTIONS) == {one.type for one in CURRENT}, "run `python -m tests.event_page` at the root of the tree"
    for one in event_types():
        assert f"`{one.type}`" in PAGE.read_text(encoding="utf-8") or one.type in SECTIONS


@pytest.mark.parametrize("one", [one for one in CURRENT if one.type in SECTIONS], ids=lambda one: str(one.type))
def test_what_the_page_says_of_a_type_is_so(one: EventType) -> None:
    meaning, example = SECTIONS[one.type]
    assert meaning == one.meaning
    if "specversion" in example:
        jsonschema_rs.validator_for(envelope_schema()).validate(example)
        assert example["type"] == one.type
        example = example["data"]
    jsonschema_rs.validator_for(one.schema).validate(example)
