# intent_ref: tests.projections
"""Queries of the read models: filters, search, pages; and that no tenant sees another's rows."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from domain import execution_events, intent, tenant
from domain.execution_events import ResourceReleased
from domain.module import ModuleRemoved
from domain.values import ExecutionId, IntentId, ModuleName, StepId, TenantId, Version
from event_store.store import EventStore
from projections import executions, intents, modules, resources, tenants
from projections.catalogue import READ_MODELS
from projections.documents import DocumentReader
from projections.pages import InvalidCursor, Page
from projections.schema import prepare
from tests.conftest import Database
from tests.histories import BEGIN, created, deprecated, provisioned, record, registered, started, subscribed
from tests.projected import TABLES, Projected, projecting

ONE, TWO = TenantId("tenant-one"), TenantId("tenant-two")


@pytest.fixture
async def projected(database: Database, store: EventStore) -> AsyncIterator[Projected]:
    await prepare(database.owner_dsn)
    async with projecting(store) as running:
        yield running


@pytest.fixture
async def reader(store: EventStore) -> AsyncIterator[DocumentReader]:
    reader = DocumentReader(store.tenant_pool)
    yield reader
    await reader.close()


def found(page: Page, key: str = "id") -> list[Any]:
    return [orjson.loads(item)[key] for item in page.items]


async def test_an_intent_is_read_by_its_id_with_its_version_and_by_its_tenant_alone(
    projected: Projected, reader: DocumentReader
) -> None:
    await record(projected.store, ONE, "intent-one", created("one"), intent.IntentRevised(
        IntentId("one"), Version(2), {"target": "test"}, "new", {"a": "b"}, BEGIN))  # fmt: skip
    await projected.caught_up()
    document = await intents.get_intent(reader, ONE, "one")
    assert document is not None
    assert (document.version, orjson.loads(document.body)["description"]) == (2, "new")
    assert await intents.get_intent(reader, TWO, "one") is None
    for nonsense in ("", "none", "\0", "\ud800", "x" * 100_000):
        assert await intents.get_intent(reader, ONE, nonsense) is None
    first = await intents.get_intent_version(projected.store.tenant_pool, ONE, "one", 1)
    assert first is not None
    assert orjson.loads(first.body)["version"] == 1
    for number in (0, 3, -1, 1 << 40):
        assert await intents.get_intent_version(projected.store.tenant_pool, ONE, "one", number) is None
    assert await intents.get_intent_version(projected.store.tenant_pool, TWO, "one", 1) is None
    assert found(await intents.list_intent_versions(projected.store.tenant_pool, ONE, "one"), "version") == [2, 1]
    assert found(await intents.list_intent_versions(projected.store.tenant_pool, TWO, "one"), "version") == []


async def test_many_reads_at_once_each_get_their_own_answer(projected: Projected, reader: DocumentReader) -> None:
    owners = [TenantId(f"many-{number}") for number in range(5)]
    for owner in owners:
        await record(projected.store, owner, "intent-same", created("same", f"of {owner}"))
        await record(projected.store, owner, f"intent-{owner}", created(owner, f"only {owner}"))
    await projected.caught_up()
    wanted = [(owner, identity) for owner in owners for identity in ("same", *owners)] * 20
    answers = await asyncio.gather(*(intents.get_intent(reader, owner, identity) for owner, identity in wanted))
    for (owner, identity), answer in zip(wanted, answers, strict=True):
        if identity in ("same", owner):
            assert answer is not None
            assert orjson.loads(answer.body)["tenant_id"] == owner
        else:
            assert answer is None


async def test_intents_are_found_by_name_status_label_and_words(projected: Projected) -> None:
    pool, owner = projected.store.tenant_pool, TenantId("tenant-search")
    shop = created(
        "1", "deploy-web-app", labels={"team": "web", "odd 'n\\": "x\ny"}, description="Rolls out the shop front",
        definition={"image": "azurecr.io/myapp:1.2", "note": "Grüße, Welt"},
    )  # fmt: skip
    await record(projected.store, owner, "intent-1", shop)
    await record(projected.store, owner, "intent-2", created("2", "backup", labels={"team": "data"}), deprecated("2"))
    await record(projected.store, owner, "intent-3", created("3", "deploy-api", definition={"k": "v " * 300_000 + "lastword"}))
    await record(projected.store, TWO, "intent-4", created("4", "deploy-web-app", labels={"team": "web"}))
    await projected.caught_up()

    async def ids(**filters: Any) -> list[str]:
        return found(await intents.list_intents(pool, owner, **filters))

    assert await ids() == ["3", "2", "1"]
    assert await ids(status="deprecated") == ["2"]
    assert await ids(name="deploy-web-app") == ["1"]
    assert await ids(name="deploy-web") == []
    assert await ids(label=("team", "web")) == ["1"]
    assert await ids(label=("team", None)) == ["2", "1"]
    assert await ids(label=("odd 'n\\", "x\ny")) == ["1"]
    assert await ids(label=("team", "'; DROP TABLE x")) == []
    assert await ids(q="deploy") == ["3", "1"]
    assert await ids(q="DEPLOY -web") == ["3"]
    assert await ids(q='"shop front" azurecr.io') == ["1"]
    assert await ids(q="backup OR myapp") == ["2", "1"]
    assert await ids(q="grüße") == ["1"]
    assert await ids(q="team web") == ["1"]
    assert await ids(q="deploy", status="deprecated") == []
    assert await ids(q="docker", label=("team", "data"), status="deprecated", name="backup") == ["2"]
    for nothing in ("", "!!!", "'", '"', "=tenant-search", "(", "& | !", "\0", "\ud800", "\\", ":*", "-"):
        assert await ids(q=nothing) == [], nothing
    for nonsense in ("\0", "\ud800"):
        assert await ids(name=nonsense) == await ids(status=nonsense) == await ids(label=(nonsense, None)) == []


async def test_search_follows_revisions_rollbacks_and_status(projected: Projected) -> None:
    pool, owner, identity = projected.store.tenant_pool, TenantId("tenant-moves"), IntentId("m")
    stream = "intent-m"

    async def ids(**filters: Any) -> list[str]:
        await projected.caught_up()
        return found(await intents.list_intents(pool, owner, **filters))

    await record(
        projected.store, owner, stream, created("m", definition={"a": "alpha"}, labels={"old": "1"}, description="about")
    )
    assert await ids(q="alpha") == ["m"]
    revised = intent.IntentRevised(identity, Version(2), {"a": "beta"}, "about", {"new": "1"}, BEGIN)
    await record(projected.store, owner, stream, revised)
    assert await ids(q="alpha") == await ids(label=("old", "1")) == []
    assert await ids(q="beta", label=("new", "1")) == ["m"]
    await record(projected.store, owner, stream, intent.IntentRolledBack(identity, Version(3), Version(1), {"a": "alpha"}, BEGIN))
    assert await ids(q="alpha about", label=("new", "1")) == ["m"]
    await record(projected.store, owner, stream, intent.IntentArchived(identity, "deploy-web-app", BEGIN))
    assert await ids(q="alpha", status="active") == []
    assert await ids(q="alpha", status="archived") == ["m"]


async def test_pages_neither_repeat_nor_skip_while_more_comes_in(projected: Projected) -> None:
    pool, owner = projected.store.tenant_pool, TenantId("tenant-pages")
    for number in range(7):
        await record(projected.store, owner, f"intent-{number}", created(str(number), labels={"all": "yes"}))
    await projected.caught_up()
    for filters in ({}, {"q": "docker"}, {"label": ("all", None)}, {"status": "active"}):
        seen, cursor = [], None
        while True:
            page = await intents.list_intents(pool, owner, limit=2, cursor=cursor, **filters)
            seen += [number for number in found(page) if int(number) < 7]
            extra = f"1{len(seen)}{len(filters)}{filters.get('q', '')}{filters.get('label', '')}"
            await record(projected.store, owner, f"intent-{extra}", created("9" + str(abs(hash(extra)))))
            await projected.caught_up()
            if (cursor := page.next_cursor) is None:
                break
        assert seen == ["6", "5", "4", "3", "2", "1", "0"]


async def test_a_cursor_serves_its_own_list_only(projected: Projected) -> None:
    pool, owner = projected.store.tenant_pool, TenantId("tenant-cursor")
    for number in range(3):
        await record(projected.store, owner, f"intent-{number}", created(str(number)))
        await record(projected.store, owner, f"execution-{number}", started(str(number)))
    await projected.caught_up()
    cursor = (await intents.list_intents(pool, owner, limit=1)).next_cursor
    assert cursor is not None
    assert found(await intents.list_intents(pool, owner, limit=9, cursor=cursor)) == ["1", "0"]
    with pytest.raises(InvalidCursor):
        await intents.list_intents(pool, owner, cursor=cursor, status="active")
    with pytest.raises(InvalidCursor):
        await intents.list_intents(pool, TWO, cursor=cursor)
    with pytest.raises(InvalidCursor):
        await executions.list_executions(pool, owner, cursor=cursor)
    for nonsense in (
        "",
        "x",
        "ü",
        cursor[:-1],
        cursor + "A",
        cursor[:-2] + "AA",
        "A" * 27,
        "\0" * 27,
        "x" * 1_000,
        "\ud800" * 20,
    ):
        with pytest.raises(InvalidCursor):
            await intents.list_intents(pool, owner, cursor=nonsense)


async def test_executions_are_found_by_status_intent_and_start(projected: Projected, reader: DocumentReader) -> None:
    pool, owner = projected.store.tenant_pool, TenantId("tenant-runs")
    later = BEGIN + timedelta(hours=1)
    await record(projected.store, owner, "execution-1", started("1"))
    await record(projected.store, owner, "execution-2", started("2", intent_id=IntentId("i-2"), intent_name="backup", at=later))
    await record(projected.store, owner, "execution-2", execution_events.ExecutionCompleted(ExecutionId("2"), later))
    await projected.caught_up()

    async def ids(**filters: Any) -> list[str]:
        return found(await executions.list_executions(pool, owner, **filters))

    assert await ids() == ["2", "1"]
    assert await ids(status="completed") == ["2"]
    assert await ids(intent_id="i-1") == ["1"]
    assert await ids(intent_name="backup") == ["2"]
    assert await ids(started_after=BEGIN) == ["2"]
    assert await ids(started_before=later) == ["1"]
    assert await ids(status="\0") == []
    document = await executions.get_execution(reader, owner, "2")
    assert document is not None
    assert document.version == 2
    assert await executions.get_execution(reader, TWO, "2") is None


async def test_modules_and_tenants_are_listed(projected: Projected, reader: DocumentReader) -> None:
    pool, owner = projected.store.tenant_pool, TenantId("tenant-modules")
    await record(projected.store, owner, f"tenant-{owner}", tenant.TenantRegistered(owner, "Modules Ltd", BEGIN))
    await record(projected.store, owner, "modules", registered("first", "a"), registered("second", "b"))
    await projected.caught_up()
    assert found(await modules.list_modules(pool, owner), "name") == ["second", "first"]
    assert await modules.get_module(reader, owner, "first") is not None
    assert await modules.get_module(reader, TWO, "first") is None
    await record(projected.store, owner, "modules", ModuleRemoved(ModuleName("first"), BEGIN))
    await projected.caught_up()
    assert await modules.get_module(reader, owner, "first") is None
    page = await tenants.list_tenants(projected.store.platform_pool, limit=1)
    assert found(page) == [owner]
    itself = await tenants.get_tenant(reader, owner)
    assert itself is not None
    assert orjson.loads(itself.body)["name"] == "Modules Ltd"
    await record(projected.store, owner, f"tenant-{owner}", tenant.TenantSuspended(owner, None, BEGIN))
    await projected.caught_up()
    assert owner in found(await tenants.list_tenants(projected.store.platform_pool, status="suspended"))


async def test_resources_are_listed_with_what_made_them_and_whether_they_are_there(projected: Projected) -> None:
    pool, owner = projected.store.tenant_pool, TenantId("tenant-resources")
    disk = ResourceReleased(ExecutionId("e-1"), StepId("build"), "disk", "d/1", BEGIN)
    made = provisioned("e-1", "build", "vm", "1"), provisioned("e-1", "build", "disk", "d/1")
    await record(projected.store, owner, "execution-e-1", *made, disk)
    await record(projected.store, owner, "execution-e-2", provisioned("e-2", "deploy", "vm", "2"))
    await record(projected.store, owner, "execution-e-2", provisioned("e-2", "deploy", "x" * 5_000, "y" * 5_000))
    await projected.caught_up()

    async def ids(**filters: Any) -> list[str]:
        return found(await resources.list_resources(pool, owner, **filters))

    assert await ids() == ["y" * 5_000, "2", "d/1", "1"]
    assert await ids(type="vm") == ["2", "1"]
    assert await ids(type="x" * 5_000) == ["y" * 5_000]
    assert await ids(execution_id="e-1", status="provisioned") == ["1"]
    assert await ids(status="released") == ["d/1"]
    assert await ids(type="\0") == []
    assert found(await resources.list_resources(pool, TWO)) == []
    shown = orjson.loads((await resources.list_resources(pool, owner, status="released")).items[0])
    assert shown["released_by"] == {"execution_id": "e-1", "step": "build"}
    assert (shown["attributes"], shown["execution_id"], shown["step"]) == ({"size": 2}, "e-1", "build")
    await record(projected.store, owner, "execution-e-3", provisioned("e-3", "again", "disk", "d/1"))
    await projected.caught_up()
    [again] = [orjson.loads(item) for item in (await resources.list_resources(pool, owner, type="disk")).items]
    assert (again["status"], again["execution_id"], again["released_at"]) == ("provisioned", "e-3", None)
    first = await resources.list_resources(pool, owner, limit=1)
    assert found(await resources.list_resources(pool, owner, limit=3, cursor=first.next_cursor)) == ["y" * 5_000, "2", "1"]


FUNCTIONS = {
    "read_intents": "SELECT * FROM quantum.read_intents(ARRAY[$1], ARRAY['i'])",
    "read_executions": "SELECT * FROM quantum.read_executions(ARRAY[$1], ARRAY['i'])",
    "read_modules": "SELECT * FROM quantum.read_modules(ARRAY[$1], ARRAY['i'])",
    "read_tenants": "SELECT * FROM quantum.read_tenants(ARRAY[$1], ARRAY['tenant-guarded'])",
    "read_subscriptions": "SELECT * FROM quantum.read_subscriptions(ARRAY[$1], ARRAY['s'])",
    "list_intents": "SELECT * FROM quantum.list_intents($1, NULL, 1::bigint << 40, 10)",
    "list_intent_versions": "SELECT * FROM quantum.list_intent_versions($1, 'i', 1::bigint << 40, 10)",
    "list_executions": "SELECT * FROM quantum.list_executions($1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1::bigint << 40, 10)",
    "match_executions": (
        "SELECT * FROM quantum.match_executions($1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1::bigint << 40, 10)"
    ),
    "list_resources": "SELECT * FROM quantum.list_resources($1, NULL, NULL, NULL, 1::bigint << 40, 10)",
    "list_subscriptions": "SELECT * FROM quantum.list_subscriptions($1, 1::bigint << 40, 10)",
    "list_modules": "SELECT * FROM quantum.list_modules($1, 1::bigint << 40, 10)",
    "search_intents": "SELECT * FROM quantum.search_intents(left($1, 0) || NULL, '{}', NULL, NULL, 1::bigint << 40, 10)",
}


async def test_no_table_and_no_function_shows_a_row_without_its_tenant(projected: Projected, database: Database) -> None:
    guarded = TenantId("tenant-guarded")
    await record(projected.store, guarded, f"tenant-{guarded}", tenant.TenantRegistered(guarded, "Guarded", BEGIN))
    await record(projected.store, guarded, "intent-i", created("i"))
    await record(projected.store, guarded, "execution-i", started("i"))
    await record(projected.store, guarded, "modules", registered("i", "a"))
    await record(projected.store, guarded, "execution-i", provisioned("i", "build", "vm", "1"))
    await record(projected.store, guarded, "subscriptions", subscribed("s"))
    await projected.caught_up()
    connection = await asyncpg.connect(database.app_dsn)
    try:
        made = {name for model in READ_MODELS for name in re.findall(r"CREATE .*FUNCTION quantum\.(\w+)\(", model.functions)}
        assert made == set(FUNCTIONS), "a function is missing from this test"

        async def seen(tenant_id: str | None) -> set[str]:
            shown = set()
            async with connection.transaction():
                if tenant_id is not None:
                    await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
                for table in TABLES:
                    owners = await connection.fetch(f"SELECT DISTINCT tenant_id FROM quantum_read.{table}")
                    assert {row["tenant_id"] for row in owners} <= {tenant_id}
                    shown |= {table} if owners else set()
                for name, query in FUNCTIONS.items():
                    shown |= {name} if await connection.fetch(query, tenant_id or "") else set()
            return shown

        assert await seen(guarded) == {*TABLES, *FUNCTIONS}
        assert await seen(None) == await seen("") == await seen("tenant-nobody") == set()
        for statement in (
            "INSERT INTO quantum_read.tenants VALUES ('x', 1, 1, 1, 'active', '')",
            "UPDATE quantum_read.tenants SET status = 'active'",
            "DELETE FROM quantum_read.intents",
            "TRUNCATE quantum_read.intents",
            "SELECT * FROM quantum_rebuild.intents",
            "SELECT * FROM quantum.projection_faults",
            "UPDATE quantum.projections SET position = 0",
            "SELECT quantum.switch_projection('intents')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
