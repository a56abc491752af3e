# intent_ref: quantum.starting
"""Wires what starts executions by itself: schedules, triggers, and the routes about them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter

import read_api.schedules
import write_api.schedules
import write_api.trigger_dead_letters
from access.gate import Gate
from commands.handle import Shell
from commands.schedules import next_runs, read_schedule, schedule_faults
from event_store.store import EventStore
from quantum.telemetry import Telemetry
from sagas.schedules import ScheduleSaga
from sagas.triggers import TriggerSaga
from streaming.transport import Transport

Workers = Callable[[str, Callable[[], Awaitable[None]]], None]


def start(
    shell: Shell, transport: Transport, source: str, telemetry: Telemetry, workers: Workers, stop: asyncio.Event
) -> None:  # fmt: skip
    """Both sagas, running until `stop` is set. `source` is where events say they come from."""
    schedules, triggers = ScheduleSaga(shell, transport), TriggerSaga(shell, transport, source)
    telemetry.observe_starting(schedules, triggers)
    workers("schedules", lambda: schedules.run(stop))
    workers("triggers", lambda: triggers.run(stop))


def writing(shell: Shell, gate: Gate) -> list[APIRouter]:
    """The routes that pause, resume and run schedules, and those that settle what triggers could not start."""
    return [
        write_api.schedules.schedules_router(shell, gate),
        write_api.trigger_dead_letters.trigger_dead_letters_router(shell, gate),
    ]


def reading(store: EventStore, gate: Gate) -> list[APIRouter]:
    """The routes that show schedules and triggers."""
    return [read_api.schedules.schedules_router(store, gate, _next_runs)]


def _next_runs(raw: Any, after: datetime, count: int) -> Sequence[datetime]:
    return [] if schedule_faults(raw, "/definition/schedule") else next_runs(read_schedule(raw), after, count)
