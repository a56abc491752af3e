# intent_ref: read-api.resources
"""The route that lists what steps have made."""

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.plan_documents import ResourcePage
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, choice, page, parse, text
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import RESOURCES_READ
from projections.resources import list_resources
from read_api.reading import MIN_POSITION, ReadSide, page_of

READ_MODEL: Final = "resources"
_FILTERS: Final = (
    text("type", "Only resources of exactly this type."),
    text("execution_id", "Only resources that this execution has made."),
    choice("status", "Only resources in this status.", ("provisioned", "released")),
    LIMIT,
    CURSOR,
)


def resources_router(reads: ReadSide, gate: Gate) -> APIRouter:
    """`GET /resources`."""
    routes = GuardedRoutes(gate, "resources")

    @routes.tenant(
        "GET", "/resources", RESOURCES_READ, summary="List resources", query=_FILTERS, headers=MIN_POSITION,
        answers=(page_of("Resources, those made last first.", ResourcePage),),
    )  # fmt: skip
    async def read_resources(request: Request, access: Access) -> Response:
        """What the results of steps have declared, and which execution and step made each."""
        query = parse(request, _FILTERS)
        query["limit"] = query["limit"] or LIMIT_DEFAULT
        async with reads.at(request, READ_MODEL):
            listed = await list_resources(reads.tenant_pool, access.tenant_id, **query)
        return page(request, listed.items, listed.next_cursor)

    return routes.router
