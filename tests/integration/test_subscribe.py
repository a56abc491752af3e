# intent_ref: tests.subscribe
"""Subscriptions: nothing skipped, nothing twice, one order, whatever transactions are open."""

import asyncio
import time
from contextlib import aclosing

import asyncpg
import pytest

from domain.values import StreamId, TenantId
from event_store import group_commit
from event_store.ids import uuid7
from event_store.records import Append, StreamAppend
from event_store.store import EventStore
from streaming.transport import Message, partition_of
from tests.conftest import Database
from tests.streams import METADATA, append, new_events


async def collect(store: EventStore, count: int, *, after: int = 0, **filters: object) -> list[int]:
    """Positions from a subscription until `count` events have come."""
    positions: list[int] = []
    async with aclosing(store.subscribe(after=after, **filters)) as pages:  # type: ignore[arg-type]
        async for page in pages:
            positions += [event.position for event in page.events]
            if len(positions) >= count:
                return positions
    return positions


async def held_append(connection: asyncpg.Connection, tenant: str, stream: str) -> int:
    """Appends one event inside the connection's open transaction, as a slow writer would; returns its position."""
    part = StreamAppend(StreamId(stream), new_events(), -1)
    pending = group_commit._Pending(Append(TenantId(tenant), uuid7(), METADATA, (part,)), (), 1, None, 0.0)  # type: ignore[arg-type]
    row = await connection.fetchrow(group_commit._SQL, *group_commit._arguments([pending]))
    return int(row["positions"][0])


async def test_who_would_see_one_moment_alone_is_told_so(store: EventStore, database: Database) -> None:
    connection = await asyncpg.connect(database.platform_dsn)
    try:
        newest = "SELECT horizon FROM quantum.read_newest(0, 10000, NULL, 10)"
        assert await connection.fetchval(newest) >= 0
        for isolation in ("repeatable_read", "serializable"):
            async with connection.transaction(isolation=isolation):  # type: ignore[arg-type]
                with pytest.raises(asyncpg.FeatureNotSupportedError, match=isolation.replace("_", " ")):
                    await connection.fetchval(newest)
    finally:
        await connection.close()


async def test_a_held_transaction_delays_but_never_hides_its_event(store: EventStore, database: Database) -> None:
    start = await store.horizon()
    other = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    slow = await asyncpg.connect(database.app_dsn)
    total = 20_000 + 3
    readers = [asyncio.create_task(collect(own, total, after=start)) for own in (store, other, store)]
    try:
        transaction = slow.transaction()
        await transaction.start()
        held = [await held_append(slow, "held", f"slow-{n}") for n in range(3)]

        async def write(writer: int) -> None:
            for n in range(125):
                await append(store if writer % 2 else other, f"tenant-{writer % 4}", f"w-{writer}-{n}", 10)

        await asyncio.gather(*(write(writer) for writer in range(16)))
        assert await store.horizon() < held[0], "what commits later must not be passed"
        assert not any(reader.done() for reader in readers)
        await transaction.commit()
        async with asyncio.timeout(30):
            seen = await asyncio.gather(*readers)
        for positions in seen:
            assert len(positions) == total
            assert positions == sorted(set(positions)), "each once, in one order"
            assert set(held) <= set(positions)
        late = await collect(other, total, after=start)
        assert late == seen[0]
    finally:
        for reader in readers:
            reader.cancel()
        await slow.close()
        await other.close()


async def test_a_rolled_back_append_leaves_a_gap_and_holds_nobody_up(store: EventStore, database: Database) -> None:
    start = await store.horizon()
    slow = await asyncpg.connect(database.app_dsn)
    try:
        transaction = slow.transaction()
        await transaction.start()
        gone = await held_append(slow, "gap", "s")
        stored = await append(store, "gap", "t")
        await transaction.rollback()
        async with asyncio.timeout(5):
            assert await collect(store, 1, after=start) == list(stored.positions)
        assert gone not in stored.positions
    finally:
        await slow.close()


async def test_the_horizon_is_an_events_position_and_never_that_of_a_transaction_rolled_back(
    store: EventStore, database: Database
) -> None:
    """After a crash the sequence may give such a position out again: whoever had gone past it would miss an event."""
    stored = await append(store, "durable", "s")
    slow = await asyncpg.connect(database.app_dsn)
    try:
        transaction = slow.transaction()
        await transaction.start()
        gone = await held_append(slow, "durable", "t")
        await transaction.rollback()
        assert gone > stored.position
        assert await store.horizon() == stored.position
        assert (await store.read_log(stored.position - 1, limit=10)).next == stored.position
    finally:
        await slow.close()


async def test_an_unrelated_open_transaction_holds_nobody_up(store: EventStore, database: Database) -> None:
    """Not another writer's transaction id, and not a stranger's advisory locks, may hold delivery up."""
    start = await store.horizon()
    unrelated = await asyncpg.connect(database.owner_dsn)
    try:
        await unrelated.execute("CREATE TABLE public.unrelated (n int)")
        transaction = unrelated.transaction()
        await transaction.start()
        await unrelated.execute("INSERT INTO public.unrelated VALUES (1)")
        await unrelated.execute("SELECT pg_advisory_xact_lock(1), pg_advisory_xact_lock(2, 3)")
        began = time.monotonic()
        reader = asyncio.create_task(collect(store, 500, after=start))
        for n in range(50):
            await append(store, "unrelated", f"s-{n}", 10)
        async with asyncio.timeout(5):
            assert len(await reader) == 500
        assert time.monotonic() - began < 5
        await transaction.rollback()
    finally:
        await unrelated.close()


async def test_a_held_append_in_another_database_of_the_cluster_holds_nobody_up(store: EventStore, database: Database) -> None:
    elsewhere = await asyncpg.connect(database.owner_dsn.replace(f"/{database.name}?", "/quantum?"))
    try:
        async with elsewhere.transaction():
            await elsewhere.execute("SELECT pg_advisory_xact_lock_shared(20821::bigint << 48)")
            appended = await append(store, "cluster", "s")
            assert await store.horizon() >= appended.position
    finally:
        await elsewhere.close()


async def test_filters_by_tenant_and_topic_pass_over_the_rest_and_the_token_moves_on(store: EventStore) -> None:
    start = await store.horizon()
    await append(store, "wanted", "a", 2)
    last = await append(store, "unwanted", "a", 5)
    async with aclosing(store.subscribe(after=start, tenant_id=TenantId("wanted"), batch_size=50)) as pages:
        page = await anext(pages)
    assert [event.tenant_id for event in page.events] == ["wanted"] * 2
    assert page.next >= last.position
    async with aclosing(store.subscribe(after=start, topics=frozenset({"intent.created.v1"}))) as pages:
        page = await anext(pages)
    assert (page.events, page.next >= last.position) == ([], True)


@pytest.mark.parametrize("topics", [None, frozenset({"intent.deprecated.v1"})])
async def test_partitions_divide_the_log_as_the_stream_does(store: EventStore, topics: frozenset[str] | None) -> None:
    start = await store.horizon()
    for number in range(40):
        await append(store, f"tenant-{number % 3}", f"ströme-{number}-😀", 2)
    whole = (await store.read_log(start, limit=500)).events
    assert len(whole) == 80
    halves = [frozenset(range(0, 32, 2)), frozenset(range(1, 32, 2))]
    for half in halves:
        ours = [event.position for event in whole if partition_of(Message.of(event).key, 32) in half]
        assert 0 < len(ours) < 80
        page = await store.read_log(start, limit=500, topics=topics, partitions=(32, half))
        assert [event.position for event in page.events] == ours
        assert page.next >= whole[-1].position
    none = await store.read_log(start, limit=500, topics=frozenset({"intent.created.v1"}), partitions=(32, halves[0]))
    assert (none.events, none.next >= whole[-1].position) == ([], True)


async def test_a_subscriber_resumes_where_it_left_off_in_pages_of_any_size(store: EventStore) -> None:
    start = await store.horizon()
    appended = await append(store, "pages", "a", 101)
    seen: list[int] = []
    after = start
    while len(seen) < 101:
        page = await store.read_log(after, limit=7, tenant_id=TenantId("pages"))
        seen += [event.position for event in page.events]
        after = page.next
    assert tuple(seen) == appended.positions


async def test_another_process_is_woken_when_the_log_grows(store: EventStore, database: Database) -> None:
    other = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    try:
        reader = asyncio.create_task(collect(other, 1, after=await store.horizon()))
        appended = await append(store, "woken", "s")
        async with asyncio.timeout(5):
            assert await reader == list(appended.positions)
    finally:
        await other.close()


async def test_a_subscription_goes_on_when_its_connections_are_killed(store: EventStore, database: Database) -> None:
    owner = await asyncpg.connect(database.owner_dsn)
    reader = asyncio.create_task(collect(store, 100, after=await store.horizon(), batch_size=10))
    try:
        for n in range(100):
            await append(store, "killed", f"s-{n}")
            if n % 20 == 0:
                await owner.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'quantum_platform' AND datname = current_database()"
                )
        async with asyncio.timeout(15):
            positions = await reader
        assert positions == sorted(set(positions))
        assert len(positions) == 100
    finally:
        await owner.close()


async def test_the_reader_sets_the_pace_and_nothing_is_read_ahead_of_it(store: EventStore) -> None:
    start = await store.horizon()
    appended = await append(store, "pace", "s", 100)
    before = asyncio.all_tasks()
    async with aclosing(store.subscribe(after=start, tenant_id=TenantId("pace"), batch_size=10)) as pages:
        seen: list[int] = []
        async for page in pages:
            assert len(page.events) <= 10
            assert asyncio.all_tasks() == before, "somebody reads on while the reader is busy"
            seen += [event.position for event in page.events]
            if len(seen) == 100:
                break
    assert tuple(seen) == appended.positions
