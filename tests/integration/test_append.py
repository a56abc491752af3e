# intent_ref: tests.append
"""Appending: versions, atomicity, repeats, claims, and what a failing database may not do."""

import asyncio
import random
from datetime import timedelta

import asyncpg
import pytest

from domain.values import StreamId, TenantId
from event_store import group_commit
from event_store.ids import uuid7
from event_store.records import (
    ANY_VERSION,
    NO_STREAM,
    AppendTooLarge,
    Claim,
    ClaimTaken,
    StreamAppend,
    StreamBusy,
    VersionConflict,
)
from event_store.store import EventStore
from tests.conftest import Database
from tests.streams import METADATA, append, new_events


async def versions(store: EventStore, tenant: str, stream: str) -> list[int]:
    return [event.version for event in await store.read_stream(TenantId(tenant), StreamId(stream))]


async def second_store(database: Database) -> EventStore:
    return await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)


async def test_a_stream_reads_back_what_was_appended_in_both_directions_and_up_to_a_version(store: EventStore) -> None:
    appended = await append(store, "read", "s", 5, expected=NO_STREAM)
    tenant, stream = TenantId("read"), StreamId("s")
    forward = await store.read_stream(tenant, stream)
    assert [event.version for event in forward] == [1, 2, 3, 4, 5]
    assert tuple(event.position for event in forward) == appended.positions
    assert [event.event.intent_id for event in forward] == [f"s-{n}" for n in range(5)]
    assert forward[0].metadata == METADATA
    assert [e.version for e in await store.read_stream(tenant, stream, backward=True, limit=2)] == [5, 4]
    assert [e.version for e in await store.read_stream(tenant, stream, after=1, to_version=3)] == [2, 3]


async def test_a_stream_reads_back_as_it_was_at_a_time(store: EventStore) -> None:
    first = await append(store, "time", "s")
    second = await append(store, "time", "s")
    assert first.recorded_at < second.recorded_at
    tenant, stream = TenantId("time"), StreamId("s")
    assert len(await store.read_stream(tenant, stream, to_time=first.recorded_at)) == 1
    assert len(await store.read_stream(tenant, stream, to_time=second.recorded_at)) == 2
    assert not await store.read_stream(tenant, stream, to_time=first.recorded_at - timedelta(microseconds=1))


async def test_an_append_at_another_version_is_refused_and_told_the_actual_one(store: EventStore) -> None:
    await append(store, "expect", "s", 3, expected=NO_STREAM)
    for wrong in (NO_STREAM, 2, 4):
        with pytest.raises(VersionConflict) as conflict:
            await append(store, "expect", "s", expected=wrong)
        assert (conflict.value.expected, conflict.value.actual) == (wrong, 3)
    await append(store, "expect", "s", expected=3)
    await append(store, "expect", "s", expected=ANY_VERSION)
    assert await versions(store, "expect", "s") == [1, 2, 3, 4, 5]


async def test_several_streams_are_stored_together_or_not_at_all(store: EventStore) -> None:
    tenant = TenantId("several")
    await append(store, "several", "b", 2)

    async def both(expected_of_b: int) -> tuple[int, ...]:
        parts = [
            StreamAppend(StreamId("a"), new_events(2), NO_STREAM),
            StreamAppend(StreamId("b"), new_events(1), expected_of_b),
        ]
        return (await store.append(tenant, parts, command_id=uuid7(), metadata=METADATA)).versions

    with pytest.raises(VersionConflict):
        await both(1)
    assert await versions(store, "several", "a") == []
    assert await both(2) == (2, 3)
    assert await versions(store, "several", "a") == [1, 2]
    assert await versions(store, "several", "b") == [1, 2, 3]


async def test_of_32_writers_racing_on_one_stream_exactly_one_wins_each_version(database: Database) -> None:
    stores = [await second_store(database) for _ in range(4)]
    wins: dict[int, list[int]] = {}
    losses: list[VersionConflict] = []

    async def race(writer: int) -> None:
        own = stores[writer % len(stores)]
        seen = 0
        while seen < 40:
            try:
                appended = await append(own, "race", "s", expected=seen)
                seen = appended.versions[0]
                wins.setdefault(seen, []).append(writer)
            except VersionConflict as conflict:
                assert conflict.expected == seen
                assert conflict.actual > seen, "a loser is told the version that beat it"
                losses.append(conflict)
                seen = conflict.actual

    try:
        await asyncio.gather(*(race(writer) for writer in range(32)))
        dense = await versions(stores[0], "race", "s")
    finally:
        for own in stores:
            await own.close()
    assert dense == list(range(1, len(dense) + 1))
    assert sorted(wins) == dense
    assert all(len(winners) == 1 for winners in wins.values())
    assert losses


async def test_a_command_repeated_100_times_in_parallel_and_after_a_restart_has_one_effect_and_one_answer(
    store: EventStore, database: Database
) -> None:
    command = uuid7()
    other = await second_store(database)
    try:
        answers = await asyncio.gather(
            *(append(random.choice([store, other]), "repeat", "s", 3, command_id=command) for _ in range(100))
        )
    finally:
        await other.close()
    restarted = await second_store(database)
    try:
        answers.append(await append(restarted, "repeat", "s", 3, command_id=command, expected=NO_STREAM))
        answers.append(await append(restarted, "repeat", "elsewhere", 1, command_id=command))
    finally:
        await restarted.close()
    assert {(a.position, a.versions, a.positions) for a in answers} == {(answers[0].positions[2], (3,), answers[0].positions)}
    assert sum(not answer.repeated for answer in answers) == 1
    assert await versions(store, "repeat", "s") == [1, 2, 3]
    assert await versions(store, "repeat", "elsewhere") == []


async def test_one_command_sent_to_two_streams_at_the_same_moment_by_two_processes_has_one_effect(
    store: EventStore, database: Database
) -> None:
    other = await second_store(database)
    try:
        for number in range(50):
            command = uuid7()
            answers = await asyncio.gather(
                append(store, "twice", f"a-{number}", command_id=command),
                append(other, "twice", f"b-{number}", command_id=command),
            )
            assert answers[0].positions == answers[1].positions
            stored = await versions(store, "twice", f"a-{number}") + await versions(store, "twice", f"b-{number}")
            assert stored == [1]
    finally:
        await other.close()


async def test_the_same_command_id_of_another_tenant_is_another_command(store: EventStore) -> None:
    command = uuid7()
    await append(store, "one", "s", command_id=command)
    appended = await append(store, "two", "s", command_id=command)
    assert not appended.repeated
    assert await versions(store, "two", "s") == [1]


async def test_a_claim_is_held_by_one_stream_and_free_again_when_given_back(store: EventStore) -> None:
    def claim(stream: str, takes: bool = True) -> list[Claim]:
        return [Claim("name", "deploy", StreamId(stream), takes)]

    await append(store, "claims", "a", claims=claim("a"))
    with pytest.raises(ClaimTaken) as taken:
        await append(store, "claims", "b", claims=claim("b"))
    assert taken.value.value == "deploy"
    assert await versions(store, "claims", "b") == [], "a refused claim stores no event"
    await append(store, "claims", "a", claims=claim("a"))
    await append(store, "other", "b", claims=claim("b"))
    await append(store, "claims", "b", claims=claim("b", takes=False))
    with pytest.raises(ClaimTaken):
        await append(store, "claims", "b", claims=claim("b"))
    await append(store, "claims", "a", claims=claim("a", takes=False))
    await append(store, "claims", "b", claims=claim("b"))


async def test_of_many_that_claim_one_value_at_once_one_gets_it(store: EventStore, database: Database) -> None:
    other = await second_store(database)
    try:
        answers = await asyncio.gather(
            *(
                append(own, "grab", f"s-{n}", claims=[Claim("name", "v", StreamId(f"s-{n}"))])
                for n in range(40)
                for own in (store if n % 2 else other,)
            ),
            return_exceptions=True,
        )
    finally:
        await other.close()
    assert sum(isinstance(answer, ClaimTaken) for answer in answers) == 39
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1


async def test_an_append_waits_for_a_strangers_transaction_on_its_stream_and_gives_up_with_a_sentence(
    store: EventStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "BUSY_SECONDS_MAX", 0.3)
    stranger = await asyncpg.connect(database.platform_dsn)
    try:
        async with stranger.transaction():
            await stranger.execute("SELECT pg_advisory_xact_lock(20822, hashtext('stream/busy/s'))")
            with pytest.raises(StreamBusy, match="Stream s was locked"):
                await append(store, "busy", "s")
            elsewhere = await append(store, "busy", "t")
            waiting = asyncio.create_task(append(store, "busy", "s"))
            await asyncio.sleep(0)
        assert elsewhere.versions == (1,)
        assert (await waiting).versions == (1,)
    finally:
        await stranger.close()


async def test_appends_that_are_empty_or_too_large_are_refused_before_anything_is_sent(store: EventStore) -> None:
    with pytest.raises(AppendTooLarge):
        await append(store, "large", "s", 4097)
    with pytest.raises(ValueError, match="at least one event"):
        await append(store, "large", "s", 0)
    assert (await append(store, "large", "s", 4096)).versions == (4096,)


async def test_appends_go_one_by_one_where_the_server_has_no_room_for_the_locks_of_all(
    store: EventStore, database: Database
) -> None:
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        with pytest.raises(asyncpg.OutOfMemoryError):
            await owner.execute("SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 1000000) AS n")
        held = await owner.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        await owner.execute("SELECT count(pg_advisory_unlock(n)) FROM generate_series(1, 100) AS n")
        answers = await asyncio.gather(*(append(store, "crowded", f"s-{n}") for n in range(300)))
    finally:
        await owner.close()
    assert held > 1_000
    assert all(answer.versions == (1,) for answer in answers)
    assert len({answer.position for answer in answers}) == 300


async def test_connections_killed_under_load_lose_nothing_that_was_answered_and_store_nothing_twice(
    store: EventStore, database: Database
) -> None:
    owner = await asyncpg.connect(database.owner_dsn)
    stop = asyncio.Event()

    async def kill() -> None:
        while not stop.is_set():
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'quantum_app' AND datname = current_database() AND query LIKE '%append_events%'"
            )
            await asyncio.sleep(0.05)

    killing = asyncio.create_task(kill())
    try:
        answers = await asyncio.gather(*(append(store, "killed", f"s-{n % 50}", 2) for n in range(2000)))
    finally:
        stop.set()
        await killing
        await owner.close()
    log = await store.read_log(0, limit=10_000, tenant_id=TenantId("killed"))
    assert sorted(e.position for e in log.events) == sorted(p for answer in answers for p in answer.positions)
    for n in range(50):
        assert await versions(store, "killed", f"s-{n}") == list(range(1, 81))
