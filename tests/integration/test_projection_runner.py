# intent_ref: tests.projections
"""The runner: nothing lost, nothing twice, one at work and the others ready."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from event_store.store import EventStore
from projections.catalogue import read_model
from projections.checkpoints import CheckpointMoved, lag, move_checkpoint, read_checkpoint
from projections.freshness import Freshness
from projections.schema import prepare
from tests.conftest import Database
from tests.histories import created, deprecated, record, registered, started
from tests.projected import projecting, rows
from tests.waiting import wait_until

INTENTS = read_model("intents")


@pytest.fixture
async def log(database: Database, store: EventStore) -> EventStore:
    """A store whose database has the tables of the read models."""
    await prepare(database.owner_dsn)
    return store


async def holders(owner_dsn: str, name: str) -> list[int]:
    """The backends that hold a projection's lock."""
    connection = await asyncpg.connect(owner_dsn)
    try:
        found = await connection.fetch(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 20823 AND objid = hashtext($1)::oid AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            name,
        )
        return [row["pid"] for row in found]
    finally:
        await connection.close()


async def kill(owner_dsn: str, pid: int) -> None:
    connection = await asyncpg.connect(owner_dsn)
    try:
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
    finally:
        await connection.close()


async def test_connections_killed_between_and_inside_batches_lose_nothing_and_double_nothing(
    log: EventStore, database: Database
) -> None:
    tenant = "tenant-crash"
    deaths = 0

    async def apply(connection: Any, events: Any) -> None:
        nonlocal deaths
        await INTENTS.apply(connection, events)
        if deaths < 5:
            deaths += 1
            await kill(database.owner_dsn, connection.get_server_pid())

    for number in range(60):
        await record(log, tenant, f"intent-c-{number}", created(f"c-{number}"), deprecated(f"c-{number}"))
    async with projecting(log, [replace(INTENTS, apply=apply)], batch_size=7) as running:
        await running.caught_up()
        for pid in await holders(database.owner_dsn, "intents"):
            await kill(database.owner_dsn, pid)
        await record(log, tenant, "intent-c-60", created("c-60"), deprecated("c-60"))
        await running.caught_up()
        assert running.runner.statistics["intents"].set_aside == 0
    assert deaths == 5
    found = await rows(database.owner_dsn, [tenant], ["intents", "intent_versions"])
    assert len(found["intents"]) == len(found["intent_versions"]) == 61
    assert all(dict(row)["status"] == "deprecated" for row in found["intents"])


async def test_of_two_runners_one_works_and_the_other_takes_over_when_it_dies(log: EventStore, database: Database) -> None:
    async with projecting(log, [INTENTS]) as first:
        await first.state("intents", "live")
        async with projecting(log, [INTENTS]) as second:
            await second.state("intents", "standby")
            (pid,) = await holders(database.owner_dsn, "intents")
            await first.runner.close()
            await second.state("intents", "live")
            position = await record(log, "tenant-takeover", "intent-t-1", created("t-1"))
            assert await second.freshness.wait("intents", position, 10)
            (heir,) = await holders(database.owner_dsn, "intents")
            assert heir != pid


async def test_a_runner_whose_connection_died_hands_over_or_comes_back(log: EventStore, database: Database) -> None:
    async with projecting(log, [INTENTS]) as first, projecting(log, [INTENTS]) as second:
        await wait_until(lambda: {first.runner.statistics["intents"].state, second.runner.statistics["intents"].state}
                         == {"live", "standby"})  # fmt: skip
        for number in range(3):
            for pid in await holders(database.owner_dsn, "intents"):
                await kill(database.owner_dsn, pid)
            position = await record(log, "tenant-handover", f"intent-h-{number}", created(f"h-{number}"))
            assert await first.freshness.wait("intents", position, 10)
            assert await second.freshness.wait("intents", position, 10)
            assert len(await holders(database.owner_dsn, "intents")) == 1
    assert len((await rows(database.owner_dsn, ["tenant-handover"], ["intents"]))["intents"]) == 3


async def test_one_that_lost_its_place_cannot_apply(log: EventStore) -> None:
    connection = await asyncpg.connect(log.platform_dsn)
    try:
        checkpoint = await read_checkpoint(connection, "modules")
        async with connection.transaction():
            moved = await move_checkpoint(connection, "modules", checkpoint, checkpoint.position + 1)
        with pytest.raises(CheckpointMoved):
            await move_checkpoint(connection, "modules", checkpoint, checkpoint.position + 2)
        assert await move_checkpoint(connection, "modules", moved, checkpoint.position) == checkpoint
    finally:
        await connection.close()


async def test_events_of_other_concepts_move_the_checkpoint_too(log: EventStore) -> None:
    async with projecting(log) as running:
        await running.caught_up()
        position = await record(log, "tenant-others", "intent-o-1", created("o-1"))
        assert await running.freshness.wait("modules", position, 10)
        await wait_until(lambda: _saved(log, "modules", position))


async def _saved(store: EventStore, name: str, position: int) -> bool:
    return (await read_checkpoint(store.platform_pool, name)).position >= position


async def test_a_wait_ends_when_the_write_is_visible_in_another_process(log: EventStore) -> None:
    elsewhere = Freshness(log.tenant_pool)
    position = await record(log, "tenant-fresh", "intent-f-1", created("f-1"))
    assert not await elsewhere.wait("intents", position, 0.05)
    waiting = asyncio.create_task(elsewhere.wait("intents", position, 10))
    async with projecting(log, [INTENTS]) as running:
        assert await waiting
        assert await running.freshness.wait("intents", position, 10)
        later = asyncio.create_task(running.freshness.wait("intents", position + 1, 10))
        assert await record(log, "tenant-fresh", "intent-f-2", created("f-2")) == position + 1
        assert await later
    await elsewhere.close()


async def test_nothing_is_asked_of_the_database_while_nobody_waits(log: EventStore) -> None:
    asked = 0

    class Counting:
        async def fetch(self, *arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            return await log.tenant_pool.fetch(*arguments)

    freshness = Freshness(Counting())
    assert not await freshness.wait("intents", 1 << 40, 0.05)
    await wait_until(lambda: freshness._poller is None or freshness._poller.done())
    before = asked
    await record(log, "tenant-quiet", "intent-q-1", created("q-1"))
    assert asked == before > 0


async def test_lag_counts_what_has_not_been_looked_at(log: EventStore) -> None:
    position = await record(log, "tenant-lag", "modules", registered("m-1", "a"))
    behind = await lag(log, "modules")
    assert behind.events > 0
    assert behind.seconds >= 0
    async with projecting(log) as running:
        assert await running.freshness.wait("modules", position, 10)
        await running.caught_up()
        await wait_until(lambda: _caught_up(log))
        statistics = running.runner.statistics["modules"]
        assert statistics.lag_events == 0
        assert statistics.lag_seconds == 0
        assert statistics.events > 0


async def _caught_up(store: EventStore) -> bool:
    return (await lag(store, "modules")).events == 0


async def test_events_are_visible_while_an_unrelated_transaction_stays_open(log: EventStore, database: Database) -> None:
    other = await asyncpg.connect(database.owner_dsn)
    try:
        async with other.transaction():
            await other.execute("CREATE TEMP TABLE unrelated (n int); INSERT INTO unrelated VALUES (1)")
            async with projecting(log) as running:
                position = await record(log, "tenant-open", "execution-x-1", started("x-1"))
                assert await running.freshness.wait("executions", position, 10)
    finally:
        await other.close()
