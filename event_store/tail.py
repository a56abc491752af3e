# intent_ref: event-store.tail
"""The newest part of the log, read once for all readers of a process that have come so far.

A process has a dozen readers: sagas, projections, directories. Under load each append wakes all of them, and nearly all find
nothing for themselves. So whoever is first reads what is new, of the topics that any of them wants, and the others find it here.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from event_store.records import RecordedEvent
from event_store.waiting import settled

EVENTS_MAX: Final = 400
READ_TOGETHER: Final = 200
BYTES_MAX: Final = 16 << 20
"""What is kept, by number and by payload, beside what was read last. A reader further behind reads from PostgreSQL. Of more,
the memory would have left the processor's caches by the time it is used again, and every step of an execution pays for that."""
FRESH_SECONDS: Final = 0.2
"""How long a look that found the end of the log answers for those who ask before the next wake-up; some wake-ups are lost."""
GAP_MAX: Final = 10_000
"""How many positions are read at most to bring the tail to a reader or to the end of the log; past that, it begins anew there."""

Topics = frozenset[str] | None
"""Which events; None for all."""

Read = Callable[[int, int, Topics], Awaitable[tuple[int, list[RecordedEvent]]]]
"""(after, limit, topics) -> how far the log is complete, and the first events behind `after` up to there; none where that is more
than `GAP_MAX` positions away."""


class _Reading:
    """A look into the log that is under way: since which wake-up, and whether all there was is in the tail now, or the fault."""

    __slots__ = ("fault", "generation", "is_complete", "over")

    def __init__(self, generation: int) -> None:
        self.generation, self.is_complete = generation, False
        self.fault: Exception | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Tail:
    """Covers the positions above `begin` up to `end`: every event of `topics` between them is here, and nothing beyond is."""

    def __init__(self, read: Read, generation: Callable[[], int]) -> None:
        """`generation` grows with every wake-up (`Wakeups.generation`)."""
        self._read, self._generation = read, generation
        self.begin = self.end = 0
        self.topics: Topics = frozenset()
        self._events: list[RecordedEvent] = []
        self._positions: list[int] = []
        self._bytes = 0
        self._is_complete = False  # whether `end` was the end of the log when it was looked at last
        self._reading: _Reading | None = None
        self._looked = (-1, 0.0)  # since which wake-up, and when, `end` was found to be the end of the log

    async def page(self, after: int, limit: int, topics: Topics) -> tuple[list[RecordedEvent], int] | None:
        """Up to `limit` events behind a position, and how far the reader has come with them; None where it is too far behind.

        Fewer than `limit` where the log has no more; with no events, `after` itself. Raises what reading raises.
        """
        if not self._covers(topics):
            self.topics = None if topics is None or self.topics is None else self.topics | topics
            self._begin_at(self.end)
        while True:
            if after > self.end + GAP_MAX:
                self._begin_at(after)
            if after < self.begin:
                return None
            if after < self.end:
                found = self._found(after, limit, topics)
                if self._is_complete or len(found[0]) == limit:
                    return found
            generation, reading = self._generation(), self._reading
            if reading is None:
                if after == self.end and self._is_known_to_end(generation):
                    return [], after
                reading = await self._extend(generation, max(limit, READ_TOGETHER))
            else:
                await settled(reading.over)
                if reading.fault is not None:  # a database that does not answer is not waited for by one after the other
                    raise reading.fault
            if reading.is_complete and reading.generation == generation and self.begin <= after and self.end <= after:
                return [], after

    def _is_known_to_end(self, generation: int) -> bool:
        looked_in, looked_at = self._looked
        return self._is_complete and looked_in == generation and monotonic() < looked_at + FRESH_SECONDS

    def _covers(self, topics: Topics) -> bool:
        return self.topics is None or (topics is not None and topics <= self.topics)

    def _begin_at(self, position: int) -> None:
        self.begin = self.end = position
        self._events, self._positions, self._bytes, self._is_complete = [], [], 0, False

    def _found(self, after: int, limit: int, topics: Topics) -> tuple[list[RecordedEvent], int]:
        found: list[RecordedEvent] = []
        for event in self._events[bisect_right(self._positions, after) :]:
            if topics is None or event.topic in topics:
                found.append(event)
                if len(found) == limit:
                    return found, event.position
        return found, self.end

    async def _extend(self, generation: int, limit: int) -> _Reading:
        reading = self._reading = _Reading(generation)
        end, topics, began = self.end, self.topics, monotonic()
        try:
            horizon, events = await self._read(end, limit, topics)
            if horizon > end + GAP_MAX:
                self._begin_at(horizon)  # nobody is near the end any more: each reader catches up by itself
                return reading
            if self.end == end and self.topics == topics:  # else it has begun anew meanwhile
                self._is_complete = reading.is_complete = len(events) < limit
                self._looked = generation, began
                self._add(events, max(end, horizon) if reading.is_complete else events[-1].position)
        except Exception as fault:
            reading.fault = fault
            raise
        finally:
            self._reading = None
            reading.over.set_result(None)
        return reading

    def _add(self, events: list[RecordedEvent], end: int) -> None:
        self._bytes += sum(len(event.payload) for event in events)
        if len(self._events) + len(events) > EVENTS_MAX or self._bytes > BYTES_MAX:
            self._forget(len(self._events) + len(events) - EVENTS_MAX // 2)
        self._events += events
        self._positions += [event.position for event in events]
        self.end = end

    def _forget(self, count: int) -> None:
        """Lets go of the oldest: so many, and more where they are large, but nothing of what is about to be added."""
        gone = 0
        for event in self._events:
            if gone >= count and self._bytes <= BYTES_MAX // 2:
                break
            self._bytes -= len(event.payload)
            gone += 1
        if gone:
            self.begin = self._positions[gone - 1] if gone < len(self._events) else self.end
            del self._events[:gone], self._positions[:gone]
