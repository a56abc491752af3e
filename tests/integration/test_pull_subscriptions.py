# intent_ref: tests.pull-subscriptions
"""Events given out under leases: order, sharing, repeats, dead letters and limits, on a real log."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from domain.pull_subscription import Pulled, PullStart, PullSubscription, PullSubscriptions, PullTerms, ReadLease
from domain.subscription import Start
from domain.values import SubscriptionId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, NewEvent, StreamAppend
from event_store.store import EventStore
from quantum.pulling import following
from read_api.event_feed import EventFeed
from streaming import pull_subscriptions
from streaming.pull_subscriptions import PullSubscriptionReader, polling
from tests.conftest import Database
from tests.consumers import another_store
from tests.streams import AT, METADATA, append
from tests.waiting import wait_until

LEASE = 60.0
BEGINNING = PullStart(0)
_numbers = itertools.count(1)


class World:
    """A tenant with a subscription, and the reader of one process."""

    def __init__(self, store: EventStore, reader: PullSubscriptionReader, tenant: str, **terms: Any) -> None:
        self.store, self.reader, self.tenant = store, reader, tenant
        self.subscription = PullSubscription(SubscriptionId(f"{tenant}-s"), PullTerms(**terms), BEGINNING, AT, AT)

    @property
    def id(self) -> str:
        return self.subscription.subscription_id

    async def append(self, stream: str, count: int = 1) -> None:
        await append(self.store, self.tenant, stream, count)

    async def pull(self, at_most: int = 100, lease: float = LEASE, wait: float = 0.0) -> list[Pulled]:
        return await self.reader.pull(self.tenant, self.subscription, at_most, lease, wait)

    async def ack(self, pulled: Sequence[Pulled]) -> None:
        ids = [one.lease.event_id for one in pulled]
        assert set(await self.reader.acknowledge(self.tenant, self.id, ids, None)) == set(ids)

    async def refuse(self, one: Pulled, delay: float = 0.0, reason: str | None = None) -> str:
        return await self.reader.refuse(self.tenant, self.subscription, one.lease, delay, reason)

    async def end_leases(self) -> None:
        """As if their time were over."""
        async with self.store.tenant_pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", self.tenant)
            await connection.execute("UPDATE quantum.pull_leases SET due_at = now() WHERE is_leased")

    async def rows(self) -> int:
        async with self.store.tenant_pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", self.tenant)
            count: int = await connection.fetchval("SELECT count(*) FROM quantum.pull_leases")
            return count


@pytest.fixture
async def reader(store: EventStore) -> AsyncIterator[PullSubscriptionReader]:
    feed = EventFeed(store, lambda event: b"")
    try:
        yield PullSubscriptionReader(store, following(feed))
    finally:
        await feed.close()


@pytest.fixture
def tenant() -> str:
    return f"pull-{next(_numbers)}"


def places(pulled: Sequence[Pulled]) -> list[tuple[str, int]]:
    """(subject, sequence) of each event."""
    documents = [orjson.loads(one.envelope) for one in pulled]
    return [(document["subject"], int(document["sequence"])) for document in documents]


def deliveries(pulled: Sequence[Pulled]) -> list[int | None]:
    return [one.lease.delivery for one in pulled]


async def test_events_come_in_order_once_and_the_cursor_is_all_that_stays(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant, order="parallel")
    await world.append("a", 3)
    await world.append("b", 2)
    first = await world.pull(at_most=4)
    second = await world.pull()
    assert places(first + second) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
    assert deliveries(first) == [1, 1, 1, 1]
    assert await world.pull() == []
    await world.ack(first + second)
    assert (await world.rows(), (await reader.state(tenant, world.id)).unacknowledged) == (0, 0)
    assert await world.pull() == []


async def test_a_subject_with_an_unacknowledged_event_gives_no_later_one(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant)
    await world.append("a", 3)
    await world.append("b", 1)
    first = await world.pull()
    assert places(first) == [("a", 1), ("b", 1)]
    assert await world.pull() == []
    assert await world.rows() == 2  # one a subject, however many events wait
    await world.ack(first[:1])
    await world.append("a", 1)
    again = await world.pull()
    assert places(again) == [("a", 2)]
    await world.ack(again)
    await world.ack(third := await world.pull())
    await world.ack(fourth := await world.pull())
    assert places(third + fourth) == [("a", 3), ("a", 4)]
    await world.ack(first[1:])
    assert await world.rows() == 0


async def test_what_is_not_acknowledged_in_time_comes_again_before_what_is_newer(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant)
    await world.append("a", 2)
    assert places(await world.pull()) == [("a", 1)]
    await world.end_leases()
    await world.append("b", 1)
    again = await world.pull()
    assert (places(again), deliveries(again)) == ([("a", 1), ("b", 1)], [2, 1])
    # Somebody who comes late with an acknowledgement has done the work all the same.
    await world.ack(again)
    assert places(await world.pull()) == [("a", 2)]


async def test_a_late_reader_takes_nothing_from_the_one_who_has_the_event_now(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant)
    await world.append("a", 1)
    (late,) = await world.pull()
    await world.end_leases()
    (now,) = await world.pull()
    assert await world.refuse(late) == "lost"
    assert await reader.extend(tenant, world.id, [late.lease], 600) == {}
    assert list(await reader.extend(tenant, world.id, [now.lease], 600)) == [now.lease.event_id]
    assert await world.refuse(now) == "again"
    assert await world.refuse(now) == "lost"
    assert await reader.refuse(tenant, world.subscription, ReadLease(uuid7()), 0, None) == "unknown"


async def test_an_extended_lease_holds(store: EventStore, reader: PullSubscriptionReader, tenant: str):
    world = World(store, reader, tenant)
    await world.append("a", 1)
    (one,) = await world.pull(lease=1.0)
    held = await reader.extend(tenant, world.id, [one.lease, ReadLease(uuid7())], 600)
    assert held[one.lease.event_id] > one.leased_until
    assert await world.pull(wait=1.2) == []


async def test_what_is_given_back_comes_again_after_its_delay(store: EventStore, reader: PullSubscriptionReader, tenant: str):
    world = World(store, reader, tenant)
    await world.append("a", 1)
    (one,) = await world.pull()
    assert await world.refuse(one, delay=600) == "again"
    assert await world.pull() == []
    state = await reader.state(tenant, world.id)
    assert (state.leased, state.waiting) == (0, 1)
    async with store.platform_pool.acquire() as connection:
        assert (
            await connection.fetchval(
                "SELECT extract(epoch FROM due_at - now()) FROM quantum.pull_leases WHERE tenant_id = $1", tenant
            )
            > 590
        )
    await reader.seek(tenant, world.id, BEGINNING)
    (one,) = await world.pull()
    assert await world.refuse(one, delay=0.05) == "again"
    (again,) = await world.pull(wait=10)
    assert again.lease == ReadLease(one.lease.event_id, 2)


async def test_after_so_many_deliveries_an_event_is_a_dead_letter_and_its_subject_goes_on(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant, deliveries_max=2)
    await world.append("a", 3)
    await world.pull()
    await world.end_leases()
    assert deliveries(await world.pull()) == [2]
    await world.end_leases()
    (second,) = await world.pull()  # the first was given up, its lease being over twice
    assert places([second]) == [("a", 2)]
    assert await world.refuse(second, reason="the ledger is locked") == "again"
    (second,) = await world.pull()
    assert await world.refuse(second, reason="the ledger\0 is locked".replace("\0", "")) == "dead"
    assert places(await world.pull()) == [("a", 3)]
    letters = await reader.dead_letters(tenant, world.id, 0, 10)
    assert [(one.subject, one.deliveries, one.reason) for one in letters] == [
        ("a", 2, "It was not acknowledged in time, 2 times."), ("a", 2, "the ledger is locked"),
    ]  # fmt: skip
    assert letters[0].type == "quantum.intent.deprecated.v1"
    assert [one.position for one in await reader.dead_letters(tenant, world.id, letters[0].position, 10)] == [letters[1].position]


async def test_a_redriven_dead_letter_waits_for_its_subject_and_keeps_the_order(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant, deliveries_max=1)
    await world.append("a", 3)
    for _ in range(2):
        (one,) = await world.pull()
        assert await world.refuse(one) == "dead"
    third = await world.pull()
    assert await reader.redrive(tenant, world.id, [uuid7()]) == 0
    assert await reader.redrive(tenant, world.id, None) == 2
    assert await world.pull() == []
    await world.ack(third)
    first = await world.pull()
    assert (places(first), deliveries(first)) == ([("a", 1)], [1])
    await world.append("a", 1)
    await world.ack(first)
    # The newer event was passed over because of the first, so it has its place before the second letter's turn, or behind it.
    rest = []
    while pulled := await world.pull():
        rest += pulled
        await world.ack(pulled)
    assert sorted(places(rest)) == [("a", 2), ("a", 4)]
    assert (await reader.state(tenant, world.id)).dead_letters == 0


async def test_at_the_limit_of_dead_letters_nothing_is_given_up(
    store: EventStore, reader: PullSubscriptionReader, tenant: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pull_subscriptions, "DEAD_LETTERS_MAX", 1)
    world = World(store, reader, tenant, deliveries_max=1)
    await world.append("a", 1)
    await world.append("b", 1)
    one, two = await world.pull()
    assert (await world.refuse(one), await world.refuse(two)) == ("dead", "again")
    (two,) = await world.pull()
    assert two.lease.delivery == 2
    assert await reader.forget(tenant, world.id, None) == 1
    assert await world.refuse(two) == "dead"


async def test_no_more_is_given_out_than_may_be_unacknowledged(store: EventStore, reader: PullSubscriptionReader, tenant: str):
    world = World(store, reader, tenant, order="parallel", unacknowledged_max=3)
    await world.append("a", 5)
    first = await world.pull()
    assert len(first) == 3
    assert await world.pull() == []
    waiting = asyncio.create_task(world.pull(wait=30))
    await wait_until(lambda: reader._waiting, what="the waiting pull")
    await world.ack(first[:1])
    assert places(await waiting) == [("a", 4)]
    assert await world.rows() == 3


async def test_two_readers_share_without_overlap(
    store: EventStore, reader: PullSubscriptionReader, database: Database, tenant: str
):
    world = World(store, reader, tenant)
    streams = {f"s{number}": 6 for number in range(12)}
    for stream, count in streams.items():
        await world.append(stream, count)
    got: dict[str, list[tuple[str, int]]] = defaultdict(list)
    async with another_store(database) as second_store:
        second = World(second_store, PullSubscriptionReader(second_store, polling), tenant)

        async def work(name: str, mine: World) -> None:
            while sum(map(len, got.values())) < sum(streams.values()):
                pulled = await mine.pull(at_most=3, wait=1)
                got[name] += places(pulled)
                await mine.ack(pulled)

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(f"{mine.reader}{n}", mine) for mine in (world, second) for n in range(2)))
    together = [place for those in got.values() for place in those]
    assert sorted(together) == sorted((stream, version + 1) for stream, count in streams.items() for version in range(count))
    assert await world.rows() == 0


async def test_only_what_matches_is_given_out_and_a_stretch_without_it_is_passed(
    store: EventStore, reader: PullSubscriptionReader, tenant: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pull_subscriptions, "_LOOKED_AT_MAX", 10)
    world = World(store, reader, tenant, types=("quantum.test.wan*",), subjects=("execution/*b",))
    for number in range(40):
        await world.append(f"execution-{number}")
    for stream in ("execution-ab", "intent-ab", "execution-a"):
        part = StreamAppend(
            domain_stream(stream),
            [NewEvent(uuid7(), "test.wanted.v1", b"{}"), NewEvent(uuid7(), "test.other.v1", b"{}")],
            ANY_VERSION,
        )
        await store.append(TenantId(tenant), [part], command_id=uuid7(), metadata=METADATA)
    pulled = await world.pull()
    assert places(pulled) == [("execution/ab", 1)]
    await world.append("execution-b", 30)
    assert await world.pull() == []
    state = await reader.state(tenant, world.id)
    assert state.cursor == await store.horizon()


def domain_stream(name: str) -> Any:
    return name


async def test_a_subscription_begins_where_it_was_told(store: EventStore, reader: PullSubscriptionReader, tenant: str):
    world = World(store, reader, tenant, order="parallel")
    await world.append("a", 2)
    now = await reader.start(tenant, Start())
    assert now == PullStart(await store.horizon())
    later = datetime.now(UTC)
    await world.append("a", 1)
    from_time = await reader.start(tenant, Start(time=later))
    assert from_time.time == later
    assert await reader.start(tenant, Start(position=5)) == PullStart(5)
    assert await reader.start(tenant, Start(time=datetime.min.replace(tzinfo=UTC))) == PullStart(
        0, datetime.min.replace(tzinfo=UTC)
    )
    for start, expected in ((now, [3]), (from_time, [3]), (BEGINNING, [1, 2, 3])):
        await reader.seek(tenant, world.id, start)
        assert [version for _, version in places(await world.pull())] == expected


async def test_a_waiting_pull_answers_as_soon_as_there_is_an_event_and_asks_little_meanwhile(
    store: EventStore, reader: PullSubscriptionReader, tenant: str, monkeypatch: pytest.MonkeyPatch
):
    world, other = World(store, reader, tenant), World(store, reader, f"{tenant}-other")
    looks = 0
    pull = reader._pull

    async def counted(*arguments: Any) -> list[Pulled]:
        nonlocal looks
        looks += arguments[0] == tenant
        return await pull(*arguments)

    monkeypatch.setattr(reader, "_pull", counted)
    waiting = asyncio.create_task(world.pull(wait=30))
    await wait_until(lambda: looks >= 2, what="the pull to wait")
    for _ in range(20):
        await other.append("a", 1)
    seen = await other.pull(wait=10)
    assert len(seen) == 1
    assert looks <= 3  # the other tenant's events wake nobody here
    await world.append("a", 1)
    assert places(await waiting) == [("a", 1)]
    assert await world.pull(wait=0.2) == []


async def test_a_cancelled_pull_leaves_nobody_waiting(store: EventStore, reader: PullSubscriptionReader, tenant: str):
    world = World(store, reader, tenant)
    waiting = asyncio.create_task(world.pull(wait=30))
    await wait_until(lambda: reader._waiting, what="the pull to wait")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not reader._waiting
    await world.append("a", 1)
    assert len(await world.pull()) == 1


async def test_whatever_readers_do_every_event_is_done_in_order_or_a_dead_letter(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    """Pulls, lost leases, refusals and acknowledgements in a random order, with one row a subject at most."""
    chance = random.Random(20261121)
    world = World(store, reader, tenant, deliveries_max=4, unacknowledged_max=6)
    streams = {f"s{number}": 0 for number in range(9)}
    done: dict[str, list[int]] = defaultdict(list)
    held: dict[ReadLease, Pulled] = {}
    for turn in itertools.count():
        if turn < 150:
            stream = chance.choice(list(streams))
            count = chance.randint(1, 3)
            await world.append(stream, count)
            streams[stream] += count
        pulled = await world.pull(at_most=chance.randint(1, 5))
        held |= {one.lease: one for one in pulled}
        assert await world.rows() <= 6
        for one in list(held.values()):
            fate = chance.random()
            if fate < 0.55:
                del held[one.lease]
                if await reader.acknowledge(tenant, world.id, [one.lease.event_id], None):
                    ((stream, version),) = places([one])
                    done[stream].append(version)
            elif fate < 0.7:
                del held[one.lease]
                await world.refuse(one, reason="no")
            elif fate < 0.8:
                del held[one.lease]  # its reader has crashed
        if chance.random() < 0.3:
            held.clear()
            await world.end_leases()
        if turn >= 150 and not pulled and not held:
            state = await reader.state(tenant, world.id)
            if state.unacknowledged == 0:
                break
            await world.end_leases()
    dead: dict[str, list[int]] = defaultdict(list)
    for letter in await reader.dead_letters(tenant, world.id, 0, 10_000):
        event = await store.platform_pool.fetchrow(
            "SELECT stream_id, version FROM quantum.events WHERE position = $1", letter.position
        )
        dead[event[0]].append(event[1])
    assert sum(map(len, dead.values())) > 0
    for stream, count in streams.items():
        assert done[stream] == sorted(done[stream])
        assert sorted(done[stream] + dead[stream]) == list(range(1, count + 1))


async def test_nothing_of_another_tenant_is_seen_or_touched(store: EventStore, reader: PullSubscriptionReader, tenant: str):
    world = World(store, reader, tenant)
    await world.append("a", 2)
    (one,) = await world.pull()
    other = f"{tenant}-other"
    assert await reader.acknowledge(other, world.id, [one.lease.event_id], 1 << 40) == []
    assert await reader.refuse(other, world.subscription, one.lease, 0, None) == "unknown"
    assert await reader.extend(other, world.id, [one.lease], 10) == {}
    assert await reader.pull(other, world.subscription, 10, LEASE, 0) == []
    await reader.purge(other, world.id, PullSubscriptions({}))
    await reader.seek(other, world.id, BEGINNING)
    assert (await reader.state(tenant, world.id)).leased == 1
    async with store.tenant_pool.acquire() as connection:
        for table in ("pull_cursors", "pull_leases", "pull_dead_letters"):
            assert await connection.fetchval(f"SELECT count(*) FROM quantum.{table}") == 0


async def test_what_a_deletion_left_behind_is_swept_by_the_next_one(
    store: EventStore, reader: PullSubscriptionReader, tenant: str
):
    world = World(store, reader, tenant)
    await world.append("a", 1)
    await world.pull()
    keeps = PullSubscriptions({world.id: world.subscription})
    async with store.tenant_pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        await connection.execute("UPDATE quantum.pull_cursors SET created_at = now() - interval '2 hours'")
    await reader.purge(tenant, "another", keeps)
    assert await world.rows() == 1
    await reader.purge(tenant, "another", PullSubscriptions({}))
    assert await world.rows() == 0
    assert (await reader.state(tenant, world.id)).cursor is None
