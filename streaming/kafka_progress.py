# intent_ref: streaming.progress
"""How far a consumer group has come in Kafka: asked of the cluster, by somebody who is no member of it."""

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streaming.kafka_clients import KafkaSettings, end_consumer
from streaming.kafka_records import kafka_partition_of
from streaming.progress import BrokerProgress
from streaming.transport import TransportAway

_CLOSE_SECONDS_MAX = 5.0


async def kafka_progress(settings: KafkaSettings, group: str) -> BrokerProgress:
    """What the group has committed, and where the partitions end. Raises `TransportAway`."""
    try:
        async with asyncio.timeout(settings.request_seconds_max):
            count, done = await _committed(settings, settings.group_id(group))
            ends = await _ends(settings, count)
    except (KafkaError, OSError, TimeoutError) as fault:
        raise TransportAway(f"{TransportAway.__doc__} ({fault!r})") from fault
    return BrokerProgress(lambda key: str(kafka_partition_of(key, count)), done, ends)


async def _committed(settings: KafkaSettings, group_id: str) -> tuple[int, dict[str, int]]:
    """How many partitions there are, and the group's offset in each that it has been in."""
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        await admin.start()
        [topic] = await admin.describe_topics([settings.topic])
        offsets = await admin.list_consumer_group_offsets(group_id)
    finally:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await admin.close()
    known = {one.partition: kept.offset for one, kept in offsets.items() if one.topic == settings.topic}
    return len(topic["partitions"]), {str(number): offset for number, offset in known.items() if offset >= 0}


async def _ends(settings: KafkaSettings, count: int) -> dict[str, int]:
    partitions = [TopicPartition(settings.topic, number) for number in range(count)]
    consumer = AIOKafkaConsumer(**settings.connection(), enable_auto_commit=False, auto_offset_reset="none")
    consumer.assign(partitions)
    try:
        await consumer.start()
        ends = await consumer.end_offsets(partitions)
    finally:
        await end_consumer(consumer)
    return {str(one.partition): end for one, end in ends.items()}
