# intent_ref: quantum.work
"""Wires work that modules' workers fetch: the bell between processes, and the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter

import write_api.work
from access.gate import Gate
from commands.handle import Shell
from domain.tenant_limits import TenantLimits
from event_store.store import EventStore
from modules.catalogue import Caller
from quantum.telemetry import Telemetry
from sagas.attempts import Attempts, Statistics
from sagas.pull_work import PullWork
from sagas.work_bell import WorkBell


@asynccontextmanager
async def work_bell(store: EventStore) -> AsyncIterator[WorkBell]:
    """The bell by which sagas tell waiting workers of new work, wherever they wait."""
    bell = WorkBell(store.platform_dsn)
    bell.start()
    try:
        yield bell
    finally:
        await bell.close()


def writing(
    shell: Shell, gate: Gate, caller: Caller, bell: WorkBell, telemetry: Telemetry, installation: TenantLimits
) -> list[APIRouter]:  # fmt: skip
    """The routes under `/work`. `installation`: the limits of tenants for which nothing else is set."""
    attempts = Attempts(shell, caller.call, Statistics())
    work = PullWork(shell, attempts, caller.prepared, caller.settle, bell, installation=installation)
    telemetry.observe_fetched(work.statistics)
    return [write_api.work.work_router(gate, work)]
