# intent_ref: tests.projections
"""Poison events: set aside with what follows in their stream, while everything else goes on."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from domain.intent import IntentActivated, IntentCreated
from domain.values import IntentId
from event_store.records import RecordedEvent
from event_store.store import EventStore
from projections.catalogue import read_model
from projections.faults import list_faults, retry_faults
from projections.read_model import ReadModel
from projections.rebuild import rebuild
from projections.schema import prepare
from tests.conftest import Database
from tests.histories import BEGIN, created, deprecated, record
from tests.projected import projecting, rows
from tests.waiting import wait_until

INTENTS = read_model("intents")


@dataclass
class Poison:
    """Makes the read model choke on the creation of intents of some name."""

    name: str = "poison"

    def model(self) -> ReadModel:
        return replace(INTENTS, apply=self.apply)

    async def apply(self, connection: Any, events: Sequence[RecordedEvent]) -> None:
        if any(isinstance(event.event, IntentCreated) and event.event.name == self.name for event in events):
            raise ValueError(f"cannot digest {self.name}\0")
        await INTENTS.apply(connection, events)


@pytest.fixture
async def log(database: Database, store: EventStore) -> AsyncIterator[EventStore]:
    await prepare(database.owner_dsn)
    yield store
    await retry_faults(store, INTENTS)


async def ids(database: Database, tenant: str) -> dict[str, str]:
    found = await rows(database.owner_dsn, [tenant], ["intents"])
    return {dict(row)["intent_id"]: dict(row)["status"] for row in found["intents"]}


async def test_a_poison_event_is_set_aside_with_its_stream_and_applied_in_order_when_retried(
    log: EventStore, database: Database
) -> None:
    tenant = "tenant-poison"
    for number in range(10):
        await record(log, tenant, f"intent-p-{number}", created(f"p-{number}", "poison" if number == 4 else "fine"))
    await record(log, tenant, "intent-p-4", deprecated("p-4"))
    poison = Poison()
    async with projecting(log, [poison.model()]) as running:
        await running.caught_up()
        await record(log, tenant, "intent-p-5", deprecated("p-5"))
        await record(log, tenant, "intent-p-4", IntentActivated(IntentId("p-4"), BEGIN))
        await running.caught_up()
        assert await ids(database, tenant) == {
            f"p-{number}": "deprecated" if number == 5 else "active" for number in range(10) if number != 4
        }
        faults = await list_faults(log.platform_pool, "intents")
        assert [(fault.stream_id, fault.error, fault.attempts) for fault in faults] == [
            ("intent-p-4", "ValueError: cannot digest poison", 1),
            ("intent-p-4", None, 0),
            ("intent-p-4", None, 0),
        ]
        assert faults[0].tenant_id == tenant
        assert faults[0].topic == "intent.created.v1"
        assert running.runner.statistics["intents"].set_aside == 3

        still = await retry_faults(log, poison.model())
        assert (still.applied, still.left) == (0, 3)
        assert (await list_faults(log.platform_pool, "intents"))[0].attempts == 2

        poison.name = "nothing"
        retried = await retry_faults(log, poison.model())
        assert (retried.applied, retried.left) == (3, 0)
        assert (await ids(database, tenant))["p-4"] == "active"
        await record(log, tenant, "intent-p-4", deprecated("p-4"))
        await running.caught_up()
        assert (await ids(database, tenant))["p-4"] == "deprecated"
        assert await list_faults(log.platform_pool, "intents") == []


async def test_two_poison_streams_are_told_apart_and_the_good_events_between_them_applied(
    log: EventStore, database: Database
) -> None:
    tenant = "tenant-two"
    for number in range(20):
        await record(log, tenant, f"intent-w-{number}", created(f"w-{number}", "poison" if number in (3, 15) else "fine"))
    async with projecting(log, [Poison().model()]) as running:
        await running.caught_up()
    assert sorted(await ids(database, tenant)) == sorted(f"w-{number}" for number in range(20) if number not in (3, 15))
    assert [fault.stream_id for fault in await list_faults(log.platform_pool)] == ["intent-w-3", "intent-w-15"]


async def test_a_database_fault_is_no_poison(log: EventStore, database: Database) -> None:
    attempts = 0

    async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionResetError("the database is away")
        await INTENTS.apply(connection, events)

    position = await record(log, "tenant-away", "intent-a-1", created("a-1"))
    async with projecting(log, [replace(INTENTS, apply=apply)]) as running:
        assert await running.freshness.wait("intents", position, 10)
    assert attempts >= 3
    assert await list_faults(log.platform_pool) == []
    assert await ids(database, "tenant-away") == {"a-1": "active"}


async def test_a_rebuild_has_faults_of_its_own_and_they_hold_after_the_switch(log: EventStore, database: Database) -> None:
    tenant = "tenant-again"
    await record(log, tenant, "intent-g-1", created("g-1", "poison"))
    async with projecting(log, [Poison().model()]) as running:
        await running.caught_up()
        assert [fault.stream_id for fault in await list_faults(log.platform_pool)] == ["intent-g-1"]
        await rebuild(log, INTENTS)
        assert await list_faults(log.platform_pool) == []
        assert await ids(database, tenant) == {"g-1": "active"}
        await rebuild(log, Poison().model())
        assert len(await list_faults(log.platform_pool)) >= 1
        assert await ids(database, tenant) == {}
        await record(log, tenant, "intent-g-1", deprecated("g-1"))
        await running.caught_up()
        assert await ids(database, tenant) == {}
    await wait_until(lambda: _all_applied(log))
    assert await ids(database, tenant) == {"g-1": "deprecated"}


async def _all_applied(store: EventStore) -> bool:
    return (await retry_faults(store, INTENTS)).left == 0
