# intent_ref: ground.test-fixtures
"""What tests share: one PostgreSQL server a test process, and databases cloned from one that has been migrated once."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # Imported where they are used, so that tests of pure functions start without the database's packages.
    from event_store.store import EventStore
    from quantum.embedded_postgres import DatabaseUrls

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database of its own, and how each role logs in to it."""

    name: str
    owner_dsn: str
    app_dsn: str
    platform_dsn: str


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[DatabaseUrls]:
    """The test process's server. Its database `quantum` is the template of all others: connect to `database` instead."""
    from quantum.embedded_postgres import EmbeddedPostgres

    data_dir = Path(tempfile.mkdtemp(prefix="quantum-test-"))
    server = EmbeddedPostgres(data_dir, durable=False)
    try:
        yield await server.start()
    finally:
        await server.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="module")
async def database(postgres: DatabaseUrls) -> AsyncIterator[Database]:
    """A migrated, empty database for this test module."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    maintenance_dsn = _in_database(postgres.owner_dsn, "postgres")
    await _execute(maintenance_dsn, f'CREATE DATABASE "{name}" TEMPLATE quantum')
    try:
        yield Database(
            name,
            _in_database(postgres.owner_dsn, name),
            _in_database(postgres.app_dsn, name),
            _in_database(postgres.platform_dsn, name),
        )
    finally:
        await _execute(maintenance_dsn, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def store(database: Database) -> AsyncIterator[EventStore]:
    """An event store on this module's database, closed after the test. A module's tests share a log: use tenants of your own."""
    from event_store.store import EventStore

    store = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    try:
        yield store
    finally:
        await store.close()


def _in_database(dsn: str, name: str) -> str:
    return dsn.replace("/quantum?", f"/{name}?", 1)


async def _execute(dsn: str, sql: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
