# intent_ref: tests.snapshots
"""Snapshots and the cache of states: they save reading and never change what a stream says."""

import asyncio
from dataclasses import dataclass, replace

import asyncpg

from domain.values import StreamId, TenantId
from event_store.snapshots import SNAPSHOT_EVERY_VERSIONS
from event_store.store import EventStore
from tests.conftest import Database
from tests.streams import append
from tests.waiting import wait_until

STREAM = StreamId("s")


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts events, and remembers those it was folded from in this process."""

    count: int
    names: frozenset[str] = frozenset()


folded: list[str] = []


def evolve(state: Seen | None, event: object) -> Seen:
    folded.append(event.intent_id)  # type: ignore[attr-defined]
    seen = state or Seen(0)
    return replace(seen, count=seen.count + 1)


@dataclass(frozen=True, slots=True)
class SeenDifferently:
    count: int
    added_later: str = ""


def evolve_differently(state: SeenDifferently | None, event: object) -> SeenDifferently:
    return SeenDifferently((state.count if state else 0) + 1, "x")


async def restarted(database: Database) -> EventStore:
    return await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)


async def snapshot_version(database: Database, tenant: str) -> int:
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        return await owner.fetchval("SELECT coalesce(max(version), 0) FROM quantum.snapshots WHERE tenant_id = $1", tenant)
    finally:
        await owner.close()


async def test_a_long_stream_is_snapshotted_by_itself_and_loads_from_there(store: EventStore, database: Database) -> None:
    tenant = TenantId("long")
    await append(store, tenant, STREAM, 3 * SNAPSHOT_EVERY_VERSIONS + 7)
    first = await store.load(tenant, STREAM, evolve)
    assert (first.version, first.state) == (3 * SNAPSHOT_EVERY_VERSIONS + 7, Seen(3 * SNAPSHOT_EVERY_VERSIONS + 7))

    async def snapshotted() -> bool:
        return await snapshot_version(database, tenant) == first.version

    await wait_until(snapshotted, what="the snapshot")
    await append(store, tenant, STREAM, 5)
    other = await restarted(database)
    try:
        folded.clear()
        again = await other.load(tenant, STREAM, evolve)
    finally:
        await other.close()
    assert again.state == Seen(first.version + 5)
    assert len(folded) == 5, "only what came after the snapshot is folded"


async def test_a_snapshot_of_another_shape_is_not_used(store: EventStore, database: Database) -> None:
    tenant = TenantId("shape")
    await append(store, tenant, STREAM, SNAPSHOT_EVERY_VERSIONS)
    await store.load(tenant, STREAM, evolve)

    async def snapshotted() -> bool:
        return await snapshot_version(database, tenant) > 0

    await wait_until(snapshotted, what="the snapshot")
    other = await restarted(database)
    try:
        loaded = await other.load(tenant, STREAM, evolve_differently)
    finally:
        await other.close()
    assert loaded.state == SeenDifferently(SNAPSHOT_EVERY_VERSIONS, "x")


async def test_a_snapshot_destroyed_in_the_database_costs_reading_and_nothing_else(store: EventStore, database: Database) -> None:
    tenant = TenantId("broken")
    await append(store, tenant, STREAM, SNAPSHOT_EVERY_VERSIONS + 1)
    await store.load(tenant, STREAM, evolve)

    async def snapshotted() -> bool:
        return await snapshot_version(database, tenant) > 0

    await wait_until(snapshotted, what="the snapshot")
    owner = await asyncpg.connect(database.owner_dsn)
    await owner.execute('UPDATE quantum.snapshots SET state = \'{"count":"?"\' WHERE tenant_id = $1', tenant)
    await owner.close()
    other = await restarted(database)
    try:
        assert (await other.load(tenant, STREAM, evolve)).state == Seen(SNAPSHOT_EVERY_VERSIONS + 1)
    finally:
        await other.close()


async def test_what_another_process_appended_is_seen_by_a_cached_load(store: EventStore, database: Database) -> None:
    tenant = TenantId("cached")
    await append(store, tenant, STREAM, 2)
    assert (await store.load(tenant, STREAM, evolve)).version == 2
    other = await restarted(database)
    try:
        await append(other, tenant, STREAM, 3)
    finally:
        await other.close()
    folded.clear()
    assert (await store.load(tenant, STREAM, evolve)).state == Seen(5)
    assert len(folded) == 3


async def test_who_loads_at_the_same_moment_shares_one_look_and_who_comes_later_sees_what_is_newer(store: EventStore) -> None:
    tenant = TenantId("shared")
    await append(store, tenant, STREAM, 3)
    folded.clear()
    together = await asyncio.gather(*(store.load(tenant, STREAM, evolve) for _ in range(20)))
    assert {loaded.version for loaded in together} == {3}
    assert len(folded) == 3
    under_way = asyncio.create_task(store.load(tenant, STREAM, evolve))
    await asyncio.sleep(0)
    await append(store, tenant, STREAM)
    assert (await store.load(tenant, STREAM, evolve)).version == 4
    await under_way


async def test_who_shares_a_look_that_is_given_up_looks_for_himself(store: EventStore) -> None:
    tenant = TenantId("given-up")
    await append(store, tenant, STREAM, 3)
    first, *others = [asyncio.create_task(store.load(tenant, STREAM, evolve)) for _ in range(4)]
    await asyncio.sleep(0)
    first.cancel()
    assert [loaded.version for loaded in await asyncio.gather(*others)] == [3, 3, 3]
    assert first.cancelled()
