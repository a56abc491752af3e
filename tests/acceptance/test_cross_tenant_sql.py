# intent_ref: tests.cross-tenant
"""Everything that the application's database role can reach, whoever is set as the tenant: its rows and nobody else's."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from event_store.ids import uuid7
from tests.conftest import Database
from tests.http_platform import serving
from tests.waiting import wait_until

SCHEMAS = ("quantum", "quantum_read", "quantum_rebuild", "quantum_swap")
_RELATIONS = """
SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS owned,
       c.relrowsecurity AND c.relforcerowsecurity AS forced
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') ORDER BY 1
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS name, format('%I.%I', n.nspname, p.proname) AS call, p.prosecdef AS definer,
       coalesce(p.proargnames[1:p.pronargs], '{}') AS names,
       ARRAY(SELECT format_type(one, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS of (one, n) ORDER BY n) AS types
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = ANY ($1) AND p.prokind = 'f' AND has_function_privilege('quantum_app', p.oid, 'EXECUTE') ORDER BY 1
"""
_DENIED = (asyncpg.InsufficientPrivilegeError,)


@dataclass(frozen=True)
class Filled:
    """A database with two tenants' data in everything that a platform fills, and a login of each role that matters."""

    app: asyncpg.Connection
    owner: asyncpg.Connection
    mine: str
    theirs: str
    canary: str
    ids: dict[str, str]

    def is_told(self, value: Any, *, sent: str = "") -> bool:
        """Whether something of theirs that was not `sent` is in an answer, as text or as bytes."""
        text = repr(value)
        marks = (self.canary, self.theirs, self.ids["intent"], self.ids["execution"])
        return any(mark not in sent and (mark in text or mark.encode().hex() in text) for mark in marks)

    async def theirs_now(self) -> dict[str, Any]:
        """What every table has of theirs, as a superuser sees it."""
        found = {}
        for relation in await self.owner.fetch(_RELATIONS, list(SCHEMAS)):
            if relation["owned"] and relation["kind"] in "rp":
                found[relation["name"]] = await self.owner.fetchval(
                    f"SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {relation['name']} AS t"
                    " WHERE tenant_id = $1",
                    self.theirs,
                )
        return found


@pytest.fixture(scope="module")
async def filled(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    canary, ids = f"canary{uuid7().hex[-10:]}", {}
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as http:
        for tenant, word in ((mine := await http.tenant(), "harmless"), (theirs := await http.tenant(), canary)):
            module = {
                "name": f"module-{word}",
                "actions": [{"name": f"action-{word}"}],
                "transport": f"https://example.com/{word}",
            }
            assert (await tenant.post("/modules", module)).status_code == 201
            steps = [{"action": "no-op", "note": word}]
            intent = await tenant.intent(f"intent-{word}", steps, labels={word: word}, description=word)
            started = await tenant.post(f"/intents/{intent.json()['id']}/execute", {"inputs": {"thing": word}})
            path = f"/executions/{started.json()['execution_id']}"

            async def ended(tenant: Any = tenant, path: str = path) -> bool:
                shown = await tenant.get(path)
                return shown.status_code == 200 and shown.json()["status"] == "completed"

            await wait_until(ended, what="the execution to end")
            assert (await tenant.get("/intents", params={"q": word}, after=started)).json()["items"]
            ids = {"intent": intent.json()["id"], "execution": started.json()["execution_id"]}
        # With a row in every table that only some platforms fill.
    owner = await asyncpg.connect(database.owner_dsn)
    app = await asyncpg.connect(database.app_dsn)
    await _fill_the_rest(owner, mine.id, theirs.id, canary)
    try:
        yield Filled(app, owner, mine.id, theirs.id, canary, ids)
    finally:
        await app.close()
        await owner.close()


async def _fill_the_rest(owner: asyncpg.Connection, *texts: str) -> None:
    """Rows of both tenants in every owned table that is still empty, with whatever its columns take."""
    mine, theirs, canary = texts
    for relation in await owner.fetch(_RELATIONS, list(SCHEMAS)):
        if not relation["owned"] or relation["kind"] not in "rp":
            continue
        for number, (tenant, word) in enumerate(((mine, "harmless"), (theirs, canary)), start=1):
            if await owner.fetchval(f"SELECT count(*) FROM {relation['name']} WHERE tenant_id = $1", tenant):
                continue
            columns = await owner.fetch(
                "SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type FROM pg_attribute a"
                " WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''",
                relation["name"],
            )
            values = {
                "text": f"'{word}'", "uuid": "gen_random_uuid()", "bytea": f"'{word}'", "json": f"'\"{word}\"'",
                "boolean": "true", "jsonb": f"'\"{word}\"'", "tsvector": f"'{word}'", "timestamp with time zone": "now()",
                "text[]": f"'{{{word}}}'",
            }  # fmt: skip
            row = [f"'{tenant}'" if one["name"] == "tenant_id" else values.get(one["type"], str(number)) for one in columns]
            names = ", ".join(one["name"] for one in columns)
            await owner.execute(f"INSERT INTO {relation['name']} ({names}) VALUES ({', '.join(row)})")


async def test_every_table_with_tenants_in_any_schema_forces_row_level_security(filled: Filled):
    relations = await filled.owner.fetch(_RELATIONS, list(SCHEMAS))
    owned = [relation for relation in relations if relation["owned"] and relation["kind"] in "rp"]
    assert len(owned) > 15
    assert [relation["name"] for relation in owned if not relation["forced"]] == []
    for relation in owned:
        assert await filled.owner.fetchval(f"SELECT count(*) FROM {relation['name']} WHERE tenant_id = $1", filled.theirs) > 0


async def test_every_view_asks_with_the_rights_of_whoever_reads_it(filled: Filled):
    views = await filled.owner.fetch(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY ($1)"
        " AND c.relkind IN ('v', 'm') AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)",
        list(SCHEMAS),
    )
    assert views == []


async def test_every_unique_key_of_a_table_with_tenants_is_a_tenants_own(filled: Filled):
    """A key over all tenants would tell by its refusal what another tenant has."""
    shared = await filled.owner.fetch(
        "SELECT i.indexrelid::regclass::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        "  JOIN pg_namespace n ON n.oid = c.relnamespace"
        "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'"
        " WHERE n.nspname = ANY ($1) AND i.indisunique AND NOT a.attnum = ANY (i.indkey)"
        # Where only the platform writes, no statement of a tenant's can run into it.
        "   AND has_table_privilege('quantum_app', c.oid, 'INSERT, UPDATE')",
        list(SCHEMAS),
    )
    assert shared == []
    foreign = await filled.owner.fetch(
        "SELECT conname FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace"
        "  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attname = 'tenant_id'"
        " WHERE n.nspname = ANY ($1) AND k.contype = 'f' AND NOT a.attnum = ANY (k.conkey)",
        list(SCHEMAS),
    )
    assert foreign == []


@pytest.mark.parametrize("tenant", ["none", "mine", "theirs-then-none", "empty", "after-an-error", "nonsense"])
async def test_no_relation_shows_a_row_of_theirs(filled: Filled, tenant: str):
    seen = 0
    for relation in await filled.owner.fetch(_RELATIONS, list(SCHEMAS)):
        name = relation["name"]
        transaction = filled.app.transaction()
        await transaction.start()
        try:
            if tenant == "theirs-then-none":
                await filled.app.execute("SELECT set_config('app.tenant_id', $1, true)", filled.theirs)
                await transaction.rollback()
                transaction = filled.app.transaction()
                await transaction.start()
            elif tenant == "after-an-error":
                await filled.app.execute("SELECT set_config('app.tenant_id', $1, true)", filled.mine)
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await _failing_as(filled.app, filled.theirs)
            elif tenant != "none":
                value = {"mine": filled.mine, "empty": "", "nonsense": f"{filled.theirs},{filled.mine}"}[tenant]
                await filled.app.execute("SELECT set_config('app.tenant_id', $1, true)", value)
            try:
                whole = "" if relation["kind"] == "S" else ", t::text AS whole"
                rows = await filled.app.fetch(f"SELECT t.*{whole} FROM {name} AS t")
            except _DENIED:
                continue
            told = [row for row in rows if filled.is_told(tuple(row))]
            assert told == [], name
            if relation["owned"]:
                seen += len(rows)
                assert {row["tenant_id"] for row in rows} <= {filled.mine}
        finally:
            await transaction.rollback()
    assert (seen > 0) == (tenant in ("mine", "after-an-error")), "the test is to look at something"


async def _failing_as(connection: asyncpg.Connection, tenant: str) -> None:
    async with connection.transaction():
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        await connection.execute("SELECT 1 / 0")


@pytest.mark.parametrize("tenant", ["none", "mine"])
async def test_no_statement_changes_a_row_of_theirs(filled: Filled, tenant: str):
    before = await filled.theirs_now()
    for relation in await filled.owner.fetch(_RELATIONS, list(SCHEMAS)):
        name = relation["name"]
        if relation["kind"] not in "rp":
            continue
        for statement in (
            f"UPDATE {name} SET tenant_id = '{filled.mine}'", f"UPDATE {name} SET tenant_id = '{filled.theirs}'",
            f"DELETE FROM {name}", f"DELETE FROM {name} WHERE tenant_id = '{filled.theirs}'", f"TRUNCATE {name}",
            f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE", f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY", f"DROP TABLE {name}",
            f"CREATE POLICY mine ON {name} USING (true)", f"COPY {name} FROM PROGRAM 'true'", f"SELECT * FROM {name} FOR UPDATE",
            f"INSERT INTO {name} SELECT * FROM {name}", f"CREATE RULE r AS ON SELECT TO {name} DO ALSO NOTHING",
            f"CREATE INDEX ON {name} (tenant_id)", f"GRANT ALL ON {name} TO PUBLIC", f"COMMENT ON TABLE {name} IS 'x'",
            f"CREATE TRIGGER t BEFORE INSERT ON {name} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ):  # fmt: skip
            transaction = filled.app.transaction()
            await transaction.start()
            try:
                if tenant == "mine":
                    await filled.app.execute("SELECT set_config('app.tenant_id', $1, true)", filled.mine)
                await filled.app.execute(statement)
            except asyncpg.PostgresError:
                await transaction.rollback()
            else:
                await transaction.commit()
    assert await filled.theirs_now() == before


async def test_every_function_given_my_tenant_and_their_ids_tells_and_changes_nothing_of_theirs(filled: Filled):
    functions = await filled.owner.fetch(_FUNCTIONS, list(SCHEMAS))
    assert len(functions) > 10
    assert {function["call"] for function in functions if function["definer"]} <= {
        "quantum.append_events", "quantum.search_intents", "quantum.keep_snapshot",
    }, "a new function that sees more than its caller: look at it, then list it here"  # fmt: skip
    command = await filled.owner.fetchval("SELECT command_id FROM quantum.events WHERE tenant_id = $1 LIMIT 1", filled.theirs)
    before, called = await filled.theirs_now(), 0
    for function in functions:
        for text in (filled.canary, filled.ids["intent"], filled.ids["execution"], f"intent-{filled.ids['intent']}",
                     f"execution-{filled.ids['execution']}", f"intent-{filled.canary}", filled.theirs, "modules",
                     None):  # fmt: skip
            asked = list(itertools.zip_longest(function["names"], function["types"], fillvalue=""))
            # The text everywhere, and in each place with nothing in the others; numbers high and low.
            for alone, is_high in itertools.product((None, *range(len(asked))), (True, False)):
                arguments = [
                    _argument(name, kind, filled.mine, text if alone in (None, number) else None, str(command), is_high=is_high)
                    for number, (name, kind) in enumerate(asked)
                ]
                source = f"SELECT * FROM {function['call']}({', '.join(arguments)}) AS answer"
                for statement in (source, f"SELECT set_config('app.tenant_id', '{filled.mine}', true); {source}"):
                    try:
                        answer = await _last(filled.app, statement)
                    except asyncpg.PostgresError as refused:
                        answer = [(str(refused), getattr(refused, "detail", ""))]
                    else:
                        called += 1
                    told = [row for row in answer if filled.is_told(tuple(row), sent=statement)]
                    assert told == [], (statement, told)
    assert called > 50
    assert await filled.theirs_now() == before
    for relation in await filled.owner.fetch(_RELATIONS, list(SCHEMAS)):
        if relation["owned"] and relation["kind"] in "rp":  # what I have written of theirs myself, as mine
            await filled.owner.execute(
                f"DELETE FROM {relation['name']} AS t WHERE tenant_id = '{filled.mine}' AND (t::text LIKE '%{filled.canary}%'"
                f" OR t::text LIKE '%{filled.ids['intent']}%' OR t::text LIKE '%{filled.ids['execution']}%'"
                f" OR t::text LIKE '%{filled.theirs}%')"
            )


def _argument(name: str, kind: str, mine: str, text: str | None, command: str, *, is_high: bool) -> str:
    """SQL for one argument: my tenant where a tenant is asked for, theirs where anything else is."""
    if "tenant" in name:
        return f"ARRAY['{mine}']" if kind.endswith("[]") else f"'{mine}'"
    quoted = "NULL" if text is None else "'" + text.replace("'", "''") + "'"
    of = {
        "text": quoted, "uuid": f"'{command}'", "integer": "2147483647" if is_high else "0",
        "boolean": str(is_high).lower(),
        "bigint": "4000000000000000000" if is_high else "0", "timestamp with time zone": "NULL", "bytea": "''",
        "text[]": f"ARRAY[{quoted}]::text[]", "uuid[]": f"ARRAY['{command}']::uuid[]", "integer[]": "ARRAY[1]",
        "bigint[]": "ARRAY[1]",
        "bytea[]": "ARRAY[''::bytea]", "boolean[]": "ARRAY[true]",
    }  # fmt: skip
    return f"{of[kind]}::{kind}" if kind in of else f"NULL::{kind}"


async def _last(connection: asyncpg.Connection, statements: str) -> list[Any]:
    """The rows of the last of one or two statements in one transaction."""
    first, _, last = statements.rpartition("; ")
    async with connection.transaction():
        if first:
            await connection.execute(first)
        rows: list[Any] = await connection.fetch(last)
        return rows


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE quantum_platform", "SET ROLE quantum_owner", "SET ROLE quantum_log_writer", "SET ROLE quantum_search",
        "SET ROLE postgres", "SET SESSION AUTHORIZATION quantum_platform", "ALTER ROLE quantum_app BYPASSRLS", "CREATE ROLE x",
        "GRANT quantum_platform TO quantum_app", "ALTER DEFAULT PRIVILEGES FOR ROLE quantum_owner GRANT ALL ON TABLES TO PUBLIC",
        "CREATE TABLE quantum.x (y int)", "CREATE TABLE quantum_read.x (y int)", "CREATE TABLE public.x (y int)",
        "CREATE SCHEMA x",
        "CREATE DATABASE x",
        "CREATE OR REPLACE FUNCTION quantum.current_tenant() RETURNS text LANGUAGE sql RETURN 'x'",
        "ALTER FUNCTION quantum.append_events OWNER TO quantum_app", "SELECT pg_read_file('PG_VERSION')", "SELECT pg_ls_dir('.')",
        "SELECT lo_import('/etc/passwd')", "COPY (SELECT 1) TO PROGRAM 'true'", "COPY (SELECT 1) TO '/tmp/x'",
        "ALTER SYSTEM SET fsync = off",
        "SELECT * FROM pg_authid", "SELECT * FROM pg_statistic",
        "SELECT set_config('session_replication_role', 'replica', false)",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
    ],
)  # fmt: skip
async def test_the_application_cannot_become_more_than_it_is(filled: Filled, statement: str):
    with pytest.raises((*_DENIED, asyncpg.InvalidParameterValueError, asyncpg.ObjectNotInPrerequisiteStateError)):
        await filled.app.execute(statement)


async def test_row_level_security_cannot_be_switched_off(filled: Filled):
    async with filled.app.transaction():
        await filled.app.execute("SET LOCAL row_security = off")
        with pytest.raises(_DENIED):
            async with filled.app.transaction():
                await filled.app.fetch("SELECT * FROM quantum.events")


async def test_a_condition_that_tells_what_it_is_asked_about_is_asked_about_my_rows_only(filled: Filled):
    """A cheap function of one's own, errors with a row's text, and operators whose cost tempts the planner to run them first."""
    heard: list[str] = []
    conditions = ("pg_temp.tell(t::text)", "t::text LIKE '%canary%'", "(1 / (length(t::text) - length(t::text))) = 1")
    listener = lambda _connection, message: heard.append(str(message))  # noqa: E731 - asyncpg wants the same object twice
    filled.app.add_log_listener(listener)
    try:
        async with filled.app.transaction():
            await filled.app.execute(
                "CREATE FUNCTION pg_temp.tell(what text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
                " $$ BEGIN RAISE NOTICE '%', what; RETURN true; END $$"
            )
            await filled.app.execute("SELECT set_config('app.tenant_id', $1, true)", filled.mine)
            for relation in await filled.owner.fetch(_RELATIONS, list(SCHEMAS)):
                if relation["owned"] and relation["kind"] in "rp":
                    for condition in conditions:
                        try:
                            async with filled.app.transaction():
                                rows = await filled.app.fetch(f"SELECT t::text FROM {relation['name']} AS t WHERE {condition}")
                        except asyncpg.PostgresError as fault:
                            heard.append(f"{fault} {getattr(fault, 'detail', '')}")
                        else:
                            assert not filled.is_told([tuple(row) for row in rows])
    finally:
        filled.app.remove_log_listener(listener)
    assert any("harmless" in line for line in heard), "the test is to hear something"
    assert not [line for line in heard if filled.is_told(line)]


async def test_what_the_database_says_about_itself_holds_no_values(filled: Filled):
    await filled.owner.execute("ANALYZE")
    for view in ("pg_stats", "pg_stats_ext", "pg_stat_activity", "pg_locks", "pg_stat_user_tables"):
        others = " WHERE pid <> pg_backend_pid()" if view == "pg_stat_activity" else ""
        rows = await filled.app.fetch(f"SELECT t::text FROM {view} AS t{others}")
        assert not filled.is_told([tuple(row) for row in rows]), view
    async with filled.app.transaction():
        await filled.app.execute("SELECT set_config('app.tenant_id', $1, true)", filled.mine)
        plan = await filled.app.fetch("EXPLAIN (VERBOSE) SELECT * FROM quantum.events WHERE topic > 'a'")
        assert not filled.is_told([tuple(row) for row in plan])


async def test_what_is_said_aloud_when_the_log_grows_names_nobody(filled: Filled):
    functions = await filled.owner.fetch(
        "SELECT prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY ($1)"
        " AND prosrc ~* 'pg_notify|notify '", list(SCHEMAS),
    )  # fmt: skip
    for function in functions:
        assert "tenant" not in function["prosrc"].partition("pg_notify")[2].partition(";")[0]
