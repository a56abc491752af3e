# intent_ref: tests.tenant-classes
"""Two classes of tenants, on a real Kafka broker, on the stand-in for Event Hubs, and embedded: whose events are where."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from pydantic import SecretStr

from event_store.store import EventStore
from quantum.settings import load_settings
from quantum.streams import MeasuredTransport, relay_name, stream
from streaming import embedded, event_hubs, kafka
from streaming.dead_letters import DeadLetters
from streaming.delivery import DeliveryLimits
from streaming.relay import Relay
from streaming.transport import Message
from tests.consumers import Seen, assert_in_order, consuming, relaying
from tests.event_hubs import EventHubsServer
from tests.event_hubs.partition_log import Hub
from tests.kafka_broker import kafka_broker
from tests.streams import append
from tests.waiting import wait_until

SECONDS = 45.0
IMPATIENT = DeliveryLimits(
    attempts_max=3, attempts_alone_max=2, back_off_seconds=0.02, back_off_seconds_max=0.1, redrive_seconds=0.1
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (embedded, event_hubs, kafka):
        monkeypatch.setattr(engine, "DeliveryLimits", lambda: IMPATIENT)


async def is_told(store: EventStore, transport: MeasuredTransport, relay: Relay, names: tuple[str, str]) -> None:
    """Both tenants' events come, in order; what one of them made fail is redriven once."""
    (one, other), group = (Seen(name) for name in names), f"saga.{names[0]}"
    poison = True

    async def handle(messages: Sequence[Message]) -> None:
        for message in messages:
            if poison and (message.tenant_id, message.stream_id, message.version) == (names[0], "a", 2):
                raise ValueError("poison")
        await one.handle(messages)
        await other.handle(messages)

    async with relaying(relay), consuming(transport, group, handle, batch_max=5):
        for name in names:
            await append(store, name, "a", 6)
            await append(store, name, "b", 3)
        letters = DeadLetters(store)

        async def is_dead() -> bool:
            return len(await letters.list(group)) == 1

        everything = {"a": 6, "b": 3}
        await wait_until(is_dead, SECONDS, what="the dead letter")
        await wait_until(lambda: other.has_all(everything) and one.has_all({"b": 3}), SECONDS, what="the others")
        poison = False
        assert await letters.redrive(group) == 1
        await wait_until(lambda: one.has_all(everything), SECONDS, what="the redriven one")
        await append(store, names[1], "a", 1)
        await wait_until(lambda: other.has_all({"a": 7}), SECONDS, what="what came after")
    assert_in_order(other, {"a": 7, "b": 3})
    assert [message.version for message in one.messages if message.stream_id == "a"].count(2) == 1
    assert transport.statistics.redriven == 1


async def test_on_kafka_each_class_has_a_topic_and_the_platform_reads_both(store: EventStore, tmp_path: Path) -> None:
    async with kafka_broker() as broker:
        topics = [broker.topic("default"), broker.topic("gold")]
        settings = load_settings(
            data_dir=tmp_path, stream="kafka", kafka_bootstrap=broker.bootstrap, kafka_topic=topics[0],
            kafka_topic_partitions=2, stream_classes=f"gold-k*={topics[1]}",
        )  # fmt: skip
        async with stream(settings, store) as transport:
            relay = Relay(store, transport, name=relay_name(settings))
            await is_told(store, transport, relay, ("gold-kafka", "other-kafka"))
        assert await _tenants_on(broker.bootstrap, topics[1], 9) == {"gold-kafka"}
        assert "gold-kafka" not in await _tenants_on(broker.bootstrap, topics[0], 10)


async def _tenants_on(bootstrap: str, topic: str, count: int) -> set[str]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    try:
        records = [await consumer.getone() for _ in range(count)]
        return {dict(record.headers)["ce_tenantid"].decode() for record in records}
    finally:
        await consumer.stop()


@asynccontextmanager
async def hubs(*names: str) -> AsyncIterator[EventHubsServer]:
    server = EventHubsServer(partitions=2)
    for name in names:
        server.hubs[name] = Hub(name, 2)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.mark.slow
async def test_on_event_hubs_each_class_has_a_hub_and_the_platform_reads_both(store: EventStore, tmp_path: Path) -> None:
    async with hubs("gold") as server:
        settings = load_settings(
            data_dir=tmp_path, stream="event-hubs", event_hubs_connection=SecretStr(server.connection_string),
            stream_classes="gold-h*=gold",
        )  # fmt: skip
        async with stream(settings, store) as transport:
            relay = Relay(store, transport, name=relay_name(settings))
            await is_told(store, transport, relay, ("gold-hubs", "other-hubs"))
        count = {name: _events(server, name) for name in ("events", "gold")}
    assert count["gold"] == 9
    assert count["events"] >= 10


def _events(server: EventHubsServer, hub: str) -> Any:
    return sum(len(partition.events) for partition in server.hubs[hub].partitions.values())


async def test_embedded_classes_change_nothing(store: EventStore, tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, stream_classes="gold-*=quantum.gold")
    async with stream(settings, store) as transport:
        assert transport.reads_the_log
        await is_told(store, transport, Relay(store, transport, name=relay_name(settings)), ("gold-embedded", "other-embedded"))
