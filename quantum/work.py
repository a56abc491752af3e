# intent_ref: quantum.work
"""Wires work that modules' workers fetch: the bell between processes, and the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter

import write_api.work
from access.gate import Gate
from commands.handle import Shell
from event_store.store import EventStore
from modules.catalogue import Caller
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


def writing(shell: Shell, gate: Gate, caller: Caller, bell: WorkBell) -> list[APIRouter]:
    """The routes under `/work`."""
    work = PullWork(shell, Attempts(shell, caller.call, Statistics()), caller.prepared, caller.settle, bell)
    return [write_api.work.work_router(gate, work)]
