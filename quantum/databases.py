# intent_ref: quantum.databases
"""Which database this process works on: the embedded one, started and brought up to date, or the one the settings name."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg

from domain.immutable import immutable
from event_store.faults import DATABASE_FAULTS
from event_store.migrate import pending
from event_store.store import EventStore
from quantum.embedded_postgres import DataDirectoryInUse, EmbeddedPostgres, running_database
from quantum.settings import Settings


class DatabaseNotReady(Exception):
    """The database cannot be used as it is; the sentence says what to do."""


@immutable
class Databases:
    """One database, by the logins of the roles. `direct_dsn` goes past a pooler, for LISTEN and session locks."""

    app_dsn: str
    platform_dsn: str
    direct_dsn: str
    owner_dsn: str | None


@asynccontextmanager
async def databases(
    settings: Settings, report: Callable[[str], None] = lambda name: None, *, join: bool = False
) -> AsyncIterator[Databases]:
    """The database of `settings`, ready for use.

    With `join`, an embedded database that another process runs is used as it is. Raises `EmbeddedPostgresError`,
    `DatabaseNotReady`.
    """
    if settings.embedded_database:
        server = EmbeddedPostgres(settings.data_dir)
        try:
            urls = await server.start(report)
        except DataDirectoryInUse:
            found = running_database(settings.data_dir) if join else None
            if found is None:
                raise
            yield Databases(found.app_dsn, found.platform_dsn, found.platform_dsn, found.owner_dsn)
            return
        try:
            watch = asyncio.create_task(server.keep_running(), name="embedded-postgres")
            try:
                yield Databases(urls.app_dsn, urls.platform_dsn, urls.platform_dsn, urls.owner_dsn)
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        finally:
            await server.stop()
        return
    assert settings.database_url is not None
    assert settings.database_platform_url is not None
    platform_dsn = settings.database_platform_url.get_secret_value()
    direct, owner = settings.database_direct_url, settings.database_owner_url
    found_databases = Databases(
        settings.database_url.get_secret_value(),
        platform_dsn,
        direct.get_secret_value() if direct is not None else platform_dsn,
        owner.get_secret_value() if owner is not None else None,
    )
    await _require_schema(found_databases.direct_dsn)
    yield found_databases


async def connected(where: Databases, settings: Settings) -> EventStore:
    """The event store on that database; close it. Raises `UnsafeRole`."""
    return await EventStore.connect(
        app_dsn=where.app_dsn, platform_dsn=where.platform_dsn, direct_dsn=where.direct_dsn,
        statement_cache=settings.database_statement_cache, pool_size=settings.database_pool_size,
    )  # fmt: skip


@asynccontextmanager
async def event_store(settings: Settings) -> AsyncIterator[EventStore]:
    """The event store for a command of the command line, whether the platform is up or down. Raises what `databases` raises."""
    async with databases(settings, join=True) as where:
        store = await connected(where, settings)
        try:
            yield store
        finally:
            await store.close()


async def _require_schema(dsn: str) -> None:
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
    except DATABASE_FAULTS as fault:
        raise DatabaseNotReady(
            f"The database of QUANTUM_DATABASE_URL does not let us in ({fault}). See that it runs and that "
            "`quantum migrate` has made the roles quantum_app and quantum_platform."
        ) from fault
    try:
        missing = await pending(connection)
    finally:
        await connection.close()
    if missing:
        raise DatabaseNotReady(f"The database lacks {len(missing)} migrations, from {missing[0]} on: run `quantum migrate`.")
