# intent_ref: read-api.event-types
"""Routes that say which events there are, and what is in them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.operations import Answer
from access.http.queries import page, parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EVENTS_READ
from read_api.event_documents import EventType, EventTypePage
from read_api.reading import found, missing

_DESCRIPTION: Final = "application/vnd.aai.asyncapi+json;version=3.0.0"


def event_types_router(types: Sequence[Mapping[str, Any]], gate: Gate) -> APIRouter:
    """The routes under `/event-types`; `types` are their documents, in order."""
    routes = GuardedRoutes(gate, "events")
    by_name = {str(one["type"]): orjson.dumps(one) for one in types}

    @routes.tenant(
        "GET", "/event-types", EVENTS_READ, summary="List the types of events",
        answers=(Answer(200, "Every type, with its schema.", EventTypePage),),
    )  # fmt: skip
    async def read_types(request: Request, access: Access) -> Response:
        """All at once; older versions that the log may hold are among them."""
        parse(request, ())
        return page(request, list(by_name.values()), None)

    @routes.tenant(
        "GET", "/event-types/{type}", EVENTS_READ, summary="Read a type of event",
        answers=(Answer(200, "The type, with its schema.", EventType),),
    )  # fmt: skip
    async def read_type(request: Request, access: Access) -> Response:
        """What `dataschema` of an event ends with is the name of its type."""
        parse(request, ())
        name = request.path_params["type"]
        if name not in by_name:
            raise missing("event type", name)
        return found(by_name[name])

    return routes.router


def asyncapi_router(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """`/asyncapi.json`, beside `/openapi.json` and as open; `document` is called once, when it is first asked for."""
    routes = GuardedRoutes(None, "events", prefix="")
    body = cache(lambda: orjson.dumps(document()))

    @routes.public(
        "GET", "/asyncapi.json", summary="The AsyncAPI description", answers=(Answer(200, "An AsyncAPI 3 document."),),
    )  # fmt: skip
    async def read_asyncapi(request: Request) -> Response:
        """What the platform sends, on which channels, with the schema of every message."""
        return Response(body(), media_type=_DESCRIPTION)

    return routes.router
