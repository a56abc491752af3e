# intent_ref: quantum.doctor
"""`quantum doctor`: everything the platform depends on, checked, with what to do about what is wrong."""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx

from domain.immutable import immutable
from event_store.store import EventStore
from modules.plugins import load_plugins
from projections.catalogue import READ_MODELS
from projections.checkpoints import lag
from projections.faults import list_faults
from quantum.databases import Databases, connected, databases
from quantum.issuing import local_issuer
from quantum.settings import Settings, SettingsError, load_settings

_FREE_BYTES_MIN = 1 << 30
_LAG_SECONDS_MAX = 60
_ANSWER_SECONDS_MAX = 5.0
_COLLECTOR_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@immutable
class Finding:
    """One thing that was looked at; `mend` says what to do where it is not `ok`."""

    check: str
    ok: bool
    detail: str
    mend: str = ""


class _Wrong(Exception):
    """What a check has found out, as a sentence."""


async def diagnose(data_dir: Path | None) -> list[Finding]:
    """Looks at everything; one thing that is wrong does not keep the others from being looked at."""
    findings = [await _tried("Python", _python, "Use Python 3.11 or newer.")]
    try:
        settings = load_settings(data_dir=data_dir)
    except SettingsError as fault:
        return [*findings, Finding("settings", False, str(fault), "Correct or unset these variables.")]
    findings += [
        Finding("settings", True, "all QUANTUM_ variables are understood"),
        await _tried("data directory", lambda: _disk(settings), "Make room, or choose another with --data-dir."),
        await _tried("tokens", lambda: _issuer(settings), "See the sentence beside: without keys no token counts."),
        await _tried("plug-ins", _plugins, "Reinstall or remove them; the platform leaves them out."),
        await _tried("address", lambda: _address(settings), "Choose another with --port or QUANTUM_PORT, or stop what uses it."),
    ]
    if (collector := next(filter(None, map(os.environ.get, _COLLECTOR_VARIABLES)), None)) is not None:
        findings.append(await _tried("traces", lambda: _collector(collector), "Start the collector; until then traces are lost."))
    try:
        async with databases(settings, join=True) as where:
            kind = "embedded" if settings.embedded_database else "reachable, at this release's schema"
            findings += [Finding("database", True, kind), *await _database(where, settings)]
    except Exception as fault:  # whatever it is, it is what is wrong
        way_out = "Follow that sentence; docs/operations.md says how the database is set up."
        findings.append(Finding("database", False, str(fault) or type(fault).__name__, way_out))
    return findings


async def _database(where: Databases, settings: Settings) -> list[Finding]:
    findings = [
        await _tried("server", lambda: _server(where.platform_dsn), "Quantum is tested on PostgreSQL 18."),
        await _tried(
            "wake-ups", lambda: _listens(where.direct_dsn), "Set QUANTUM_DATABASE_DIRECT_URL to an address that is no pooler."
        ),
    ]
    try:
        store = await connected(where, settings)
    except Exception as fault:  # whatever it is, it is what is wrong
        mend = "Give the platform the logins quantum_app and quantum_platform: docs/operations.md says how."
        return [*findings, Finding("roles", False, str(fault) or type(fault).__name__, mend)]
    try:
        findings.append(Finding("roles", True, "neither login can pass row-level security"))
        findings.append(await _tried("log", lambda: _log(store), "The sentence beside says what the database refuses."))
        for model in READ_MODELS:
            findings.append(await _projection(store, model.name))
    finally:
        await store.close()
    return findings


async def _projection(store: EventStore, name: str) -> Finding:
    try:
        behind, faults = await lag(store, name), await list_faults(store.platform_pool, name)
    except Exception as fault:  # whatever it is, it is what is wrong
        return Finding(f"projection {name}", False, str(fault) or type(fault).__name__, "Run `quantum migrate`.")
    detail = f"{behind.events} events behind, {len(faults)} set aside"
    if faults:
        mend = f"See `quantum projections faults {name}`, then `quantum projections retry {name}`."
        return Finding(f"projection {name}", False, detail, mend)
    late = behind.seconds > _LAG_SECONDS_MAX
    return Finding(f"projection {name}", not late, detail, "Run a process with --role projector or all." if late else "")


async def _tried(check: str, work: Callable[[], Awaitable[str]], mend: str) -> Finding:
    try:
        return Finding(check, True, await work())
    except Exception as fault:  # whatever it is, it is what is wrong
        return Finding(check, False, str(fault) or type(fault).__name__, mend)


async def _python() -> str:
    number = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs it is what is to be found out
        raise _Wrong(f"{number} is too old.")
    return number


async def _disk(settings: Settings) -> str:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        raise _Wrong(f"{place} cannot be written.")
    free = shutil.disk_usage(place).free
    if free < _FREE_BYTES_MIN:
        raise _Wrong(f"{settings.data_dir}: {free >> 20:,} MiB are left.")
    return f"{settings.data_dir}, {free >> 20:,} MiB free"


async def _issuer(settings: Settings) -> str:
    if settings.auth_jwks_url is None:
        return f"the local issuer, keys: {len(local_issuer(settings).jwks()['keys'])}"
    async with httpx.AsyncClient(timeout=_ANSWER_SECONDS_MAX) as client:
        answer = await client.get(settings.auth_jwks_url)
    try:
        keys = answer.raise_for_status().json()["keys"]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as fault:
        raise _Wrong(f"{settings.auth_jwks_url} answered {answer.status_code} and no JWK Set.") from fault
    return f"{settings.auth_issuer}, keys: {len(keys)}"


async def _plugins() -> str:
    plugins = load_plugins()
    if plugins.broken:
        raise _Wrong("; ".join(f"{one.name}: {one.reason}" for one in plugins.broken))
    return f"{len(plugins.found)} installed"


async def _address(settings: Settings) -> str:
    address = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as fault:
            if not await _is_ours(settings):
                raise _Wrong(f"Cannot listen on {address} ({fault.strerror or fault}).") from fault
            return f"{address}: a platform answers there"
    return f"{address} is free"


async def _is_ours(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - where one listens everywhere
    try:
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS_MAX) as client:
            answer = await client.get(f"http://{host}:{settings.port}/health/live")
            return answer.status_code == 200 and "parts" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


async def _collector(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    async with asyncio.timeout(_ANSWER_SECONDS_MAX):
        _, writer = await asyncio.open_connection(parts.hostname, port)
    writer.close()
    return f"{parts.hostname}:{port} takes connections"


async def _server(dsn: str) -> str:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        number = await connection.fetchval("SELECT current_setting('server_version_num')::int")
        durable = await connection.fetchval("SELECT current_setting('fsync') || '/' || current_setting('synchronous_commit')")
    finally:
        await connection.close()
    if number < 150000:
        raise _Wrong(f"PostgreSQL {number // 10000} is too old.")
    if durable != "on/on":
        raise _Wrong(f"fsync/synchronous_commit are {durable}: an answered write may be lost in a crash.")
    return f"PostgreSQL {number // 10000}.{number % 10000}, fsync and synchronous_commit on"


async def _listens(dsn: str) -> str:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute("LISTEN quantum_doctor")
        pids = {await connection.fetchval("SELECT pg_backend_pid()") for _ in range(3)}
    finally:
        await connection.close()
    if len(pids) > 1:
        raise _Wrong("Statements of one connection reach several servers: there is a pooler between.")
    return "LISTEN works"


async def _log(store: EventStore) -> str:
    return f"complete up to position {await store.horizon()}"
