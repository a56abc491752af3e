# intent_ref: streaming.event-hubs
"""One member of a group: a reader for each partition it owns, started and ended as ownership changes."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Literal

import structlog
from azure.eventhub import EventData

from domain.immutable import immutable
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from streaming.cloud_events import DataElsewhere, NotAnEvent
from streaming.dead_letters import DeadLetters
from streaming.delivery import Circumstances, Delivery, DeliveryLimits, Statistics
from streaming.event_hubs_client import EventHub
from streaming.event_hubs_events import message_of
from streaming.event_hubs_ownership import Lease, Ownership, Place
from streaming.event_hubs_reader import PartitionReader
from streaming.transport import Handler, Message, partition_of
from streaming.waiting import first_of

_LOOK_SECONDS = 0.5
_STORE_AWAY_SECONDS = 0.5

log = structlog.get_logger(__name__)


@immutable
class Reading:
    """What a consumer was asked for. `starts`: where partitions without a checkpoint begin, if not with their first event."""

    group: str
    handler: Handler
    topics: frozenset[str] | None
    batch_max: int
    starts: dict[str, Place]
    limits: DeliveryLimits
    statistics: Statistics


@immutable
class _Partition:
    reader: PartitionReader
    delivery: Delivery


class Consumer:
    """Keeps readers for what `ownership` holds, until `stop`."""

    def __init__(
        self,
        store: EventStore,
        hub: EventHub,
        ownership: Ownership,
        dead_letters: DeadLetters,
        reading: Reading,
        stop: asyncio.Event,
    ) -> None:
        self._store, self._hub, self._ownership, self._dead_letters = store, hub, ownership, dead_letters
        self._reading, self._stop = reading, stop
        self._partitions: dict[str, _Partition] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._letting_go: set[str] = set()
        self._handling = asyncio.Lock()

    async def run(self) -> None:
        """Until `stop`; then the batches in hand are finished. Ownership is the caller's to give back."""
        while not self._stop.is_set():
            self._ownership.changed.clear()
            await self._follow()
            await first_of(_LOOK_SECONDS, self._stop, self._ownership.changed)
        await asyncio.gather(*(partition.reader.finish() for partition in self._partitions.values()))

    async def redrive(self) -> None:
        """Looks after dead letters that somebody asked for, for ever: one question for all partitions, mostly without answer."""
        while True:
            await asyncio.sleep(self._reading.limits.redrive_seconds)
            try:
                wanted = await self._dead_letters.requested(self._reading.group, 0)
            except Exception as fault:  # asked again soon
                log.debug("dead letters cannot be read now", group=self._reading.group, fault=repr(fault))
                continue
            if wanted and self._ownership.are_ours:
                await asyncio.gather(*(self._redrive(number) for number in list(self._partitions)))

    async def close(self) -> None:
        """Ends all readers, and what they are doing."""
        readers = [partition.reader for partition in self._partitions.values()]
        self._partitions.clear()
        await asyncio.gather(*(reader.close() for reader in readers), *self._ending)

    async def _follow(self) -> None:
        """Ends what is no longer ours, lets go what is too much, begins what is new."""
        held = self._ownership.held
        for number, partition in list(self._partitions.items()):
            ended = held.get(number) is not partition.reader.lease or partition.reader.over.is_set()
            if ended and number not in self._letting_go:
                self._end(number)
        for number in self._ownership.surplus:
            if number in self._partitions and number not in self._letting_go:
                self._letting_go.add(number)
                self._in_background(self._let_go(number))
            elif number not in self._partitions:
                await self._ownership.release([number])
        if not self._ownership.are_ours:
            return
        for number, lease in list(self._ownership.held.items()):
            if number not in self._partitions and number not in self._letting_go:
                # A group that begins at the end has its checkpoint there from now on: it must not move with the end.
                lease.done = lease.done or self._reading.starts.get(number)
                self._partitions[number] = self._begin(lease)

    async def _handle(self, messages: Sequence[Message]) -> None:
        """One call of the handler at a time, as on the other engines; what waits here is one batch a partition."""
        async with self._handling:
            await self._reading.handler(messages)

    def _begin(self, lease: Lease) -> _Partition:
        reading, ownership = self._reading, self._ownership
        over = asyncio.Event()

        def is_ours() -> bool:
            return ownership.are_ours and ownership.held.get(lease.number) is lease

        delivery = Delivery(
            reading.group, self._handle, self._dead_letters, reading.statistics, reading.limits,
            Circumstances(self._stop, over, is_ours),
        )  # fmt: skip

        async def deliver(events: Sequence[EventData]) -> bool:
            messages = await self._messages(events, over)
            return messages is not None and is_ours() and await delivery.deliver(messages)

        client = self._hub.consumer
        reader = PartitionReader(
            lease, lambda: client(reading.group), deliver, over, batch_max=reading.batch_max, faulted=ownership.beat
        )
        return _Partition(reader, delivery)

    async def _let_go(self, number: str) -> None:
        """Finishes the batch in hand, and only then gives the partition to whoever waits for it."""
        try:
            await self._partitions[number].reader.finish()
            await self._ownership.release([number])
            self._end(number)
        finally:
            self._letting_go.discard(number)

    def _end(self, number: str) -> None:
        partition = self._partitions.pop(number, None)
        if partition is not None:
            self._in_background(partition.reader.close())

    def _in_background(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _redrive(self, number: str) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            return
        count = len(self._ownership.partitions)

        def owns(message: Message) -> bool:
            held = self._ownership.held.get(number) is partition.reader.lease
            return held and self._ownership.partitions[partition_of(message.key, count)] == number

        await partition.reader.during_a_pause(lambda: partition.delivery.redrive(owns))

    async def _messages(self, events: Sequence[EventData], over: asyncio.Event) -> list[Message] | None:
        """The messages behind events, of the topics asked for; None when the reading is over before the log gave its part."""
        messages = []
        topics = self._reading.topics
        for event in events:
            try:
                message: Message | None = message_of(event)
            except DataElsewhere as elsewhere:
                while (found := await self._from_the_log(elsewhere)) is False:
                    if over.is_set() or self._stop.is_set():
                        return None
                    await first_of(_STORE_AWAY_SECONDS, over, self._stop)
                message = found or None
            except NotAnEvent as fault:
                self._pass_over(event, str(fault))
                continue
            if message is None:
                self._pass_over(event, "Its payload is not in this log.")
            elif topics is None or message.topic in topics:
                messages.append(message)
        return messages

    async def _from_the_log(self, elsewhere: DataElsewhere) -> Message | Literal[False] | None:
        """The message at a position; None where there is no such one, False when the log cannot be read now."""
        try:
            page = await self._store.read_log(elsewhere.position - 1, limit=1)
        except StoreUnavailable as fault:
            log.warning("a payload cannot be read from the log; trying again", fault=str(fault))
            return False
        for event in page.events:
            if event.position == elsewhere.position and event.tenant_id == elsewhere.tenant_id:
                return Message.of(event)
        return None

    def _pass_over(self, event: EventData, reason: str) -> None:
        self._reading.statistics.unreadable += 1
        log.error(
            "an event that this platform did not write was passed over", group=self._reading.group,
            sequence=event.sequence_number, reason=reason,
        )  # fmt: skip
