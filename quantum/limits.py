# intent_ref: quantum.limits
"""Wires the limits of tenants: what the settings say, whom the shell asks, what keeps the sagas' rows, and the routes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter

import read_api.tenant_limits
import write_api.tenant_limits
from access.descent_limits import DescentLimits
from access.gate import Gate
from access.start_limits import StartLimits
from access.start_rate import StartRate
from access.tenant_directory import TenantDirectory
from commands.handle import Shell
from domain.tenant_limits import TenantLimits
from event_store.store import EventStore
from quantum.settings import Settings
from sagas.limit_rows import LimitRows
from streaming.transport import Transport

Workers = Callable[[str, Callable[[], Awaitable[None]]], None]


def installation(settings: Settings) -> TenantLimits:
    """What holds for tenants of which nothing else is set."""
    return TenantLimits(
        concurrent_steps=settings.tenant_concurrent_steps,
        concurrent_executions=settings.tenant_concurrent_executions,
        on_exceeded=None if settings.tenant_concurrent_executions is None else settings.tenant_on_exceeded,
        executions_a_minute=settings.tenant_executions_a_minute,
        queue_length=settings.tenant_queue_length,
    )


@asynccontextmanager
async def asked(settings: Settings, store: EventStore) -> AsyncIterator[tuple[TenantDirectory, StartLimits]]:
    """What this process knows of tenants, kept up to date; and who is asked before an execution starts."""
    tenants = TenantDirectory(store)
    rate = StartRate(None if settings.redis_url is None else settings.redis_url.get_secret_value())
    tenants.start()
    try:
        yield tenants, StartLimits(tenants, store.platform_pool, rate, installation(settings))
    finally:
        await tenants.close()
        await rate.close()


def descent(settings: Settings, store: EventStore) -> DescentLimits:
    """Who is asked before a step of an execution starts another one."""
    return DescentLimits(store.platform_pool, settings.execution_descendants_max)


def keep_rows(store: EventStore, transport: Transport, workers: Workers, stop: asyncio.Event) -> None:
    """The sagas' rows follow the log until `stop` is set."""
    rows = LimitRows(store, transport)
    workers("limits", lambda: rows.run(stop))


def writing(settings: Settings, shell: Shell, gate: Gate) -> list[APIRouter]:
    """The route that sets limits."""
    return [write_api.tenant_limits.tenant_limits_router(shell, gate, installation(settings))]


def reading(settings: Settings, store: EventStore, gate: Gate) -> list[APIRouter]:
    """The route that shows them."""
    return [read_api.tenant_limits.tenant_limits_router(store, gate, installation(settings))]
