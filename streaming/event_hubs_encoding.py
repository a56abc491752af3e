# intent_ref: streaming.event-hubs
"""Events in AMQP 1.0, byte for byte as the SDK writes them, some ten times as fast.

The SDK encodes each event twice, to learn its size and to add it, and each value by way of several dicts: on one core that bounds
a relay to some 5,000 events a second. This is the same, said once. It puts its bytes where the SDK puts its own; where a
release of the SDK looks different inside, the events go the SDK's way. `tests/unit/test_event_hubs_encoding.py` holds the
bytes against the SDK's.
"""

import struct
from functools import lru_cache
from typing import Any

from azure.eventhub import EventData, EventDataBatch

PREFIX = "cloudEvents:"
CONTENT_TYPE = "datacontenttype"
_NULL = b"\x40"
_PROPERTIES, _APPLICATION_PROPERTIES, _DATA = b"\x00\x53\x73", b"\x00\x53\x74", b"\x00\x53\x75"
_PROPERTIES_FIELDS, _CONTENT_TYPE_AT = 13, 6
_SMALL = 256
_OVERHEAD_SMALL, _OVERHEAD = 5, 8
"""What the SDK counts for one more data section of a batch: its descriptor, its constructor and its length."""


def encoded(attributes: dict[str, str], body: bytes) -> bytes:
    """A CloudEvent in binary mode as one AMQP message."""
    pairs = [_name(name) + _string(value) for name, value in attributes.items() if name != CONTENT_TYPE]
    fields = b"".join(pairs)
    is_small = len(fields) < _SMALL - 1  # the length of a short map counts a byte more than its fields
    head = struct.pack(">BBB", 0xC1, len(fields) + 1, 2 * len(pairs)) if is_small else (
        struct.pack(">BII", 0xD1, len(fields) + 4, 2 * len(pairs))
    )  # fmt: skip
    return b"".join((
        _content_type(attributes[CONTENT_TYPE]), _APPLICATION_PROPERTIES, head, fields,
        _DATA, struct.pack(">BB", 0xA0, len(body)) if len(body) < _SMALL else struct.pack(">BI", 0xB0, len(body)), body,
    ))  # fmt: skip


def event_data(attributes: dict[str, str], body: bytes) -> EventData:
    """The same as an event of the SDK."""
    event = EventData(body)
    event.content_type = attributes[CONTENT_TYPE]
    event.properties = {PREFIX + name: value for name, value in attributes.items() if name != CONTENT_TYPE}
    return event


def added(batch: EventDataBatch, attributes: dict[str, str], body: bytes) -> bool:
    """Adds an event to a batch; False when it has no room for it."""
    inside: Any = batch
    if not _is_as_known(inside):
        try:
            batch.add(event_data(attributes, body))
        except ValueError:  # the SDK's way to say that the batch is full
            return False
        return True
    message = encoded(attributes, body)
    size = inside._size + len(message) + (_OVERHEAD_SMALL if len(message) < _SMALL else _OVERHEAD)
    if size > batch.max_size_in_bytes:
        return False
    inside._message[5].append(message)
    inside._size = size
    inside._count += 1
    return True


def _is_as_known(batch: Any) -> bool:
    try:
        return isinstance(batch._message[5], list) and isinstance(batch._size, int) and isinstance(batch._count, int)
    except (AttributeError, TypeError, IndexError, KeyError):
        return False


def _string(text: str) -> bytes:
    raw = text.encode()
    return (struct.pack(">BB", 0xA1, len(raw)) if len(raw) < _SMALL else struct.pack(">BI", 0xB1, len(raw))) + raw


@lru_cache(256)
def _name(name: str) -> bytes:
    return _string(PREFIX + name)


@lru_cache(16)
def _content_type(text: str) -> bytes:
    raw = text.encode("ascii")
    symbol = struct.pack(">BB", 0xA3, len(raw)) + raw
    fields = _NULL * _CONTENT_TYPE_AT + symbol + _NULL * (_PROPERTIES_FIELDS - _CONTENT_TYPE_AT - 1)
    return _PROPERTIES + struct.pack(">BBB", 0xC0, len(fields) + 1, _PROPERTIES_FIELDS) + fields
