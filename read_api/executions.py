# intent_ref: read-api.executions
"""Routes that show executions and what happens to them."""

import re
from datetime import UTC, datetime
from typing import Any, Final, get_args

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.operations import Answer
from access.http.problems import Problem, unavailable
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, Parameter, choice, flag, page, parse, text
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_READ
from domain.execution import ExecutionStatus
from domain.values import ExecutionId, execution_stream
from event_store.records import RecordedEvent
from event_store.store import EventStore
from event_store.tokens import InvalidToken, decode_token, encode_token
from projections.executions import get_execution, list_executions
from read_api.execution_events import PAGE_EVENTS_MAX, ExecutionStream, as_json
from read_api.reading import LINK, MIN_POSITION, ReadSide, found, missing, page_of

READ_MODEL: Final = "executions"
STREAMS_MAX: Final = 2000
_LAST_EVENT: Final = "Last-Event-ID"
_JSON_WANTED: Final = re.compile(r"(?:^|,)\s*application/(?:[\w.-]+\+)?json\b", re.IGNORECASE)


def _time(value: str) -> datetime:
    sentence = "It must be an RFC 3339 time with its offset, such as 2026-11-21T09:30:00Z."
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError(sentence)
        return at.astimezone(UTC)
    except (ValueError, OverflowError) as fault:
        raise ValueError(sentence) from fault


_TIME_SCHEMA: Final = {"type": "string", "format": "date-time"}
_FILTERS: Final = (
    choice("status", "Only executions in this status.", get_args(ExecutionStatus)),
    text("intent_id", "Only executions of this intent."),
    text("intent_name", "Only executions of intents that had this name."),
    text("business_key", "Only executions that were started for this key."),
    flag("needs_attention", "Only executions of which something that was to be undone was not, or only the others."),
    Parameter("started_after", "Only executions that started after this time.", _TIME_SCHEMA, _time),
    Parameter("started_before", "Only executions that started before this time.", _TIME_SCHEMA, _time),
    LIMIT,
    CURSOR,
)
_SSE_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "`event` is the type, `data` the event as JSON, `id` the resume token.",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "examples": ["cTEuNDI"]},
        "event": {"type": "string", "examples": ["step_completed"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_FOLLOWED: Final = Answer(
    200, "Events in order.", documents.ExecutionEventPage, at_times=LINK, streams=("text/event-stream", _SSE_EVENT)
)


def executions_router(reads: ReadSide, gate: Gate, store: EventStore) -> APIRouter:
    """The routes under `/executions` that show something."""
    routes = GuardedRoutes(gate, "executions")
    open_streams = 0

    @routes.tenant(
        "GET", "/executions/{execution_id}", EXECUTIONS_READ, summary="Read an execution", headers=MIN_POSITION,
        answers=(Answer(200, "The execution with every step.", documents.Execution),),
    )  # fmt: skip
    async def read_execution(request: Request, access: Access) -> Response:
        """Its steps come in the order of the plan."""
        execution_id = request.path_params["execution_id"]
        parse(request, ())
        async with reads.at(request, READ_MODEL):
            document = await get_execution(reads.reader, access.tenant_id, execution_id)
        if document is None:
            raise missing("execution", execution_id)
        return found(document.body)

    @routes.tenant(
        "GET", "/executions", EXECUTIONS_READ, summary="List executions", query=_FILTERS, headers=MIN_POSITION,
        answers=(page_of("Executions, newest first.", documents.ExecutionPage),),
    )  # fmt: skip
    async def read_executions(request: Request, access: Access) -> Response:
        """All filters must hold."""
        query = parse(request, _FILTERS)
        query["limit"] = query["limit"] or LIMIT_DEFAULT
        async with reads.at(request, READ_MODEL):
            listed = await list_executions(reads.tenant_pool, access.tenant_id, **query)
        return page(request, listed.items, listed.next_cursor)

    @routes.tenant(
        "GET", "/executions/{execution_id}/events", EXECUTIONS_READ, summary="Follow an execution", query=(LIMIT, CURSOR),
        headers=(_LAST_EVENT,),
        answers=(_FOLLOWED,),
    )  # fmt: skip
    async def read_events(request: Request, access: Access) -> Response:
        """A stream of what happened and what happens, ending with the execution; with `Accept: application/json` a list.

        `Last-Event-ID` resumes the stream. `limit` and `cursor` are for the list.
        """
        nonlocal open_streams
        execution_id = ExecutionId(request.path_params["execution_id"])
        query = parse(request, (LIMIT, CURSOR))
        stream_id = execution_stream(execution_id)
        first = await store.read_stream(access.tenant_id, stream_id, limit=PAGE_EVENTS_MAX)
        if not first:
            raise missing("execution", execution_id)
        if _wants_json(request):
            return await _listed(request, query, store, access, first)
        if query["limit"] is not None or query["cursor"] is not None:
            raise Problem("request-invalid", f"`limit` and `cursor` are for the list; resume a stream with {_LAST_EVENT}.")
        after = _resumed(request)
        if open_streams >= STREAMS_MAX:
            raise unavailable("busy", f"{STREAMS_MAX} streams are open already.", retry_after_seconds=5)
        open_streams += 1

        def done() -> None:
            nonlocal open_streams
            open_streams -= 1

        return ExecutionStream(
            store, access.tenant_id, execution_id, after=after, first=first, expires_at=access.principal.expires_at, done=done
        )

    return routes.router


async def _listed(
    request: Request, query: dict[str, Any], store: EventStore, access: Access, first: list[RecordedEvent]
) -> Response:
    """A page of the list: by number of events, after the position in the cursor."""
    limit, after = query["limit"] or LIMIT_DEFAULT, _position(query["cursor"])
    wanted: list[RecordedEvent] = []
    events = first
    while True:
        wanted += [event for event in events if event.position > after]
        if len(wanted) > limit or len(events) < PAGE_EVENTS_MAX:
            break
        stream_id = execution_stream(ExecutionId(request.path_params["execution_id"]))
        events = await store.read_stream(access.tenant_id, stream_id, after=events[-1].version, limit=PAGE_EVENTS_MAX)
    next_cursor = encode_token(wanted[limit - 1].position) if len(wanted) > limit else None
    return page(request, [as_json(event) for event in wanted[:limit]], next_cursor)


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return decode_token(cursor)
    except InvalidToken as fault:
        raise Problem("cursor-invalid", str(fault)) from fault


def _resumed(request: Request) -> int:
    """The position after which the stream goes on."""
    token = request.headers.get(_LAST_EVENT)
    if not token:
        return 0
    try:
        return decode_token(token)
    except InvalidToken as fault:
        raise Problem("header-invalid", f"{_LAST_EVENT}: {fault}") from fault


def _wants_json(request: Request) -> bool:
    accept = request.headers.get("Accept", "")
    return _JSON_WANTED.search(accept) is not None and "text/event-stream" not in accept.lower()
