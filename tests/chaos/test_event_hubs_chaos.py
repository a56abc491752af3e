# intent_ref: tests.event-hubs-transport
"""An event hub that breaks all the time: everything arrives, in order by key, and repeats can be told and are few."""

import asyncio
import random

import pytest

from event_store.store import EventStore
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub
from streaming.transport import Message, TransportAway
from tests.consumers import Seen, assert_in_order, consuming
from tests.event_hubs.process import EventHubsProcess, event_hubs_process
from tests.integration.test_event_hubs_transport import messages
from tests.waiting import wait_until

EVENTS, STREAMS, PAGE, RESTARTS = 20_000, 100, 100, 10


async def publish(transport: EventHubsTransport, sent: list[Message]) -> int:
    """As the relay does it: each page until it is taken. How often one was not."""
    failures, at = 0, 0
    while at < len(sent):
        try:
            await transport.publish(sent[at : at + PAGE])
        except TransportAway:
            failures += 1
            await asyncio.sleep(0.1)
            continue
        at += PAGE
        await asyncio.sleep(0.05)  # so that it lasts for as long as things break
    return failures


async def break_things(hub: EventHubsProcess, seed: int) -> int:
    """Ten restarts, with other faults between them; how many faults there were."""
    chance, faults, restarts = random.Random(seed), 0, 0
    while restarts < RESTARTS:
        await asyncio.sleep(chance.uniform(0.2, 1.2))
        command = chance.choice(["drop-links", "drop-links", "drop-connections", "busy 2", "restart"])
        assert await hub.tell(command) == "ok"
        faults += 1
        restarts += command == "restart"
    return faults


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.endurance
async def test_a_hub_that_breaks_all_the_time_delays_events_and_loses_none(store: EventStore) -> None:
    seen, sent = Seen("t"), messages(EVENTS, streams=STREAMS)
    checkpoints = PostgresCheckpointStore(store.platform_pool)
    async with event_hubs_process(partitions=4) as hub:
        ends = [EventHubsTransport(store, EventHub(hub.connection_string), checkpoints) for _ in range(3)]
        try:
            async with consuming(ends[0], "chaos", seen.handle), consuming(ends[1], "chaos", seen.handle):
                breaking = asyncio.create_task(break_things(hub, 20826))
                failures = await publish(ends[2], sent)
                faults = await breaking
                in_the_hub = int(await hub.tell("count"))
                await wait_until(lambda: len({m.position for m in seen.messages}) == EVENTS, 300, what="all", every_seconds=0.2)
        finally:
            for end in ends:
                await end.close()
    assert_in_order(seen, {f"s-{number}": EVENTS // STREAMS for number in range(STREAMS)})
    published_again = in_the_hub - EVENTS
    print(f"{faults} faults, {failures} pages sent again, {published_again} events twice in the hub, {seen.repeats} repeats")
    # What a broken connection had taken and not confirmed is there twice: a page at most for each time that one was sent again,
    # by the relay or, twice at most, by the SDK. Reading repeats nothing as long as partitions stay where they are.
    assert published_again <= (failures + 2 * faults) * PAGE
    assert seen.repeats <= published_again + faults * PAGE
