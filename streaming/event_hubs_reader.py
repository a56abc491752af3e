# intent_ref: streaming.event-hubs
"""Reads one partition of an event hub for as long as we have it, and hands what it reads to the consumer's delivery.

The SDK's receiver reads ahead while the handler works: two batches at most wait in memory. After a fault it is closed and
another one is opened behind what was handed over; what comes twice is told by its sequence number and left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient, PartitionContext

from streaming.event_hubs_client import closed, put_down
from streaming.event_hubs_ownership import Lease, Place
from streaming.waiting import first_of

_BEGINNING = "-1"
_BACK_OFF_SECONDS = 0.1
_BACK_OFF_SECONDS_MAX = 5.0
_RECEIVER_CREDIT_MIN = 300

log = structlog.get_logger(__name__)

Deliver = Callable[[Sequence[EventData]], Awaitable[bool]]
"""Hands events over; True when they are dealt with."""


class PartitionReader:
    """One partition, one lease. `over` is set when the reader is to come to an end, and ends also what is being delivered."""

    def __init__(
        self, lease: Lease, client: Callable[[], EventHubConsumerClient], deliver: Deliver, over: asyncio.Event, *,
        batch_max: int, faulted: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.lease, self._client, self._deliver, self.over = lease, client, deliver, over
        self._batch_max, self._faulted = batch_max, faulted
        self._read: Place | None = lease.done
        self._turn = asyncio.Lock()
        self._work: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._keep_reading(), name=f"partition-{lease.number}")

    async def during_a_pause(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work` between two batches."""
        async with self._turn:
            if not self.over.is_set():
                await work()

    async def finish(self) -> None:
        """Takes nothing more, and returns when the batch in hand is done with."""
        self.over.set()
        async with self._turn:
            pass

    async def close(self) -> None:
        """Ends everything, also the batch in hand where it is not `finish`ed."""
        self.over.set()
        for task in (self._reading, *self._work):
            task.cancel()
        await asyncio.gather(self._reading, *self._work, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _keep_reading(self) -> None:
        pause = _BACK_OFF_SECONDS
        while not self.over.is_set():
            async with self._turn:  # what an earlier receiver read is still being handled
                read = self._read
            fault = await self._read_until_fault()
            if self.over.is_set():
                return
            pause = _BACK_OFF_SECONDS if self._read is not read else min(pause * 2, _BACK_OFF_SECONDS_MAX)
            log.warning(
                "an event hub's receiver broke off; another one is opened", partition=self.lease.number, fault=repr(fault),
                seconds=pause,
            )  # fmt: skip
            await self._faulted()
            await first_of(pause, self.over)

    async def _read_until_fault(self) -> BaseException | None:
        """Runs a receiver until it fails, `over` is set or we are cancelled. Its end takes the SDK a second: not waited for."""
        faults: asyncio.Queue[Exception] = asyncio.Queue(1)

        async def failed(context: PartitionContext | None, fault: Exception) -> None:
            if faults.empty():
                faults.put_nowait(fault)

        client = self._client()
        receiving = asyncio.create_task(
            client.receive_batch(
                self._arrived,
                partition_id=self.lease.number,
                owner_level=self.lease.epoch,
                on_error=failed,
                starting_position=_BEGINNING if self._read is None else self._read.offset,
                max_batch_size=self._batch_max,
                prefetch=max(self._batch_max, _RECEIVER_CREDIT_MIN),
            )
        )
        waiting: list[asyncio.Task[object]] = [asyncio.ensure_future(faults.get()), asyncio.ensure_future(self.over.wait())]
        try:
            await asyncio.wait((receiving, *waiting), return_when=asyncio.FIRST_COMPLETED)
            if waiting[0].done():
                fault = waiting[0].result()
                return fault if isinstance(fault, Exception) else None
            return receiving.exception() if receiving.done() and not receiving.cancelled() else None
        finally:
            for task in waiting:
                task.cancel()
            closing = asyncio.create_task(_closed(receiving, client))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _arrived(self, context: PartitionContext, events: list[EventData]) -> None:
        """Called by the SDK with what it has read; while it waits here, the SDK reads little more.

        The work is a task of our own: a receiver that is closed because its link broke does not interrupt the handler.
        """
        work = asyncio.create_task(self._take(events))
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        await asyncio.shield(work)

    async def _take(self, events: list[EventData]) -> None:
        async with self._turn:
            fresh = [event for event in events if self._read is None or _sequence(event) > self._read.sequence]
            if not fresh or self.over.is_set():
                return
            if self._read is not None and (lost := _sequence(fresh[0]) - self._read.sequence - 1) > 0:
                # Sequence numbers have no gaps: the service keeps events for its time of retention, and no longer.
                log.error("events were gone before they were read", partition=self.lease.number, events=lost)
            self._read = Place(str(fresh[-1].offset), _sequence(fresh[-1]))
            if await self._deliver(fresh):
                self.lease.done = self._read
            else:
                self.over.set()


def _sequence(event: EventData) -> int:
    return -1 if event.sequence_number is None else event.sequence_number


async def _closed(receiving: asyncio.Task[None], client: EventHubConsumerClient) -> None:
    await put_down(receiving, client)
    await closed(client)
