# intent_ref: streaming.transport
"""What a stream of events is to those who read it, whichever engine carries it.

Three engines can stand behind `Transport`: the embedded one (`streaming/embedded.py`), Event Hubs and Kafka. All of them
promise the same: at least once, in order per key, a checkpoint only behind what the handler has finished.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Protocol
from uuid import UUID

import orjson

from event_store import codec
from event_store.records import Metadata, RecordedEvent


@dataclass(unsafe_hash=True)
class Message:
    """An event on a stream. A repeat has the same `event_id` and `position`; positions grow within a key.

    Nobody changes one; not frozen, because that costs a microsecond for each event of each reader (see `domain.immutable`).
    """

    event_id: UUID
    position: int
    tenant_id: str
    stream_id: str
    version: int
    topic: str
    payload: bytes
    metadata_json: str
    recorded_at: datetime

    @classmethod
    def of(cls, event: RecordedEvent) -> "Message":
        """The message that carries a recorded event."""
        return cls(
            event.event_id, event.position, event.tenant_id, event.stream_id, event.version, event.topic, event.payload,
            event.metadata_json, event.recorded_at,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """The partition key: the stream. With its tenant, because tenants may have streams of the same name."""
        return f"{self.tenant_id}/{self.stream_id}"

    @cached_property
    def event(self) -> codec.DomainEvent:
        """The domain event; raises `codec.UnknownTopic` or `codec.UndecodableEvent`."""
        return codec.decode(self.topic, self.payload)

    @cached_property
    def metadata(self) -> Metadata:
        """The event's metadata, decoded."""
        return Metadata(**orjson.loads(self.metadata_json))


Handler = Callable[[Sequence[Message]], Awaitable[None]]
"""Takes messages in order, of one or several keys. Returning says that they are dealt with; raising, that they come again.

Calls of one consumer never overlap for the same key. The same messages may come twice, after a crash or a rebalance.
"""


class TransportAway(Exception):
    """The broker does not answer, or refuses for now. Nothing is lost: the same messages are sent again later."""


class Transport(Protocol):
    """An engine that carries the stream."""

    @property
    def reads_the_log(self) -> bool:
        """True where consumers read the log itself, so that there is nothing to publish."""
        ...

    async def publish(self, messages: Sequence[Message]) -> None:
        """Hands messages over, in order per key, and returns when they are safe there; raises `TransportAway`.

        After an error any prefix per key may have arrived; the caller sends all of them again.
        """
        ...

    async def consume(
        self, group: str, handler: Handler, *, stop: asyncio.Event,
        topics: frozenset[str] | None = None, batch_max: int = 500,
    ) -> None:  # fmt: skip
        """Calls `handler` as a member of `group` until `stop` is set; then finishes the batch in hand and leaves the group.

        The members of a group share the keys. At most one batch is read ahead of the handler. Cancelling leaves without
        waiting for the handler, whose batch then comes again.
        """
        ...

    async def close(self) -> None:
        """Gives connections back. Consumers have to be stopped before."""
        ...


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: CRC-32, because it is the same in every process and release."""
    return zlib.crc32(key.encode()) % partitions
