# intent_ref: read-api.workflows
"""Workflows as they are read: the intents that carry the label which makes them one."""

from typing import Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import entity_tag
from access.http.operations import Answer
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, choice, page, parse, text
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_READ
from domain.workflows import WORKFLOW_LABEL
from projections.intents import get_intent, list_intents
from read_api.reading import MIN_POSITION, ReadSide, found, missing, page_of

_MODELS: Final = ("intents", "intent_search")
_FILTERS: Final = (
    text("name", "Only the workflow of exactly this name."),
    choice("status", "Only workflows in this status.", ("active", "deprecated", "archived")),
    LIMIT,
    CURSOR,
)


def workflows_router(reads: ReadSide, gate: Gate) -> APIRouter:
    """The routes under `/workflows` that show something."""
    routes = GuardedRoutes(gate, "workflows")

    @routes.tenant(
        "GET", "/workflows", INTENTS_READ, summary="List workflows", query=_FILTERS, headers=MIN_POSITION,
        answers=(page_of("Workflows, newest first.", documents.IntentPage),),
    )  # fmt: skip
    async def read_workflows(request: Request, access: Access) -> Response:
        """Intents made to be run by others as a step (`{"workflow": "name@version"}`): those with the label `kind=workflow`."""
        query = parse(request, _FILTERS)
        query["limit"] = query["limit"] or LIMIT_DEFAULT
        async with reads.at(request, *_MODELS):
            listed = await list_intents(reads.tenant_pool, access.tenant_id, label=WORKFLOW_LABEL, **query)
        return page(request, listed.items, listed.next_cursor)

    @routes.tenant(
        "GET", "/workflows/{intent_id}", INTENTS_READ, summary="Read a workflow", headers=MIN_POSITION,
        answers=(Answer(200, "The workflow.", documents.Intent, headers=("ETag",)),),
    )  # fmt: skip
    async def read_workflow(request: Request, access: Access) -> Response:
        """The same as the intent of that id, where it is a workflow."""
        intent_id = request.path_params["intent_id"]
        parse(request, ())
        async with reads.at(request, "intents"):
            document = await get_intent(reads.reader, access.tenant_id, intent_id)
        body = None if document is None else orjson.loads(document.body)
        key, value = WORKFLOW_LABEL
        if document is None or body is None or body["labels"].get(key) != value:
            raise missing("workflow", intent_id)
        return found(document.body, {"ETag": entity_tag(document.version, body["status"])})

    return routes.router
