# intent_ref: tests.ahead-of-stream
"""Who records an answer goes on with what follows from it, and the stream's events come later: nothing is called twice for that,
nothing is lost for it, and nobody runs far ahead of a stream that says nothing."""

import asyncio
from collections.abc import Sequence
from typing import Any

from commands.execution import CancelExecution
from commands.handle import handle
from domain.execution_events import StepStarted
from domain.values import ExecutionId
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from modules.contract import Invocation
from sagas.ahead import STEPS_AHEAD_MAX
from streaming.embedded import EmbeddedTransport
from streaming.transport import Message
from streaming.waiting import first_of
from tests.integration.test_execution_saga import World, now
from tests.integration.test_quick_calls import Quick, completed_once, quick, rows
from tests.waiting import wait_until


class Held(EmbeddedTransport):
    """A stream that brings the first step of a tenant's execution and then says nothing until it is let go.

    What earlier tests left in the log may come before that, in batches of its own, and so may the execution's first event.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world.store)
        self.tenant, self.go_on = world.tenant, asyncio.Event()
        self.repeats = False

    async def consume(self, group: str, handler: Any, *, stop: asyncio.Event, **more: Any) -> None:
        """As the real one, held between batches."""
        has_begun = False

        async def held(messages: Sequence[Message]) -> None:
            nonlocal has_begun
            if has_begun:
                await first_of(3600, stop, self.go_on)
                if not self.go_on.is_set():
                    raise StoreUnavailable("The stream stops here.")
            has_begun |= any(message.tenant_id == self.tenant and isinstance(message.event, StepStarted) for message in messages)
            await handler(messages)
            if self.repeats:
                await handler(messages)

        await super().consume(group, held, stop=stop, **more)


async def asked(probe: Quick, execution_id: ExecutionId, count: int) -> None:
    """The module has been asked so often."""
    await wait_until(lambda: len(probe.world.probe.asked_of(execution_id)) >= count, what=f"{count} calls")


async def test_a_chain_goes_on_while_the_stream_says_nothing(store: EventStore) -> None:
    world = World(store, "ahead-chain")
    stream = Held(world)
    async with quick(world, transport=stream) as probe:
        started = await probe.start(steps=5)
        state = await world.ended(started)
        assert state.status == "completed"
        assert not await rows(world, started)
        stream.go_on.set()
        await completed_once(world, started, 5)
        await wait_until(lambda: not probe.saga._ahead._begun, what="the stream to have brought every event")
    assert len(world.probe.asked_of(started)) == 5


async def test_nobody_runs_further_ahead_than_the_limit(store: EventStore) -> None:
    world = World(store, "ahead-limit")
    stream, steps = Held(world), STEPS_AHEAD_MAX + 4
    async with quick(world, transport=stream) as probe:
        started = await probe.start(steps=steps)
        await asked(probe, started, STEPS_AHEAD_MAX + 1)
        await wait_until(lambda: not probe.saga.running, what="the last call's answer to be recorded")
        assert len(world.probe.asked_of(started)) == STEPS_AHEAD_MAX + 1
        stream.go_on.set()
        await completed_once(world, started, steps)
    assert len(world.probe.asked_of(started)) == steps


async def test_a_stream_that_repeats_itself_repeats_no_call(store: EventStore) -> None:
    world = World(store, "ahead-repeats")
    stream = Held(world)
    stream.repeats = True
    stream.go_on.set()
    async with quick(world, transport=stream) as probe:
        started = await probe.start(steps=6)
        await completed_once(world, started, 6)
    assert len(world.probe.asked_of(started)) == 6


async def test_a_call_begun_ahead_that_becomes_slow_gets_its_row_when_the_stream_comes(store: EventStore) -> None:
    world = World(store, "ahead-slow")
    stream, go_on = Held(world), asyncio.Event()
    async with quick(world, transport=stream) as probe:
        probe.then = lambda invocation: go_on.wait() if invocation.step == "s1" else None
        started = await probe.start(steps=2)
        await asked(probe, started, 2)
        assert not await rows(world, started)
        stream.go_on.set()
        await wait_until(lambda: not probe.saga._rowless, what="the row")
        assert await rows(world, started) == [("call", probe.saga.worker)]
        go_on.set()
        await completed_once(world, started, 2)
    assert len(world.probe.asked_of(started)) == 2


async def test_a_call_begun_ahead_that_crashes_is_made_again_when_the_stream_comes(store: EventStore) -> None:
    world = World(store, "ahead-crash")
    stream, crashes = Held(world), iter([True])

    async def call(module: Any, invocation: Invocation) -> Any:
        result = await world.caller.call(module, invocation)
        if invocation.step == "s1" and next(crashes, False):
            raise MemoryError("nobody foresaw this")
        return result

    async with quick(world, call=call, transport=stream) as probe:
        started = await probe.start(steps=2)
        await asked(probe, started, 2)
        await wait_until(lambda: probe.saga.statistics.postponed == 1, what="the crash")
        stream.go_on.set()
        await completed_once(world, started, 2)
        assert not probe.saga._rowless | probe.saga._unmade
    assert len(world.probe.asked_of(started)) == 3


async def test_what_dies_with_its_process_is_made_by_the_next_that_reads_the_stream(store: EventStore) -> None:
    world = World(store, "ahead-dies")
    stream = Held(world)
    async with quick(world, transport=stream) as probe:
        probe.then = lambda invocation: asyncio.sleep(3600) if invocation.step == "s1" else None
        started = await probe.start(steps=2)
        await asked(probe, started, 2)
    assert not await rows(world, started)
    probe.then = lambda invocation: None
    async with quick(world):
        await completed_once(world, started, 2)
    assert len(world.probe.asked_of(started)) == 3


async def test_a_cancelled_execution_does_not_go_on_ahead_of_the_stream(store: EventStore) -> None:
    world = World(store, "ahead-cancel")
    stream, go_on = Held(world), asyncio.Event()
    async with quick(world, transport=stream) as probe:
        probe.then = lambda invocation: go_on.wait() if invocation.step == "s1" else None
        started = await probe.start(steps=3)
        await asked(probe, started, 2)
        await handle(world.shell, CancelExecution(execution_id=started, reason="enough", at=now()), world.envelope())
        go_on.set()
        assert (await world.ended(started)).status == "cancelled"
        stream.go_on.set()
        await wait_until(lambda: not probe.saga._ahead._begun, what="the stream to have brought every event")
        await wait_until(lambda: not probe.saga._rowless, what="every call to be seen through")
    assert [invocation.step for invocation in world.probe.asked_of(started)] == ["s0", "s1"]
