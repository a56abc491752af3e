# intent_ref: tests.events
"""What is said of events keeps true: schemas that have gone out hold, and the check that says so can fail."""

import json
import re
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs
import orjson
import pytest

from event_store import codec
from streaming import event_types as catalogue
from streaming.asyncapi import asyncapi_document, envelope_schema
from streaming.cloud_events import structured
from streaming.event_types import SCHEMAS, Broken, as_text, event_types, meaning_of, schema_of, write
from streaming.schema_changes import breaks
from streaming.transport import Message
from tests.golden.write import FOLDER as GOLDEN
from tests.unit.test_cloud_events import MESSAGE

REGENERATE = "run `python -m streaming.event_types` at the root of the tree"


@pytest.mark.parametrize("topic", sorted(codec.TOPICS))
def test_a_schema_that_has_gone_out_still_holds_and_is_that_of_the_class(topic: str) -> None:
    path, example = SCHEMAS / f"{topic}.json", GOLDEN / f"{topic}.json"
    assert path.exists(), f"{topic} has no schema: {REGENERATE}"
    assert example.exists(), f"{topic} has no golden file: run `python -m tests.golden.write`"
    now = schema_of(topic, codec.TOPICS[topic], [orjson.loads(example.read_bytes())])
    assert breaks(orjson.loads(path.read_bytes()), now) == []
    assert path.read_bytes() == as_text(now), f"{topic} has changed, compatibly: {REGENERATE}"


def test_every_version_in_anybodys_log_has_a_schema_and_nothing_else_has() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(codec.TOPICS) | set(codec.UPCASTERS)


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_ever_written_fits_its_schema(path: Path) -> None:
    schema = orjson.loads(path.read_bytes())
    assert schema["$id"] == f"quantum:event-types/quantum.{path.stem}"
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.validator_for(schema).validate(orjson.loads((GOLDEN / path.name).read_bytes()))


@pytest.mark.parametrize("topic", sorted(codec.TOPICS))
def test_every_event_says_what_it_means(topic: str) -> None:
    meaning = meaning_of(topic, codec.TOPICS[topic])
    assert meaning, f"{topic} does not say what it means: give {codec.TOPICS[topic].__name__} a docstring"


@dataclass(frozen=True)
class Brush:
    """What one paints with."""

    width: int
    kind: Literal["flat", "round"] = "flat"


@dataclass(frozen=True)
class Painted:
    """A wall was painted."""

    colour: str
    coats: int
    brush: Brush
    notes: tuple[str, ...]
    reason: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


FIELDS: dict[str, Any] = {
    "colour": str, "coats": int, "brush": Brush, "notes": tuple[str, ...], "reason": (str | None, None),
    "extra": (dict[str, Any], field(default_factory=dict)),
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    """The schema of `Painted` after somebody has been at it; None takes a field away."""
    fields = {name: kind for name, kind in {**FIELDS, **changes}.items() if kind is not None}
    ordered = sorted(fields.items(), key=lambda one: isinstance(one[1], tuple))
    made = make_dataclass("Painted", [(name, *kind) if isinstance(kind, tuple) else (name, kind) for name, kind in ordered])
    return schema_of("wall.painted.v1", made)


BEFORE = schema_of("wall.painted.v1", Painted)
WiderBrush = make_dataclass("Brush", [("width", float), ("kind", Literal["flat", "round"], "flat")])
BrushOfNewKind = make_dataclass("Brush", [("width", int), ("kind", Literal["flat", "round", "foam"], "flat")])
BrushOfOneKind = make_dataclass("Brush", [("width", int), ("kind", Literal["flat"], "flat")])
BrushWithHandle = make_dataclass("Brush", [("width", int), ("handle", str), ("kind", Literal["flat", "round"], "flat")])
Pot = make_dataclass("Pot", [("litres", int)])


def test_a_schema_keeps_the_promises_of_its_equal() -> None:
    assert breaks(BEFORE, changed()) == []


@pytest.mark.parametrize(
    "changes",
    [{"wall": (str, "north")}, {"wall": (str | None, None)}, {"pot": (Pot | None, None)}, {"brush": BrushOfNewKind}],
    ids=["optional", "optional or null", "optional object", "a value more"],
)
def test_what_consumers_may_pass_over_may_be_added(changes: dict[str, Any]) -> None:
    assert breaks(BEFORE, changed(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"colour": None}, "/colour"),
        ({"colour": None, "color": (str, "red")}, "/colour"),
        ({"reason": None}, "/reason"),
        ({"coats": str}, "/coats"),
        ({"coats": float}, "/coats"),
        ({"coats": int | None}, "/coats"),
        ({"coats": (int, 1)}, "/coats"),
        ({"reason": (str, "")}, "/reason"),
        ({"reason": str | None}, "/reason"),
        ({"reason": (str | int | None, None)}, "/reason"),
        ({"wall": str}, "/wall"),
        ({"notes": tuple[int, ...]}, "/notes/items"),
        ({"notes": str}, "/notes"),
        ({"notes": tuple[str, str]}, "/notes"),
        ({"brush": WiderBrush}, "/brush/width"),
        ({"brush": BrushWithHandle}, "/brush/handle"),
        ({"brush": BrushOfOneKind}, "/brush/kind"),
        ({"brush": Pot}, "/brush"),
        ({"brush": str}, "/brush"),
        ({"extra": (dict[str, str], field(default_factory=dict))}, "/extra"),
    ],
    ids=[
        "removed", "renamed", "optional removed", "retyped", "made a float", "made nullable", "made optional",
        "made never null", "made required", "a type more", "added as required", "items retyped", "array retyped", "array of two",
        "inner retyped", "inner required", "a value less", "another object", "object retyped", "free object bound",
    ],
)  # fmt: skip
def test_what_consumers_or_the_log_rely_on_may_not_change(changes: dict[str, Any], place: str) -> None:
    faults = breaks(BEFORE, changed(**changes))
    assert faults
    assert all(fault.startswith(place) for fault in faults), faults


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "string"}, {"type": "string", "format": "date-time"}),
        ({"type": "string", "maxLength": 5}, {"type": "string", "maxLength": 6}),
        ({"type": "object"}, {"type": "object", "additionalProperties": False}),
        ({}, {"type": "string"}),
        ({"type": "string"}, {}),
        ({"enum": ["a"]}, {}),
        ({"const": 1}, {"const": 2}),
        ({"anyOf": [{"type": "string"}]}, {"type": "string"}),
    ],
)
def test_whatever_else_narrows_or_widens_is_a_break(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert breaks(old, new)


def test_a_constant_may_become_one_of_several_values() -> None:
    assert breaks({"const": "flat", "type": "string"}, {"enum": ["flat", "round"], "type": "string"}) == []
    assert breaks({"const": "flat", "type": "string"}, {"enum": ["foam", "round"], "type": "string"})


def test_types_that_hold_themselves_are_compared_to_the_end() -> None:
    def tree(leaf: str) -> dict[str, Any]:
        node = {
            "type": "object",
            "properties": {"leaf": {"type": leaf}, "below": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
        }
        return {"$ref": "#/$defs/Tree", "$defs": {"Tree": node}}

    assert breaks(tree("string"), tree("string")) == []
    assert breaks(tree("string"), tree("integer"))


def test_words_may_change_at_will() -> None:
    assert breaks(BEFORE, {**BEFORE, "title": "Other", "description": "Other words.", "examples": [{}]}) == []


def test_the_command_refuses_to_write_what_breaks_and_writes_nothing_then(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    assert write(folder, tmp_path, {"wall.painted.v1": Painted}) == ["wall.painted.v1.json"]
    assert write(folder, tmp_path, {"wall.painted.v1": Painted}) == []
    before = (folder / "wall.painted.v1.json").read_bytes()
    with pytest.raises(Broken, match=r"wall\.painted\.v1 /colour"):
        write(folder, tmp_path, {"wall.cleaned.v1": Pot, "wall.painted.v1": Pot})
    assert (folder / "wall.painted.v1.json").read_bytes() == before
    assert not (folder / "wall.cleaned.v1.json").exists()


def test_a_version_that_only_an_upcaster_knows_keeps_its_schema_and_names_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = "tenant.registered.v2"
    monkeypatch.setattr(codec, "TOPICS", {newest: codec.TOPICS["tenant.registered.v1"]})
    monkeypatch.setattr(codec, "UPCASTERS", {"tenant.registered.v1": (newest, dict)})
    catalogue.event_types.cache_clear()
    try:
        old = catalogue.event_type("quantum.tenant.registered.v1")
    finally:
        catalogue.event_types.cache_clear()
    assert old is not None
    assert (old.version, old.superseded_by) == (1, "quantum.tenant.registered.v2")


def test_a_cloudevent_fits_the_envelope() -> None:
    validator = jsonschema_rs.validator_for(envelope_schema())
    validator.validate(orjson.loads(structured(MESSAGE, "quantum://test")))
    assert not validator.is_valid({"specversion": "1.0"})


class TestAsyncapi:
    """The structure that AsyncAPI 3.0 asks for, held without its own schema, which comes in no Python package."""

    document = asyncapi_document(event_types(), version="1.2.3")

    def test_it_has_the_parts_that_the_specification_requires(self) -> None:
        assert self.document["asyncapi"] == "3.0.0"
        assert self.document["info"]["title"]
        assert self.document["info"]["version"] == "1.2.3"
        assert set(self.document) <= {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
        assert {one["action"] for one in self.document["operations"].values()} <= {"send", "receive"}

    def test_every_reference_leads_somewhere(self) -> None:
        text = json.dumps(self.document)
        references = set(re.findall(r'"\$ref": "([^"]+)"', text))
        assert references
        for reference in references:
            found: Any = self.document
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]

    def test_names_of_components_are_what_the_specification_allows(self) -> None:
        for kind in self.document["components"].values():
            assert all(re.fullmatch(r"[\w.-]+", name) for name in kind)

    def test_each_type_is_a_message_of_each_channel(self) -> None:
        names = {one.type for one in event_types()}
        assert set(self.document["components"]["messages"]) == names
        for channel in self.document["channels"].values():
            assert set(channel["messages"]) == names

    def test_its_schemas_take_the_events_and_refuse_others(self) -> None:
        for topic in ("execution.started.v1", "intent.created.v1"):
            payload = (GOLDEN / f"{topic}.json").read_bytes()
            event = orjson.loads(structured(Message(**{**vars(MESSAGE), "topic": topic, "payload": payload})))
            message = self.document["components"]["messages"][event["type"]]
            schema = {**message["payload"], "components": self.document["components"]}
            validator = jsonschema_rs.validator_for(schema)
            validator.validate(event)
            assert not validator.is_valid({**event, "type": "quantum.other.v1"})
            assert not validator.is_valid({**event, "data": {}})
