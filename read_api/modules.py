# intent_ref: read-api.modules
"""Routes that show a tenant's modules, and those that come with the platform."""

from typing import Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import min_position
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, page, parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import MODULES_READ
from domain.documents import module_document
from domain.module import Modules
from projections.modules import get_module, list_modules
from projections.pages import Page
from read_api.module_circuits import with_circuits
from read_api.reading import MIN_POSITION, ReadSide, found, missing, page_of

READ_MODEL: Final = "modules"
_BUILTIN_CURSOR: Final = "builtin-"


def modules_router(reads: ReadSide, gate: Gate, builtin: Modules) -> APIRouter:
    """The routes under `/modules` that show something; `builtin` are the modules every tenant has."""
    routes = GuardedRoutes(gate, "modules")
    built_in = {
        name: orjson.dumps({**module_document(one, built_in=True), "circuit": None}) for name, one in builtin.by_name.items()
    }

    @routes.tenant(
        "GET", "/modules", MODULES_READ, summary="List modules", query=(LIMIT, CURSOR), headers=MIN_POSITION,
        answers=(page_of("The tenant's modules, newest first, then the built-in ones.", documents.ModulePage),),
    )  # fmt: skip
    async def read_modules(request: Request, access: Access) -> Response:
        """What actions there are for definitions to use."""
        query = parse(request, (LIMIT, CURSOR))
        limit, cursor = query["limit"] or LIMIT_DEFAULT, query["cursor"]
        own = Page([], None)
        begin = 0
        async with reads.at(request, READ_MODEL):
            if cursor is not None and cursor.startswith(_BUILTIN_CURSOR):
                begin = _place(cursor, len(built_in))
            else:
                own = await list_modules(reads.tenant_pool, access.tenant_id, limit=limit, cursor=cursor)
                own = Page(await with_circuits(reads.tenant_pool, access.tenant_id, own.items), own.next_cursor)
        if own.next_cursor is not None:
            return page(request, own.items, own.next_cursor)
        end = begin + limit - len(own.items)
        items = [*own.items, *list(built_in.values())[begin:end]]
        return page(request, items, f"{_BUILTIN_CURSOR}{end}" if end < len(built_in) else None)

    @routes.tenant(
        "GET", "/modules/{name}", MODULES_READ, summary="Read a module", headers=MIN_POSITION,
        answers=(Answer(200, "The module.", documents.Module),),
    )  # fmt: skip
    async def read_module(request: Request, access: Access) -> Response:
        """Its actions, how it is reached, and whether its circuit breaker lets calls through."""
        name = request.path_params["name"]
        parse(request, ())
        if name in built_in:
            min_position(request)  # nothing to wait for, but what is no position is refused here as everywhere
            return found(built_in[name])
        async with reads.at(request, READ_MODEL):
            document = await get_module(reads.reader, access.tenant_id, name)
            if document is None:
                raise missing("module", name)
            (body,) = await with_circuits(reads.tenant_pool, access.tenant_id, [document.body])
        return found(body)

    return routes.router


def _place(cursor: str, count: int) -> int:
    digits = cursor.removeprefix(_BUILTIN_CURSOR)
    if not digits.isascii() or not digits.isdigit() or len(digits) > 6 or int(digits) >= count:
        raise Problem("cursor-invalid", "This cursor does not continue this list: leave it out to start over.")
    return int(digits)
