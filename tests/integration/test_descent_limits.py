# intent_ref: tests.tenant-limits
"""What one execution may start in all: exact over processes and crashes, each root's own, and nothing to others."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from access.descent_limits import DescentLimits
from domain.refusals import TooManyDescendants
from domain.values import ExecutionId, TenantId
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from tests.conftest import Database
from tests.execution_world import ExecutionWorld, sagas_on
from tests.waiting import wait_until


def limited(store: EventStore, tenant: str, most: int) -> ExecutionWorld:
    """A world whose executions may start so many others each."""
    world = ExecutionWorld(store, tenant)
    world.shell = replace(world.shell, may_descend=DescentLimits(store.platform_pool, most).may_descend)
    return world


async def counted(world: ExecutionWorld, root: str) -> int:
    count: int = await world.store.platform_pool.fetchval(
        "SELECT count(*) FROM quantum.saga_descendants WHERE tenant_id = $1 AND root_id = $2", world.tenant, root
    )
    return count


async def started(world: ExecutionWorld) -> int:
    """How many executions of the tenant have begun."""
    count: int = await world.store.platform_pool.fetchval(
        "SELECT count(*) FROM quantum.events WHERE tenant_id = $1 AND topic = 'execution.started.v1'", world.tenant
    )
    return count


def loop(name: str, count: int, **more: Any) -> dict[str, Any]:
    return {"id": "each", "workflow": name, "foreach": list(range(count)), **more}


async def test_loops_within_workflows_within_loops_start_so_many_in_all_and_the_next_step_fails(store: EventStore) -> None:
    world = limited(store, "descent-breadth", 10)
    await world.define("leaf", {"target": "t", "steps": [{"action": "do"}]})
    await world.define("middle", {"target": "t", "steps": [loop("leaf", 3)]})
    async with sagas_on(world):
        fits = await world.run(loop("middle", 2, id="each"))
        await fits.ended()
        assert await counted(world, fits.id) == 2 + 2 * 3
        breaks = await world.run({**loop("middle", 4), "foreach": {"items": [1, 2, 3, 4], "concurrency": 1}})
        state = await breaks.ended("failed")
        assert await counted(world, breaks.id) == 10
    assert state.error is not None
    assert state.error["code"] == "items-failed"
    inner = state.error["first"]["cause"]["first"]
    assert inner["code"] == "too-many-descendants"
    assert str(breaks.id) in inner["message"]
    assert await started(world) == 2 + 8 + 10


async def test_a_workflow_that_starts_itself_is_held_by_its_roots_count_at_whatever_depth(store: EventStore) -> None:
    world = limited(store, "descent-depth", 4)
    step = {"id": "again", "workflow": "self", "on_failure": "continue"}
    await world.define("self", {"target": "t", "steps": [step]})
    async with sagas_on(world):
        running = await world.start("self")
        await running.ended()
        await wait_until(lambda: _nothing_left(world), 20, what="all to be over")
    assert await started(world) == 5
    assert await counted(world, running.id) == 4


async def _nothing_left(world: ExecutionWorld) -> bool:
    return await world.rows() == 0


async def test_a_start_that_is_made_again_after_a_crash_is_counted_once(store: EventStore) -> None:
    world = limited(store, "descent-crash", 2)
    count, crashes = world.shell.may_descend, 3

    async def dies_after(tenant_id: TenantId, root: ExecutionId, descendant: ExecutionId) -> None:
        nonlocal crashes
        await count(tenant_id, root, descendant)
        if crashes:
            crashes -= 1
            raise StoreUnavailable("the process dies between the count and the start")

    world.shell = replace(world.shell, may_descend=dies_after)
    await world.define("leaf", {"target": "t", "steps": [{"action": "do"}]})
    async with sagas_on(world):
        running = await world.run({"id": "one", "workflow": "leaf"}, {"id": "two", "workflow": "leaf"})
        await running.ended(timeout_seconds=30)
    assert crashes == 0
    assert await counted(world, running.id) == 2
    assert await started(world) == 3


async def test_of_many_at_once_exactly_so_many_are_let_through(store: EventStore) -> None:
    tenant, root = TenantId("descent-race"), ExecutionId("root")
    processes = [DescentLimits(store.platform_pool, 25) for _ in range(3)]

    async def ask(number: int) -> bool:
        try:
            await processes[number % 3].may_descend(tenant, root, ExecutionId(f"child-{number // 3}"))
        except TooManyDescendants:
            return False
        return True

    answers = await asyncio.gather(*[ask(number) for number in range(120)])
    assert sum(answers) == 3 * 25, "each is asked for three times, and counted once"
    rows = await store.platform_pool.fetch(
        "SELECT number FROM quantum.saga_descendants WHERE tenant_id = $1 ORDER BY number", tenant
    )
    assert [row[0] for row in rows] == list(range(1, 26))


async def test_each_root_and_each_tenant_has_a_count_of_its_own(database: Database, store: EventStore) -> None:
    limits, root = DescentLimits(store.platform_pool, 1), ExecutionId("same")
    await limits.may_descend(TenantId("descent-a"), root, ExecutionId("c"))
    await limits.may_descend(TenantId("descent-b"), root, ExecutionId("c"))
    await limits.may_descend(TenantId("descent-a"), ExecutionId("other"), ExecutionId("d"))
    with pytest.raises(TooManyDescendants) as raised:
        await limits.may_descend(TenantId("descent-a"), root, ExecutionId("d"))
    assert (raised.value.root, raised.value.limit) == ("same", 1)
    connection = await asyncpg.connect(database.app_dsn)
    try:
        for query in ("SELECT 1 FROM quantum.saga_descendants", "SELECT quantum.saga_descend('descent-a', 'same', 'x', 9)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(query)
    finally:
        await connection.close()


async def test_a_start_that_was_counted_before_the_limit_was_lowered_is_answered_as_before(store: EventStore) -> None:
    world = limited(store, "descent-lower", 5)
    await world.define("leaf", {"target": "t", "steps": [{"signal": "never", "id": "s"}]})
    running = await world.start("leaf", root=ExecutionId("the-root"))
    lower = DescentLimits(store.platform_pool, 1)
    await lower.may_descend(world.tenant, ExecutionId("the-root"), running.id)
    with pytest.raises(TooManyDescendants):
        await lower.may_descend(world.tenant, ExecutionId("the-root"), ExecutionId("another"))


async def test_counts_of_what_is_over_go_and_those_of_what_is_under_way_stay(store: EventStore) -> None:
    limits, tenant = DescentLimits(store.platform_pool, 10), TenantId("descent-sweep")
    for root, child in (("live-root", "c1"), ("over", "live-child"), ("over", "c2"), ("new", "c3")):
        await limits.may_descend(tenant, ExecutionId(root), ExecutionId(child))
    pool = store.platform_pool
    for live in ("live-root", "live-child"):
        await pool.execute("INSERT INTO quantum.saga_executions (tenant_id, execution_id) VALUES ($1, $2)", tenant, live)
    assert await limits.sweep(days=1.0) == 0, "what was counted lately may still be made again"
    await pool.execute("DELETE FROM quantum.saga_descendants WHERE root_id = 'new' AND tenant_id = $1", tenant)
    await limits.may_descend(tenant, ExecutionId("new"), ExecutionId("c3"))
    while await limits.sweep(days=-1.0):
        pass
    left = await pool.fetch("SELECT root_id, execution_id FROM quantum.saga_descendants WHERE tenant_id = $1 ORDER BY 1", tenant)
    assert [tuple(row) for row in left] == [("live-root", "c1"), ("over", "live-child")]
    await pool.execute("DELETE FROM quantum.saga_executions WHERE tenant_id = $1", tenant)


async def test_an_execution_that_starts_no_other_asks_nobody(store: EventStore) -> None:
    world = ExecutionWorld(store, "descent-nobody")

    async def never(*_: Any) -> None:
        raise AssertionError("nobody is to be asked")

    world.shell = replace(world.shell, may_descend=never)
    async with sagas_on(world):
        await (await world.run({"action": "do"}, {"action": "do"})).ended()
