# intent_ref: read-api.intents
"""Routes that show intents and their versions."""

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import entity_tag, is_unchanged
from access.http.operations import Answer
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, Parameter, choice, page, parse, text
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import INTENTS_READ
from projections.documents import Document
from projections.intents import get_intent, get_intent_version, list_intent_versions, list_intents, searched
from read_api.reading import MIN_POSITION, ReadSide, found, missing, page_of

READ_MODEL: Final = "intents"
SEARCH: Final = "intent_search"
_STATUS: Final = b'"status":"'


def _label(value: str) -> tuple[str, str | None]:
    key, separator, wanted = value.partition("=" if "=" in value else ":")
    if not key or "\0" in value or len(value) > 500:
        raise ValueError("It must be a label's key, or `key=value`.")
    return key, wanted if separator else None


_FILTERS: Final = (
    text("name", "Only the intent of exactly this name."),
    choice("status", "Only intents in this status.", ("active", "deprecated", "archived")),
    text("q", "Words to find in name, description, labels and definition."),
    Parameter("label", "Only intents with this label: `key`, or `key=value`.", {"type": "string", "minLength": 1}, _label),
    LIMIT,
    CURSOR,
)


def intents_router(reads: ReadSide, gate: Gate) -> APIRouter:
    """The routes under `/intents` that show something."""
    routes = GuardedRoutes(gate, "intents")

    @routes.tenant(
        "GET", "/intents/{intent_id}", INTENTS_READ, summary="Read an intent", headers=("If-None-Match", *MIN_POSITION),
        answers=(
            Answer(200, "The intent.", documents.Intent, headers=("ETag",)),
            Answer(304, "The intent is as the client has it.", headers=("ETag",)),
        ),
    )  # fmt: skip
    async def read_intent(request: Request, access: Access) -> Response:
        """With the definition of its current version."""
        intent_id = request.path_params["intent_id"]
        parse(request, ())
        async with reads.at(request, READ_MODEL):
            document = await get_intent(reads.reader, access.tenant_id, intent_id)
        if document is None:
            raise missing("intent", intent_id)
        headers = {"ETag": entity_tag(document.version, _status(document)), "Cache-Control": "private, no-cache"}
        if is_unchanged(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return found(document.body, headers)

    @routes.tenant(
        "GET", "/intents", INTENTS_READ, summary="List intents", query=_FILTERS, headers=MIN_POSITION,
        answers=(page_of("Intents, newest first.", documents.IntentPage),),
    )  # fmt: skip
    async def read_intents(request: Request, access: Access) -> Response:
        """All filters must hold."""
        query = parse(request, _FILTERS)
        models = (READ_MODEL, SEARCH) if searched(query["name"], query["q"], query["label"]) else (READ_MODEL,)
        async with reads.at(request, *models):
            listed = await list_intents(
                reads.tenant_pool, access.tenant_id, name=query["name"], status=query["status"], q=query["q"],
                label=query["label"], limit=query["limit"] or LIMIT_DEFAULT, cursor=query["cursor"],
            )  # fmt: skip
        return page(request, listed.items, listed.next_cursor)

    @routes.tenant(
        "GET", "/intents/{intent_id}/versions", INTENTS_READ, summary="List an intent's versions", query=(LIMIT, CURSOR),
        headers=MIN_POSITION, answers=(page_of("Versions, newest first.", documents.IntentVersionPage),),
    )  # fmt: skip
    async def read_versions(request: Request, access: Access) -> Response:
        """Every version is kept."""
        intent_id = request.path_params["intent_id"]
        query = parse(request, (LIMIT, CURSOR))
        async with reads.at(request, READ_MODEL):
            listed = await list_intent_versions(
                reads.tenant_pool, access.tenant_id, intent_id, limit=query["limit"] or LIMIT_DEFAULT, cursor=query["cursor"]
            )
            if not listed.items and await get_intent(reads.reader, access.tenant_id, intent_id) is None:
                raise missing("intent", intent_id)
        return page(request, listed.items, listed.next_cursor)

    @routes.tenant(
        "GET", "/intents/{intent_id}/versions/{version}", INTENTS_READ, summary="Read a version of an intent",
        headers=MIN_POSITION, answers=(Answer(200, "The version.", documents.IntentVersion),),
    )  # fmt: skip
    async def read_version(request: Request, access: Access) -> Response:
        """As it was."""
        intent_id, version = request.path_params["intent_id"], request.path_params["version"]
        parse(request, ())
        if not version.isascii() or not version.isdigit() or len(version) > 10:
            raise missing("version", version)
        async with reads.at(request, READ_MODEL):
            document = await get_intent_version(reads.tenant_pool, access.tenant_id, intent_id, int(version))
        if document is None:
            raise missing("version", f"{version} of the intent {intent_id}")
        return found(document.body)

    return routes.router


def _status(document: Document) -> str:
    """The status in an intent's document, without decoding it: nothing before it can hold these bytes, since a quotation mark
    within a string is escaped."""
    begin = document.body.index(_STATUS) + len(_STATUS)
    return document.body[begin : document.body.index(b'"', begin)].decode()
