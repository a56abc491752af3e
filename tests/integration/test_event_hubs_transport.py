# intent_ref: tests.event-hubs-transport
"""What is special to Event Hubs: the unmodified SDK against a stand-in that breaks on command.

What all engines promise is in test_transport_contract.py.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient

from domain.values import StreamId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, NewEvent, StreamAppend
from event_store.store import EventStore
from quantum.settings import load_settings
from quantum.streams import relay_name, stream
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub, NoSuchHub
from streaming.transport import Message, TransportAway
from tests.consumers import Seen, assert_in_order, consuming
from tests.event_hubs import EventHubsServer
from tests.streams import AT, METADATA, append
from tests.waiting import wait_until

SECONDS = 30.0


def messages(count: int, *, streams: int = 10, first: int = 1, tenant: str = "t", payload: bytes = b"{}") -> list[Message]:
    """`count` messages in the order of a log, dealt over streams, the versions of each stream without gaps."""
    metadata = '{"correlation_id":"c","causation_id":null,"actor":"u","traceparent":null,"request_hash":null}'
    return [
        Message(
            UUID(int=position), position, tenant, f"s-{(position - 1) % streams}", (position - 1) // streams + 1,
            "intent.deprecated.v1", payload, metadata, AT,
        )
        for position in range(first, first + count)
    ]  # fmt: skip


@pytest.fixture
async def hub() -> AsyncIterator[EventHubsServer]:
    server = EventHubsServer(partitions=4)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def transporting(store: EventStore, hub: EventHubsServer, **more: Any) -> AsyncIterator[EventHubsTransport]:
    options: dict[str, Any] = {"heartbeat_seconds": 0.2, "alive_seconds": 2.0, "answer_seconds": 5.0, **more}
    checkpoints = PostgresCheckpointStore(store.platform_pool)
    transport = EventHubsTransport(store, EventHub(hub.connection_string), checkpoints, **options)
    try:
        yield transport
    finally:
        await transport.close()


def has(seen: Seen, count: int) -> bool:
    return len({message.position for message in seen.messages}) >= count


# -- on the wire


async def test_events_are_cloud_events_in_binary_mode(store: EventStore, hub: EventHubsServer) -> None:
    async with transporting(store, hub, source="quantum://here") as transport:
        await transport.publish(messages(1, payload=b'{"a": 1}'))
    event = (await read_raw(hub, 1))[0]
    properties = properties_of(event)
    assert event.content_type == "application/json"
    assert event.body_as_str() == '{"a": 1}'
    assert all(name.startswith("cloudEvents:") for name in properties)
    assert properties["cloudEvents:specversion"] == "1.0"
    assert properties["cloudEvents:id"] == str(UUID(int=1))
    assert properties["cloudEvents:source"] == "quantum://here"
    assert properties["cloudEvents:partitionkey"] == "t/s-0"
    assert "cloudEvents:datacontenttype" not in properties


def properties_of(event: EventData) -> dict[str, str]:
    found: dict[Any, Any] = dict(event.properties or {})
    return {name.decode(): value.decode() for name, value in found.items()}


async def read_raw(hub: EventHubsServer, count: int) -> list[EventData]:
    """What any consumer of the SDK gets."""
    found: list[EventData] = []
    client = EventHubConsumerClient.from_connection_string(hub.connection_string, "raw")

    async def take(_context: Any, events: list[EventData]) -> None:
        found.extend(events)

    reading = asyncio.create_task(client.receive_batch(take, starting_position="-1"))
    try:
        await wait_until(lambda: len(found) >= count, SECONDS, what="raw events")
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await client.close()
    return found


async def test_a_key_has_one_partition_and_all_partitions_have_keys(store: EventStore, hub: EventHubsServer) -> None:
    async with transporting(store, hub) as transport:
        await transport.publish(messages(400, streams=40))
        await transport.publish(messages(400, streams=40, first=401))
    assert hub.events == 800
    assert all(partition.events for partition in hub.hub.partitions.values())
    keys = [
        {key for event in partition.events for key in re.findall(rb"t/s-\d+", event.encoded)}
        for partition in hub.hub.partitions.values()
    ]
    assert sum(len(each) for each in keys) == len(set().union(*keys)) == 40


async def test_what_no_message_of_ours_is_passed_over_and_counted(store: EventStore, hub: EventHubsServer) -> None:
    seen = Seen("t")
    async with transporting(store, hub) as transport:
        producer = EventHub(hub.connection_string).producer()
        for body in (b"hello", b"\xff\x00", b"{}"):
            stranger = EventData(body)
            stranger.properties = {"cloudEvents:id": "x", "cloudEvents:position": "q", "n": 5, "cloudEvents:tenantid": None}
            batch = await producer.create_batch()
            batch.add(stranger)
            await producer.send_batch(batch)
        await producer.close()
        await transport.publish(messages(4))
        async with consuming(transport, "strangers", seen.handle):
            await wait_until(lambda: has(seen, 4), SECONDS, what="our messages")
            await wait_until(lambda: transport.statistics.unreadable == 3, SECONDS, what="the strangers")
        async with consuming(transport, "strangers", seen.handle):
            await transport.publish(messages(1, first=5))
            await wait_until(lambda: has(seen, 5), SECONDS, what="the next message")
    assert transport.statistics.unreadable == 3
    assert seen.repeats == 0


async def test_a_payload_beyond_the_limit_stays_in_the_log_and_is_read_from_there(
    store: EventStore, hub: EventHubsServer
) -> None:
    seen, payload = Seen("large"), b'"' + b"x" * 5_000 + b'"'
    await append(store, "large", "s", 1)
    part = StreamAppend(StreamId("s"), [NewEvent(uuid7(), "test.large.v1", payload)], ANY_VERSION)
    await store.append(TenantId("large"), [part], command_id=uuid7(), metadata=METADATA)
    await append(store, "large", "s", 1)
    sent = [Message.of(event) for event in await store.read_stream(TenantId("large"), StreamId("s"))]
    async with transporting(store, hub, message_bytes_max=2_000) as transport:
        await transport.publish(sent)
        async with consuming(transport, "large", seen.handle):
            await wait_until(lambda: has(seen, 3), SECONDS, what="the messages")
    assert seen.messages == sent
    events = await read_raw(hub, 3)
    assert ["cloudEvents:dataref" in properties_of(event) for event in events] == [False, True, False]
    assert events[1].body_as_str() == ""


async def test_a_payload_that_is_in_no_log_of_ours_holds_nothing_up(store: EventStore, hub: EventHubsServer) -> None:
    """A hub that two installations share by mistake, or a database restored to an earlier state."""
    seen = Seen("gone")
    sent = messages(3, streams=1, first=1 << 40, tenant="gone", payload=b'"' + b"x" * 5_000 + b'"')
    async with transporting(store, hub, message_bytes_max=2_000) as transport:
        await transport.publish([sent[0], *messages(1, streams=1, tenant="gone")])
        async with consuming(transport, "gone", seen.handle):
            await wait_until(lambda: seen.messages, SECONDS, what="the message behind it")
    assert transport.statistics.unreadable == 1


async def test_a_message_larger_than_the_service_takes_leaves_its_payload_behind(store: EventStore) -> None:
    """Whatever our own limit says: the Basic tier takes 256 kB."""
    small = EventHubsServer(partitions=1, message_bytes_max=10_000)
    await small.start()
    try:
        async with transporting(store, small) as transport:
            await transport.publish(messages(3, payload=b'"' + b"x" * 20_000 + b'"'))
        assert small.events == 3
    finally:
        await small.stop()


# -- faults of the service


@pytest.mark.slow
async def test_a_busy_service_is_given_time(store: EventStore, hub: EventHubsServer) -> None:
    async with transporting(store, hub) as transport:
        await transport.publish(messages(4))
        hub.be_busy(2)
        await transport.publish(messages(4, first=5))
        assert hub.events == 8
        hub.be_busy(1_000)
        with pytest.raises(TransportAway, match="server-busy"):
            await transport.publish(messages(4, first=9))
        hub.be_busy(0)
        await transport.publish(messages(4, first=9))
    assert hub.events == 12


@pytest.mark.slow
async def test_a_service_that_falls_silent_is_not_waited_for_longer_than_agreed(store: EventStore, hub: EventHubsServer) -> None:
    seen = Seen("t")
    async with transporting(store, hub, answer_seconds=3.0) as transport:
        await transport.publish(messages(4))
        async with consuming(transport, "silent", seen.handle):
            await wait_until(lambda: has(seen, 4), SECONDS, what="the first messages")
            hub.be_silent()
            async with asyncio.timeout(10):
                with pytest.raises(TransportAway):
                    await transport.publish(messages(4, first=5))
            hub.be_silent(False)
            await publish_until_taken(transport, messages(4, first=5))
            await wait_until(lambda: has(seen, 8), SECONDS, what="the later messages")


async def test_dropped_links_and_connections_lose_nothing(store: EventStore, hub: EventHubsServer) -> None:
    seen, streams = Seen("t"), {f"s-{n}": 0 for n in range(20)}
    faults = [hub.drop_links, hub.drop_connections, hub.drop_links, hub.drop_connections]
    async with transporting(store, hub) as transport, consuming(transport, "dropped", seen.handle, batch_max=20):
        for number, fault in enumerate(faults):
            await publish_until_taken(transport, messages(200, streams=20, first=number * 200 + 1))
            for stream in streams:
                streams[stream] += 10
            await wait_until(lambda: len(seen.messages) > number * 200, SECONDS, what="some messages")  # noqa: B023
            fault()
        await wait_until(lambda: seen.has_all(streams), SECONDS, what="every message")
    assert_in_order(seen, streams)


async def publish_until_taken(transport: EventHubsTransport, batch: Sequence[Message]) -> int:
    """As the relay does it; how often it was not taken."""
    failures = 0
    while True:
        try:
            await transport.publish(batch)
        except TransportAway:
            failures += 1
            await asyncio.sleep(0.05)
        else:
            return failures


@pytest.mark.slow
async def test_a_partition_is_given_up_to_a_higher_epoch_and_taken_again_after_it(
    store: EventStore, hub: EventHubsServer
) -> None:
    seen, thief = Seen("t"), EventHubConsumerClient.from_connection_string(hub.connection_string, "stolen")
    async with transporting(store, hub) as transport, consuming(transport, "stolen", seen.handle):
        await wait_until(lambda: len(hub.readers("stolen")) == 4, SECONDS, what="all readers")

        async def take(_context: Any, _events: Any) -> None: ...

        stealing = asyncio.create_task(thief.receive_batch(take, partition_id="0", owner_level=99, starting_position="-1"))
        await wait_until(lambda: hub.readers("stolen").get("0") == 99, SECONDS, what="the theft")
        await transport.publish(messages(80, streams=40))
        held_back = len(hub.hub.partitions["0"].events)
        assert held_back > 0
        await wait_until(lambda: len(seen.messages) == 80 - held_back, SECONDS, what="the other partitions' messages")
        await wait_until(lambda: hub.refused_epochs > 0, SECONDS, what="our reader to be refused")
        stealing.cancel()
        await asyncio.gather(stealing, return_exceptions=True)
        await thief.close()
        await wait_until(lambda: has(seen, 80), SECONDS, what="the stolen partition's messages")
    assert seen.repeats == 0


# -- ownership


async def owners(store: EventStore, group: str) -> dict[str, str]:
    """Who has each partition, with the epoch: `member#epoch`."""
    rows = await store.platform_pool.fetch(
        "SELECT partition_id, owner_id FROM quantum.event_hubs_ownership WHERE consumer_group = $1", group
    )
    return {row["partition_id"]: row["owner_id"] for row in rows}


async def shares(store: EventStore, group: str) -> list[int]:
    held = Counter(owner.partition("#")[0] for owner in (await owners(store, group)).values())
    held.pop("", None)
    return sorted(held.values())


def shares_are(store: EventStore, group: str, wanted: list[int]) -> Any:
    async def are() -> bool:
        return await shares(store, group) == wanted

    return are


async def test_three_members_that_join_and_leave_under_load_settle_and_then_are_still(store: EventStore) -> None:
    hub = EventHubsServer(partitions=8)
    await hub.start()
    seen, group, sent = Seen("t"), "settle", 0
    done = asyncio.Event()

    async def load(transport: EventHubsTransport) -> None:
        nonlocal sent
        while not done.is_set():
            await transport.publish(messages(50, streams=50, first=sent + 1))
            sent += 50
            await asyncio.sleep(0.02)

    try:
        async with AsyncExitStack() as stack:
            members = [await stack.enter_async_context(transporting(store, hub)) for _ in range(4)]
            loading = asyncio.create_task(load(members[3]))
            async with consuming(members[0], group, seen.handle):
                await wait_until(shares_are(store, group, [8]), 5, what="one to have all")
                async with consuming(members[1], group, seen.handle):
                    await wait_until(shares_are(store, group, [4, 4]), 5, what="two to share")
                    async with consuming(members[2], group, seen.handle):
                        await wait_until(shares_are(store, group, [2, 3, 3]), 5, what="three to share")
                        await wait_until(lambda: len(hub.readers(group)) == 8, SECONDS, what="all to read")
                        before, stolen, count = await owners(store, group), hub.stolen, len(seen.messages)
                        await wait_until(lambda: len(seen.messages) > count + 1_000, SECONDS, what="a thousand messages")
                        assert await owners(store, group) == before
                        assert hub.stolen == stolen
                    await wait_until(shares_are(store, group, [4, 4]), 5, what="two to share again")
                await wait_until(shares_are(store, group, [8]), 5, what="one to have all again")
                done.set()
                await loading
                await wait_until(lambda: has(seen, sent), SECONDS, what="every message")
    finally:
        await hub.stop()
    assert_in_order(seen, {f"s-{n}": sent // 50 for n in range(50)})
    # Members that leave in order finish what they have and say how far they came.
    assert seen.repeats == 0


async def test_more_members_than_partitions_stand_by(store: EventStore) -> None:
    hub = EventHubsServer(partitions=1)
    await hub.start()
    seen = [Seen("t"), Seen("t")]
    try:
        async with transporting(store, hub) as one, transporting(store, hub) as two:
            async with consuming(one, "standby", seen[0].handle):
                await wait_until(shares_are(store, "standby", [1]), SECONDS, what="the first member")
                async with consuming(two, "standby", seen[1].handle) as stop_second:
                    await one.publish(messages(3))
                    await wait_until(lambda: has(seen[0], 3), SECONDS, what="the messages")
                    assert not seen[1].messages
                    stop_second.set()
            async with consuming(two, "standby", seen[1].handle):
                await one.publish(messages(2, first=4))
                await wait_until(lambda: has(seen[1], 2), SECONDS, what="the later messages")
        assert [message.position for message in seen[1].messages] == [4, 5]
    finally:
        await hub.stop()


@pytest.mark.slow
async def test_a_member_that_vanishes_is_replaced_and_one_that_froze_takes_nothing_back(
    store: EventStore, hub: EventHubsServer
) -> None:
    frozen, seen = Seen("t"), Seen("t")
    async with transporting(store, hub) as one, transporting(store, hub) as two:
        pool = _Freezing(store.platform_pool)
        one._checkpoints = PostgresCheckpointStore(pool)  # the database is away for this member alone
        async with consuming(one, "frozen", frozen.handle):
            await one.publish(messages(40, streams=20))
            await wait_until(lambda: has(frozen, 40), SECONDS, what="the first messages")
            pool.is_away = True
            async with consuming(two, "frozen", seen.handle):
                await wait_until(all_changed_hands(store, "frozen"), 15, what="the other to have all")
                await one.publish(messages(40, streams=20, first=41))
                later = set(range(41, 81))
                await wait_until(lambda: later <= {message.position for message in seen.messages}, SECONDS, what="the later")
                assert has(frozen, 40)
                assert not has(frozen, 41)
                pool.is_away = False
                await wait_until(shares_are(store, "frozen", [2, 2]), 15, what="the two to share")
                where = EventHub(hub.connection_string).address()
                checkpoints = await PostgresCheckpointStore(store.platform_pool).list_checkpoints(*where, "frozen")
                assert sum(row["sequence_number"] + 1 for row in checkpoints) == 80


class _Freezing:
    """A pool that fails when told to."""

    def __init__(self, pool: Any) -> None:
        self._pool, self.is_away = pool, False

    async def fetch(self, *arguments: Any) -> Any:
        return await self._call(self._pool.fetch, arguments)

    async def execute(self, *arguments: Any) -> Any:
        return await self._call(self._pool.execute, arguments)

    async def _call(self, method: Any, arguments: Any) -> Any:
        if self.is_away:
            raise ConnectionRefusedError("away")
        return await method(*arguments)


def all_changed_hands(store: EventStore, group: str) -> Any:
    async def have() -> bool:
        return {owner.partition("#")[2] for owner in (await owners(store, group)).values()} == {"2"}

    return have


@pytest.mark.slow
async def test_a_new_group_at_the_end_keeps_its_place_when_it_comes_back(store: EventStore, hub: EventHubsServer) -> None:
    seen = Seen("t")
    async with transporting(store, hub, start="end") as transport:
        await transport.publish(messages(20))
        async with consuming(transport, "end", seen.handle):
            await wait_until(lambda: len(hub.readers("end")) == 4, SECONDS, what="the readers")
        await transport.publish(messages(20, first=21))
        async with consuming(transport, "end", seen.handle):
            await wait_until(lambda: has(seen, 20), SECONDS, what="what came while it was away")
    assert sorted(message.position for message in seen.messages) == list(range(21, 41))


def test_a_hub_has_to_be_named() -> None:
    with pytest.raises(NoSuchHub):
        EventHub(namespace="x.servicebus.windows.net", name="events")


# -- from the settings


async def test_the_settings_make_a_transport_that_works(store: EventStore, hub: EventHubsServer, tmp_path: Path) -> None:
    settings = load_settings(
        stream="event-hubs",
        event_hubs_connection=hub.connection_string,
        event_source="quantum://test",
        data_dir=tmp_path,
    )
    seen = Seen("t")
    async with stream(settings, store) as transport:
        await transport.publish(messages(3))
        async with consuming(transport, "settings", seen.handle):
            await wait_until(lambda: has(seen, 3), SECONDS, what="the messages")
    assert relay_name(settings) == "event-hubs:events"


async def test_an_identity_of_entra_id_needs_no_connection_string(store: EventStore, tmp_path: Path) -> None:
    """What is asked of the identity happens where the hub is asked; here it is only made, and put away again."""
    settings = load_settings(
        stream="event-hubs", event_hubs_namespace="q.servicebus.windows.net", event_hubs_name="events", data_dir=tmp_path
    )
    async with stream(settings, store) as transport:
        assert isinstance(transport, EventHubsTransport)
    assert relay_name(settings) == "event-hubs:events"
