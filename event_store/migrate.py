# intent_ref: event-store.migrate
"""Brings a database to the schema this release needs: numbered SQL files, each once, in order, in its own transaction.

A runner of our own (docs/adr/0004): the files are plain SQL run by the driver we have, and one that has been applied may
not change afterwards.
"""

import hashlib
import re
from collections.abc import Callable
from importlib.resources import files

import asyncpg

_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_LEDGER = """
CREATE TABLE IF NOT EXISTS quantum.schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON quantum.schema_migrations TO quantum_app, quantum_platform;
"""
_LOCK = "SELECT pg_advisory_lock(20820, 0)"

# Two files were changed and then restored; what some databases applied in between says the same (0021 brings all to one state).
_ALSO_APPLIED_AS = {
    "0017_pull_work.sql": "b372c9457b5b8c9a4bbd74cc57d43a4c9d41acc623749e0cf6ce09417aeab073",
    "0019_tenant_limits.sql": "f576df2801ebd3d7d48c0dea04809df4fb85da197cf75c451202245279e26258",
}

# Roles are the cluster's, and the lock above is the database's: where two databases of one cluster are migrated at once, one may
# find that the other has just made a role. Its transaction is rolled back, and the next try sees the role.
_MET_ANOTHER_DATABASE = (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError, asyncpg.InternalServerError)
_TRIES_MAX = 5


class MigrationError(Exception):
    """The database's schema and this release do not fit together."""


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, SQL) of every migration of this release, in order."""
    found = []
    for file in files("event_store").joinpath("migrations").iterdir():
        if match := _NAME.match(file.name):
            found.append((int(match[1]), file.name, file.read_text(encoding="utf-8")))
    return sorted(found)


def _checksum(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()


async def migrate(owner_dsn: str, report: Callable[[str], None] = lambda name: None) -> list[str]:
    """Applies what is missing and returns its names. The login must be able to create roles the first time.

    Concurrent calls wait for each other. Raises `MigrationError` where an applied file has changed or the database is newer.
    """
    connection = await asyncpg.connect(owner_dsn)
    try:
        await connection.execute(_LOCK)
        applied = await _applied(connection)
        known = migrations()
        _refuse_newer(applied, known)
        done = []
        for number, name, sql in known:
            if number in applied:
                _hold_against(applied[number], name, sql)
                continue
            await _apply(connection, number, name, sql)
            report(name)
            done.append(name)
        return done
    finally:
        await connection.close()


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", number: int, name: str, sql: str) -> None:
    for tries_left in reversed(range(_TRIES_MAX)):
        try:
            async with connection.transaction():
                if number > 1:
                    await connection.execute("SET LOCAL ROLE quantum_owner")
                await connection.execute(sql)
                await connection.execute("SET LOCAL ROLE quantum_owner")
                await connection.execute(_LEDGER)
                await connection.execute(
                    "INSERT INTO quantum.schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
                    number, name, _checksum(sql),
                )  # fmt: skip
            return
        except _MET_ANOTHER_DATABASE:
            if not tries_left:
                raise


async def pending(connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
    """Names of the migrations this database lacks; raises `MigrationError` when it is newer than this release."""
    applied = await _applied(connection)
    known = migrations()
    _refuse_newer(applied, known)
    return [name for number, name, _ in known if number not in applied]


async def _applied(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[int, str]:
    if await connection.fetchval("SELECT to_regclass('quantum.schema_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT number, checksum FROM quantum.schema_migrations")
    return {row["number"]: row["checksum"] for row in rows}


def _refuse_newer(applied: dict[int, str], known: list[tuple[int, str, str]]) -> None:
    if newer := sorted(set(applied) - {number for number, _, _ in known}):
        raise MigrationError(f"The database has migration {newer[-1]}, which this release does not know: upgrade Quantum.")


def _hold_against(checksum: str, name: str, sql: str) -> None:
    if checksum not in (_checksum(sql), _ALSO_APPLIED_AS.get(name)):
        raise MigrationError(f"{name} has changed since it was applied: restore it, and put the change in a new migration.")
