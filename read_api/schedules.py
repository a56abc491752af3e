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
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, page, parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_READ
from domain.documents import timestamp
from domain.intent import Intent, evolve
from domain.values import IntentId, TenantId, intent_stream
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from event_store.tokens import InvalidToken, decode_token, encode_token
from read_api.reading import found, missing, page_of

NEXT_RUNS: Final = 10
NextRuns = Callable[[Any, datetime, int], Sequence[datetime]]
"""(a schedule as a definition has it, after when, how many) -> its next times; none for one that breaks the rules of today."""

_SCHEDULE: Final = """
SELECT runs, passed_over, last_time, last_execution_id, last_error::text, owed_time, owed_since, tries, look_at, missed,
       last_missed::text
  FROM quantum.read_schedule($1, $2)
"""
_NEVER_RUN: Final = (0, 0, None, None, None, None, None, 0, None, 0, None)
_TRIGGER: Final = """
SELECT runs, last_at, last_event_id, last_execution_id, last_error::text, waiting, dead_letters FROM quantum.read_trigger($1, $2)
"""
_DEAD: Final = """
SELECT event_id, "position", tries, first_at, last_at, error::text FROM quantum.list_trigger_starts($1, $2, $3, $4)
"""
_LETTERS: Final = (LIMIT, CURSOR)


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
        row = await _row(store, _SCHEDULE, access.tenant_id, intent.intent_id) or _NEVER_RUN
        times = [] if _rests(intent) else next_runs(raw, clock(), NEXT_RUNS)
        document = {
            "intent_id": intent.intent_id, "version": intent.current.version, "status": _status(intent, times), "schedule": raw,
            "next_runs": [timestamp(at) for at in times], "runs": row[0], "passed_over": row[1],
            "last_run": None if row[2] is None else {"time": timestamp(row[2]), "execution_id": row[3]},
            "last_error": None if row[4] is None else orjson.loads(row[4]), "owed": _owed(row), "missed": row[9],
            "last_missed": None if row[10] is None else orjson.loads(row[10]),
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
        row = await _row(store, _TRIGGER, access.tenant_id, intent.intent_id) or (0, None, None, None, None, 0, 0)
        last = None
        if row[3] is not None:
            last = {"event_id": str(row[2]), "at": timestamp(row[1]), "execution_id": row[3]}
        document = {
            "intent_id": intent.intent_id, "version": intent.current.version, "trigger": raw, "runs": row[0], "last_run": last,
            "status": "archived" if intent.status == "archived" else "active",
            "last_error": None if row[4] is None else orjson.loads(row[4]), "waiting": row[5], "dead_letters": row[6],
        }  # fmt: skip
        return found(orjson.dumps(document))

    @routes.tenant(
        "GET", "/intents/{intent_id}/trigger/dead-letters", INTENTS_READ, summary="List a trigger's dead letters", query=_LETTERS,
        answers=(page_of("Starts that were refused for good, in the order of their events.", documents.RefusedStartPage),),
    )  # fmt: skip
    async def read_trigger_dead_letters(request: Request, access: Access) -> Response:
        """Executions that an event was to start and that were refused, with the reason; also where the trigger has gone."""
        query = parse(request, _LETTERS)
        after, limit = _after(query["cursor"]), query["limit"] or LIMIT_DEFAULT
        intent = await _intent(store, access.tenant_id, request.path_params["intent_id"])
        try:
            rows = await store.tenant_pool.fetch(_DEAD, access.tenant_id, intent.intent_id, after, limit + 1)
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
        following = encode_token(rows[limit - 1][1]) if len(rows) > limit else None
        return page(request, [_refused(row) for row in rows[:limit]], following)

    return routes.router


def _owed(row: Any) -> dict[str, Any] | None:
    if row[5] is None:
        return None
    again_at = None if row[8] is None else timestamp(row[8])
    return {"time": timestamp(row[5]), "since": timestamp(row[6]), "tries": row[7], "again_at": again_at}


def _refused(row: Any) -> bytes:
    event_id, position, tries, first_at, last_at, error = row
    return orjson.dumps(
        {
            "event_id": str(event_id), "position": encode_token(position), "tries": tries, "first_at": timestamp(first_at),
            "last_at": timestamp(last_at), "error": orjson.loads(error),
        }
    )  # fmt: skip


def _after(cursor: str | None) -> int:
    try:
        return 0 if cursor is None else decode_token(cursor)
    except InvalidToken as fault:
        raise Problem("cursor-invalid", str(fault)) from fault


async def _intent(store: EventStore, tenant_id: TenantId, intent_id: str) -> Intent:
    loaded = await store.load(tenant_id, intent_stream(IntentId(intent_id)), evolve)
    if loaded.state is None:
        raise missing("intent", intent_id)
    return loaded.state


async def _part(store: EventStore, tenant_id: TenantId, intent_id: str, key: str) -> tuple[Intent, Any]:
    """The intent, and what its current version has under `key`. Raises `Problem`."""
    intent = await _intent(store, tenant_id, intent_id)
    raw = intent.current.definition.get(key)
    if raw is None:
        raise Problem("not-found", f"The current version of the intent {intent_id!r} has no `{key}`.")
    return intent, raw


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
