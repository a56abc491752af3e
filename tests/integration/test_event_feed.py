# intent_ref: tests.events
"""Followers of a feed see every event of their tenant once and in order, however they come, however slow they are."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from domain.values import TenantId
from event_store.records import RecordedEvent
from event_store.store import EventStore
from event_store.tokens import decode_token, encode_token
from read_api import event_feed
from read_api.event_feed import EventFeed, Follower
from read_api.event_stream import EventStream
from read_api.feed_pages import FeedPages, Filter
from tests.conftest import Database
from tests.streams import append
from tests.waiting import wait_until

NOTHING: Filter = Filter()


def render(event: RecordedEvent) -> bytes:
    """A frame that says whose it is."""
    return f"id: {encode_token(event.position)}\ndata: {event.tenant_id}\n\n".encode()


class Reader:
    """A client of one stream: what it has got, and whether it takes anything at present."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.has_left = asyncio.Event()
        self.has_begun = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.takes.wait()
        for token, tenant in re.findall(rb"id: (\S+)\ndata: (\S+)\n\n", message.get("body", b"")):
            self.seen.append((decode_token(token.decode()), tenant.decode()))
        self.has_begun.set()

    @property
    def positions(self) -> list[int]:
        return [position for position, _ in self.seen]


@asynccontextmanager
async def reading(
    store: EventStore, feed: EventFeed, tenant: str, *, after: int = 0, wanted: Filter = NOTHING
) -> AsyncIterator[Reader]:
    reader, done = Reader(), asyncio.Event()
    stream = EventStream(
        store, feed, TenantId(tenant), wanted, after=after, render=render, expires_at=time.time() + 600, done=done.set
    )
    task = asyncio.create_task(stream({"type": "http"}, reader.receive, reader.send))
    try:
        yield reader
    finally:
        reader.takes.set()
        reader.has_left.set()
        async with asyncio.timeout(10):
            await task
        assert done.is_set()


@pytest.fixture
async def feed(store: EventStore) -> AsyncIterator[EventFeed]:
    feed = EventFeed(store, render)
    yield feed
    await feed.close()


async def stored(store: EventStore, tenant: str) -> list[int]:
    """The positions of all events of a tenant."""
    positions, after = [], 0
    while page := (await store.read_log(after, limit=1000, tenant_id=TenantId(tenant))).events:
        positions += [event.position for event in page]
        after = positions[-1]
    return positions


async def test_readers_that_join_while_much_is_written_see_every_event_once(
    store: EventStore, feed: EventFeed, database: Database
) -> None:
    other = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    tenants = ["crowd-1", "crowd-2", "crowd-3"]

    async def write(writer: EventStore, tenant: str, name: int) -> None:
        for number in range(60):
            await append(writer, tenant, f"stream-{name}-{number % 7}", 1 + number % 3)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(other.close)
        writers = [
            asyncio.create_task(write(one, tenant, name))
            for name, (one, tenant) in enumerate((one, tenant) for one in (store, other) for tenant in tenants * 4)
        ]
        readers: list[tuple[str, Reader]] = []
        while not all(writer.done() for writer in writers):
            tenant = tenants[len(readers) % 3]
            if len(readers) < 60:
                reader = await stack.enter_async_context(reading(store, feed, tenant))
                readers.append((tenant, reader))
                await reader.has_begun.wait()
            await asyncio.sleep(0)
        await asyncio.gather(*writers)
        expected = {tenant: await stored(store, tenant) for tenant in tenants}
        assert len(readers) > 10
        for tenant, reader in readers:
            await wait_until(lambda r=reader, t=tenant: len(r.positions) >= len(expected[t]), 30)
            assert reader.positions == expected[tenant]
            assert {whose for _, whose in reader.seen} == {tenant}


class Eventful(EventFeed):
    """A feed on which something happens just before somebody joins, and just after."""

    happens: str | None = None

    async def join(self, tenant_id: TenantId, wanted: Filter) -> Follower:
        if self.happens is None:
            return await super().join(tenant_id, wanted)
        before = await append(self._store, self.happens, "before")
        await wait_until(lambda: self.position >= before.position)
        follower = await super().join(tenant_id, wanted)
        after = await append(self._store, self.happens, "after")
        await wait_until(lambda: self.position >= after.position)
        self.happens = None
        return follower


async def test_what_happens_between_the_last_look_at_the_log_and_joining_comes_once(store: EventStore) -> None:
    tenant, feed = "eventful-1", Eventful(store, render)
    try:
        async with reading(store, feed, tenant) as first:
            await wait_until(lambda: feed.followers == 1)
            feed.happens = tenant
            async with reading(store, feed, tenant) as second:
                await wait_until(lambda: feed.happens is None)
                await append(store, tenant, "last")
                await wait_until(lambda: len(first.seen) == 3 and len(second.seen) >= 3)
                assert first.positions == second.positions == await stored(store, tenant)
    finally:
        await feed.close()


async def test_a_slow_reader_is_left_behind_within_bounds_and_misses_nothing(
    store: EventStore, feed: EventFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "QUEUED_BATCHES_MAX", 4)
    tenant = "slow-1"
    async with reading(store, feed, tenant) as slow, reading(store, feed, tenant) as quick:
        await append(store, tenant, "first")
        await wait_until(lambda: len(quick.seen) == len(slow.seen) == 1)
        slow.takes.clear()
        for number in range(30):
            await append(store, tenant, f"stream-{number}")
            await wait_until(lambda n=number: len(quick.seen) == n + 2)
        assert feed.followers == 1, "the slow one is no follower any more"
        assert len(slow.seen) == 1
        slow.takes.set()
        expected = await stored(store, tenant)
        await wait_until(lambda: len(slow.seen) >= len(expected))
        await append(store, tenant, "last")
        await wait_until(lambda: feed.followers == 2 and len(slow.seen) > len(expected))
        assert slow.positions == quick.positions == await stored(store, tenant)


async def test_a_queue_is_bounded_in_bytes_too(store: EventStore, feed: EventFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "QUEUED_BYTES_MAX", 100)
    tenant = "heavy-1"
    async with reading(store, feed, tenant) as slow, reading(store, feed, tenant) as quick:
        await append(store, tenant, "first")
        await wait_until(lambda: len(quick.seen) == len(slow.seen) == 1)
        slow.takes.clear()
        for number in range(10):
            await append(store, tenant, f"stream-{number}")
            await wait_until(lambda n=number: len(quick.seen) == n + 2)
        assert feed.followers == 1
        slow.takes.set()
        await wait_until(lambda: slow.positions == quick.positions)


async def test_readers_that_leave_leave_nothing_behind(store: EventStore, feed: EventFeed) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(20):
            await stack.enter_async_context(reading(store, feed, f"gone-{number % 3}"))
        await wait_until(lambda: feed.followers == 20)
    assert feed.followers == 0
    await append(store, "gone-1", "any")  # wakes the shared reader, which finds nobody left
    await wait_until(lambda: all(task.get_name() != "event feed" for task in asyncio.all_tasks()))
    async with reading(store, feed, "gone-1") as reader:
        await wait_until(lambda: len(reader.seen) == 1)
        await append(store, "gone-1", "any")
        await wait_until(lambda: len(reader.seen) == 2)


async def test_connections_that_the_database_cuts_cost_no_event(store: EventStore, feed: EventFeed, database: Database) -> None:
    tenant = "cut-1"
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        async with reading(store, feed, tenant) as reader:
            await append(store, tenant, "before")
            await wait_until(lambda: len(reader.seen) == 1)
            for number in range(3):
                await owner.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename <> 'postgres'"
                )

                async def appended(number: int = number) -> bool:
                    try:
                        await append(store, tenant, f"after-{number}")
                        return True
                    except Exception:
                        return False

                await wait_until(appended)
            positions = await stored(store, tenant)
            await wait_until(lambda: len(reader.positions) >= len(positions), 30)
            assert reader.positions == positions
    finally:
        await owner.close()


async def test_a_closed_feed_lets_nobody_wait_for_ever(store: EventStore) -> None:
    feed = EventFeed(store, render)
    follower = await feed.join(TenantId("closed-1"), NOTHING)
    taking = asyncio.create_task(follower.take())
    await feed.close()
    async with asyncio.timeout(5):
        assert await taking == []
    assert follower.is_behind


async def test_followers_who_want_the_same_share_one_rendering(store: EventStore) -> None:
    rendered: list[int] = []

    def counting(event: RecordedEvent) -> bytes:
        rendered.append(event.position)
        return render(event)

    feed = EventFeed(store, counting)
    try:
        async with contextlib.AsyncExitStack() as stack:
            since = datetime.now(UTC) - timedelta(hours=1)
            readers = [
                await stack.enter_async_context(reading(store, feed, "shared-1", wanted=wanted))
                for wanted in [NOTHING, NOTHING, Filter(since=since), Filter(stream_id="only"), Filter(stream_id="other")]
            ]
            await wait_until(lambda: feed.followers == 5)
            await append(store, "shared-1", "only")
            await wait_until(lambda: all(len(reader.seen) == 1 for reader in readers[:4]))
            assert len(rendered) == 1
            assert readers[4].seen == []
    finally:
        await feed.close()


async def test_a_time_leads_to_its_position_without_reading_what_is_before(store: EventStore) -> None:
    tenant, pages = TenantId("timed-1"), FeedPages(store)
    for number in range(40):
        await append(store, "timed-2" if number % 3 else tenant, f"stream-{number}")
    events = (await store.read_log(0, limit=1000, tenant_id=tenant)).events
    horizon = await store.horizon()
    for index, event in enumerate(events):
        sql = "SELECT quantum.tenant_position_before($1, $2, $3)"
        before = await store.tenant_pool.fetchval(sql, tenant, event.recorded_at, horizon)
        behind = await store.tenant_pool.fetchval(sql, tenant, event.recorded_at + timedelta(microseconds=1), horizon)
        assert (events[index - 1].position if index else 0) <= before < event.position
        assert event.position <= behind < (events[index + 1].position if index + 1 < len(events) else horizon + 1)
        page = await pages.page(tenant, 0, Filter(since=event.recorded_at), limit=1000)
        assert [one.position for one in page.events] == [one.position for one in events[index:]]
    assert await store.tenant_pool.fetchval(sql, "timed-nobody", datetime.now(UTC), horizon) == 0
    assert await pages.start(tenant, 7, Filter(since=datetime.min.replace(tzinfo=UTC))) == 7
    far = Filter(since=datetime.now(UTC) + timedelta(days=1))
    assert await pages.start(tenant, 0, far) >= events[-1].position


async def test_a_filter_that_lets_nothing_through_reads_no_log_in_one_query(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("read_api.feed_pages.SCANNED_MAX", 10)
    tenant, pages = TenantId("scanned-1"), FeedPages(store)
    for number in range(12):
        await append(store, tenant, f"stream-{number}", 3)
    wanted, position, steps = Filter(topics=frozenset({"tenant.suspended.v1"})), 0, 0
    while not (page := await pages.page(tenant, position, wanted, limit=100)).is_end:
        assert page.events == []
        assert page.next > position
        position, steps = page.next, steps + 1
    assert steps == 3


async def test_the_functions_of_the_feed_show_a_tenant_its_own_alone(store: EventStore) -> None:
    appended = await append(store, "owner-1", "secret-stream", 3)
    await append(store, "owner-2", "secret-stream", 1)
    rows = await store.tenant_pool.fetch(
        "SELECT tenant_id FROM quantum.read_tenant_stream('owner-2', 'secret-stream', 0, $1, NULL, 100)", await store.horizon()
    )
    assert [row["tenant_id"] for row in rows] == ["owner-2"]
    assert appended.position > 0
