# intent_ref: streaming.kafka
"""Messages as Kafka records, by the Kafka binding of CloudEvents 1.0 in binary mode, and back.

https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md
The record's key is the message's key, so that what has to stay in order is in one partition for every client of Kafka.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from aiokafka.partitioner import murmur2

from streaming.cloud_events import NotAnEvent, binary, from_binary, without_data
from streaming.transport import Message

_PREFIX = "ce_"
_CONTENT_TYPE = ("datacontenttype", "content-type")
_OVERHEAD_BYTES = 128
"""What Kafka adds to a record and its batch, rounded up."""


class Record(NamedTuple):
    """What is sent: key, headers and value, and how large that is on the wire, in bytes."""

    key: bytes
    headers: Sequence[tuple[str, bytes]]
    value: bytes
    size_bytes: int


def record_of(message: Message, source: str, bytes_max: int) -> Record:
    """The record of a message; with a reference in place of the payload where it would be larger than `bytes_max`."""
    attributes, value = binary(message, source)
    record = _record(message.key, attributes, value)
    if record.size_bytes > bytes_max:
        record = _record(message.key, without_data(attributes), b"")
    return record


def message_of(headers: Iterable[tuple[str, bytes]], value: bytes | None) -> Message:
    """The message of a record; raises `NotAnEvent`, and `DataElsewhere` where only the reference was sent."""
    attributes: dict[str, str] = {}
    try:
        for name, content in headers:
            if name.startswith(_PREFIX):
                attributes[name[len(_PREFIX) :]] = content.decode()
    except (UnicodeDecodeError, AttributeError) as fault:
        raise NotAnEvent(f"A header is not text: {fault}.") from fault
    return from_binary(attributes, value or b"")


def kafka_partition_of(key: str, partitions: int) -> int:
    """The partition of a key, as every Kafka client computes it: murmur2."""
    return partition_of_bytes(key.encode(), partitions)


def partition_of_bytes(key: bytes, partitions: int) -> int:
    """The same, of a key as it travels."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def _record(key: str, attributes: dict[str, str], value: bytes) -> Record:
    encoded = key.encode()
    names, names_bytes = _headers_of(tuple(attributes))
    contents = [text.encode() for text in attributes.values()]
    size = len(encoded) + len(value) + _OVERHEAD_BYTES + names_bytes + len(b"".join(contents))
    return Record(encoded, list(zip(names, contents, strict=False)), value, size)


@lru_cache(maxsize=256)
def _headers_of(attributes: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The headers of attributes, and the bytes they take without their contents. There are few sets of them, and many events."""
    attribute, header = _CONTENT_TYPE
    names = tuple(header if name == attribute else _PREFIX + name for name in attributes)
    return names, sum(len(name) + 4 for name in names)
