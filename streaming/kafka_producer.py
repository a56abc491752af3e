# intent_ref: streaming.kafka
"""Publishing to Kafka: idempotent, acknowledged by all replicas, and per partition one batch after the other.

The batches are made here and not left to aiokafka's accumulator, for two reasons: a batch is only sent when the one before it in
its partition is acknowledged, so that nothing arrives behind something that was refused; and one future for each
batch instead of each message is several times as quick.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from streaming.kafka_clients import KafkaSettings, end_producer, ensure_topic
from streaming.kafka_records import Record, kafka_partition_of, record_of
from streaming.transport import Message, TransportAway

_BATCH_BYTES_MAX = 262_144
_LINGER_MS = 0


class KafkaPublisher:
    """One producer, made when it is first needed and made anew after every fault."""

    def __init__(self, settings: KafkaSettings, source: str) -> None:
        self._settings, self._source = settings, source
        self._producer: AIOKafkaProducer | None = None
        self._publishing = asyncio.Lock()
        self._partition_of = lru_cache(maxsize=65_536)(kafka_partition_of)

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Transport.publish`."""
        async with self._publishing:
            try:
                async with asyncio.timeout(self._settings.publish_seconds_max):
                    producer = self._producer or await self._start()
                    await self._send_parts(producer, self._parts(messages))
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

    async def _send_parts(self, producer: AIOKafkaProducer, parts: Iterator[list[Record]]) -> None:
        """One part after the other is acknowledged; while that is waited for, the next one is encoded."""
        part = next(parts, None)
        while part is not None:
            sending = asyncio.create_task(self._send(producer, part))
            try:
                await asyncio.sleep(0)  # lets it begin
                part = next(parts, None)
                await sending
            except BaseException:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                raise

    def _parts(self, messages: Sequence[Message]) -> Iterator[list[Record]]:
        """The records in order, in parts that one request can carry, whatever partitions they go to."""
        part: list[Record] = []
        size_bytes = 0
        for message in messages:
            record = record_of(message, self._source, self._settings.record_bytes_max)
            if part and size_bytes + record.size_bytes > self._settings.record_bytes_max:
                yield part
                part, size_bytes = [], 0
            part.append(record)
            size_bytes += record.size_bytes
        if part:
            yield part

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> None:
        count = len(await producer.partitions_for(self._settings.topic))
        by_partition: dict[int, list[Record]] = defaultdict(list)
        for record in records:
            by_partition[self._partition_of(record.key.decode(), count)].append(record)
        try:
            async with asyncio.TaskGroup() as group:
                for partition, its_records in by_partition.items():
                    group.create_task(self._send_in_order(producer, partition, its_records))
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from faults

    async def _send_in_order(self, producer: AIOKafkaProducer, partition: int, records: Sequence[Record]) -> None:
        for batch in _batches(producer, records):
            acknowledged = await producer.send_batch(batch, self._settings.topic, partition=partition)
            await acknowledged


def _batches(producer: AIOKafkaProducer, records: Sequence[Record]) -> Iterator[BatchBuilder]:
    batch = producer.create_batch()
    for record in records:
        while batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers) is None:
            yield batch
            batch = producer.create_batch()
    batch.close()
    yield batch
