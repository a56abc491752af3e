# intent_ref: tests.stall-check
"""States broken by hand in the database: the stall check finds each, puts it right, and finds nothing elsewhere."""

import asyncio
from typing import Any

import pytest

from commands.execution import ApproveStep
from commands.handle import handle
from domain import execution
from domain.execution_events import ExecutionStalled
from domain.values import ExecutionId, StepId, execution_stream
from event_store.store import EventStore
from modules.contract import Invocation, ModuleError
from sagas.stalls import StallCheck, reasons_to_wake
from tests.integration.test_execution_saga import World, now, saga_running
from tests.waiting import wait_until


class Watched:
    """An execution that stands still at a known place, and the hand that breaks it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.check = StallCheck(world.shell, grace_seconds=0.0)

    async def brought_to(self, execution_id: ExecutionId, status: str) -> None:
        async def there() -> bool:
            stream = execution_stream(execution_id)
            state = (await self.world.store.load(self.world.tenant, stream, execution.evolve)).state
            if state is None or not any(run.status == status for run in state.runs.values()):
                return False
            return await _rows(self.world, execution_id) == reasons_to_wake(state)  # all are there, and none of before

        await wait_until(there, what=f"a step that is {status}")

    async def broken(self, execution_id: ExecutionId) -> None:
        rows = await self.world.store.platform_pool.fetch(
            "DELETE FROM quantum.saga_dispatches WHERE execution_id = $1 RETURNING step", execution_id
        )
        assert rows, "nothing was there to be broken"

    async def found(self, execution_id: ExecutionId) -> bool:
        before = len(await self.said(execution_id))
        await self.check.follow()
        await self.check.check()
        return len(await self.said(execution_id)) > before

    async def said(self, execution_id: ExecutionId) -> list[ExecutionStalled]:
        events = [event.event for event in await self.world.events(execution_id)]
        return [event for event in events if isinstance(event, ExecutionStalled)]


async def fail_once(invocation: Invocation) -> Any:
    if invocation.attempt == 1:
        raise ModuleError("not-yet", "Not yet.")
    return {"attempt": invocation.attempt}


BREAKABLE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a-timer": ([{"wait": "1h", "id": "later"}], "waiting"),
    "an-approval": ([{"approval": {}, "id": "ok"}], "waiting"),
    "a-signal": ([{"signal": "go", "id": "go"}], "waiting"),
    "a-retry": ([{"action": "probe", "retry": {"max_attempts": 3, "initial_interval": "1h", "max_interval": "1h"}}], "retrying"),
    "a-child": ([{"workflow": "the-child", "id": "child"}], "waiting"),
    "the-time-of-a-step": ([{"approval": {}, "id": "ok", "timeouts": {"total": "1h"}}], "waiting"),
}


@pytest.mark.parametrize("name", BREAKABLE)
async def test_what_was_to_wake_an_execution_is_missed_and_put_back(store: EventStore, name: str) -> None:
    steps, status = BREAKABLE[name]
    world = World(store, f"stall-{name}")
    watched = Watched(world)
    world.probe.answer = fail_once
    async with saga_running(world):
        if name == "a-child":
            await _intent(world, "the-child", [{"approval": {}, "id": "ok"}])
        started = await world.start(steps)
        await watched.brought_to(started, status)
        before = await _rows(world, started)
        assert not await watched.found(started)
        await watched.broken(started)
    assert await watched.found(started)
    [stalled] = await watched.said(started)
    assert stalled.missing
    assert await _rows(world, started) == before
    assert not await watched.found(started)
    assert watched.check.statistics.stalled >= 1


async def test_a_call_that_nobody_knows_of_is_made_after_all(store: EventStore) -> None:
    world = World(store, "stall-call")
    watched = Watched(world)
    started = await world.start([{"action": "probe", "n": 1}])
    # The stream was read, and the row has gone: as if somebody had deleted it.
    async with saga_running(world, call=_never):
        await watched.brought_to(started, "running")
    await watched.broken(started)
    assert await watched.found(started)
    async with saga_running(world):
        assert (await world.ended(started)).status == "completed"
    assert len(world.probe.asked_of(started)) == 1


async def test_the_deadline_of_an_execution_is_put_back(store: EventStore) -> None:
    world = World(store, "stall-deadline")
    watched = Watched(world)
    async with saga_running(world):
        started = await world.start([{"approval": {}, "id": "ok"}], timeout="1h")
        await watched.brought_to(started, "waiting")
        assert ("", 0) in await _rows(world, started)
    await world.store.platform_pool.execute("DELETE FROM quantum.saga_dispatches WHERE execution_id = $1 AND step = ''", started)
    assert await watched.found(started)
    assert ("", 0) in await _rows(world, started)


async def test_an_execution_that_has_ended_or_is_paused_is_left_alone(store: EventStore) -> None:
    world = World(store, "stall-ended")
    watched = Watched(world)
    async with saga_running(world):
        done = await world.start([{"action": "probe"}])
        await world.ended(done)
        waits = await world.start([{"approval": {}, "id": "ok"}])
        await watched.brought_to(waits, "waiting")
        assert not await watched.found(waits)
        approve = ApproveStep(execution_id=waits, step=StepId("ok"), by="me", roles=frozenset(), at=now())
        await handle(world.shell, approve, world.envelope())
        await world.ended(waits)
    assert not await watched.found(waits)
    assert not await watched.found(done)
    left = await store.platform_pool.fetchval("SELECT count(*) FROM quantum.saga_executions WHERE tenant_id = $1", world.tenant)
    assert left == 0


async def test_of_two_checks_one_is_at_work_and_the_other_takes_over(store: EventStore) -> None:
    world = World(store, "stall-two")
    checks = [StallCheck(world.shell, grace_seconds=0.0, round_seconds=0.05) for _ in range(2)]
    stops = [asyncio.Event() for _ in checks]
    started = await world.start([{"approval": {}, "id": "ok"}])
    async with saga_running(world):
        await Watched(world).brought_to(started, "waiting")
    tasks = [asyncio.create_task(check.run(stop)) for check, stop in zip(checks, stops, strict=True)]
    await wait_until(lambda: _any(check.statistics.checked for check in checks), what="one of them to check")
    leader = max((0, 1), key=lambda number: checks[number].statistics.checked)
    assert checks[1 - leader].statistics.checked == 0
    stops[leader].set()
    await tasks[leader]
    await wait_until(lambda: _any([checks[1 - leader].statistics.checked]), what="the other one to take over")
    stops[1 - leader].set()
    await tasks[1 - leader]


async def _any(counts: Any) -> bool:
    return any(counts)


async def _never(_module: Any, _invocation: Invocation) -> Any:
    await asyncio.Event().wait()


async def _rows(world: World, execution_id: str) -> set[tuple[str, int]]:
    rows = await world.store.platform_pool.fetch(
        "SELECT step, attempt FROM quantum.saga_dispatches WHERE execution_id = $1", execution_id
    )
    return {(row[0], row[1]) for row in rows}


async def _intent(world: World, name: str, steps: list[dict[str, Any]]) -> None:
    from commands.intent import CreateIntent
    from domain.values import IntentId
    from event_store.ids import uuid7

    definition = {"target": "production", "steps": steps}
    command = CreateIntent(intent_id=IntentId(str(uuid7())), name=name, definition=definition, at=now())
    await handle(world.shell, command, world.envelope())


async def test_the_news_of_a_childs_end_is_sent_again(store: EventStore) -> None:
    world = World(store, "stall-child-end")
    watched = Watched(world)
    await _intent(world, "the-child", [{"approval": {}, "id": "ok"}])
    async with saga_running(world):
        started = await world.start([{"workflow": "the-child", "id": "child"}])
        await watched.brought_to(started, "waiting")
        waiting = (await world.state(started)).runs[StepId("child")].waiting
        assert waiting is not None
        child = ExecutionId(waiting.detail["execution_id"])
        await watched.brought_to(child, "waiting")
    approve = ApproveStep(execution_id=child, step=StepId("ok"), by="me", roles=frozenset(), at=now())
    await handle(world.shell, approve, world.envelope())
    # The child has ended, and the group's checkpoint is past the event as if its row had been stored and then lost.
    await store.platform_pool.execute("UPDATE quantum.stream_leases SET checkpoint = $1", await store.horizon())
    assert await watched.found(started)
    async with saga_running(world):
        assert (await world.ended(started)).status == "completed"
