# intent_ref: event-store.records
"""What goes into the log and what comes out of it.

What is made for each append is a named tuple, and a recorded event is a plain dataclass: a frozen one takes several times as
long to make, which was seen in the rates of appending and of reading. Nobody changes them all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

import orjson

from domain.immutable import immutable
from domain.values import StreamId, TenantId
from event_store import codec

ANY_VERSION = -1
NO_STREAM = 0


@immutable
class Metadata:
    """Why an event is there: who asked, in which conversation, caused by which event or command, in which trace."""

    correlation_id: str
    causation_id: str | None
    actor: str
    traceparent: str | None
    request_hash: str | None = None


def metadata_bytes(metadata: Metadata) -> bytes:
    """The metadata as JSON, as it is stored."""
    return orjson.dumps(metadata)


@dataclass
class RecordedEvent:
    """An event as the log holds it. `payload` and `metadata_json` are the stored bytes; `event` decodes on first use."""

    position: int
    recorded_at: datetime
    event_id: UUID
    command_id: UUID
    version: int
    tenant_id: str
    stream_id: str
    topic: str
    metadata_json: str
    payload: bytes

    @cached_property
    def event(self) -> codec.DomainEvent:
        """The domain event, upcast to its current version; raises `codec.UnknownTopic` or `codec.UndecodableEvent`."""
        return codec.decode(self.topic, self.payload)

    @cached_property
    def metadata(self) -> Metadata:
        """The metadata, decoded."""
        return Metadata(**orjson.loads(self.metadata_json))


class NewEvent(NamedTuple):
    """An event on its way into the log, encoded."""

    event_id: UUID
    topic: str
    payload: bytes


class StreamAppend(NamedTuple):
    """Events for one stream. `expected` is the version it must be at: `NO_STREAM`, `ANY_VERSION`, or exactly that one."""

    stream_id: StreamId
    events: Sequence[NewEvent]
    expected: int


class Claim(NamedTuple):
    """A value only one stream of the tenant may hold in `scope`; `takes` False gives it back."""

    scope: str
    value: str
    stream_id: StreamId
    takes: bool = True


class Append(NamedTuple):
    """All that one command stores, atomically: one or several streams of one tenant, and its claims."""

    tenant_id: TenantId
    command_id: UUID
    metadata: Metadata
    streams: tuple[StreamAppend, ...]
    claims: tuple[Claim, ...] = ()


class Appended(NamedTuple):
    """What the log says to an append: the versions its streams are at now, and a position that covers all its events.

    `repeated` holds the events the same command stored before; then nothing was stored now.
    """

    position: int
    versions: tuple[int, ...]
    positions: tuple[int, ...]
    recorded_at: datetime
    repeated: tuple[RecordedEvent, ...] = ()


class VersionConflict(Exception):
    """The stream has moved on: load it again and decide anew."""

    def __init__(self, stream_id: str, expected: int, actual: int) -> None:
        super().__init__(f"Stream {stream_id} is at version {actual}, not at {expected}. {self.__doc__}")
        self.stream_id, self.expected, self.actual = stream_id, expected, actual


class ClaimTaken(Exception):
    """Another stream of the tenant holds this value: choose another, or release it there first."""

    def __init__(self, scope: str, value: str) -> None:
        super().__init__(f"The {scope} {value!r} is taken. {self.__doc__}")
        self.scope, self.value = scope, value


class StreamBusy(Exception):
    """Another transaction has been writing the same stream, command or claim all the while: try again in a moment."""

    def __init__(self, stream_id: str, waited_seconds: float) -> None:
        super().__init__(f"Stream {stream_id} was locked for {waited_seconds:.1f} s. {self.__doc__}")
        self.stream_id, self.waited_seconds = stream_id, waited_seconds


class StoreUnavailable(Exception):
    """The event store's database does not answer; nothing is known to be stored. The same command id may be sent again."""


class ArtifactsUnavailable(StoreUnavailable):
    """The artifact store does not answer; nothing is stored in the log. The same command id may be sent again."""


class AppendTooLarge(Exception):
    """An append may hold 4,096 events and 64 MiB at most: split it."""
