# intent_ref: streaming.kafka
"""The stream through Kafka, or through anything that speaks its protocol, such as the Kafka endpoint of Event Hubs."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from event_store.store import EventStore
from streaming.cloud_events import SOURCE_DEFAULT
from streaming.dead_letters import DeadLetters
from streaming.delivery import DeliveryLimits, Statistics
from streaming.kafka_clients import KafkaSettings, quieten
from streaming.kafka_consumer import KafkaMember
from streaming.kafka_producer import KafkaPublisher
from streaming.kafka_progress import kafka_progress
from streaming.progress import Progress
from streaming.transport import Handler, Message

__all__ = ["KafkaSettings", "KafkaTransport"]


class KafkaTransport:
    """`Transport` over one topic of a Kafka cluster; the relay publishes what is in the log.

    New groups start with the oldest record the topic still has, or behind its present end with `start="end"`. `source` is the
    CloudEvents source of what is published: this installation. The log is read for what was too large to travel, and holds the
    dead letters; `is_ours` says whose of them are on this topic.
    """

    reads_the_log = False

    def __init__(
        self, settings: KafkaSettings, store: EventStore, *, source: str = SOURCE_DEFAULT,
        start: Literal["beginning", "end"] = "beginning", limits: DeliveryLimits | None = None,
        is_ours: Callable[[str], bool] = lambda tenant_id: True,
    ) -> None:  # fmt: skip
        self._settings, self._store, self._start = settings, store, start
        self._limits, self._dead_letters = limits or DeliveryLimits(), DeadLetters(store, is_ours)
        self._publisher = KafkaPublisher(settings, source)
        quieten()
        self.statistics = Statistics()

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Transport.publish`. Raises `TransportAway` after some 20 seconds without an acknowledgement."""
        await self._publisher.publish(messages)

    async def consume(
        self, group: str, handler: Handler, *, stop: asyncio.Event,
        topics: frozenset[str] | None = None, batch_max: int = 500,
    ) -> None:  # fmt: skip
        """See `Transport.consume`. `topics` are the log's, not Kafka's: the others are read and passed over."""
        member = KafkaMember(
            self._settings, self._store, group, handler, stop, topics, batch_max, self._start, self.statistics,
            self._dead_letters, self._limits,
        )  # fmt: skip
        await member.run()

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        return await kafka_progress(self._settings, group)

    async def close(self) -> None:
        """Ends the producer. What `publish` has returned for is safe."""
        await self._publisher.close()
