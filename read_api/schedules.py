# intent_ref: read-api.schedules
"""Routes that show what starts an intent by itself, and what has become of it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import schedule_documents as documents
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.queries import parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_READ
from domain.documents import timestamp
from domain.intent import Intent, evolve
from domain.values import IntentId, TenantId, intent_stream
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from read_api.reading import found, missing

NEXT_RUNS: Final = 10
NextRuns = Callable[[Any, datetime, int], Sequence[datetime]]
"""(a schedule as a definition has it, after when, how many) -> its next times; none for one that breaks the rules of today."""

_SCHEDULE: Final = "SELECT runs, passed_over, last_time, last_execution_id, last_error::text FROM quantum.read_schedule($1, $2)"
_TRIGGER: Final = "SELECT runs, last_at, last_event_id, last_execution_id, last_error::text FROM quantum.read_trigger($1, $2)"


def schedules_router(
    store: EventStore, gate: Gate, next_runs: NextRuns, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> APIRouter:
    """`GET /intents/{intent_id}/schedule` and `/trigger`. What was defined comes from the log, so it is never behind a write."""
    routes = GuardedRoutes(gate, "intents")

    @routes.tenant(
        "GET", "/intents/{intent_id}/schedule", INTENTS_READ, summary="Read an intent's schedule",
        answers=(Answer(200, "The schedule, its next times, and its last run.", documents.Schedule),),
    )  # fmt: skip
    async def read_schedule(request: Request, access: Access) -> Response:
        """404 where the current version has none."""
        parse(request, ())
        intent, raw = await _part(store, access.tenant_id, request.path_params["intent_id"], "schedule")
        row = await _row(store, _SCHEDULE, access.tenant_id, intent.intent_id) or (0, 0, None, None, None)
        times = [] if _rests(intent) else next_runs(raw, clock(), NEXT_RUNS)
        document = {
            "intent_id": intent.intent_id, "version": intent.current.version, "status": _status(intent, times), "schedule": raw,
            "next_runs": [timestamp(at) for at in times], "runs": row[0], "passed_over": row[1],
            "last_run": None if row[2] is None else {"time": timestamp(row[2]), "execution_id": row[3]},
            "last_error": None if row[4] is None else orjson.loads(row[4]),
        }  # fmt: skip
        return found(orjson.dumps(document))

    @routes.tenant(
        "GET", "/intents/{intent_id}/trigger", INTENTS_READ, summary="Read an intent's trigger",
        answers=(Answer(200, "The trigger, and the last event that fired it.", documents.Trigger),),
    )  # fmt: skip
    async def read_trigger(request: Request, access: Access) -> Response:
        """404 where the current version has none."""
        parse(request, ())
        intent, raw = await _part(store, access.tenant_id, request.path_params["intent_id"], "on")
        row = await _row(store, _TRIGGER, access.tenant_id, intent.intent_id) or (0, None, None, None, None)
        last = None
        if row[3] is not None:
            last = {"event_id": str(row[2]), "at": timestamp(row[1]), "execution_id": row[3]}
        document = {
            "intent_id": intent.intent_id, "version": intent.current.version, "trigger": raw, "runs": row[0], "last_run": last,
            "status": "archived" if intent.status == "archived" else "active",
            "last_error": None if row[4] is None else orjson.loads(row[4]),
        }  # fmt: skip
        return found(orjson.dumps(document))

    return routes.router


async def _part(store: EventStore, tenant_id: TenantId, intent_id: str, key: str) -> tuple[Intent, Any]:
    """The intent, and what its current version has under `key`. Raises `Problem`."""
    loaded = await store.load(tenant_id, intent_stream(IntentId(intent_id)), evolve)
    if loaded.state is None:
        raise missing("intent", intent_id)
    raw = loaded.state.current.definition.get(key)
    if raw is None:
        raise Problem("not-found", f"The current version of the intent {intent_id!r} has no `{key}`.")
    return loaded.state, raw


async def _row(store: EventStore, query: str, tenant_id: TenantId, intent_id: str) -> Any:
    try:
        return await store.tenant_pool.fetchrow(query, tenant_id, intent_id)
    except DATABASE_AWAY as fault:
        raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault


def _rests(intent: Intent) -> bool:
    return intent.schedule_paused or intent.status == "archived"


def _status(intent: Intent, times: Sequence[datetime]) -> str:
    if intent.status == "archived":
        return "archived"
    if intent.schedule_paused:
        return "paused"
    return "active" if times else "ended"
