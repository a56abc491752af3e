# intent_ref: streaming.kafka
"""A member of a consumer group in Kafka.

One batch at a time: read, handed over, and only then counted as done. What is done is committed twice a second, before
partitions are given up, and at the end. When the group is dealt anew, the batch in hand is finished first if that takes no
longer than `revoke_seconds_max`; otherwise it comes again, here or elsewhere.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from event_store.records import StoreUnavailable
from event_store.store import EventStore
from streaming.cloud_events import DataElsewhere, NotAnEvent
from streaming.dead_letters import DeadLetters, message_at
from streaming.delivery import Circumstances, Delivery, DeliveryLimits, Statistics
from streaming.kafka_clients import KafkaSettings, end_consumer, ensure_topic
from streaming.kafka_records import kafka_partition_of, message_of
from streaming.transport import Handler, Message
from streaming.waiting import first_of

T = TypeVar("T")
_COMMIT_SECONDS = 0.5
_COMMIT_SECONDS_MAX = 5.0
_IDLE_MS_MAX = 500
_HEARTBEAT_MS = 1_000
_HANDLER_MS_MAX = 3_600_000
_FETCH_BYTES_MAX = 4_194_304
_BACK_OFF_SECONDS = 0.2
_BACK_OFF_SECONDS_MAX = 5.0
_STORE_AWAY_SECONDS = 0.5

log = structlog.get_logger(__name__)
Batch = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class _Stopped(Exception):
    """`stop` was set while something was waited for."""


class KafkaMember:
    """One member, for as long as `run` runs."""

    def __init__(
        self, settings: KafkaSettings, store: EventStore, group: str, handler: Handler, stop: asyncio.Event,
        topics: frozenset[str] | None, batch_max: int, start: Literal["beginning", "end"],
        statistics: Statistics, dead_letters: DeadLetters, limits: DeliveryLimits,
    ) -> None:  # fmt: skip
        self._settings, self._store, self._group, self._stop = settings, store, group, stop
        self._topics, self._batch_max, self._start, self._statistics = topics, batch_max, start, statistics
        self._changed = asyncio.Event()
        circumstances = Circumstances(stop, self._changed, lambda: True)
        self._delivery = Delivery(group, handler, dead_letters, statistics, limits, circumstances)
        self._idle = asyncio.Event()
        self._idle.set()
        self._generation = 0
        self._done: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._committing = asyncio.Lock()

    async def run(self) -> None:
        """Until `stop`. The broker away, or refusing: tries again, with growing pauses."""
        pause = _BACK_OFF_SECONDS
        while not self._stop.is_set():
            joined = False
            try:
                await self._unless_stopped(ensure_topic(self._settings))
                async with self._consumer() as consumer:
                    await self._unless_stopped(consumer.start())
                    joined = True
                    await self._read(consumer)
            except _Stopped:
                return
            except (KafkaError, OSError, TimeoutError) as fault:
                log.warning("a consumer lost its broker; it comes back", group=self._group, fault=repr(fault))
                pause = _BACK_OFF_SECONDS if joined else min(pause * 2, _BACK_OFF_SECONDS_MAX)
                await first_of(pause, self._stop)

    @contextlib.asynccontextmanager
    async def _consumer(self) -> Any:
        consumer = AIOKafkaConsumer(
            **self._settings.connection(), group_id=self._settings.group_id(self._group), enable_auto_commit=False,
            auto_offset_reset="none", session_timeout_ms=round(self._settings.session_seconds * 1000),
            heartbeat_interval_ms=_HEARTBEAT_MS, max_poll_interval_ms=_HANDLER_MS_MAX,
            rebalance_timeout_ms=round(self._settings.revoke_seconds_max * 2000), fetch_max_bytes=_FETCH_BYTES_MAX,
        )  # fmt: skip
        self._done.clear()
        self._committed.clear()
        consumer.subscribe([self._settings.topic], listener=_Listener(self, consumer))
        committer = asyncio.create_task(self._commit_now_and_then(consumer), name=f"{self._group}-commit")
        try:
            yield consumer
        finally:
            committer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await committer
            self._idle.set()
            await self.commit(consumer)
            await end_consumer(consumer)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while not self._stop.is_set():
            try:
                batch: Batch = await self._unless_stopped(
                    consumer.getmany(timeout_ms=_IDLE_MS_MAX, max_records=self._batch_max)
                )  # fmt: skip
            except NoOffsetForPartitionError as unknown:
                await self._begin(consumer, unknown.args[0])
                continue
            except OffsetOutOfRangeError as gone:
                await self._begin_behind_a_gap(consumer, gone.args[0])
                continue
            if self._changed.is_set():
                continue  # what was read belongs to the deal before; its partitions begin again at what was committed
            # Taken here and not before the reading, which may have waited for the next deal.
            generation = self._generation
            self._idle.clear()
            try:
                messages = await self._messages(batch)
                if messages is not None and await self._delivery.deliver(messages):
                    self._mark(batch, generation, messages)
                await self._delivery.redrive(lambda message: self._owns(consumer, message))
            finally:
                self._idle.set()

    async def _messages(self, batch: Batch) -> list[Message] | None:
        """What the group wants of a batch; None when it has to be read again."""
        messages = []
        for partition, records in batch.items():
            for record in records:
                try:
                    message = message_of(record.headers, record.value)
                except DataElsewhere as elsewhere:
                    found = await self._fetched(elsewhere)
                    if isinstance(found, NotAnEvent):
                        self._pass_over(partition, record, found)
                        continue
                    if found is None:
                        return None
                    message = found
                except NotAnEvent as fault:
                    self._pass_over(partition, record, fault)
                    continue
                if self._topics is None or message.topic in self._topics:
                    messages.append(message)
        return messages

    async def _fetched(self, elsewhere: DataElsewhere) -> Message | NotAnEvent | None:
        """The whole message of a reference; None when the consumer ended before the log could be read."""
        while not self._stop.is_set() and not self._changed.is_set():
            try:
                message = await message_at(self._store, elsewhere.tenant_id, elsewhere.position)
            except StoreUnavailable:
                await first_of(_STORE_AWAY_SECONDS, self._stop, self._changed)
                continue
            return message if message is not None else NotAnEvent("What it refers to is not in this log.")
        return None

    def _pass_over(self, partition: TopicPartition, record: ConsumerRecord, fault: NotAnEvent) -> None:
        """Whoever put it there was not this platform: there is no event, so there can be no dead letter."""
        self._statistics.unreadable += 1
        log.error(
            "a record is no event of ours; it is passed over", group=self._group, topic=partition.topic,
            partition=partition.partition, offset=record.offset, fault=str(fault),
        )  # fmt: skip

    def _owns(self, consumer: AIOKafkaConsumer, message: Message) -> bool:
        topic = self._settings.topic
        count = len(consumer.partitions_for_topic(topic) or ())
        if count == 0 or self._changed.is_set():
            return False
        return TopicPartition(topic, kafka_partition_of(message.key, count)) in consumer.assignment()

    def _mark(self, batch: Batch, generation: int, messages: Sequence[Message]) -> None:
        if generation != self._generation:
            return
        for partition, records in batch.items():
            self._done[partition] = records[-1].offset + 1
        if messages:
            self._statistics.positions[self._group] = messages[-1].position

    async def _begin(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        """Where a group has not been before."""
        with contextlib.suppress(IllegalStateError):  # the partition is somebody else's by now
            if self._start == "beginning":
                await consumer.seek_to_beginning(partition)
                return
            await consumer.seek_to_end(partition)
            # Committed before anything is read, so that the next owner does not begin at a later end.
            self._done[partition] = await consumer.position(partition)
        await self.commit(consumer)

    async def _begin_behind_a_gap(self, consumer: AIOKafkaConsumer, lost: Mapping[TopicPartition, int]) -> None:
        """The topic's retention has removed what this group had not read yet. The log still has it."""
        log.error(
            "events were removed from the topic before a group had read them; it goes on with what is left", group=self._group,
            offsets={partition.partition: offset for partition, offset in lost.items()},
        )  # fmt: skip
        with contextlib.suppress(IllegalStateError):
            await consumer.seek_to_beginning(*lost)

    async def _commit_now_and_then(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await asyncio.sleep(_COMMIT_SECONDS)
            await self.commit(consumer)

    async def commit(self, consumer: AIOKafkaConsumer) -> None:
        """Stores how far the handler has come. What cannot be stored comes again."""
        try:
            async with asyncio.timeout(_COMMIT_SECONDS_MAX), self._committing:
                assigned = consumer.assignment()
                offsets = {
                    partition: offset for partition, offset in self._done.items()
                    if partition in assigned and self._committed.get(partition) != offset
                }  # fmt: skip
                if offsets:
                    await consumer.commit(offsets)
                    self._committed |= offsets
        except (KafkaError, OSError, TimeoutError) as fault:
            log.warning("what is done could not be committed; it may come again", group=self._group, fault=repr(fault))

    async def revoked(self, consumer: AIOKafkaConsumer) -> None:
        """The group is being dealt anew: finish the batch in hand, try nothing again, commit."""
        self._changed.set()
        try:
            async with asyncio.timeout(self._settings.revoke_seconds_max):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a handler is too slow for the group; its batch comes again elsewhere", group=self._group)
        await self.commit(consumer)

    def assigned(self) -> None:
        """The group has been dealt anew: every partition begins at what was committed."""
        self._generation += 1
        self._done.clear()
        self._committed.clear()
        self._changed.clear()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; raises `_Stopped`, and cancels the work, when `stop` is set before there is one."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Stopped
            return task.result()
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka carries no types
    """What aiokafka tells when a group is dealt anew."""

    def __init__(self, member: KafkaMember, consumer: AIOKafkaConsumer) -> None:
        self._member, self._consumer = member, consumer

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Before the partitions go."""
        await self._member.revoked(self._consumer)

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """When new ones have come."""
        self._member.assigned()
