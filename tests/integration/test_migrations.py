# intent_ref: tests.migrations
"""Migrations: each once, in order, by an administrator; what does not fit this release is refused, and no event is ever lost."""

import asyncio
import hashlib
import itertools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from domain.values import StreamId, TenantId
from event_store import migrate as migrate_module
from event_store.ids import uuid7
from event_store.migrate import MigrationError, migrate, migrations, pending
from event_store.store import EventStore
from quantum.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from quantum.schema import upgrade
from tests.streams import append

ALL = [name for _, name, _ in migrations()]
_APPENDED_BY_RELEASE_9 = """
SELECT heads FROM quantum.append_events(
    ARRAY[$1::text]::text, '{1}', ARRAY[$1::text], ARRAY[$2::text], '{0}', ARRAY[gen_random_uuid()],
    ARRAY['{"correlation_id": "c", "causation_id": null, "actor": "a", "traceparent": null}'], '{0}',
    ARRAY[cardinality($3::uuid[])], $3, array_fill('test.happened.v1'::text, ARRAY[cardinality($3)]),
    array_fill('{}'::bytea, ARRAY[cardinality($3)]),
    '{}', '{}', '{}', '{}', '{}', '{}')
"""
"""Events of a new stream: tenant, stream, event ids."""
_numbers = itertools.count(1)


class Empty:
    """A database without a schema, on the test's server, and logins to it."""

    def __init__(self, urls: DatabaseUrls, name: str) -> None:
        self.name = name
        self.owner_dsn, self.app_dsn, self.platform_dsn = (
            dsn.replace("/quantum?", f"/{name}?", 1) for dsn in (urls.owner_dsn, urls.app_dsn, urls.platform_dsn)
        )

    def dsn_of(self, role: str) -> str:
        """The login of that role."""
        return self.app_dsn.replace("quantum_app", role, 1)

    async def connect(self, role: str = "postgres") -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the server's superuser, or of that role."""
        return await asyncpg.connect(self.owner_dsn if role == "postgres" else self.dsn_of(role))

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows, as the superuser."""
        connection = await self.connect()
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()


@pytest.fixture
async def empty(postgres: DatabaseUrls) -> AsyncIterator[Empty]:
    """An empty database of this test alone."""
    database = Empty(postgres, f"empty_{next(_numbers)}")
    maintenance = await asyncpg.connect(postgres.owner_dsn.replace("/quantum?", "/postgres?", 1))
    await maintenance.execute(f'CREATE DATABASE "{database.name}" TEMPLATE template0')
    try:
        yield database
    finally:
        await maintenance.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')
        await maintenance.close()


def only(monkeypatch: pytest.MonkeyPatch, up_to: int) -> None:
    """Lets the release end with this migration."""
    known = [migration for migration in migrations() if migration[0] <= up_to]
    monkeypatch.setattr(migrate_module, "migrations", lambda: known)


async def test_every_migration_is_applied_once_in_order_and_reported(empty: Empty) -> None:
    reported: list[str] = []
    assert await migrate(empty.owner_dsn, reported.append) == ALL
    assert reported == ALL
    assert await migrate(empty.owner_dsn) == []
    rows = await empty.fetch("SELECT name FROM quantum.schema_migrations ORDER BY number")
    assert [row["name"] for row in rows] == ALL


def test_files_are_numbered_without_repetition() -> None:
    numbers = [number for number, _, _ in migrations()]
    assert numbers == sorted(set(numbers))
    folder = Path(migrate_module.__file__).parent / "migrations"
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".sql") == ALL, "a misnamed file would never run"


def test_files_that_some_database_may_have_applied_stay_as_they_are() -> None:
    """A new migration adds its line: `sha256sum *.sql`, in the folder of the migrations."""
    lines = (Path(__file__).parents[1] / "golden" / "migrations.sha256").read_text(encoding="utf-8").splitlines()
    kept = {name: checksum for checksum, name in (line.split() for line in lines)}
    assert kept == {name: hashlib.sha256(sql.encode()).hexdigest() for _, name, sql in migrations()}


async def test_concurrent_runs_wait_for_each_other_and_apply_each_migration_once(empty: Empty) -> None:
    async with asyncio.timeout(60):
        runs = await asyncio.gather(*(migrate(empty.owner_dsn) for _ in range(5)))
    assert sorted(len(done) for done in runs) == [0, 0, 0, 0, len(ALL)]


async def test_an_applied_file_that_has_changed_is_refused_and_nothing_else_is_applied(
    empty: Empty, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = migrations()
    with monkeypatch.context() as earlier:
        only(earlier, 6)
        await migrate(empty.owner_dsn)
    changed = [(number, name, sql + "-- edited" if number == 3 else sql) for number, name, sql in original]
    monkeypatch.setattr(migrate_module, "migrations", lambda: changed)
    with pytest.raises(MigrationError, match=r"0003_events\.sql has changed since it was applied"):
        await migrate(empty.owner_dsn)
    assert len(await empty.fetch("SELECT FROM quantum.schema_migrations")) == 6


async def test_a_database_that_applied_two_files_as_they_were_for_a_while_is_brought_to_the_same_state(empty: Empty) -> None:
    await migrate(empty.owner_dsn)
    shape = "SELECT oid::regprocedure::text, md5(prosrc), proacl::text FROM pg_proc WHERE pronamespace = 'quantum'::regnamespace"
    fresh = sorted(tuple(row) for row in await empty.fetch(shape))
    for name, checksum in migrate_module._ALSO_APPLIED_AS.items():
        await empty.fetch("UPDATE quantum.schema_migrations SET checksum = $2 WHERE name = $1", name, checksum)
    await empty.fetch("DELETE FROM quantum.schema_migrations WHERE number IN (21, 52)")  # it had what they do already
    assert await migrate(empty.owner_dsn) == ["0021_claims_by_lane.sql", "0052_choice_is_the_platforms.sql"]
    assert sorted(tuple(row) for row in await empty.fetch(shape)) == fresh


async def test_a_database_newer_than_the_release_is_refused(empty: Empty, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(empty.owner_dsn)
    only(monkeypatch, 7)
    with pytest.raises(MigrationError, match="which this release does not know: upgrade Quantum"):
        await migrate(empty.owner_dsn)
    connection = await empty.connect("quantum_app")
    try:
        with pytest.raises(MigrationError, match="upgrade Quantum"):
            await pending(connection)
    finally:
        await connection.close()


async def test_what_is_pending_is_named_before_and_gone_after(empty: Empty, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await empty.connect()
    try:
        assert await pending(connection) == ALL
        with monkeypatch.context() as earlier:
            only(earlier, 3)
            await migrate(empty.owner_dsn)
        assert await pending(connection) == ALL[3:]
        await migrate(empty.owner_dsn)
        assert await pending(connection) == []
    finally:
        await connection.close()


async def test_a_migration_that_fails_leaves_nothing_behind_and_can_be_tried_again(
    empty: Empty, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = migrations()
    broken = [*whole[:2], (3, "0003_broken.sql", "CREATE TABLE quantum.half (x int); SELECT 1 / 0"), *whole[3:]]
    with monkeypatch.context() as earlier:
        earlier.setattr(migrate_module, "migrations", lambda: broken)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(empty.owner_dsn)
    assert await empty.fetch("SELECT to_regclass('quantum.half') AS half") == [(None,)]
    assert await migrate(empty.owner_dsn) == ALL[2:]


async def test_upgrading_a_database_full_of_events_keeps_every_one_of_them(empty: Empty, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        only(earlier, 9)
        await migrate(empty.owner_dsn)
    writer = await empty.connect("quantum_app")
    store = await EventStore.connect(app_dsn=empty.app_dsn, platform_dsn=empty.platform_dsn)
    try:
        # As a release of that time wrote and read it: today's asks functions that are not there yet.
        for n in range(100):
            await writer.execute(_APPENDED_BY_RELEASE_9, f"tenant-{n % 5}", f"stream-{n}", [uuid7() for _ in range(20)])
        before = await store._read_log_of_all(0, await store.horizon(), 10_000, None)
        assert len(before) == 2000
    finally:
        await store.close()
        await writer.close()

    assert await migrate(empty.owner_dsn) == ALL[9:]

    store = await EventStore.connect(app_dsn=empty.app_dsn, platform_dsn=empty.platform_dsn)
    try:
        assert (await store.read_log(0, limit=10_000)).events == before
        appended = await append(store, "tenant-1", "stream-1", expected=20)
        assert appended.position > before[-1].position
        assert len(await store.read_stream(TenantId("tenant-1"), StreamId("stream-1"))) == 21
    finally:
        await store.close()


@pytest.mark.parametrize("role", ["quantum_app", "quantum_platform"])
async def test_the_roles_that_serve_cannot_migrate(empty: Empty, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await migrate(empty.dsn_of(role))
    with monkeypatch.context() as earlier:
        only(earlier, 5)
        await migrate(empty.owner_dsn)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await migrate(empty.dsn_of(role))
    connection = await empty.connect(role)
    try:
        for forbidden in ("DELETE FROM quantum.schema_migrations", "UPDATE quantum.schema_migrations SET checksum = ''"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
        assert await pending(connection) == ALL[5:], "but they can tell what is missing"
    finally:
        await connection.close()


@pytest.fixture
async def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Empty]:
    """A server on which nobody has heard of Quantum: none of its roles, none of its databases."""
    data_dir = tmp_path_factory.mktemp("bare")
    server = EmbeddedPostgres(data_dir, durable=False)
    maintenance = Empty(await server.start(), "postgres")
    try:
        for row in await maintenance.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'quantum%'"):
            await maintenance.fetch(f'DROP DATABASE "{row["datname"]}"')
        roles = [row["rolname"] for row in await maintenance.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'quantum%'")]
        assert roles
        for role in roles:
            await maintenance.fetch(f'DROP ROLE "{role}"')
        yield maintenance
    finally:
        await server.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def _beside(maintenance: Empty, name: str) -> Empty:
    urls = DatabaseUrls(*(dsn.replace("/postgres?", "/quantum?", 1) for dsn in
                          (maintenance.owner_dsn, maintenance.app_dsn, maintenance.platform_dsn)))  # fmt: skip
    return Empty(urls, name)


async def test_several_databases_of_a_new_cluster_can_be_migrated_at_once(bare_cluster: Empty) -> None:
    databases = [_beside(bare_cluster, f"at_once_{n}") for n in range(4)]
    for database in databases:
        await bare_cluster.fetch(f'CREATE DATABASE "{database.name}"')
    async with asyncio.timeout(60):
        runs = await asyncio.gather(*(migrate(database.owner_dsn) for database in databases))
    assert runs == [ALL] * len(databases)


@pytest.mark.parametrize("owns_the_database", [True, False])
async def test_an_administrator_needs_no_superuser(bare_cluster: Empty, owns_the_database: bool) -> None:
    database = _beside(bare_cluster, "managed")
    await bare_cluster.fetch("CREATE ROLE admin LOGIN CREATEROLE NOSUPERUSER")
    await bare_cluster.fetch("CREATE DATABASE managed")
    await bare_cluster.fetch(
        "ALTER DATABASE managed OWNER TO admin" if owns_the_database else "GRANT CREATE ON DATABASE managed TO admin"
    )
    assert await migrate(database.dsn_of("admin")) == ALL
    assert (await upgrade(database.dsn_of("admin"))) != []
    assert await upgrade(database.dsn_of("admin")) == []

    store = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    try:
        await append(store, "tenant-1", "stream-1", 3)
        assert len((await store.read_log(0, limit=10)).events) == 3
    finally:
        await store.close()


async def test_headers_of_webhooks_that_were_kept_in_the_clear_are_names_after_the_upgrade(
    bare_cluster: Empty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an administrator who is no superuser: row-level security binds the owner of a table too."""
    database = _beside(bare_cluster, "headers")
    await bare_cluster.fetch("CREATE ROLE admin LOGIN CREATEROLE NOSUPERUSER")
    await bare_cluster.fetch("CREATE DATABASE headers OWNER admin")
    with monkeypatch.context() as earlier:
        only(earlier, 45)
        await migrate(database.dsn_of("admin"))
    for id, headers in (("one", '{"Authorization": "Bearer 8f2d41c0", "X-Team": "web"}'), ("none", "{}")):
        await database.fetch(
            "INSERT INTO quantum.webhook_subscriptions (tenant_id, subscription_id, shard, version, config, cursor)"
            " VALUES ('acme', $1, 0, 1, $2, 0)",
            id, '{"secret_id": "s", "terms": {"url": "https://x", "headers": ' + headers + "}}",
        )  # fmt: skip
    for stream in ("subscriptions", "modules"):
        await database.fetch("INSERT INTO quantum.snapshots VALUES ('acme', $1, 200, 'shape', 'Bearer 8f2d41c0')", stream)
    await migrate(database.dsn_of("admin"))
    rows = await database.fetch(
        "SELECT subscription_id, config #>> '{terms,headers}' AS headers, config ->> 'secret_id' AS secret, config::text AS whole"
        "  FROM quantum.webhook_subscriptions ORDER BY subscription_id DESC"
    )
    assert [(row["subscription_id"], row["headers"], row["secret"]) for row in rows] == [
        ("one", '["X-Team", "Authorization"]', "s"), ("none", "[]", "s"),
    ]  # fmt: skip
    assert not any("8f2d41c0" in row["whole"] for row in rows)
    assert [row["stream_id"] for row in await database.fetch("SELECT stream_id FROM quantum.snapshots")] == ["modules"]
    forced = "SELECT relname FROM pg_class WHERE relname IN ('webhook_subscriptions', 'snapshots') AND NOT relforcerowsecurity"
    assert await database.fetch(forced) == []
