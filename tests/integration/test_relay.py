# intent_ref: tests.relay
"""The relay: every event reaches the broker, in order per key; a crash only repeats, and a repeat can be told."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from event_store.store import EventStore
from streaming.embedded import EmbeddedTransport
from streaming.relay import Relay
from streaming.transport import Handler, Message, TransportAway
from tests.conftest import Database
from tests.streams import append
from tests.waiting import wait_until


class Journal:
    """A broker of one partition: an ordered journal in a table, kept by the test's own login."""

    reads_the_log = False

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn, self._table = dsn, f"journal_{name}"
        self.before: Callable[[Sequence[Message]], Awaitable[None]] | None = None
        self.after: Callable[[Sequence[Message]], Awaitable[None]] | None = None

    async def create(self) -> None:
        await self._run(
            lambda c: c.execute(
                f"CREATE TABLE {self._table}"
                " (number bigserial PRIMARY KEY, event_id uuid, position bigint, key text, version int)"
            )
        )

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.before is not None:
            await self.before(messages)
        await self.write(messages)
        if self.after is not None:
            await self.after(messages)

    async def write(self, messages: Sequence[Message]) -> None:
        rows = [(message.event_id, message.position, message.key, message.version) for message in messages]
        await self._run(
            lambda c: c.executemany(f"INSERT INTO {self._table} (event_id, position, key, version) VALUES ($1, $2, $3, $4)", rows)
        )

    async def consume(self, group: str, handler: Handler, **more: Any) -> None:
        raise NotImplementedError("this journal is only written")

    async def close(self) -> None: ...

    async def rows(self) -> list[Any]:
        rows: list[Any] = await self._run(lambda c: c.fetch(f"SELECT * FROM {self._table} ORDER BY number"))
        return rows

    async def _run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        connection = await asyncpg.connect(self._dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()


@pytest.fixture
async def journal(database: Database, request: pytest.FixtureRequest) -> Journal:
    journal = Journal(database.owner_dsn, f"{abs(hash(request.node.name)) % 10**8}")
    await journal.create()
    return journal


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


async def total(store: EventStore) -> int:
    count: int = await store.platform_pool.fetchval("SELECT count(*) FROM quantum.events")
    return count


async def has_all(store: EventStore, journal: Journal) -> bool:
    return len({row["event_id"] for row in await journal.rows()}) == await total(store)


def assert_ordered(rows: list[Any]) -> None:
    """Within each key a message is the next, or a repeat of one that was there before."""
    last: dict[str, int] = defaultdict(int)
    ids: dict[tuple[str, int], Any] = {}
    for row in rows:
        key, version = row["key"], row["version"]
        assert version <= last[key] + 1, f"{key} skipped from {last[key]} to {version}"
        assert ids.setdefault((key, version), row["event_id"]) == row["event_id"], "a repeat has the same id"
        last[key] = max(last[key], version)


async def test_everything_in_the_log_is_published_once_and_in_order(store: EventStore, journal: Journal) -> None:
    relay = Relay(store, journal, name="once", batch_max=10)
    for stream in range(10):
        await append(store, "relay", f"once-{stream}", 3)
    async with relaying(relay):
        await asyncio.gather(*(append(store, "relay", f"once-{stream}", 2) for stream in range(10)))
        await wait_until(lambda: has_all(store, journal), what="all events")
        await wait_until(lambda: no_lag(relay), what="the checkpoint")
    rows = await journal.rows()
    assert len(rows) == await total(store)
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)
    assert_ordered(rows)


async def no_lag(relay: Relay) -> bool:
    return await relay.lag() == 0


async def test_a_restarted_relay_goes_on_behind_its_checkpoint(store: EventStore, journal: Journal) -> None:
    await append(store, "relay", "restart", 5)
    async with relaying(Relay(store, journal, name="restart")):
        await wait_until(lambda: has_all(store, journal), what="the first events")
    await append(store, "relay", "restart", 5)
    async with relaying(Relay(store, journal, name="restart")):
        await wait_until(lambda: has_all(store, journal), what="the later events")
    assert len(await journal.rows()) == await total(store)


async def test_a_crash_between_publishing_and_checkpoint_repeats_and_skips_nothing(store: EventStore, journal: Journal) -> None:
    for stream in range(6):
        await append(store, "relay", f"crash-{stream}", 4)
    published = asyncio.Event()

    async def die_in_the_middle(_messages: Sequence[Message]) -> None:
        published.set()
        await asyncio.Event().wait()

    for _ in range(3):
        published.clear()
        journal.after = die_in_the_middle
        task = asyncio.create_task(Relay(store, journal, name="crash", batch_max=7).run(asyncio.Event()))
        await asyncio.wait_for(published.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    journal.after = None
    async with relaying(Relay(store, journal, name="crash", batch_max=7)):
        await wait_until(lambda: has_all(store, journal), what="all events")
    rows = await journal.rows()
    assert len(rows) > await total(store)
    assert_ordered(rows)


async def test_a_batch_that_arrived_in_part_is_sent_again_whole(store: EventStore, journal: Journal) -> None:
    await append(store, "relay", "part", 9)
    failures = iter([4, 2])

    async def part(messages: Sequence[Message]) -> None:
        if (arrived := next(failures, None)) is not None:
            await journal.write(messages[:arrived])
            raise TransportAway("the connection broke")

    journal.before = part
    relay = Relay(store, journal, name="part")
    async with relaying(relay):
        await wait_until(lambda: has_all(store, journal), what="all events")
        assert relay.statistics.failures == 2
    assert_ordered(await journal.rows())


async def test_a_broker_that_is_away_costs_nothing_but_lag(store: EventStore, journal: Journal) -> None:
    away = True

    async def refuse(_messages: Sequence[Message]) -> None:
        if away:
            raise TransportAway("no broker")

    journal.before = refuse
    relay = Relay(store, journal, name="away")
    async with relaying(relay):
        appended = await append(store, "relay", "away", 5)
        await wait_until(lambda: relay.statistics.failures >= 2, what="two attempts")
        assert await relay.lag() >= 5
        assert appended.positions
        away = False
        await wait_until(lambda: no_lag(relay), what="the broker's return")
    rows = await journal.rows()
    assert len(rows) == await total(store)
    assert_ordered(rows)


async def test_one_relay_leads_and_the_other_takes_over_when_its_connection_ends(
    database: Database, store: EventStore, journal: Journal
) -> None:
    one, two = Relay(store, journal, name="leader"), Relay(store, journal, name="leader")
    async with relaying(one):
        await wait_until(lambda: one.statistics.leads, what="the first to lead")
        async with relaying(two):
            await append(store, "relay", "leader", 3)
            await wait_until(lambda: has_all(store, journal), what="the first events")
            assert not two.statistics.leads
            await _cut_leader(database)
            await wait_until(lambda: two.statistics.leads, what="the second to lead")
            await append(store, "relay", "leader", 3)
            await wait_until(lambda: has_all(store, journal), what="the later events")
            # The first finds out that its connection is gone when it next uses it; until then it can only believe that it leads.
            await wait_until(lambda: not one.statistics.leads, what="the first to know that it leads no more")
            assert two.statistics.leads
    assert_ordered(await journal.rows())


async def _cut_leader(database: Database) -> None:
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        cut = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 20826 AND granted"
            "   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert len(cut) == 1
    finally:
        await connection.close()


async def test_a_relay_whose_checkpoint_was_moved_by_another_starts_over_from_it(store: EventStore, journal: Journal) -> None:
    relay = Relay(store, journal, name="fenced")
    async with relaying(relay):
        await append(store, "relay", "fenced", 2)
        await wait_until(lambda: no_lag(relay), what="the checkpoint")
        await store.platform_pool.execute("UPDATE quantum.relay_checkpoints SET position = 0 WHERE relay = 'fenced'")
        await append(store, "relay", "fenced", 1)
        await wait_until(lambda: no_lag(relay), what="the relay to be up to date again")
    rows = await journal.rows()
    assert len(rows) > await total(store)
    assert_ordered(rows[-(await total(store)) :])


async def test_over_the_embedded_transport_there_is_nothing_to_publish_and_no_lag(store: EventStore) -> None:
    relay = Relay(store, EmbeddedTransport(store), name="embedded")
    async with relaying(relay):
        await wait_until(lambda: relay.statistics.leads, what="the lead")
        await append(store, "relay", "embedded", 5)
        assert await relay.lag() == 0
    assert relay.statistics.published == 0
