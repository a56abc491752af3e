# intent_ref: tests.projections
"""Read models say what the events say, rebuilt or live, and a rebuild is noticed by nobody."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings

from domain import documents
from domain.values import TenantId
from event_store.faults import DATABASE_FAULTS
from event_store.store import EventStore
from projections import intents
from projections.catalogue import READ_MODELS, read_model
from projections.checkpoints import read_checkpoint
from projections.documents import DocumentReader
from projections.rebuild import ShapeNotPrepared, rebuild
from projections.schema import RebuildUnderWay, prepare
from tests.conftest import Database
from tests.histories import Happened, created, deprecated, histories, record, states
from tests.projected import Projected, projecting, rows

_numbers = itertools.count(1)


@pytest.fixture
async def projected(database: Database, store: EventStore) -> AsyncIterator[Projected]:
    await prepare(database.owner_dsn)
    async with projecting(store) as running:
        yield running


def tenant_names(history: list[Happened]) -> dict[int, str]:
    return {owner: f"tenant-{next(_numbers)}" for owner in {happened.tenant for happened in history}}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(history=histories())
async def test_live_rows_rebuilt_rows_and_folded_states_are_the_same(
    history: list[Happened], projected: Projected, database: Database
) -> None:
    tenants = tenant_names(history)
    for happened in history:
        await record(projected.store, tenants[happened.tenant], happened.stream_id, happened.event)
    await projected.caught_up()
    live = await rows(database.owner_dsn)
    for model in READ_MODELS:
        await rebuild(projected.store, model, batch_size=7)
    assert await rows(database.owner_dsn) == live
    assert shown(live, tenants) == folded(history, tenants)


def shown(live: dict[str, list[Any]], tenants: dict[int, str]) -> dict[tuple[str, ...], Any]:
    """Documents of the tables, by tenant, table and id."""
    keys = {"tenants": "tenant_id", "intents": "intent_id", "executions": "execution_id", "modules": "name"}
    found: dict[tuple[str, ...], Any] = {}
    for table, key in keys.items():
        for row in map(dict, live[table]):
            if row["tenant_id"] in tenants.values():
                found[row["tenant_id"], table, row[key]] = orjson.loads(row["document"])
    for row in map(dict, live["intent_versions"]):
        if row["tenant_id"] in tenants.values():
            identity = (row["tenant_id"], "intent_versions", f"{row['intent_id']}/{row['version']}")
            found[identity] = orjson.loads(row["document"])
    for (tenant_id, table, _), document in list(found.items()):
        if table == "tenants":
            found[tenant_id, table, "self"] = found.pop((tenant_id, table, tenant_id))
            assert document["id"].startswith("t")
    return found


def folded(history: list[Happened], tenants: dict[int, str]) -> dict[tuple[str, ...], Any]:
    """The same, from the states."""
    found: dict[tuple[str, ...], Any] = {}
    for (owner, stream_id), state in states(history).items():
        tenant_id = TenantId(tenants[owner])
        if stream_id == "modules":
            for module in state.by_name.values():
                found[tenant_id, "modules", module.name] = documents.module_document(module)
        elif stream_id.startswith("tenant-"):
            found[tenant_id, "tenants", "self"] = documents.tenant_document(state)
        elif stream_id.startswith("execution-"):
            found[tenant_id, "executions", state.execution_id] = documents.execution_document(tenant_id, state)
        else:
            found[tenant_id, "intents", state.intent_id] = documents.intent_document(tenant_id, state)
            for version in state.versions:
                identity = (tenant_id, "intent_versions", f"{state.intent_id}/{version.version}")
                found[identity] = documents.intent_version_document(state.intent_id, version)
    return found


async def test_reads_and_writes_go_on_through_rebuilds(projected: Projected, database: Database) -> None:
    store, tenant_id = projected.store, TenantId("tenant-busy")
    await record(store, tenant_id, "intent-i-0", created("i-0"))
    await projected.caught_up()
    reader, stop, reads, written = DocumentReader(store.tenant_pool), asyncio.Event(), 0, 0

    async def read() -> None:
        nonlocal reads
        while not stop.is_set():
            document = await intents.get_intent(reader, tenant_id, "i-0")
            assert document is not None
            page = await intents.list_intents(store.tenant_pool, tenant_id, limit=1)
            assert page.items
            found = await intents.list_intents(store.tenant_pool, tenant_id, q="docker", limit=1)
            assert found.items
            reads += 1

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            await record(store, tenant_id, f"intent-i-{written}", created(f"i-{written}"), deprecated(f"i-{written}"))

    tasks = [asyncio.create_task(task()) for task in (read, read, write, write)]
    progress: list[tuple[int, int]] = []
    for _ in range(3):
        for name in ("intents", "intent_search"):
            await rebuild(store, read_model(name), lambda done, total: progress.append((done, total)), batch_size=500)
    stop.set()
    await asyncio.gather(*tasks)
    await reader.close()
    assert reads
    assert progress[-1][0] == progress[-1][1] > 0
    await projected.caught_up()
    live = await rows(database.owner_dsn, [tenant_id])
    assert len(live["intents"]) == len(live["intent_versions"]) == len(live["intent_search"]) == written + 1
    assert sum(dict(row)["status"] == "deprecated" for row in live["intents"]) == written


async def test_tables_are_guarded_alike_before_and_after_a_switch(projected: Projected, database: Database) -> None:
    async def guards() -> list[Any]:
        connection = await asyncpg.connect(database.owner_dsn)
        try:
            return [
                *await connection.fetch(
                    "SELECT relname, relrowsecurity, relforcerowsecurity, relacl::text, relowner::regrole::text FROM pg_class"
                    " WHERE relnamespace = 'quantum_read'::regnamespace AND relkind = 'r' ORDER BY 1"
                ),
                *await connection.fetch(
                    "SELECT * FROM pg_policies WHERE schemaname = 'quantum_read' ORDER BY tablename, policyname"
                ),
                *await connection.fetch("SELECT * FROM pg_indexes WHERE schemaname = 'quantum_read' ORDER BY indexname"),
            ]
        finally:
            await connection.close()

    before = await guards()
    for model in READ_MODELS:
        await rebuild(projected.store, model)
    assert await guards() == before
    assert all(row["relrowsecurity"] and row["relforcerowsecurity"] for row in before if "relname" in row)


async def test_a_rebuild_that_was_killed_is_begun_again_and_the_tables_that_serve_are_untouched(
    projected: Projected, database: Database
) -> None:
    store, tenant_id = projected.store, "tenant-killed"
    for number in range(60):
        await record(store, tenant_id, f"intent-k-{number}", created(f"k-{number}"))
    await projected.caught_up()
    before = await rows(database.owner_dsn, [tenant_id])

    async def kill_rebuild() -> None:
        connection = await asyncpg.connect(database.owner_dsn)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 20824 AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await connection.close()

    killed = asyncio.Event()
    model = read_model("intents")

    async def apply(connection: Any, events: Any) -> None:
        await model.apply(connection, events)
        if not killed.is_set():
            killed.set()
            await kill_rebuild()

    with pytest.raises(DATABASE_FAULTS):
        await rebuild(store, replace(model, apply=apply), batch_size=20)
    assert await rows(database.owner_dsn, [tenant_id]) == before
    await rebuild(store, model, batch_size=20)
    assert await rows(database.owner_dsn, [tenant_id]) == before


async def test_one_rebuild_of_a_projection_at_a_time(projected: Projected) -> None:
    model = read_model("modules")
    await record(projected.store, "tenant-once", "intent-o-1", created("o-1"))
    refused = asyncio.Event()

    def progress(_done: int, _total: int) -> None:
        refused.set()

    first = asyncio.create_task(rebuild(projected.store, model, progress))
    results = await asyncio.gather(first, rebuild(projected.store, model), return_exceptions=True)
    assert sum(isinstance(result, RebuildUnderWay) for result in results) == 1


async def test_a_new_shape_is_prepared_beside_the_former_and_rebuilt_by_the_runner(database: Database, store: EventStore) -> None:
    await prepare(database.owner_dsn)
    former = read_model("tenants")
    newer = replace(former, version=2, ddl=former.ddl.replace("status           text", "extra text, status text"))
    with pytest.raises(ShapeNotPrepared):
        await rebuild(store, newer)
    assert await prepare(database.owner_dsn, [newer]) == ["tenants"]
    assert (await read_checkpoint(store.platform_pool, "tenants")).shape == former.shape
    async with projecting(store, [newer]) as running:
        await running.state("tenants", "live")
        assert (await read_checkpoint(store.platform_pool, "tenants")).shape == newer.shape
        connection = await asyncpg.connect(database.owner_dsn)
        with suppress(asyncpg.PostgresError):
            assert await connection.fetchval("SELECT count(extra) FROM quantum_read.tenants") == 0
        await connection.close()
    assert await prepare(database.owner_dsn, [former]) == []
    await rebuild(store, former)
    assert await prepare(database.owner_dsn, [former]) == ["tenants"]
