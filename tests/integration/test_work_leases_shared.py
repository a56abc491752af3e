# intent_ref: tests.work
"""Waiting for work costs little: however many wait, few questions are asked, and a ring reaches other processes."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from domain.values import TenantId
from event_store.store import EventStore
from sagas.work_bell import WorkBell
from sagas.work_leases import Leased, WorkLeases
from sagas.work_rounds import Rounds
from tests.conftest import Database
from tests.waiting import wait_until


class CountedLeases(WorkLeases):
    """The leases, and how often they were asked for, and at most at a time."""

    asked = at_once = at_once_most = 0

    async def fetch(self, tenant_id: TenantId, actions: Collection[str], at_most: int, holder: str = "") -> list[Leased]:
        self.asked += 1
        self.at_once += 1
        self.at_once_most = max(self.at_once_most, self.at_once)
        try:
            return await super().fetch(tenant_id, actions, at_most, holder)
        finally:
            self.at_once -= 1


async def poll(rounds: Rounds, tenant: str, actions: frozenset[str], *, is_asked_once: bool = False) -> None:
    """Asks until it is cancelled, as a long poll does."""
    async with rounds.seat(TenantId(tenant)) as seat:
        while True:
            generation = seat.generation
            leased: list[Leased] = []
            await seat.take(actions, 10, leased, is_asked_once=is_asked_once)
            assert leased == []
            if is_asked_once:
                return
            await seat.wait(actions, 60, since=generation)


@asynccontextmanager
async def many_wait(rounds: Rounds, count: int, *tenants: str) -> AsyncIterator[None]:
    actions = frozenset({"cut"})
    polls = [asyncio.create_task(poll(rounds, tenant, actions)) for _ in range(count) for tenant in tenants]
    try:
        yield
    finally:
        for one in polls:
            one.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_a_thousand_who_wait_ask_once_and_once_more_at_a_ring(store: EventStore):
    leases = CountedLeases(store.tenant_pool)
    rounds = Rounds(leases)
    async with many_wait(rounds, 500, "tenant-a", "tenant-b"):
        await wait_until(lambda: leases.asked == 2 and leases.at_once == 0)
        rounds.ring("tenant-a")
        await wait_until(lambda: leases.asked == 3 and leases.at_once == 0)
        rounds.ring("nobody-waits-there")
        rounds.ring(None)
        await wait_until(lambda: leases.asked == 5 and leases.at_once == 0)
        with pytest.raises(AssertionError, match="Waited"):
            await wait_until(lambda: leases.asked > 5, 0.3)


async def test_a_flood_of_polls_that_do_not_wait_asks_one_question_at_a_time(store: EventStore):
    leases = CountedLeases(store.tenant_pool)
    rounds = Rounds(leases)
    await asyncio.gather(*(poll(rounds, "tenant-a", frozenset({"cut"}), is_asked_once=True) for _ in range(200)))
    assert (leases.asked, leases.at_once_most) == (200, 1)


async def test_those_who_wait_for_other_actions_ask_for_themselves(store: EventStore):
    leases = CountedLeases(store.tenant_pool)
    rounds = Rounds(leases)
    polls = [asyncio.create_task(poll(rounds, "tenant-a", frozenset({name}))) for name in ("cut", "sew", "cut")]
    await wait_until(lambda: leases.asked == 2)
    for one in polls:
        one.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_a_ring_reaches_other_processes_and_only_those_of_its_tenant(database: Database):
    heard: list[str | None] = []
    here, there = WorkBell(database.platform_dsn), WorkBell(database.platform_dsn)
    there.listen(heard.append)
    here.start()
    there.start()
    try:
        await wait_until(lambda: None in heard, what="the other bell to listen")
        here.ring("tenant-a")
        here.ring("tenant-b")
        await wait_until(lambda: {"tenant-a", "tenant-b"} <= set(heard))
        assert set(heard) == {None, "tenant-a", "tenant-b"}
    finally:
        await here.close()
        await there.close()


async def test_a_bell_whose_connection_is_lost_rings_for_all_when_it_is_back(store: EventStore, database: Database):
    heard: list[str | None] = []
    bell = WorkBell(database.platform_dsn)
    bell.listen(heard.append)
    bell.start()
    try:
        await wait_until(lambda: heard == [None])
        bell.ring("tenant-a")
        assert heard == [None, "tenant-a"], "its own process hears at once"
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_notify%' AND pid <> pg_backend_pid()"
        await wait_until(lambda: store.platform_pool.fetch(end))
        bell.ring("tenant-b")
        await wait_until(lambda: heard.count(None) == 2, 20)
    finally:
        await bell.close()
