# intent_ref: tests.quick-calls
"""Calls that need no row, because the stream would bring their event again: whatever happens in the middle of one, it is made and
its outcome recorded once."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from domain.execution_events import StepCompleted
from domain.values import ExecutionId
from event_store.faults import DATABASE_FAULTS
from event_store.store import EventStore
from modules.contract import Deferred, Invocation, ModuleError
from sagas.dispatches import Dispatch
from sagas.execution import ExecutionSaga
from sagas.execution import Limits as SagaLimits
from sagas.stalls import StallCheck
from streaming.embedded import EmbeddedTransport
from tests.conftest import Database
from tests.consumers import another_store
from tests.integration.test_execution_saga import LosesAnswers, World, _drop_connections, saga_running, topics
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def dispatch(tenant: str = "quick", action: str = "probe") -> Dispatch:
    """A call of this action."""
    return Dispatch(tenant, "e", "s", 1, datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), UUID(int=2), "c", None, action=action)


class Quick:
    """A saga that has experience with the probe's action: it is over in no time. It notes which calls had no row."""

    def __init__(self, world: World, saga: ExecutionSaga) -> None:
        self.world, self.saga = world, saga
        self.without_row: list[str] = []
        self.then: Callable[[Invocation], Any] = lambda invocation: None
        world.probe.answer = self._answer

    async def start(self, steps: int = 1) -> ExecutionId:
        """An execution of so many steps, each with a call that is known to be quick."""
        self.learn()
        return await self.world.start([{"action": "probe", "id": f"s{number}"} for number in range(steps)])

    def learn(self) -> None:
        """From here on the probe's action is quick, also where a stalled machine makes some of its calls slow."""
        for _ in range(100):
            self.saga._quickness.took(dispatch(self.world.tenant), -1e6)
        assert self.saga._quickness.is_quick(dispatch(self.world.tenant))

    async def _answer(self, invocation: Invocation) -> Any:
        if any(key[:3] == (invocation.tenant_id, invocation.execution_id, invocation.step) for key in self.saga._rowless):
            self.without_row.append(invocation.execution_id)
        answer = self.then(invocation)
        return await answer if asyncio.iscoroutine(answer) else answer


@asynccontextmanager
async def quick(world: World, **more: Any) -> AsyncIterator[Quick]:
    """A saga with experience."""
    async with saga_running(world, **more) as saga:
        # The first look at the table is over, so calls may be taken without asking it.
        await wait_until(lambda: not saga._room.backlog, what="the saga to have room")
        yield Quick(world, saga)


async def completed_once(world: World, execution_id: ExecutionId, steps: int = 1) -> None:
    """The execution ends completed, with one outcome of each step and nothing left to do; the stall check finds nothing."""
    assert (await world.ended(execution_id)).status == "completed"
    events = [event.event for event in await world.events(execution_id)]
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [f"s{number}" for number in range(steps)]
    await wait_until(lambda: _no_row(world, execution_id), what="the rows to be gone")


async def rows(world: World, execution_id: str) -> list[tuple[str, str | None]]:
    """Kind and owner of each row of the execution."""
    found = await world.store.platform_pool.fetch(
        "SELECT kind, lease_owner FROM quantum.saga_dispatches WHERE execution_id = $1", execution_id
    )
    return [(row[0], row[1]) for row in found]


async def _no_row(world: World, execution_id: str) -> bool:
    with contextlib.suppress(*DATABASE_FAULTS):
        return not await rows(world, execution_id)
    return False


async def _has_row(world: World, execution_id: str) -> bool:
    with contextlib.suppress(*DATABASE_FAULTS):
        return bool(await rows(world, execution_id))
    return False


@asynccontextmanager
async def held(database: Database, table: str) -> AsyncIterator[None]:
    """Nobody writes to the table meanwhile; all may read it."""
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE quantum.{table} IN SHARE ROW EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def waits_for_lock(store: EventStore, table: str) -> bool:
    """True when somebody wants to write to the table and cannot."""
    found: bool = await store.platform_pool.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)", f"quantum.{table}"
    )
    return found


async def test_a_quick_call_is_made_without_a_row(store: EventStore) -> None:
    world = World(store, "quick-plain")
    async with quick(world) as probe:
        started = await probe.start(steps=3)
        await completed_once(world, started, 3)
    assert probe.without_row
    assert len(world.probe.asked_of(started)) == 3


async def test_a_quick_action_that_becomes_slow_gets_its_row_and_loses_it_with_its_outcome(store: EventStore) -> None:
    world, go_on = World(store, "quick-slow"), asyncio.Event()
    async with quick(world) as probe:
        probe.then = lambda invocation: go_on.wait()
        started = await probe.start()
        await wait_until(lambda: _has_row(world, started), what="the row")
        assert probe.without_row == [started]
        assert await rows(world, started) == [("call", probe.saga.worker)]
        go_on.set()
        await completed_once(world, started)
    assert len(world.probe.asked_of(started)) == 1


async def test_a_quick_call_that_crashes_is_made_again(store: EventStore) -> None:
    world, crashes = World(store, "quick-crash"), iter([True])

    async def call(module: Any, invocation: Invocation) -> Any:
        result = await world.caller.call(module, invocation)
        if next(crashes, False):
            raise MemoryError("nobody foresaw this")
        return result

    async with quick(world, call=call) as probe:
        started = await probe.start()
        await completed_once(world, started)
        assert probe.saga.statistics.postponed == 1
        assert not probe.saga._unmade
        assert not probe.saga._rowless
    assert probe.without_row[:1] == [started]
    assert len({invocation.idempotency_key for invocation in world.probe.asked_of(started)}) == 1


async def test_a_quick_call_that_fails_is_retried_by_its_policy(store: EventStore) -> None:
    world = World(store, "quick-fails")

    def fails_once(invocation: Invocation) -> Any:
        if invocation.attempt == 1:
            raise ModuleError("not-yet", "Not yet.")

    async with quick(world) as probe:
        probe.then = fails_once
        await probe.start()
        started = await world.start([{"action": "probe", "id": "s0", "retry": {"max_attempts": 2, "initial_interval": 0.05}}])
        await completed_once(world, started)
    assert topics(await world.events(started)) == ["started", "step_started", "step_retrying", "step_completed", "completed"]


async def test_a_quick_action_that_answers_later_has_its_row_to_wait_in(store: EventStore) -> None:
    world = World(store, "quick-deferred")

    async def later(module: Any, invocation: Invocation) -> Any:
        await world.caller.call(module, invocation)
        return Deferred("later")

    async with quick(world, call=later) as probe:
        started = await probe.start()
        await wait_until(lambda: _is_asleep(world, started), what="the row that waits for the callback")
        assert probe.without_row == [started]
        await wait_until(lambda: not probe.saga._asleep, what="the handler to be done with it")
        check = StallCheck(world.shell, grace_seconds=0.0)
        await check.follow()
        assert await check._check_one(world.tenant, started) is False


async def _is_asleep(world: World, execution_id: str) -> bool:
    return await rows(world, execution_id) == [("callback", None)]


async def test_a_worker_that_is_cancelled_in_a_quick_call_has_it_made_again_from_the_stream(store: EventStore) -> None:
    world = World(store, "quick-cancelled")
    saga = ExecutionSaga(world.shell, EmbeddedTransport(store), world.caller.call, limits=SagaLimits(grace_seconds=0.0))
    task = asyncio.create_task(saga.run(asyncio.Event()))
    await wait_until(lambda: saga._next_due > 0 and not saga._room.backlog, what="the saga to have room")
    probe = Quick(world, saga)

    def cancelled(invocation: Invocation) -> Any:
        task.cancel()
        return asyncio.Event().wait()

    probe.then = cancelled
    started = await probe.start()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert probe.without_row == [started]
    assert world.probe.cancelled == [started]
    probe.then = lambda invocation: None
    async with saga_running(world):
        await completed_once(world, started)
    assert len({invocation.idempotency_key for invocation in world.probe.asked_of(started)}) == 1


DIES = """
import asyncio, os, signal, sys
from event_store.store import EventStore
from tests.integration.test_execution_saga import World
from tests.integration.test_quick_calls import quick

async def main():
    store = await EventStore.connect(app_dsn=sys.argv[1], platform_dsn=sys.argv[2])
    async with quick(World(store, "quick-killed")) as probe:
        def dies(invocation):
            print("without a row" if probe.without_row else "with a row", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        probe.then = dies
        await probe.start()
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.chaos
async def test_a_process_killed_in_a_quick_call_has_it_made_again_from_the_stream(store: EventStore, database: Database) -> None:
    world = World(store, "quick-killed")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIES, database.app_dsn, database.platform_dsn, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert (process.returncode, said) == (-9, b"without a row\n")
    started = await store.platform_pool.fetchval("SELECT stream_id FROM quantum.events WHERE tenant_id = $1 AND version = 1"
                                                 " AND stream_id LIKE 'execution-%'", world.tenant)  # fmt: skip
    execution_id = ExecutionId(started.removeprefix("execution-"))
    assert await rows(world, execution_id) == []
    async with saga_running(world):
        await completed_once(world, execution_id)


async def test_a_worker_that_believes_its_calls_lost_makes_those_without_a_row_again(store: EventStore) -> None:
    """As after a heartbeat that came too late: what the table does not say is ours is given up."""
    world, go_on = World(store, "quick-given-up"), asyncio.Event()
    given_up: list[asyncio.Task[None]] = []
    async with quick(world) as probe:

        async def first_hangs(invocation: Invocation) -> None:
            if not given_up:
                given_up.append(asyncio.create_task(probe.saga._give_up_what_others_took()))
                await go_on.wait()

        probe.then = first_hangs
        started = await probe.start()
        await completed_once(world, started)
        await given_up[0]
    assert probe.without_row[:1] == [started]


async def test_a_quick_call_whose_row_cannot_be_stored_is_made_and_recorded_once(store: EventStore, database: Database) -> None:
    """The database goes away in the moment in which a call that takes longer than it should gets its row."""
    world, go_on = World(store, "quick-away"), asyncio.Event()
    async with quick(world) as probe:
        probe.then = lambda invocation: go_on.wait()
        async with held(database, "saga_dispatches"):
            started = await probe.start()
            await wait_until(lambda: waits_for_lock(store, "saga_dispatches"), what="the row on its way")
            await _drop_connections(database)
        await wait_until(lambda: _has_row(world, started), 20, what="the row, after all")
        go_on.set()
        await completed_once(world, started)
        assert not probe.saga._rowless
    assert probe.without_row[:1] == [started]


async def test_a_row_of_a_quick_call_that_was_stored_although_nobody_heard_is_found_and_its_call_made(store: EventStore) -> None:
    """The worst of moments: the call has failed for a reason nobody foresaw, and the answer about its row never came."""
    world, crashes = World(store, "quick-unheard"), iter([True])

    async def call(module: Any, invocation: Invocation) -> Any:
        result = await world.caller.call(module, invocation)
        if next(crashes, False):
            raise MemoryError("nobody foresaw this")
        return result

    async with quick(world, call=call) as probe:
        probe.saga._dispatches._pool = LosesAnswers(store.platform_pool, "INSERT INTO quantum.saga_dispatches", 1)
        started = await probe.start()
        await completed_once(world, started)
        assert not probe.saga._unmade
    assert probe.without_row[:1] == [started]


async def test_a_quick_call_is_not_forgotten_where_the_rows_of_others_cannot_be_stored(store: EventStore) -> None:
    """What comes in one batch with it has to wait for the database; in the meantime its own call fails as nobody foresaw."""
    world, crashes = World(store, "quick-beside"), iter([True])

    async def call(module: Any, invocation: Invocation) -> Any:
        result = await world.caller.call(module, invocation)
        if invocation.step == "s0" and next(crashes, False):
            raise MemoryError("nobody foresaw this")
        return result

    async with quick(world, call=call) as probe:
        probe.saga._dispatches._pool = LosesAnswers(store.platform_pool, "INSERT INTO quantum.saga_dispatches", 1)
        probe.learn()
        beside = {"action": "no-op", "id": "beside", "depends_on": []}
        started = await world.start([{"action": "probe", "id": "s0"}, beside])
        assert (await world.ended(started)).status == "completed"
        await wait_until(lambda: _no_row(world, started), what="the rows to be gone")
        assert not probe.saga._rowless | probe.saga._unmade
    assert probe.without_row[:1] == [started]


async def test_a_quick_call_that_is_over_while_its_row_cannot_be_stored_leaves_none(
    store: EventStore, database: Database
) -> None:
    world, go_on = World(store, "quick-over"), asyncio.Event()
    async with quick(world) as probe:
        probe.then = lambda invocation: go_on.wait()
        async with held(database, "saga_dispatches"):
            started = await probe.start()
            await wait_until(lambda: waits_for_lock(store, "saga_dispatches"), what="the row on its way")
            go_on.set()
            assert (await world.ended(started)).status == "completed"
        await completed_once(world, started)
    assert len(world.probe.asked_of(started)) == 1


class AnswersLate:
    """A pool that brings the answer about a row in the very moment in which that row's call is over."""

    def __init__(self, saga: ExecutionSaga, go_on: asyncio.Event) -> None:
        self._pool, self._saga, self._go_on = saga._dispatches._pool, saga, go_on

    async def fetch(self, query: str, *arguments: Any, **options: Any) -> Any:
        rows = await self._pool.fetch(query, *arguments, **options)
        if "INSERT INTO quantum.saga_dispatches" in query and not self._go_on.is_set():
            self._go_on.set()
            while self._saga._rowless:  # noqa: ASYNC110 - each turn of the loop counts
                await asyncio.sleep(0)
        return rows


async def test_a_quick_call_that_is_over_in_the_very_moment_its_row_is_stored_leaves_none(store: EventStore) -> None:
    world, go_on = World(store, "quick-moment"), asyncio.Event()
    async with quick(world) as probe:
        probe.then = lambda invocation: go_on.wait()
        probe.saga._dispatches._pool = AnswersLate(probe.saga, go_on)
        started = await probe.start()
        await completed_once(world, started)


async def test_the_database_goes_away_while_the_outcome_of_a_quick_call_is_recorded(
    store: EventStore, database: Database
) -> None:  # fmt: skip
    world = World(store, "quick-record-away")
    async with quick(world) as probe:
        started = None
        async with contextlib.AsyncExitStack() as holding:

            async def hold(invocation: Invocation) -> None:
                if len(world.probe.asked) == 1:
                    await holding.enter_async_context(held(database, "events"))

            probe.then = hold
            started = await probe.start()
            await wait_until(lambda: waits_for_lock(store, "events"), what="the outcome on its way")
            await _drop_connections(database)
        await completed_once(world, started)
    assert probe.without_row[:1] == [started]


async def test_partitions_that_move_in_the_middle_of_quick_calls_cost_no_outcome_and_double_none(
    store: EventStore, database: Database
) -> None:
    world = World(store, "quick-moves")
    async with another_store(database) as second, quick(world) as probe:
        probe.then = lambda invocation: asyncio.sleep(0.001)
        started = [await probe.start(steps=5) for _ in range(10)]
        for _ in range(3):
            async with saga_running(World(second, "quick-moves", world.probe)):
                await wait_until(lambda: _shares(store, 2), what="the other one to have its part")
                started += [await probe.start(steps=5) for _ in range(10)]
            started += [await probe.start(steps=5) for _ in range(5)]
        for one in started:
            await completed_once(world, one, 5)
    assert probe.without_row


async def _shares(store: EventStore, members: int) -> bool:
    count: int = await store.platform_pool.fetchval(
        "SELECT count(DISTINCT owner) FROM quantum.stream_leases WHERE consumer_group = 'saga.execution' AND owner IS NOT NULL"
    )
    return count == members
