# intent_ref: tests.tenant-limits
"""Limits of tenants and actions hold over all workers, hold nobody else up, and lose nothing when a worker dies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from commands.execution import CancelExecution, PauseExecution, ResumeExecution, RetryExecution, TerminateExecution
from domain.execution_events import ExecutionStalled
from domain.module import Rate
from domain.refusals import LimitReached
from domain.tenant_limits import TenantLimits
from event_store.ids import uuid7
from event_store.store import EventStore
from modules.contract import Invocation, ModuleError
from sagas.dispatches import Dispatch, Dispatches
from sagas.execution import ExecutionSaga
from sagas.execution import Limits as SagaLimits
from sagas.reactions import admission_row
from sagas.stalls import StallCheck
from tests.execution_world import now, sagas_on
from tests.limited_tenants import Doors, LimitedWorld, limits_known
from tests.waiting import wait_until

SLOW = {"action": "slow"}


@asynccontextmanager
async def two_workers(
    world: LimitedWorld, *others: LimitedWorld, limits: SagaLimits | None = None
) -> AsyncIterator[list[ExecutionSaga]]:
    """Two workers for all tenants, and nothing left behind."""
    chosen = limits or SagaLimits(grace_seconds=0.1)
    async with limits_known(world.store), sagas_on(world, world, limits=chosen) as sagas:
        try:
            yield sagas
        finally:
            for one in (world, *others):
                await one.swept()


async def counted(sagas: list[ExecutionSaga], world: LimitedWorld) -> None:
    """Returns once all workers know that the tenant's steps are counted over all of them."""
    await wait_until(lambda: all(world.tenant in saga._room.limited for saga in sagas), what="the workers to know")


async def queued(world: LimitedWorld) -> int:
    """How many executions wait for their turn."""
    count: int = await world.store.platform_pool.fetchval(
        "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1 AND kind = 'admission'", world.tenant
    )
    return count


async def in_line(world: LimitedWorld, count: int) -> None:
    async def there() -> bool:
        return await queued(world) == count

    await wait_until(there, 20, what=f"{count} executions in line")


async def test_no_more_executions_run_than_the_tenant_may_have_and_the_others_follow(store: EventStore) -> None:
    world = LimitedWorld(store, "turns")
    doors = Doors(world.bench)
    async with two_workers(world):
        await world.registered(concurrent_executions=2)
        running = [await world.run(SLOW, {"action": "do"}) for _ in range(5)]
        await doors.until(2)
        await in_line(world, 3)
        waiting = [one for one in running if (await one.state()).is_queued]
        assert len(waiting) == 3
        assert await waiting[0].lines() == ["begin", "queued 1"]
        await doors.emptied(running)
        for one in running:
            await one.ended()
        assert len({invocation.execution_id for invocation in world.bench.asked}) == 5

        async def none_left() -> bool:
            return await world.places() == 0

        await wait_until(none_left, what="all places to be free")


async def test_another_tenant_is_not_held_up_by_a_line_of_the_first(store: EventStore) -> None:
    many = LimitedWorld(store, "line-many")
    few = LimitedWorld(store, "line-few", many.bench)
    doors = Doors(many.bench)
    async with two_workers(many, few, limits=SagaLimits(calls_max=4, tenant_calls_max=4, grace_seconds=0.1)) as sagas:
        await many.registered(concurrent_steps=2)
        await counted(sagas, many)
        await few.registered()
        await many.run({**SLOW, "foreach": {"items": list(range(500)), "concurrency": 500}})
        await doors.until(2, of="line-many")
        await few.run(SLOW)
        await doors.until(1, of="line-few")
        assert len(doors.inside) == 3


async def test_steps_are_counted_over_all_workers(store: EventStore) -> None:
    world = LimitedWorld(store, "steps")
    doors = Doors(world.bench)
    async with two_workers(world) as sagas:
        await world.registered(concurrent_steps=3)
        await counted(sagas, world)
        wide = [{"id": f"s{number}", "action": "slow", "depends_on": []} for number in range(12)]
        one = await world.run(*wide)
        await doors.emptied([one])
        await one.ended()
        assert doors.most <= 3


async def test_a_limit_of_the_installation_holds_for_tenants_of_which_nothing_is_set(store: EventStore) -> None:
    installation = TenantLimits(concurrent_steps=1, concurrent_executions=2)
    world = LimitedWorld(store, "installed", installation=installation)
    free = LimitedWorld(store, "freed", world.bench, installation)
    doors = Doors(world.bench)
    async with two_workers(world, free, limits=SagaLimits(grace_seconds=0.1, installation=installation)):
        await world.registered()
        await free.registered(concurrent_steps=5, concurrent_executions=5)
        for _ in range(3):
            await world.run(SLOW)
            await free.run(SLOW)
        await doors.until(1, of="installed")
        await doors.until(3, of="freed")
        await in_line(world, 1)
        assert await queued(free) == 0


async def test_limits_that_change_hold_for_what_waits_already(store: EventStore) -> None:
    world = LimitedWorld(store, "changing")
    doors = Doors(world.bench)
    async with two_workers(world):
        await world.registered(concurrent_executions=1)
        for _ in range(4):
            await world.run(SLOW)
        await doors.until(1)
        await in_line(world, 3)
        await world.limit(concurrent_executions=3)
        await doors.until(3)
        await world.limit()
        await doors.until(4)
        await in_line(world, 0)


async def test_what_is_cancelled_in_line_never_runs_and_what_is_paused_in_line_waits_for_both(store: EventStore) -> None:
    world = LimitedWorld(store, "steered")
    doors = Doors(world.bench)
    async with two_workers(world):
        await world.registered(concurrent_executions=1)
        first = await world.run(SLOW)
        await doors.until(1)
        dropped, paused = await world.run(SLOW), await world.run(SLOW)
        await in_line(world, 2)
        await dropped.say(CancelExecution)
        await in_line(world, 1)
        assert (await dropped.ended("cancelled")).is_queued
        await paused.say(PauseExecution)
        doors.let_out()
        await first.ended()
        state = await paused.until(lambda state: not state.is_queued, what="its turn")
        assert (state.status, state.active) == ("paused", 0)
        await paused.say(ResumeExecution)
        await doors.until(1)
        doors.let_out()
        await paused.ended()
        assert {invocation.execution_id for invocation in world.bench.asked} == {first.id, paused.id}


async def test_an_execution_that_is_retried_waits_for_its_turn_again(store: EventStore) -> None:
    world = LimitedWorld(store, "again")
    doors = Doors(world.bench)
    slow = world.bench.answer

    async def fail_first(invocation: Invocation) -> object:
        if invocation.action == "do" and invocation.attempt == 1:
            raise ModuleError("no", "No.", retryable=False)
        return await slow(invocation)

    world.bench.answer = fail_first
    async with two_workers(world):
        await world.registered(concurrent_executions=1)
        failed = await world.run({"action": "do"})
        await failed.ended("failed")
        first = await world.run(SLOW)
        await doors.until(1)
        await failed.say(RetryExecution)
        await in_line(world, 1)
        assert (await failed.lines())[-1] == "queued 2"
        doors.let_out()
        await first.ended()
        await doors.until(1)
        doors.let_out()
        await failed.ended()


async def test_a_part_of_another_execution_takes_no_turn_of_its_own(store: EventStore) -> None:
    world = LimitedWorld(store, "parts")
    async with two_workers(world):
        await world.registered(concurrent_executions=1)
        await world.define("part", {"target": "t", "steps": [{"action": "do"}]})
        whole = await world.run({"id": "p", "workflow": "part"})
        await whole.ended()


async def test_parts_count_for_the_rate_and_wait_rather_than_fail(store: EventStore) -> None:
    world = LimitedWorld(store, "rated-parts")
    async with two_workers(world):
        await world.registered(executions_a_minute=2)
        await world.define("rated-part", {"target": "t", "steps": [{"action": "do"}]})
        whole = await world.run({"id": "p", "workflow": "rated-part", "foreach": {"items": [1, 2, 3, 4], "concurrency": 4}})

        async def held_back() -> bool:
            asleep: int = await store.platform_pool.fetchval(
                "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1 AND kind = 'child' AND lease_owner IS NULL"
                " AND rank IS NULL AND due_at BETWEEN now() AND now() + interval '61 s'", world.tenant,
            )  # fmt: skip
            return asleep >= 2

        await wait_until(held_back, 20, what="parts to be held back")
        state = await whole.state()
        assert state.status == "running"
        assert "failed" not in {run.status for run in state.runs.values()}
        await whole.say(TerminateExecution, reason=None)


async def test_a_worker_that_dies_with_a_turn_in_its_hands_frees_nothing_twice(store: EventStore) -> None:
    world = LimitedWorld(store, "dying")
    doors = Doors(world.bench)
    pool = store.platform_pool
    async with limits_known(store):
        await world.registered(concurrent_executions=1)
    for _ in range(3):
        await world.run(SLOW)
    async with sagas_on(world, limits=SagaLimits(calls_max=1, tenant_calls_max=1, grace_seconds=0.1)):
        await doors.until(1)
    assert await world.places() == 1
    # A worker that is gone had claimed one more turn, and never told it; and another had told its own, and not deleted the row.
    await pool.execute(
        "UPDATE quantum.saga_dispatches SET lease_owner = 'gone', rank = NULL, claims = 1"
        " WHERE tenant_id = $1 AND kind = 'admission'", world.tenant,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO quantum.saga_admissions (tenant_id, execution_id) SELECT tenant_id, execution_id"
        " FROM quantum.saga_dispatches WHERE tenant_id = $1 AND kind = 'admission'", world.tenant,
    )  # fmt: skip
    assert await world.places() == 3
    async with two_workers(world):
        await doors.until(1)
        await doors.emptied(world.started)
    assert await world.places() == 0
    assert doors.most == 1


async def test_the_stall_check_is_quiet_while_executions_wait_and_puts_back_turns_and_places_that_are_lost(
    store: EventStore,
) -> None:
    world = LimitedWorld(store, "quiet")
    doors = Doors(world.bench)
    pool = store.platform_pool
    check = StallCheck(world.shell, clock=lambda: now() + timedelta(minutes=10), grace_seconds=0.0)
    async with limits_known(store):
        await world.registered(concurrent_executions=1)
    async with two_workers(world):
        first, second = await world.run(SLOW), await world.run(SLOW)
        await doors.until(1)
        await in_line(world, 1)
        await check.follow()
        await check.check()
        assert check.statistics.stalled == 0
        for one in (first, second):
            assert not [event for event in await one.events() if isinstance(event, ExecutionStalled)]
        # The first one's place is lost, the second one's turn is lost, and a place is held by an execution that has ended.
        await pool.execute("DELETE FROM quantum.saga_admissions WHERE tenant_id = $1", world.tenant)
        await pool.execute("DELETE FROM quantum.saga_dispatches WHERE tenant_id = $1 AND kind = 'admission'", world.tenant)
        await pool.execute(
            "INSERT INTO quantum.saga_admissions (tenant_id, execution_id, admitted_at)"
            " VALUES ($1, 'gone', now() - interval '1 hour')", world.tenant,
        )  # fmt: skip

        async def is_found() -> int:  # once the workers have stored how far they have come with the stream
            await check.check()
            return check.statistics.stalled

        assert await wait_until(is_found, what="the stall to be found") == 1
        await in_line(world, 1)
        assert await world.places() == 1
        doors.let_out()
        await first.ended()
        await doors.until(1)
        doors.let_out()
        await second.ended()
    assert doors.most == 1


async def test_an_actions_concurrency_holds_over_all_workers(store: EventStore) -> None:
    world = LimitedWorld(store, "metered-few")
    doors = Doors(world.bench)
    async with two_workers(world):
        await world.registered()
        await world.metered("pour", concurrency=2)
        await world.run({"action": "pour", "foreach": {"items": list(range(6)), "concurrency": 6}})
        await doors.until(2)
        await world.run({"action": "slow"})
        await doors.until(3)
        await world.metered("pour", concurrency=4, is_new=False)
        await doors.until(5)
        await doors.emptied(world.started)


async def test_an_actions_rate_holds_over_all_workers_and_uses_no_attempts(store: EventStore) -> None:
    world = LimitedWorld(store, "metered-rate")
    async with two_workers(world):
        await world.registered()
        await world.metered("pour", rate=Rate(3, 3_600.0))
        one = await world.run({"action": "pour", "foreach": {"items": list(range(8)), "concurrency": 8}})
        await wait_until(lambda: len(world.bench.asked) == 3, 20, what="the bucket to be empty")
        other = await world.run({"action": "do"})
        await other.ended()
        assert len(world.bench.asked) == 4
        await world.metered("pour", rate=Rate(100, 1.0), is_new=False)
        state = await one.ended()
        assert {run.attempts for run in state.runs.values()} <= {0, 1}


async def test_a_call_sleeps_until_its_bucket_has_a_token_again(store: EventStore) -> None:
    world = LimitedWorld(store, "metered-sleep")
    async with two_workers(world):
        await world.registered()
        await world.metered("pour", rate=Rate(1, 0.3))
        began = asyncio.get_running_loop().time()
        one = await world.run({"action": "pour", "foreach": {"items": [1, 2, 3, 4], "concurrency": 4}})
        await one.ended()
        assert asyncio.get_running_loop().time() - began >= 0.85, "three tokens take nine tenths of a second"


async def test_an_execution_that_is_being_let_in_counts_once(store: EventStore) -> None:
    world = LimitedWorld(store, "let-in")
    async with two_workers(world):
        await world.registered(concurrent_executions=2, on_exceeded="reject")
        claimer = Dispatches(store.platform_pool, "claimer")
        await claimer.beat()
        turn = Dispatch(world.tenant, "let-in", "", admission_row(1), now(), uuid7(), uuid7(), "c", None, "admission")
        await claimer.insert([turn], [True])
        await store.platform_pool.execute("INSERT INTO quantum.saga_admissions VALUES ($1, 'let-in')", world.tenant)
        try:
            await (await world.run({"action": "do"})).ended()
        finally:
            await claimer.leave()


@pytest.mark.parametrize("limit", ["queue_length", "executions_a_minute", "concurrent_executions"])
async def test_a_start_beyond_a_limit_is_refused_before_anything_is_written(store: EventStore, limit: str) -> None:
    world = LimitedWorld(store, f"refused-{limit.replace('_', '-')}")
    doors = Doors(world.bench)
    more = {"on_exceeded": "reject"} if limit == "concurrent_executions" else {}
    async with two_workers(world) as sagas:
        await world.registered(**{limit: 2}, **more)
        if limit == "queue_length":
            await world.limit(queue_length=2, concurrent_steps=1)
            await counted(sagas, world)
            await world.run(*[{"id": f"s{n}", "action": "slow", "depends_on": []} for n in range(4)])
        else:
            await world.run(SLOW), await world.run(SLOW)
        await wait_until(lambda: len(doors.inside) >= 1, 20, what="a call")
        if limit == "concurrent_executions":
            await doors.until(2)

        async def refused() -> LimitReached | None:
            try:
                await world.run(SLOW)
            except LimitReached as reached:
                return reached
            return None

        reached = await wait_until(refused, 20, what="a refusal")
        assert reached.limit == limit.replace("_", "-")
        assert (reached.most, reached.window_seconds) == (2, 60 if limit == "executions_a_minute" else None)
        assert 1 <= reached.again_seconds <= 60
