# intent_ref: tests.event-hubs-stand-in
"""The stand-in does what the service does to readers of one partition: seen through the unmodified SDK."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient
from azure.eventhub.exceptions import EventHubError

from tests.event_hubs import EventHubsServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow]
GROUP = "readers"


@pytest.fixture
async def hub() -> AsyncIterator[EventHubsServer]:
    hub = EventHubsServer(partitions=1)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


class Reader:
    """A receiver of the SDK on the hub's one partition: what it was given, and what it was told."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.faults: list[Exception] = []

    async def arrived(self, _context: Any, event: EventData | None) -> None:
        if event is not None:
            sections: Any = event.body
            self.bodies.append(b"".join(sections))

    async def failed(self, _context: Any, fault: Exception) -> None:
        self.faults.append(fault)

    @property
    def stolen(self) -> bool:
        """Whether the service has said that somebody else reads now."""
        return any("stolen" in str(fault).lower() or "epoch" in str(fault).lower() for fault in self.faults)


@asynccontextmanager
async def reading(hub: EventHubsServer, epoch: int | None) -> AsyncIterator[Reader]:
    """One reader, with or without an epoch. It does not try again: who comes back after a theft would only fight."""
    reader = Reader()
    client = EventHubConsumerClient.from_connection_string(hub.connection_string, GROUP, retry_total=0)
    task = asyncio.create_task(
        client.receive(
            reader.arrived, partition_id="0", owner_level=epoch, on_error=reader.failed, starting_position="-1",
        )
    )  # fmt: skip
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=5)
        await client.close()


async def send(hub: EventHubsServer, *bodies: bytes) -> None:
    async with EventHubProducerClient.from_connection_string(hub.connection_string) as client:
        batch = await client.create_batch(partition_id="0")
        for body in bodies:
            batch.add(EventData(body))
        await client.send_batch(batch)


@pytest.mark.parametrize(
    ("older", "newer"), [(1, 2), (3, 3), (0, 0), (None, 0)], ids=["higher", "same", "both-nought", "first-epoch"]
)
async def test_a_reader_with_the_same_or_a_higher_epoch_takes_the_partition_from_the_older(
    hub: EventHubsServer, older: int | None, newer: int
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(reading(hub, older))
        await send(hub, b"one")
        await wait_until(lambda: first.bodies == [b"one"], 20, what="the first event")
        second = await stack.enter_async_context(reading(hub, newer))
        await wait_until(lambda: second.bodies == [b"one"], 20, what="the newer reader")
        await wait_until(lambda: first.stolen, 20, what="the older reader to be told")
        assert hub.stolen >= 1
        assert all(isinstance(fault, EventHubError) for fault in first.faults)


@pytest.mark.parametrize("late", [1, None], ids=["lower", "without"])
async def test_a_reader_with_a_lower_epoch_or_none_is_refused_and_disturbs_nobody(hub: EventHubsServer, late: int | None) -> None:
    async with reading(hub, 5) as first:
        await send(hub, b"one")
        await wait_until(lambda: first.bodies == [b"one"], 20, what="the first event")
        async with reading(hub, late) as second:
            await wait_until(lambda: second.stolen, 20, what="the refusal")
            await send(hub, b"two")
            await wait_until(lambda: first.bodies == [b"one", b"two"], 20, what="the second event")
            assert (first.faults, second.bodies) == ([], [])
            assert hub.refused_epochs >= 1


async def test_readers_without_epochs_read_side_by_side(hub: EventHubsServer) -> None:
    async with reading(hub, None) as first, reading(hub, None) as second:
        await send(hub, b"one", b"two")
        await wait_until(lambda: first.bodies == second.bodies == [b"one", b"two"], 20, what="both readers")
        assert (first.faults, second.faults, hub.stolen) == ([], [], 0)


@pytest.mark.parametrize("fault", ["links", "connections"])
async def test_links_and_connections_are_dropped_on_command(hub: EventHubsServer, fault: str) -> None:
    async with reading(hub, 1) as reader:
        await send(hub, b"one")
        await wait_until(lambda: reader.bodies == [b"one"], 20, what="the first event")
        if fault == "links":
            assert hub.drop_links() >= 1
        else:
            hub.drop_connections()
        await wait_until(lambda: reader.faults or b"one" in reader.bodies[1:], 30, what="the reader to notice")
        await send(hub, b"two")
        async with reading(hub, 2) as another:  # the older one may have given up: it was told to try nothing again
            await wait_until(lambda: another.bodies == [b"one", b"two"], 30, what="the events, all there still")


async def test_a_throttled_publisher_is_told_so_and_nothing_is_stored(hub: EventHubsServer) -> None:
    client = EventHubProducerClient.from_connection_string(hub.connection_string, retry_total=0)
    async with client:
        hub.be_busy(1)
        batch = await client.create_batch(partition_id="0")
        batch.add(EventData(b"one"))
        with pytest.raises(EventHubError) as refused:
            await client.send_batch(batch)
        assert refused.value.error == "server-busy"
        assert hub.events == 0
        await client.send_batch(batch)
        assert hub.events == 1
