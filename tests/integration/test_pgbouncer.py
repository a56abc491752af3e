# intent_ref: tests.pgbouncer
"""The event store behind pgbouncer in transaction mode: what the store promises holds, and clients are never mixed up.

Few server connections are shared by many clients here, so that whatever is left on a connection would be met by somebody else.
"""

import asyncio
import functools
import inspect
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from eventsourcing.persistence import StoredEvent

from domain.values import StreamId, TenantId
from event_store.eventsourcing_adapter import QuantumApplicationRecorder
from event_store.eventsourcing_adapter.datastore import Datastore
from event_store.ids import uuid7
from event_store.store import EventStore
from quantum.server_account import server_account
from tests.conftest import Database
from tests.integration import test_append, test_snapshots, test_subscribe
from tests.streams import append
from tests.waiting import wait_until

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)")

SERVER_CONNECTIONS = 3
_CONFIGURATION = """\
[databases]
* = host={server} port=5432
[pgbouncer]
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
listen_addr =
unix_socket_dir = {folder}
unix_socket_mode = 0777
auth_type = trust
auth_file = {folder}/users.txt
logfile = {folder}/pgbouncer.log
server_idle_timeout = 600
"""


@pytest.fixture(scope="module")
async def pooled(database: Database) -> AsyncIterator[Database]:
    """This module's database as it is reached through the pooler."""
    assert PGBOUNCER is not None
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="quantum-pgbouncer-"))
    server = parse_qs(urlsplit(database.app_dsn).query)["host"][0]
    (folder / "pgbouncer.ini").write_text(_CONFIGURATION.format(server=server, folder=folder, size=SERVER_CONNECTIONS))
    (folder / "users.txt").write_text('"quantum_app" ""\n"quantum_platform" ""\n')
    for path in (folder, *folder.iterdir()):
        account.own(path)
    user = {"user": account.uid, "group": account.gid, "extra_groups": []} if account.is_another else {}
    process = subprocess.Popen(  # type: ignore[call-overload]  # noqa: ASYNC220 - it only starts
        [PGBOUNCER, "-q", str(folder / "pgbouncer.ini")], cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, **user,
    )  # fmt: skip
    try:
        through = [
            dsn.replace(quote(server, safe=""), quote(str(folder), safe="")).replace("port=5432", "port=6432")
            for dsn in (database.app_dsn, database.platform_dsn)
        ]

        async def answers() -> bool:
            assert process.poll() is None, (folder / "pgbouncer.log").read_text()
            try:
                connection = await asyncpg.connect(through[0], statement_cache_size=0, timeout=5)
            except (OSError, asyncpg.PostgresError):
                return False
            await connection.close()
            return True

        await wait_until(answers, 20, what="pgbouncer")
        yield Database(database.name, database.owner_dsn, *through)
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


async def behind(pooled: Database, database: Database) -> EventStore:
    """A store behind the pooler; what needs a session goes past it."""
    return await EventStore.connect(
        app_dsn=pooled.app_dsn, platform_dsn=pooled.platform_dsn, direct_dsn=database.platform_dsn, statement_cache=False
    )


@pytest.fixture
async def store(pooled: Database, database: Database) -> AsyncIterator[EventStore]:
    """Takes the place of the suite's store in the behaviours below."""
    store = await behind(pooled, database)
    try:
        yield store
    finally:
        await store.close()


def _behaviours(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name, behaviour in vars(module).items():
        if name.startswith("test_") and "store" in inspect.signature(behaviour).parameters:
            # A copy, so that marks set here are not set there.
            yield name, functools.wraps(behaviour)(functools.partial(behaviour))


for _module in (test_append, test_subscribe, test_snapshots):
    globals().update(_behaviours(_module))


async def test_no_client_sees_what_another_set_on_the_shared_connections(store: EventStore) -> None:
    tenants = [TenantId(f"shared-{n}") for n in range(8)]
    await asyncio.gather(*(append(store, tenant, "s", 1 + n) for n, tenant in enumerate(tenants)))

    async def read(n: int) -> None:
        tenant = tenants[n % 8]
        events = await store.read_stream(tenant, StreamId("s"))
        assert [event.tenant_id for event in events] == [tenant] * (1 + n % 8)
        assert await store.tenant_pool.fetchval("SELECT count(*) FROM quantum.events") == 0, "a tenant was left set"
        assert await store.read_command(tenant, events[0].command_id) == events

    async with asyncio.timeout(60):
        await asyncio.gather(*(read(n) for n in range(400)))


async def test_statements_of_many_clients_are_never_mixed_up(pooled: Database, database: Database) -> None:
    stores = [await behind(pooled, database) for _ in range(4)]

    async def ask(client: EventStore, n: int) -> None:
        pool = client.tenant_pool if n % 2 else client.platform_pool
        if n % 3:
            assert await pool.fetchval("SELECT $1::int + $2::int", n, 1) == n + 1
        else:
            assert [tuple(row) for row in await pool.fetch("SELECT $1::text || '!', $2::bool", str(n), True)] == [(f"{n}!", True)]

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(ask(client, n) for n in range(500) for client in stores))
    finally:
        for client in stores:
            await client.close()


async def test_a_subscriber_is_woken_by_another_process_behind_the_pooler(
    store: EventStore, pooled: Database, database: Database
) -> None:
    start, writer = await store.horizon(), await behind(pooled, database)
    try:

        async def follow() -> int:
            seen = 0
            async with aclosing(store.subscribe(after=start, tenant_id=TenantId("woken"))) as pages:
                async for page in pages:
                    seen += len(page.events)
                    if seen == 200:
                        break
            return seen

        reader = asyncio.create_task(follow())
        generation = store.wakeups.generation
        await asyncio.gather(*(append(writer, "woken", f"s-{n}") for n in range(200)))
        assert await store.wakeups.wait(10, since=generation), "by NOTIFY, which goes past the pooler"
        async with asyncio.timeout(20):
            assert await reader == 200
    finally:
        await writer.close()


async def test_an_application_of_the_eventsourcing_package_works_behind_the_pooler(pooled: Database, database: Database) -> None:
    datastore = Datastore(pooled.app_dsn, TenantId("guest"), listen_dsn=database.app_dsn)
    try:
        recorder = QuantumApplicationRecorder(datastore)
        originator = uuid7()
        for version in range(1, 51):
            assert recorder.insert_events([StoredEvent(originator, version, "topic", b"state")]) == [version]
        with recorder.subscribe(gt=0) as subscription:
            seen = [notification.originator_version for _, notification in zip(range(50), subscription, strict=False)]
        assert seen == list(range(1, 51))
    finally:
        datastore.close()
