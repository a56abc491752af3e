# intent_ref: tests.stall-check
"""A stream that is behind is no stall, whatever is down and for how long; where it has caught up, each stall is found."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from domain.values import ExecutionId, execution_stream
from event_store.store import EventStore
from modules.contract import Invocation
from sagas.hearing import Hearing
from sagas.stalls import StallCheck
from streaming.progress import BrokerProgress, ClassedProgress, LogProgress
from streaming.relay import Relay
from streaming.transport import partition_of
from tests.consumers import relaying
from tests.integration.test_execution_saga import World, now, saga_running
from tests.integration.test_stall_check import Watched
from tests.transport_engines import ENGINES, SLOW_ENGINES, Engine, MeasuredTransport
from tests.waiting import wait_until

APPROVAL: list[dict[str, Any]] = [{"approval": {}, "id": "ok"}]


def in_an_hour() -> datetime:
    """What a clock says while nothing has happened for an hour."""
    return now() + timedelta(hours=1)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW_ENGINES else ()) for name in sorted(ENGINES)],
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param]()
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


class Behind(Watched):
    """A stall check an hour after everything, on one engine."""

    def __init__(self, engine: Engine, store: EventStore, tenant: str) -> None:
        super().__init__(World(store, f"{engine.name}-{tenant}"))
        self.transport: MeasuredTransport = engine.transport(store)
        self.relay = Relay(store, self.transport, name=engine.name)
        self.hearing = Hearing(store, self.transport.progress, None if self.transport.reads_the_log else engine.name)
        self.check = StallCheck(self.world.shell, grace_seconds=0.0, clock=in_an_hour, hearing=self.hearing)

    async def published(self) -> None:
        """The relay has brought out all there is."""

        async def up_to_date() -> Any:
            return await self.relay.lag() == 0

        await wait_until(up_to_date, what="the relay to be up to date")

    async def heard_of(self, execution_id: ExecutionId) -> None:
        """The saga stands still at a step that waits, and its group's checkpoint is behind all of it."""
        await self.brought_to(execution_id, "waiting")

        async def heard() -> Any:
            self.hearing.begin()
            return await self.hearing.of_newest(self.world.tenant, execution_stream(execution_id))

        await wait_until(heard, 30, what="the checkpoint to be stored")


@pytest.fixture
async def behind(engine: Engine, store: EventStore, request: pytest.FixtureRequest) -> AsyncIterator[Behind]:
    watched = Behind(engine, store, "".join(word[0] for word in request.node.originalname.split("_")))
    try:
        yield watched
    finally:
        await watched.transport.close()


async def test_while_relay_and_consumers_are_down_for_an_hour_nothing_is_said(behind: Behind) -> None:
    started = await behind.world.start(APPROVAL)
    assert not await behind.found(started), "neither published nor heard of"
    async with relaying(behind.relay):
        await behind.published()
    assert not await behind.found(started), "published and not heard of"
    assert behind.check.statistics.stalled == 0
    assert behind.check.statistics.behind > 0
    async with relaying(behind.relay), saga_running(behind.world, transport=behind.transport):
        await behind.heard_of(started)
    assert not await behind.found(started)
    await behind.broken(started)
    assert await behind.found(started), "heard of, and the row is gone"


async def test_a_stall_is_found_while_the_stream_goes_on_with_others(behind: Behind) -> None:
    async with relaying(behind.relay), saga_running(behind.world, transport=behind.transport):
        started = await behind.world.start(APPROVAL)
        await behind.heard_of(started)
        await behind.broken(started)

        async def found() -> Any:
            await behind.world.start([{"action": "probe"}])
            return await behind.found(started)

        await wait_until(found, what="the stall to be found")


async def test_what_happened_since_the_saga_was_there_is_the_streams_to_tell(behind: Behind) -> None:
    behind.world.probe.answer = _twenty
    async with relaying(behind.relay), saga_running(behind.world, transport=behind.transport):
        first = await behind.world.start(APPROVAL)
        await behind.heard_of(first)
    later = await behind.world.start([{"action": "probe"}])
    assert not await behind.found(later)
    assert not await behind.found(first)


async def test_while_the_broker_is_away_nobody_is_accused(engine: Engine, behind: Behind) -> None:
    if "lose its broker" in engine.cannot:
        pytest.skip(engine.cannot["lose its broker"])
    async with relaying(behind.relay), saga_running(behind.world, transport=behind.transport):
        started = await behind.world.start(APPROVAL)
        await behind.heard_of(started)
    await behind.broken(started)
    engine.kill_broker()
    assert not await behind.found(started)
    await engine.restart_broker()

    async def found() -> Any:
        return await behind.found(started)

    await wait_until(found, 60, what="the stall to be found")


async def _twenty(_invocation: Invocation) -> Any:
    return 20


def test_a_checkpoint_counts_for_its_partition_alone_and_under_any_number_of_them() -> None:
    key = "acme/execution-1"
    mine, other = partition_of(key, 16), (partition_of(key, 16) + 1) % 16
    at_five = LogProgress([]).place_of(key, 5)
    assert not LogProgress([]).is_past(at_five)
    assert not LogProgress([(16, mine, 4), (16, other, 9)]).is_past(at_five)
    assert LogProgress([(16, mine, 5)]).is_past(at_five)
    # Eight partitions were given up long ago; what they had done by then is done.
    assert LogProgress([(8, partition_of(key, 8), 7), (16, mine, 3)]).is_past(at_five)


def test_a_place_at_a_broker_is_passed_when_as_many_are_done_or_when_the_stream_was_begun_anew() -> None:
    def seen(done: int, end: int) -> BrokerProgress:
        return BrokerProgress(lambda key: "3", {"3": done}, {"3": end, "4": 90})

    place = seen(5, 10).place_of("acme/execution-1", 77)
    assert [seen(done, 20).is_past(place) for done in (9, 10, 15)] == [False, True, True]
    assert seen(2, 2).is_past(place)
    assert not seen(1, 2).is_past(place)
    assert BrokerProgress(lambda key: "4", {}, {"3": 1}).is_past(("3", 0))
    assert not BrokerProgress(lambda key: "4", {}, {"3": 1}).is_past(("3", 1))


def test_of_several_streams_each_keeps_its_own_places() -> None:
    parts = {name: BrokerProgress(lambda key: "0", {"0": done}, {"0": 5}) for name, done in (("big", 5), ("small", 4))}
    both = ClassedProgress(lambda key: "big" if key.startswith("acme/") else "small", parts)
    assert both.is_past(both.place_of("acme/execution-1", 1))
    assert not both.is_past(both.place_of("other/execution-1", 1))
    assert not both.is_past(("gone\n0", 0)), "nothing is known of a stream that is not there any more"
