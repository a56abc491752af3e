# intent_ref: tests.log-isolation
"""What the application's database role can see and do: its tenant's rows, and nothing else."""

import asyncpg
import pytest

from domain.values import StreamId, TenantId
from event_store import group_commit
from event_store.ids import uuid7
from event_store.records import Append, Claim, NewEvent, StreamAppend
from event_store.store import EventStore
from event_store.tenancy import UnsafeRole, check_role
from tests.conftest import Database
from tests.streams import METADATA, append

TENANT_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND c.relnamespace = 'quantum'::regnamespace
   AND a.attname = 'tenant_id' AND NOT a.attisdropped
"""


@pytest.fixture
async def app(store: EventStore, database: Database):
    await append(store, "mine", "s", 2, claims=[Claim("name", "v", StreamId("s"))])
    await append(store, "theirs", "s", 3, claims=[Claim("name", "w", StreamId("s"))])
    connection = await asyncpg.connect(database.app_dsn)
    yield connection
    await connection.close()


async def test_without_a_tenant_no_row_of_any_table_is_visible(app: asyncpg.Connection) -> None:
    tables = [row[0] for row in await app.fetch(TENANT_TABLES)]
    assert {"events", "claims", "snapshots"} <= set(tables)
    for table in tables:
        if not await app.fetchval("SELECT has_table_privilege($1, 'SELECT')", f"quantum.{table}"):
            continue
        assert await app.fetchval(f"SELECT count(*) FROM quantum.{table}") == 0, table
        async with app.transaction():
            await app.execute("SELECT set_config('app.tenant_id', 'mine', true)")
        assert await app.fetchval(f"SELECT count(*) FROM quantum.{table}") == 0, f"{table} after a local setting"


async def test_every_table_with_tenants_forces_row_level_security(app: asyncpg.Connection) -> None:
    unsafe = await app.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'quantum'::regnamespace AND relkind IN ('r', 'p')"
        f" AND relname IN ({TENANT_TABLES}) AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert unsafe == []


async def test_with_a_tenant_only_its_rows_are_visible(app: asyncpg.Connection) -> None:
    async with app.transaction():
        await app.execute("SELECT set_config('app.tenant_id', 'mine', true)")
        assert {row[0] for row in await app.fetch("SELECT tenant_id FROM quantum.events")} == {"mine"}
        assert {row[0] for row in await app.fetch("SELECT tenant_id FROM quantum.claims")} == {"mine"}
        assert await app.fetch("SELECT * FROM quantum.events WHERE tenant_id = 'theirs'") == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO quantum.claims VALUES ('mine', 'name', 'x', 's')",
        "UPDATE quantum.events SET payload = ''",
        "DELETE FROM quantum.events",
        "TRUNCATE quantum.events",
        "SET ROLE quantum_log_writer",
        "SET ROLE quantum_owner",
        "SET ROLE quantum_platform",
        "ALTER TABLE quantum.events DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE quantum.mine (x int)",
        "SELECT nextval('quantum.event_position')",
    ],
)
async def test_the_application_cannot_change_the_log_or_become_somebody_else(app: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(statement)


async def test_a_batch_cannot_store_rows_of_a_tenant_it_does_not_name(app: asyncpg.Connection) -> None:
    part = StreamAppend(StreamId("s"), [NewEvent(uuid7(), "intent.deprecated.v1", b"{}")], -1)
    pending = group_commit._Pending(Append(TenantId("mine"), uuid7(), METADATA, (part,)), (), 1, None, 0.0)  # type: ignore[arg-type]
    arguments = list(group_commit._arguments([pending]))
    arguments[2] = "{theirs}"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await app.fetchrow(group_commit._SQL, *arguments)


async def test_a_tenant_id_that_looks_like_an_array_is_only_a_name(store: EventStore) -> None:
    for tenant in ("a,theirs", 'a","theirs', "{theirs}", "NULL", ""):
        await append(store, tenant, "s")
        assert {e.tenant_id for e in await store.read_stream(TenantId(tenant), StreamId("s"))} in ({tenant}, set())
    assert len(await store.read_stream(TenantId("theirs"), StreamId("s"))) % 3 == 0


async def test_logins_under_which_tenants_would_not_be_apart_are_refused(database: Database) -> None:
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        with pytest.raises(UnsafeRole, match="superuser"):
            await check_role(owner, "QUANTUM_DATABASE_URL", "quantum_app")
        await owner.execute("SET SESSION AUTHORIZATION quantum_owner")
        with pytest.raises(UnsafeRole, match="owns the tables"):
            await check_role(owner, "QUANTUM_DATABASE_URL", "quantum_app")
        await owner.execute("RESET SESSION AUTHORIZATION; SET SESSION AUTHORIZATION quantum_platform")
        with pytest.raises(UnsafeRole, match="not a member of quantum_app"):
            await check_role(owner, "QUANTUM_DATABASE_URL", "quantum_app")
        await owner.execute("RESET SESSION AUTHORIZATION; SET SESSION AUTHORIZATION quantum_app")
        await check_role(owner, "QUANTUM_DATABASE_URL", "quantum_app")
    finally:
        await owner.close()
