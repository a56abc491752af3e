# intent_ref: streaming.embedded
"""The stream without a broker: consumers read the log itself, and need nothing but the database (docs/adr/0007).

Each consumer has one reader, which reads the log once for all partitions it holds. It starts from the lowest of their
checkpoints and leaves out what the further ones have had already.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Literal

import structlog

from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore, LogPage
from streaming.dead_letters import DeadLetters
from streaming.delivery import Circumstances, Delivery, DeliveryLimits, Statistics
from streaming.partitions import Lease, Partitions
from streaming.progress import Progress, log_progress
from streaming.transport import Handler, Message, partition_of
from streaming.waiting import first_of

PARTITIONS = 16
_IDLE_SECONDS_MAX = 1.0
_STORE_AWAY_SECONDS = 0.5
_SHARERS_MAX = 4
"""Among so many it costs less to read others' events along with the process's other readers than to ask for one's own alone."""

log = structlog.get_logger(__name__)


class EmbeddedTransport:
    """`Transport` over the log. New groups start at the log's beginning, or behind its present end with `start="end"`."""

    reads_the_log = True

    def __init__(
        self, store: EventStore, *, partitions: int = PARTITIONS, start: Literal["beginning", "end"] = "beginning",
        limits: DeliveryLimits | None = None,
    ) -> None:  # fmt: skip
        self._store, self._partitions, self._start = store, partitions, start
        self._limits = limits or DeliveryLimits()
        self.statistics = Statistics()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Does nothing: what is in the log is on the stream."""

    async def close(self) -> None:
        """Does nothing: the connections are the store's."""

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        return await log_progress(self._store.platform_pool, group)

    async def consume(
        self, group: str, handler: Handler, *, stop: asyncio.Event,
        topics: frozenset[str] | None = None, batch_max: int = 500,
    ) -> None:  # fmt: skip
        """See `Transport.consume`."""
        start = 0 if self._start == "beginning" else await self._store.horizon()
        partitions = Partitions(self._store.platform_pool, group, self._partitions, start)
        circumstances = Circumstances(stop, partitions.changed, lambda: partitions.are_ours)
        delivery = Delivery(group, handler, DeadLetters(self._store), self.statistics, self._limits, circumstances)
        reader = _Reader(self._store, partitions, group, delivery, topics, batch_max, self.statistics)
        await partitions.beat()
        heart = asyncio.create_task(partitions.keep(), name=f"{group}-heartbeat")
        try:
            await reader.read(stop)
        finally:
            heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heart
            await partitions.release(list(partitions.held), leaving=True)


class _Reader:
    def __init__(
        self, store: EventStore, partitions: Partitions, group: str, delivery: Delivery,
        topics: frozenset[str] | None, batch_max: int, statistics: Statistics,
    ) -> None:  # fmt: skip
        self._store, self._partitions, self._group, self._delivery = store, partitions, group, delivery
        self._topics, self._batch_max, self._statistics = topics, batch_max, statistics

    async def read(self, stop: asyncio.Event) -> None:
        """Until `stop`: a page of the log, to the handler, then on. Partitions are let go between pages."""
        while not stop.is_set():
            self._partitions.changed.clear()
            generation = self._store.wakeups.generation
            if surplus := self._partitions.surplus:
                await self._partitions.release(surplus)
            leases = dict(self._partitions.held)
            if not leases or not self._partitions.are_ours:
                await self._wait(stop, None)
                continue
            await self._delivery.redrive(self._owns)
            after = min(lease.done for lease in leases.values())
            try:
                page = await self._page(after, leases)
            except StoreUnavailable as fault:
                log.warning("the log cannot be read; trying again", group=self._group, fault=str(fault))
                await first_of(_STORE_AWAY_SECONDS, stop)
                continue
            if page.next == after:
                await self._wait(stop, generation)
            elif await self._delivery.deliver(self._undone(page.events, leases)):
                self._mark(leases, page.next)

    async def _page(self, after: int, leases: dict[int, Lease]) -> LogPage:
        """The events behind a position: of all partitions where the process's readers share them, else of ours alone."""
        has_all = len(leases) == self._partitions.count
        if not has_all and len(leases) * _SHARERS_MAX >= self._partitions.count:
            newest = await self._store.newest(after, limit=self._batch_max, topics=self._topics)
            if newest is not None:
                return newest
        ours = None if has_all else (self._partitions.count, leases.keys())
        return await self._store.read_log(after, limit=self._batch_max, topics=self._topics, partitions=ours)

    def _owns(self, message: Message) -> bool:
        return self._partitions.are_ours and partition_of(message.key, self._partitions.count) in self._partitions.held

    def _undone(self, events: list[RecordedEvent], leases: dict[int, Lease]) -> list[Message]:
        """The messages of those leases that we still have, without what they have had before."""
        done = {lease.done for lease in leases.values()}
        if len(leases) == self._partitions.count and leases == self._partitions.held and len(done) == 1:
            return [Message.of(event) for event in events]  # all of it is ours, and new
        messages = []
        for event in events:
            message = Message.of(event)
            number = partition_of(message.key, self._partitions.count)
            lease = leases.get(number)
            if lease is not None and event.position > lease.done and self._partitions.held.get(number) is lease:
                messages.append(message)
        return messages

    def _mark(self, leases: dict[int, Lease], position: int) -> None:
        """Moves the leases that are still ours. One taken meanwhile is another object, with the checkpoint of its own."""
        for number, lease in leases.items():
            if self._partitions.held.get(number) is lease:
                lease.done = max(lease.done, position)
        self._statistics.positions[self._group] = position

    async def _wait(self, stop: asyncio.Event, generation: int | None) -> None:
        """For the log to grow, the leases to change, or the stop; not much longer than a second."""
        wakeups = () if generation is None else (self._store.wakeups.wait(_IDLE_SECONDS_MAX, since=generation),)
        await first_of(_IDLE_SECONDS_MAX, stop, self._partitions.changed, *wakeups)
