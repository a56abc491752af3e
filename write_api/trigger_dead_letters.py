# intent_ref: write-api.trigger-dead-letters
"""Routes that settle starts which an event has fired and which were refused for good."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import schedule_documents as documents
from access.http.json_body import read
from access.http.operations import Answer
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_START
from commands.handle import Shell
from domain.intent import evolve
from domain.refusals import NotFound
from domain.values import IntentId, intent_stream
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable
from write_api.writing import Clock, utc_now

EVENTS_MAX: Final = 1_000
PATH: Final = "/intents/{intent_id}/trigger/dead-letters"
_EXAMPLE: Final = "01980c5e-6c1a-7d33-8c5c-2d8b7e1f4a12"
_RETRY: Final = "SELECT quantum.retry_trigger_starts($1, $2, $3, $4)"
_DISCARD: Final = "SELECT quantum.discard_trigger_starts($1, $2, $3)"
_EventId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class RefusedEvents(BaseModel):
    """Which ones, by the ids of their events; all of them where that is left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"event_ids": [_EXAMPLE]}]})
    event_ids: list[_EventId] | None = Field(
        None, min_length=1, max_length=EVENTS_MAX, json_schema_extra={"minItems": 1, "maxItems": EVENTS_MAX}
    )


def trigger_dead_letters_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """The routes under `/intents/{intent_id}/trigger/dead-letters` that change something."""
    routes = GuardedRoutes(gate, "intents")

    async def settled(request: Request, access: Access, query: str, *more: datetime) -> Response:
        body = await read(request, RefusedEvents)
        events = None if body.event_ids is None else [UUID(id) for id in body.event_ids]
        intent_id = IntentId(request.path_params["intent_id"])
        if (await shell.store.load(access.tenant_id, intent_stream(intent_id), evolve)).state is None:
            raise NotFound("intent", intent_id)
        try:
            count: Any = await shell.store.tenant_pool.fetchval(query, access.tenant_id, intent_id, events, *more)
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
        return Response(orjson.dumps({"count": count}), media_type="application/json")

    @routes.tenant(
        "POST", f"{PATH}/retry", EXECUTIONS_START, summary="Try a trigger's dead letters again", body=RefusedEvents,
        body_required=False, answers=(Answer(200, "So many are tried again.", documents.RefusedStarts),),
    )  # fmt: skip
    async def retry_trigger_dead_letters(request: Request, access: Access) -> Response:
        """Each is started within seconds, as its event would start it now; one execution for an event, however often asked."""
        return await settled(request, access, _RETRY, clock())

    @routes.tenant(
        "POST", f"{PATH}/discard", EXECUTIONS_START, summary="Discard a trigger's dead letters", body=RefusedEvents,
        body_required=False, answers=(Answer(200, "So many are gone.", documents.RefusedStarts),),
    )  # fmt: skip
    async def discard_trigger_dead_letters(request: Request, access: Access) -> Response:
        """They are forgotten; the events stay in the log."""
        return await settled(request, access, _DISCARD)

    return routes.router
