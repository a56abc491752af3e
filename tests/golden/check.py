# intent_ref: tests.golden
"""Holds the codec against the golden files: what was ever written must load for ever."""

from pathlib import Path
from typing import Any

import orjson

from event_store import codec
from tests.golden.write import topic_of_file


def golden_faults(folder: Path) -> list[str]:
    """A sentence for every golden file that this release's codec does not do justice to."""
    files = {topic_of_file(path): path.read_bytes() for path in sorted(folder.glob("*.json"))}
    known = set(codec.TOPICS) | set(codec.UPCASTERS)
    newest = {topic: max(shape for name, shape in files if name == topic) for topic, _ in files}
    faults = [f"{topic} has no golden file: run `python -m tests.golden.write`." for topic in sorted(known - set(newest))]
    for (topic, shape), payload in files.items():
        if topic not in known:
            faults.append(f"{topic} was written once, and nothing reads it any more: bring it back, or add an upcaster.")
            continue
        try:
            event = codec.decode(topic, payload)
            again = codec.encode(event)
        except (codec.UnknownTopic, codec.UndecodableEvent, KeyError, TypeError) as fault:
            faults.append(f"{topic} cannot be read any more: {fault}")
            continue
        if topic in codec.TOPICS and again != (topic, payload):
            faults += _changed(topic, again[1], payload, is_newest=shape == newest[topic])
        if codec.decode(*again) != event:
            faults.append(f"{topic} does not survive being written again.")
    return faults


def _changed(topic: str, again: bytes, payload: bytes, *, is_newest: bool) -> list[str]:
    """What is wrong with an event of today's version that would be written differently now."""
    if not holds(orjson.loads(again), orjson.loads(payload)):
        way_out = "give the new shape the next version, and an upcaster from this one."
    elif is_newest:
        way_out = (
            "where it has grown optional fields and nothing else, run `python -m tests.golden.write`, which keeps a file of the "
            "new shape as well."
        )
    else:
        return []
    return [f"{topic} would be written differently now ({again.decode()}, and the log has {payload.decode()}): {way_out}"]


def holds(now: Any, before: Any) -> bool:
    """True where `now` says all that `before` says, in the same way, and perhaps more."""
    if isinstance(before, dict):
        return isinstance(now, dict) and all(key in now and holds(now[key], value) for key, value in before.items())
    if isinstance(before, list):
        return isinstance(now, list) and len(now) == len(before) and all(map(holds, now, before))
    return type(now) is type(before) and now == before
