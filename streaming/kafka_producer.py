# intent_ref: streaming.kafka
"""Publishing to Kafka: idempotent, acknowledged by all replicas, and per partition one batch after the other.

The batches are made here and not left to aiokafka's accumulator, for two reasons: a batch is only sent when the one before it in
its partition is acknowledged, so that nothing arrives behind something that was refused; and one future for each
batch instead of each message is several times as quick.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from streaming.kafka_clients import KafkaSettings, end_producer, ensure_topic
from streaming.kafka_records import Record, partition_of_bytes, record_of
from streaming.transport import Message, TransportAway

_BATCH_BYTES_MAX = 262_144
_LINGER_MS = 0

Part = dict[int, list[BatchBuilder]]
"""What is sent together: by partition, batches that follow each other."""


class KafkaPublisher:
    """One producer, made when it is first needed and made anew after every fault."""

    def __init__(self, settings: KafkaSettings, source: str) -> None:
        self._settings, self._source = settings, source
        self._producer: AIOKafkaProducer | None = None
        self._publishing = asyncio.Lock()
        self._partition_of = lru_cache(maxsize=65_536)(partition_of_bytes)

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Transport.publish`."""
        async with self._publishing:
            try:
                async with asyncio.timeout(self._settings.publish_seconds_max):
                    producer = self._producer or await self._start()
                    partitions = len(await producer.partitions_for(self._settings.topic))
                    await self._send_parts(producer, self.parts(producer, partitions, messages))
            except BaseException as fault:
                # Whatever is not acknowledged by now is sent again by the caller, and must not be sent by this producer as well.
                await self.close()
                if isinstance(fault, (KafkaError, OSError, TimeoutError)):
                    raise TransportAway(f"{TransportAway.__doc__} ({fault!r})") from fault
                raise

    async def close(self) -> None:
        """Ends the producer, within seconds also when the broker is away."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await end_producer(producer)

    async def _start(self) -> AIOKafkaProducer:
        await ensure_topic(self._settings)
        producer = AIOKafkaProducer(
            **self._settings.connection(), enable_idempotence=True, acks="all", max_batch_size=_BATCH_BYTES_MAX,
            linger_ms=_LINGER_MS, max_request_size=self._settings.record_bytes_max + _BATCH_BYTES_MAX,
        )  # fmt: skip
        self._producer = producer
        await producer.start()
        return producer

    def parts(self, producer: AIOKafkaProducer, partitions: int, messages: Iterable[Message | Record]) -> Iterator[Part]:
        """The messages in order, in parts that one request can carry, whatever partitions they go to.

        Each record is packed as soon as it is made: a page of them kept for later would keep the garbage collector busy with
        their headers, for as long as encoding them takes.
        """
        part: Part = {}
        size_bytes, bytes_max, source = 0, self._settings.record_bytes_max, self._source
        for message in messages:
            record = message if isinstance(message, Record) else record_of(message, source, bytes_max)
            if part and size_bytes + record.size_bytes > bytes_max:
                yield part
                part, size_bytes = {}, 0
            size_bytes += record.size_bytes
            batches = part.setdefault(self._partition_of(record.key, partitions), [])
            if not batches or not _packed(batches[-1], record):
                batches.append(producer.create_batch())
                _packed(batches[-1], record)
        if part:
            yield part

    async def _send_parts(self, producer: AIOKafkaProducer, parts: Iterator[Part]) -> None:
        """One part after the other is acknowledged; while that is waited for, the next one is encoded."""
        part = next(parts, None)
        while part is not None:
            sending = asyncio.create_task(self.send(producer, part))
            try:
                await asyncio.sleep(0)  # lets it begin
                part = next(parts, None)
                await sending
            except BaseException:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                raise

    async def send(self, producer: AIOKafkaProducer, part: Part) -> None:
        """Returns when all of a part is acknowledged; raises what aiokafka raises for the first that is not."""
        try:
            async with asyncio.TaskGroup() as group:
                for partition, batches in part.items():
                    group.create_task(self._send_in_order(producer, partition, batches))
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from faults

    async def _send_in_order(self, producer: AIOKafkaProducer, partition: int, batches: Sequence[BatchBuilder]) -> None:
        for batch in batches:
            batch.close()
            acknowledged = await producer.send_batch(batch, self._settings.topic, partition=partition)
            await acknowledged


def _packed(batch: BatchBuilder, record: Record) -> bool:
    """Adds a record; False when the batch is full. An empty one takes a record of any size."""
    packed = batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    return packed is not None
