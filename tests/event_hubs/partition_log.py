# intent_ref: tests.event-hubs-stand-in
"""What an event hub keeps: its partitions, each an ordered list of encoded messages."""

import re
import time
import zlib
from dataclasses import dataclass, field

from tests.event_hubs import encoding

_DATA, _DROPPED = 0x75, (0x70, 0x71, 0x72)
_SELECTOR = re.compile(r"amqp\.annotation\.x-opt-(offset|sequence-number|enqueued-time) (>=?) '(.*)'$")


@dataclass(frozen=True, slots=True)
class Stored:
    """An event in a partition, encoded as it is delivered."""

    offset: int
    enqueued_ms: int
    encoded: bytes


@dataclass
class Partition:
    """A list of events. The sequence number is the index; the offset counts bytes, so that nobody takes one for the other."""

    number: str
    events: list[Stored] = field(default_factory=list)
    _offset: int = 0

    def append(self, message: bytes, key: str | None) -> None:
        """Takes one event, without the sections that only mattered on the way here."""
        now = int(time.time() * 1000)
        notes = {
            "x-opt-sequence-number": encoding.long(len(self.events)),
            "x-opt-offset": encoding.string(str(self._offset)),
            "x-opt-enqueued-time": encoding.timestamp(now),
        }
        if key is not None:
            notes["x-opt-partition-key"] = encoding.string(key)
        kept = [message[start:end] for code, start, _, end in encoding.sections(message) if code not in _DROPPED]
        self.events.append(Stored(self._offset, now, encoding.annotations(notes) + b"".join(kept)))
        self._offset += len(message) + 1

    def first_index(self, selector: str | None) -> int:
        """The index of the first event a receiver's selector lets through; `ValueError` where it says something else."""
        if selector is None:
            return 0
        match = _SELECTOR.match(selector)
        if match is None:
            raise ValueError(f"This selector is not understood: {selector}")
        what, operator, value = match[1], match[2], match[3]
        if value == "@latest":
            return len(self.events)
        limit = int(value) + (operator == ">")
        if what == "sequence-number":
            return min(max(limit, 0), len(self.events))
        marks = (event.offset if what == "offset" else event.enqueued_ms for event in self.events)
        return next((index for index, mark in enumerate(marks) if mark >= limit), len(self.events))


class Hub:
    """An event hub: so many partitions."""

    def __init__(self, name: str, partitions: int) -> None:
        self.name, self.created_ms = name, int(time.time() * 1000)
        self.partitions = {str(number): Partition(str(number)) for number in range(partitions)}
        self._next = 0

    def append(self, message: bytes, number: str | None) -> set[str]:
        """Takes a message or a batch of them, into one partition, or where their key belongs; which partitions grew."""
        grown = set()
        outer = _key(message)
        for event in _unpacked(message):
            key = _key(event) or outer
            to = number or self._partition_of(key)
            self.partitions[to].append(event, key)
            grown.add(to)
        return grown

    def _partition_of(self, key: str | None) -> str:
        if key is None:
            self._next += 1
            return str(self._next % len(self.partitions))
        return str(zlib.crc32(key.encode(), 7) % len(self.partitions))


def _key(message: bytes) -> str | None:
    for code, _, at, _ in encoding.sections(message):
        if code == 0x72:
            return encoding.text_in_map(message, at, b"x-opt-partition-key")
    return None


def _unpacked(message: bytes) -> list[bytes]:
    """The events of a batch, which is a message whose data sections are each an encoded message; else the message itself."""
    found = encoding.sections(message)
    if any(code not in (*_DROPPED, _DATA) for code, *_ in found):
        return [message]
    inner = [encoding.binary_at(message, at) for code, _, at, _ in found if code == _DATA]
    try:
        for event in inner:
            if not encoding.sections(event):
                return [message]
    except ValueError:
        return [message]
    return inner
