# intent_ref: quantum.doctor
"""`quantum doctor`: everything the platform depends on, checked, with what to do about what is wrong."""

import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from event_store.store import EventStore
from modules.plugins import load_plugins
from projections.catalogue import READ_MODELS
from projections.checkpoints import lag
from projections.faults import list_faults
from quantum.app import local_issuer
from quantum.databases import Databases, databases
from quantum.settings import Settings, SettingsError, load_settings

_FREE_BYTES_MIN = 1 << 30
_LAG_SECONDS_MAX = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `mend` says what to do where it is not `ok`."""

    check: str
    ok: bool
    detail: str
    mend: str = ""


async def diagnose(data_dir: Path | None) -> list[Finding]:
    """Looks at everything; one thing that is wrong does not keep the others from being looked at."""
    version = ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding(
            "Python", sys.version_info >= (3, 11), version, "" if sys.version_info >= (3, 11) else "Use Python 3.11 or newer."
        )
    ]
    try:
        settings = load_settings(data_dir=data_dir)
    except SettingsError as fault:
        return [*findings, Finding("settings", False, str(fault), "Correct or unset these variables.")]
    findings.append(Finding("settings", True, "all QUANTUM_ variables are understood"))
    findings.append(_disk(settings))
    findings.append(await _tried("issuer's keys", _issuer(settings), "See that the data directory can be read and written."))
    findings.append(_plugins())
    way_out = "Start the database, check the QUANTUM_DATABASE_ variables, run `quantum migrate`."
    try:
        async with databases(settings, join=True) as where:
            findings.append(
                Finding("database", True, "embedded" if settings.embedded_database else "reachable, at this release's schema")
            )
            findings.extend(await _database(where))
    except Exception as fault:  # whatever it is, it is what is wrong
        findings.append(Finding("database", False, str(fault) or type(fault).__name__, way_out))
    return findings


async def _database(where: Databases) -> list[Finding]:
    findings = [
        await _tried("server", _server(where.platform_dsn), "Quantum is tested on PostgreSQL 18."),
        await _tried("wake-ups", _listens(where.direct_dsn), "Set QUANTUM_DATABASE_DIRECT_URL to an address that is no pooler."),
    ]
    store = None
    try:
        store = await EventStore.connect(app_dsn=where.app_dsn, platform_dsn=where.platform_dsn, direct_dsn=where.direct_dsn)
        findings.append(Finding("roles", True, "neither login can pass row-level security"))
        findings.append(Finding("log", True, f"complete up to position {await store.horizon()}"))
        for model in READ_MODELS:
            findings.append(await _projection(store, model.name))
    except Exception as fault:  # whatever it is, it is what is wrong
        findings.append(
            Finding("event store", False, str(fault), "Give the platform logins of its own: see the README's settings.")
        )
    finally:
        if store is not None:
            await store.close()
    return findings


async def _projection(store: EventStore, name: str) -> Finding:
    behind, faults = await lag(store, name), await list_faults(store.platform_pool, name)
    detail = f"{behind.events} events behind, {len(faults)} set aside"
    if faults:
        return Finding(f"projection {name}", False, detail, f"See `quantum projections faults {name}`, then `retry {name}`.")
    late = behind.seconds > _LAG_SECONDS_MAX
    return Finding(f"projection {name}", not late, detail, "Run a process with --role projector or all." if late else "")


async def _tried(check: str, work: Callable[[], Awaitable[str]], mend: str) -> Finding:
    try:
        return Finding(check, True, await work())
    except Exception as fault:  # whatever it is, it is what is wrong
        return Finding(check, False, str(fault) or type(fault).__name__, mend)


def _issuer(settings: Settings) -> Callable[[], Awaitable[str]]:
    async def work() -> str:
        return f"{len(local_issuer(settings).jwks()['keys'])} of the local issuer"

    return work


def _server(dsn: str) -> Callable[[], Awaitable[str]]:
    async def work() -> str:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            number = await connection.fetchval("SELECT current_setting('server_version_num')::int")
            durable = await connection.fetchval("SELECT current_setting('fsync') || '/' || current_setting('synchronous_commit')")
        finally:
            await connection.close()
        if number < 150000:
            raise RuntimeError(f"PostgreSQL {number // 10000} is too old.")
        return f"PostgreSQL {number // 10000}.{number % 10000}, fsync/synchronous_commit {durable}"

    return work


def _listens(dsn: str) -> Callable[[], Awaitable[str]]:
    async def work() -> str:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            await connection.execute("LISTEN quantum_doctor")
            pids = {await connection.fetchval("SELECT pg_backend_pid()") for _ in range(3)}
        finally:
            await connection.close()
        if len(pids) > 1:
            raise RuntimeError("Statements of one connection reach several servers: there is a pooler between.")
        return "LISTEN works"

    return work


def _disk(settings: Settings) -> Finding:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    ok = free >= _FREE_BYTES_MIN and os.access(place, os.W_OK)
    return Finding(
        "data directory", ok, f"{settings.data_dir}, {free >> 20:,} MiB free", "" if ok else "Choose another with --data-dir."
    )


def _plugins() -> Finding:
    plugins = load_plugins()
    if plugins.broken:
        broken = "; ".join(f"{one.name}: {one.reason}" for one in plugins.broken)
        return Finding("plug-ins", False, broken, "Reinstall or remove them; the platform leaves them out.")
    return Finding("plug-ins", True, f"{len(plugins.found)} installed")
