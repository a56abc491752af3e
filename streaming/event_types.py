# intent_ref: streaming.event-types
"""Every type of event, with the JSON Schema of its payload: what those who subscribe may rely on.

The schemas are made from the event classes, with the golden files as examples, and kept in `streaming/schemas/`, where they
go out with a release; `python -m streaming.event_types`, at the root of the tree, writes them. A schema that has gone out is
a promise: the command refuses to write one that breaks it (`streaming/schema_changes.py`). The schema of a version which only
an upcaster knows any more stays as it was.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from event_store import codec
from streaming.cloud_events import schema_id, type_of
from streaming.schema_changes import breaks

SCHEMAS: Final = Path(__file__).parent / "schemas"
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_VERSION: Final = re.compile(r"(.+)\.v([1-9][0-9]*)")
# Of events whose class says everything in its name; a docstring comes before.
_MEANINGS: Final = {
    "tenant.registered": "A tenant was registered: its users may begin to work.",
    "tenant.suspended": "A tenant was suspended: it may read, and change nothing.",
    "tenant.reactivated": "A suspended tenant may work again.",
    "intent.created": "An intent was created, with its first version.",
    "intent.deprecated": "An intent was deprecated: it should not be used for anything new.",
    "intent.activated": "A deprecated intent is good for use again.",
    "intent.archived": "An intent was archived: it is gone, its name is free again, its history stays.",
    "module.registered": "A module was registered: its actions can be used in steps.",
    "module.changed": "A module can do something else now, or is reached in another way.",
    "module.removed": "A module was removed: no step can use its actions any more.",
    "subscription.deleted": "A subscription is gone; nothing is delivered for it any more.",
    "subscription.enabled": "A subscription that was disabled is delivered to again.",
    "subscription.paused": "Deliveries of a subscription wait.",
    "subscription.resumed": "Deliveries of a paused subscription go on.",
    "execution.step_completed": "A step was carried out; `result` is what its module gave back.",
    "execution.completed": "All steps of an execution are completed. Nothing follows.",
    "execution.failed": "An execution ended because `step` failed; a retry may follow.",
    "execution.cancelled": "An execution was cancelled, for `reason` where one was given. Nothing follows.",
    "execution.resumed": "A paused execution goes on.",
    "execution.step_rejected": "Somebody who was asked to approve a step did not: the step has failed.",
    "execution.step_compensated": "What a step had done is undone; `step` is the undoing, with `~` before the step's id.",
    "execution.resource_released": "A resource that a step had made is gone, because the step was undone.",
}


@dataclass(frozen=True)
class EventType:
    """A version of a type of event. `superseded_by` is the type that is written instead now, if one is."""

    type: str
    topic: str
    version: int
    title: str
    meaning: str
    schema: dict[str, Any]
    superseded_by: str | None

    def document(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "type": self.type, "version": self.version, "title": self.title, "description": self.meaning,
            "superseded_by": self.superseded_by, "schema": self.schema,
        }  # fmt: skip


class Broken(Exception):
    """Schemas that have gone out would break: give the new shape the next version, and an upcaster from this one.

    The file of a type that no release has had yet may be deleted, and is written anew.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        super().__init__("\n".join([" ".join(str(self.__doc__).split()), *faults]))


@lru_cache(1)
def event_types() -> tuple[EventType, ...]:
    """Every type this release can read, by name: those it writes, and those from earlier releases."""
    found = []
    for file in files("streaming").joinpath("schemas").iterdir():
        topic = file.name.removesuffix(".json")
        if topic != file.name and (topic in codec.TOPICS or topic in codec.UPCASTERS):
            found.append(_event_type(topic, orjson.loads(file.read_bytes())))
    return tuple(sorted(found, key=lambda one: (_split(one.topic), one.version)))


def event_type(name: str) -> EventType | None:
    """The type of that name, such as `quantum.execution.completed.v1`."""
    return next((one for one in event_types() if one.type == name), None)


def current_topic(topic: str) -> str:
    """The topic an event of `topic` would be written under now."""
    while topic in codec.UPCASTERS:
        topic = codec.UPCASTERS[topic][0]
    return topic


def meaning_of(topic: str, event_class: type[Any]) -> str | None:
    """What an event says, in a sentence or two: its class's docstring, else the one in the table here."""
    said = event_class.__doc__
    if said and not said.startswith(f"{event_class.__name__}("):  # a dataclass without one gets its signature
        return " ".join(said.split())
    return _MEANINGS.get(_split(topic))


def schema_of(topic: str, event_class: type[Any], examples: Sequence[Any] = ()) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the payloads of `topic`, made from its class."""
    made = TypeAdapter(event_class).json_schema(mode="serialization")
    head: dict[str, Any] = {"$schema": DRAFT, "$id": schema_id(topic), "title": event_class.__name__}
    meaning = meaning_of(topic, event_class)
    if meaning is not None:
        head["description"] = meaning
    rest = {key: value for key, value in made.items() if key not in ("title", "description")}
    return {**head, **rest, **({"examples": list(examples)} if examples else {})}


def write(folder: Path, golden: Path, topics: Mapping[str, type[Any]] | None = None) -> list[str]:
    """Writes the schemas of all current topics; the names of those that are new or have changed. Raises `Broken`.

    Nothing is written unless everything may be.
    """
    faults: list[str] = []
    changed: dict[Path, bytes] = {}
    for topic, event_class in (codec.TOPICS if topics is None else topics).items():
        path, example = folder / f"{topic}.json", golden / f"{topic}.json"
        schema = schema_of(topic, event_class, [orjson.loads(example.read_bytes())] if example.exists() else [])
        text = as_text(schema)
        if path.exists():
            faults += [f"  {topic} {fault}" for fault in breaks(orjson.loads(path.read_bytes()), schema)]
        if not path.exists() or path.read_bytes() != text:
            changed[path] = text
    if faults:
        raise Broken(faults)
    folder.mkdir(exist_ok=True)
    for path, text in changed.items():
        path.write_bytes(text)
    return sorted(path.name for path in changed)


def as_text(schema: dict[str, Any]) -> bytes:
    """A schema as its file holds it."""
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _event_type(topic: str, schema: dict[str, Any]) -> EventType:
    name, version = _split(topic), int(topic.rpartition(".v")[2])
    newest = current_topic(topic)
    return EventType(
        type_of(topic), topic, version, schema.get("title", name), schema.get("description", ""), schema,
        None if newest == topic else type_of(newest),
    )  # fmt: skip


def _split(topic: str) -> str:
    """A topic without its version."""
    match = _VERSION.fullmatch(topic)
    return topic if match is None else match[1]


def main() -> None:
    """Writes what has changed, and says so."""
    try:
        for name in write(SCHEMAS, Path("tests/golden")):
            sys.stdout.write(f"wrote streaming/schemas/{name}\n")
    except Broken as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
