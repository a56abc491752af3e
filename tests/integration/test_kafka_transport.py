# intent_ref: tests.kafka-transport
"""What is special to Kafka: records on the wire, security, topics, foreign records, retention, a broker that hangs.

What every transport promises is in `test_transport_contract.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from domain.values import StreamId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, NewEvent, StreamAppend
from event_store.store import EventStore
from streaming.kafka import KafkaSettings, KafkaTransport
from streaming.transport import Message, TransportAway
from tests.consumers import Seen, assert_in_order, consuming
from tests.kafka_broker import PASSWORD, USER, KafkaBroker, kafka_broker
from tests.streams import METADATA, append
from tests.waiting import wait_until

SECONDS = 30.0


@pytest.fixture(scope="module")
async def broker() -> AsyncIterator[KafkaBroker]:
    async with kafka_broker() as broker:
        yield broker


class Topic:
    """A topic of one test, and the transports on it, which are closed at its end."""

    def __init__(self, broker: KafkaBroker, store: EventStore, name: str) -> None:
        self.broker, self.store, self.tenant = broker, store, name
        self.settings = KafkaSettings(broker.bootstrap, broker.topic(name), topic_partitions=2, session_seconds=6)
        self._transports: list[KafkaTransport] = []

    def transport(self, **settings: Any) -> KafkaTransport:
        self._transports.append(KafkaTransport(replace(self.settings, **settings), self.store))
        return self._transports[-1]

    async def messages(self, stream: str, count: int) -> list[Message]:
        """New events of a stream, as the relay would hand them over."""
        await append(self.store, self.tenant, stream, count)
        return await self.stored(stream)

    async def stored(self, stream: str) -> list[Message]:
        return [Message.of(event) for event in await self.store.read_stream(TenantId(self.tenant), StreamId(stream))]

    async def records(self, count: int) -> list[Any]:
        """What any other client of Kafka reads."""
        consumer = AIOKafkaConsumer(
            self.settings.topic, bootstrap_servers=self.broker.bootstrap, auto_offset_reset="earliest", group_id=None
        )
        await consumer.start()
        try:
            async with asyncio.timeout(SECONDS):
                return [await consumer.getone() for _ in range(count)]
        finally:
            await consumer.stop()

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()


@pytest.fixture
async def topic(broker: KafkaBroker, store: EventStore, request: pytest.FixtureRequest) -> AsyncIterator[Topic]:
    topic = Topic(broker, store, "".join(word[0] for word in request.node.originalname.split("_")))
    try:
        yield topic
    finally:
        await topic.close()


async def test_a_record_is_a_cloud_event_in_binary_mode_under_the_streams_key(topic: Topic) -> None:
    messages = await topic.messages("intent-1", 2)
    await topic.transport().publish(messages)
    records = await topic.records(2)
    for message, record in zip(messages, records, strict=True):
        headers = {name: value.decode() for name, value in record.headers}
        assert (record.key, record.value) == (f"{topic.tenant}/intent-1".encode(), message.payload)
        assert headers["content-type"] == "application/json"
        assert {name for name in headers if not name.startswith("ce_")} == {"content-type"}
        assert (headers["ce_specversion"], headers["ce_id"]) == ("1.0", str(message.event_id))
        assert (headers["ce_type"], headers["ce_tenantid"]) == (f"quantum.{message.topic}", topic.tenant)


async def test_what_is_too_large_for_a_record_is_sent_as_a_reference(topic: Topic) -> None:
    payload = b'{"text":"' + b"x" * 5_000 + b'"}'
    part = StreamAppend(StreamId("s"), [NewEvent(uuid7(), "test.large.v1", payload)], ANY_VERSION)
    await topic.store.append(TenantId(topic.tenant), [part], command_id=uuid7(), metadata=METADATA)
    await topic.transport(record_bytes_max=2_000).publish(await topic.stored("s"))
    (record,) = await topic.records(1)
    assert record.value == b""
    assert dict(record.headers)["ce_dataref"].startswith(b"/api/v1/events/")


async def test_many_records_of_many_sizes_arrive_in_order(topic: Topic) -> None:
    """More than one batch, and more than one request, for each partition."""
    seen = Seen(topic.tenant)
    payloads = [b'"' + b"x" * (size * 97 % 60_000) + b'"' for size in range(300)]
    for number in range(3):
        events = [NewEvent(uuid7(), "test.sized.v1", payload) for payload in payloads]
        part = StreamAppend(StreamId(f"s{number}"), events, ANY_VERSION)
        await topic.store.append(TenantId(topic.tenant), [part], command_id=uuid7(), metadata=METADATA)
    messages = [message for number in range(3) for message in await topic.stored(f"s{number}")]
    transport = topic.transport()
    await transport.publish(sorted(messages, key=lambda message: message.position))
    async with consuming(transport, "sizes", seen.handle):
        await wait_until(lambda: len(seen.messages) >= 900, SECONDS, what="all of them")
    assert_in_order(seen, {f"s{number}": 300 for number in range(3)})
    assert [message.payload for message in seen.messages if message.stream_id == "s1"] == payloads
    assert transport.statistics.unreadable == 0


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_cluster_with_tls_and_passwords_is_reached(topic: Topic, mechanism: str) -> None:
    _needs_own(topic.broker)
    tenant = f"{topic.tenant}-{mechanism.lower()}"
    topic.tenant, seen = tenant, Seen(tenant)
    transport = topic.transport(**_secure(topic.broker, sasl_mechanism=mechanism))
    await transport.publish(await topic.messages("s", 3))
    async with consuming(transport, f"secure-{mechanism}", seen.handle):
        await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the events")


@pytest.mark.parametrize(
    "wrong", [{"password": "not-it"}, {"username": "nobody"}, {"ca_file": None}, {"security_protocol": "SASL_PLAINTEXT"}],
    ids=["password", "user", "authority", "protocol"],
)  # fmt: skip
async def test_what_the_cluster_refuses_is_said_without_the_password_and_tried_again(
    topic: Topic, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    _needs_own(topic.broker)
    transport = topic.transport(**{**_secure(topic.broker), "request_seconds_max": 2, "publish_seconds_max": 5, **wrong})
    messages = await topic.messages("s", 1)
    for _ in range(2):
        with pytest.raises(TransportAway) as refused:
            await transport.publish(messages)
        assert PASSWORD not in str(refused.value) + repr(refused.value.__cause__)
    assert PASSWORD not in repr(topic.settings) + caplog.text + "".join(capfd.readouterr())


def _needs_own(broker: KafkaBroker) -> None:
    if not broker.is_ours:
        pytest.skip("a broker that is named has no listener with TLS that this test knows of")


def _secure(broker: KafkaBroker, **more: Any) -> dict[str, Any]:
    return {
        "bootstrap": broker.secure_bootstrap, "security_protocol": "SASL_SSL", "username": USER, "password": PASSWORD,
        "ca_file": broker.ca_file, **more,
    }  # fmt: skip


async def test_a_missing_topic_is_made_only_where_that_is_allowed(topic: Topic) -> None:
    messages = await topic.messages("s", 1)
    with pytest.raises(TransportAway, match="does not exist, and is not to be made"):
        await topic.transport(topic_partitions=0).publish(messages)
    await topic.transport(topic_partitions=3).publish(messages)
    await topic.transport(topic_partitions=0).publish(messages)
    assert len(await topic.records(2)) == 2


async def test_records_that_are_no_events_of_ours_are_passed_over_and_counted(topic: Topic) -> None:
    seen, transport = Seen(topic.tenant), topic.transport()
    messages = await topic.messages("s", 2)
    await transport.publish(messages[:1])
    (good,) = await topic.records(1)
    headers = list(good.headers)

    def with_header(name: str, value: bytes) -> list[tuple[str, bytes]]:
        return [(known, value if known == name else content) for known, content in headers]

    hostile: Sequence[tuple[bytes | None, list[tuple[str, bytes]]]] = [
        (b"not json", []),
        (b"{}", [("ce_id", b"\xff\xfe")]),
        (None, headers[:3]),
        (b"{}", with_header("ce_position", b"9" * 400)),
        (b"{}", with_header("ce_tenantid", b"somebody-else")),
        (b"{}", with_header("ce_time", b"yesterday")),
        (b"{}", with_header("ce_sequence", b"-x")),
        (None, [*with_header("ce_tenantid", b"somebody-else"), ("ce_dataref", b"/x")]),
    ]
    producer = AIOKafkaProducer(bootstrap_servers=topic.broker.bootstrap)
    await producer.start()
    try:
        for value, its_headers in hostile:
            await producer.send_and_wait(topic.settings.topic, value, key=good.key, headers=its_headers)
    finally:
        await producer.stop()
    await transport.publish(messages[1:])
    async with consuming(transport, "hostile", seen.handle):
        await wait_until(lambda: seen.has_all({"s": 2}), SECONDS, what="what is behind them")
    assert (seen.versions(), transport.statistics.unreadable) == ({"s": [1, 2]}, len(hostile))


async def test_a_group_that_fell_behind_the_retention_says_so_and_goes_on(
    topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, later, transport = Seen(topic.tenant), Seen(topic.tenant), topic.transport(topic_partitions=1)
    await transport.publish(await topic.messages("s", 2))
    async with consuming(transport, "late", seen.handle):
        await wait_until(lambda: seen.has_all({"s": 2}), SECONDS, what="the first events")
    messages = await topic.messages("s", 4)
    await transport.publish(messages[2:])
    await _delete_before(topic, 4)
    async with consuming(transport, "late", later.handle):
        await wait_until(lambda: later.messages and later.messages[-1].version == 6, SECONDS, what="what is left")
    assert later.versions() == {"s": [5, 6]}
    assert "events were removed from the topic before a group had read them" in capsys.readouterr().out


async def _delete_before(topic: Topic, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=topic.broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic.settings.topic, 0): RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


async def test_installations_that_share_a_cluster_have_groups_of_their_own(topic: Topic) -> None:
    assert replace(topic.settings, topic="a").group_id("saga") != replace(topic.settings, topic="b").group_id("saga")


@pytest.mark.chaos
async def test_a_broker_that_hangs_is_given_up_in_time_and_gets_everything_later(topic: Topic) -> None:
    """Its connections stay open and nothing comes back: the worst way to be away."""
    _needs_own(topic.broker)
    seen = Seen(topic.tenant)
    transport = topic.transport(request_seconds_max=2, publish_seconds_max=4)
    messages = await topic.messages("s", 3)
    await transport.publish(messages[:1])
    topic.broker.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(TransportAway):
            await transport.publish(messages[1:])
        await transport.close()
        assert time.monotonic() - began < SECONDS
    finally:
        topic.broker.thaw()
    await transport.publish(messages[1:])
    async with consuming(transport, "hung", seen.handle):
        await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the events")
    assert_in_order(seen, {"s": 3})
