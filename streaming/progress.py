# intent_ref: streaming.progress
"""How far a consumer group has come with the stream, by its engine's own checkpoints.

Asked seldom, by who doubts whether a group has heard of an event: the place behind the event is noted, and once the group's
checkpoint is past that place, it has. Where the checkpoints lie (in the log's database, at a broker, in blobs) is the engine's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from domain.immutable import immutable
from streaming.transport import partition_of

Place = tuple[str, int]
"""Where something is in the stream: in which part of it, and behind how many others. For `Progress` of the same group alone."""


class Progress(Protocol):
    """How far a group had come when it was asked for."""

    def place_of(self, key: str, position: int) -> Place:
        """A place behind the event at a position of the log, which is on the stream by now, and has this key."""
        ...

    def is_past(self, place: Place) -> bool:
        """True where the group is done with all that was at the place and before."""
        ...


Ask = Callable[[str], Awaitable[Progress]]
"""The progress of a group now. Raises `TransportAway`, or what the database raises (`DATABASE_FAULTS`)."""


@immutable
class LogProgress:
    """Of those who read the log itself: (partitions, partition, checkpoint), also of numbers of partitions there were before.

    A checkpoint says that everything of its partition up to there is done, however the log is split today; so one suffices.
    """

    checkpoints: Sequence[tuple[int, int, int]]

    def place_of(self, key: str, position: int) -> Place:
        """The event's own."""
        return key, position

    def is_past(self, place: Place) -> bool:
        """See `Progress.is_past`."""
        key, position = place
        return any(checkpoint >= position for count, number, checkpoint in self.checkpoints if partition_of(key, count) == number)


@immutable
class BrokerProgress:
    """Of those who read from a broker: how many messages the group is done with in each partition, and how many there are."""

    part_of: Callable[[str], str]
    done: Mapping[str, int]
    ends: Mapping[str, int]

    def place_of(self, key: str, position: int) -> Place:
        """The present end of the key's partition: whatever is on the stream lies before it."""
        part = self.part_of(key)
        return part, self.ends.get(part, 0)

    def is_past(self, place: Place) -> bool:
        """See `Progress.is_past`."""
        part, end = place
        return self.done.get(part, 0) >= min(end, self.ends.get(part, 0))  # a stream that was lost and begun anew is shorter


@immutable
class ClassedProgress:
    """Of several streams, of which each key is on one."""

    stream_of: Callable[[str], str]
    streams: Mapping[str, Progress]

    def place_of(self, key: str, position: int) -> Place:
        """See `Progress.place_of`."""
        stream = self.stream_of(key)
        part, end = self.streams[stream].place_of(key, position)
        return f"{stream}\n{part}", end

    def is_past(self, place: Place) -> bool:
        """See `Progress.is_past`."""
        stream, _, part = place[0].partition("\n")
        return stream in self.streams and self.streams[stream].is_past((part, place[1]))


_CHECKPOINTS = "SELECT partitions, partition, checkpoint FROM quantum.stream_leases WHERE consumer_group = $1"


async def log_progress(platform_pool: Any, group: str) -> LogProgress:
    """How far a group of the embedded stream has come."""
    return LogProgress([tuple(row) for row in await platform_pool.fetch(_CHECKPOINTS, group)])
