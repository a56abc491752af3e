# intent_ref: tests.execution-patterns
"""How work is shared between tenants, priorities and workers: nobody waits behind another's flood, and keys hold everywhere."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from commands.execution import TerminateExecution
from event_store.store import EventStore
from modules.contract import Invocation
from sagas.execution import Limits as SagaLimits
from tests.conftest import Database
from tests.execution_world import Bench, ExecutionWorld, now, sagas_on
from tests.waiting import wait_until

AT_ONCE = 8


class Turnstile:
    """Lets calls through by ones and twos: each call waits until it is let on. Counts how many are inside at once, by key."""

    def __init__(self, bench: Bench, key: str | None = None) -> None:
        self._permits, self._bench, self._key = asyncio.Semaphore(0), bench, key
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        bench.answer = self._answer

    def let_on(self, count: int) -> None:
        for _ in range(count):
            self._permits.release()

    async def _answer(self, invocation: Invocation) -> Any:
        key = str(invocation.parameters.get(self._key)) if self._key else ""
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        try:
            async with asyncio.timeout(60):
                await self._permits.acquire()
        finally:
            self.inside[key] -= 1
        return {}


@asynccontextmanager
async def working(*worlds: ExecutionWorld, limits: SagaLimits) -> AsyncIterator[None]:
    """One worker for all of the worlds, and nothing left behind for the next test."""
    async with sagas_on(worlds[0], limits=limits):
        try:
            yield
        finally:
            for world in worlds:
                await world.swept()


def flood(items: int, **more: Any) -> dict[str, Any]:
    return {"action": "slow", "foreach": {"items": list(range(items)), "concurrency": items}, **more}


async def _queued(world: ExecutionWorld, count: int) -> bool:
    return await world.rows() >= count


async def _in_line(world: ExecutionWorld, count: int) -> bool:
    """True once so many rows are due and wait for a worker."""
    waiting: int = await world.store.platform_pool.fetchval(
        "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1 AND rank IS NOT NULL AND lease_owner IS NULL",
        world.tenant,
    )
    return waiting >= count


async def test_one_step_does_not_wait_behind_two_thousand_of_another_tenants(store: EventStore) -> None:
    many = ExecutionWorld(store, "fair-many")
    gate = Turnstile(many.bench)
    few = ExecutionWorld(store, "fair-few", many.bench)
    limits = SagaLimits(calls_max=AT_ONCE, tenant_calls_max=AT_ONCE, grace_seconds=0.1)
    async with working(many, few, limits=limits):
        for _ in range(2):
            await many.run(flood(1_000))
        await wait_until(lambda: _queued(many, 2_000), 60, what="the flood")
        for _ in range(5):  # the flood is being served
            await _round(gate, many.bench)
        await few.run({"action": "slow"})
        await wait_until(lambda: _queued(few, 1), what="the single step to be queued")
        rounds = 0
        while "fair-few" not in {invocation.tenant_id for invocation in many.bench.asked}:
            rounds += 1
            assert rounds <= 4, "the single step waits behind the flood"
            await _round(gate, many.bench)
    assert gate.most[""] == AT_ONCE, "a worker has as many calls as it has places, and no more"


async def _round(gate: Turnstile, bench: Bench) -> None:
    """Every call inside is let on, and others have come in their place."""
    wanted = len(bench.asked) + AT_ONCE
    gate.let_on(AT_ONCE)
    await wait_until(lambda: len(bench.asked) >= wanted, 20, what="the next round")


async def test_what_is_ended_while_somebody_holds_its_row_leaves_nothing_behind(store: EventStore, database: Database) -> None:
    world = ExecutionWorld(store, "held-row")
    gate = Turnstile(world.bench)
    async with working(world, limits=SagaLimits(calls_max=AT_ONCE, tenant_calls_max=AT_ONCE, grace_seconds=0.1)):
        running = await world.run({"action": "slow"})
        await wait_until(lambda: gate.inside[""] == 1, what="the call to be under way")
        await wait_until(lambda: _queued(world, 1), what="its row")
        holder = await asyncpg.connect(database.owner_dsn)
        try:
            async with holder.transaction():
                await holder.fetch("SELECT FROM quantum.saga_dispatches WHERE tenant_id = 'held-row' FOR UPDATE")
                await running.say(TerminateExecution, reason=None)
                await wait_until(lambda: gate.inside[""] == 0, what="the call to be given up")
        finally:
            await holder.close()

        async def is_gone() -> bool:
            return await world.rows() == 0

        await wait_until(is_gone, what="the row to go as well")


async def test_a_tenant_without_room_keeps_nobody_out_whatever_the_priority_of_its_flood(store: EventStore) -> None:
    many = ExecutionWorld(store, "roomless-many")
    gate = Turnstile(many.bench)
    few = ExecutionWorld(store, "roomless-few", many.bench)
    limits = SagaLimits(calls_max=AT_ONCE, tenant_calls_max=4, grace_seconds=0.1)
    async with working(many, few, limits=limits):
        await many.run(flood(1_000), priority=1)
        await wait_until(lambda: gate.inside[""] == 4, what="the tenant's room to be full")
        await wait_until(lambda: _in_line(many, 996), 60, what="the flood")
        await few.run({"action": "slow"}, priority=5)
        await wait_until(lambda: gate.inside[""] == 5, 10, what="the other tenant's step, for which there is room")


async def test_what_waits_for_a_key_keeps_nothing_else_of_its_tenant_waiting(store: EventStore) -> None:
    world = ExecutionWorld(store, "key-line")
    gate = Turnstile(world.bench, "of")
    limits = SagaLimits(calls_max=AT_ONCE, tenant_calls_max=AT_ONCE, grace_seconds=0.1)
    async with working(world, limits=limits):
        await world.run(flood(500, concurrency="one", of="flood"))
        await wait_until(lambda: gate.inside["flood"] == 1, what="the first of the line")
        await wait_until(lambda: _in_line(world, 499), 60, what="the line")
        await world.run({"action": "slow", "of": "free"})
        await wait_until(lambda: gate.inside["free"] == 1, 10, what="the step without a key")
    assert gate.most["flood"] == 1


async def test_higher_priorities_go_first(store: EventStore) -> None:
    world = ExecutionWorld(store, "priorities")
    gate = Turnstile(world.bench)
    limits = SagaLimits(calls_max=1, tenant_calls_max=1, grace_seconds=0.1)
    async with working(world, limits=limits):
        await world.run({"action": "slow", "id": "first"})
        await wait_until(lambda: world.bench.asked, what="the worker to be busy")
        for priority in (5, 3, 1, 4, 2):
            await world.run({"action": "slow", "id": f"p{priority}"}, priority=priority)
        await wait_until(lambda: _queued(world, 6), what="all to be queued")
        gate.let_on(6)
        await wait_until(lambda: len(world.bench.asked) == 6, what="all to be called")
    assert world.bench.steps_asked() == ["first", "p1", "p2", "p3", "p4", "p5"]


async def test_a_key_holds_across_workers_and_executions(database: Database, store: EventStore) -> None:
    bench = Bench()
    one = ExecutionWorld(store, "slots", bench)
    gate = Turnstile(bench, "db")
    second = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    try:
        two = ExecutionWorld(second, "slots", bench)
        async with sagas_on(one, two, limits=SagaLimits(grace_seconds=2)) as sagas:
            step = {"action": "slow", "concurrency": {"key": "db-${{ inputs.db }}", "max": 2}, "db": "${{ inputs.db }}"}
            running = [await one.run({**step, "foreach": [1, 2, 3, 4]}, inputs={"db": db}) for db in ("eu", "us", "eu")]
            await wait_until(lambda: gate.inside["eu"] + gate.inside["us"] == 4, what="every key to be taken")
            gate.let_on(100)
            for each in running:
                await each.ended(timeout_seconds=40)
            assert sum(saga.statistics.recorded for saga in sagas) == 12
        assert dict(gate.most) == {"eu": 2, "us": 2}
    finally:
        await second.close()


async def test_a_queueing_time_is_over_when_nobody_takes_the_step_in_time(store: EventStore) -> None:
    world = ExecutionWorld(store, "queueing")
    gate = Turnstile(world.bench)
    async with working(world, limits=SagaLimits(calls_max=1, tenant_calls_max=1, grace_seconds=1)):
        first = await world.run({"action": "slow"})
        await wait_until(lambda: world.bench.asked, what="the worker to be busy")
        late = await world.run({"action": "do", "timeouts": {"queue": "50ms"}})
        await wait_until(lambda: _queued(world, 2), what="the second to be queued")
        started = await late.state()
        limits = started.runs[started.steps[0].id].limits
        assert limits is not None
        await wait_until(lambda: _is_past(limits.queue_by), what="its time to be over")
        gate.let_on(1)
        await first.ended()
        assert ((await late.ended("failed")).error or {})["code"] == "queue-timeout"


def _is_past(moment: Any) -> bool:
    return now() > moment
