# intent_ref: read-api.tenants
"""Routes that show tenants: all of them to the platform's administrators, to others those their token covers."""

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import TENANT_HEADER, Gate
from access.http import documents
from access.http.operations import Answer
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, choice, page, parse
from access.http.routing import GuardedRoutes
from access.principal import Principal
from access.roles import TENANTS_READ
from domain.values import TenantId, is_tenant_id
from projections.documents import Document
from projections.pages import InvalidCursor
from projections.tenants import get_tenant, list_tenants
from read_api.reading import MIN_POSITION, ReadSide, found, missing, page_of

READ_MODEL: Final = "tenants"
_FILTERS: Final = (choice("status", "Only tenants in this status.", ("active", "suspended")), LIMIT, CURSOR)
_OWN_CURSOR: Final = "own-"


def tenants_router(reads: ReadSide, gate: Gate) -> APIRouter:
    """The routes under `/tenants` that show something."""
    routes = GuardedRoutes(gate, "tenants")

    @routes.platform(
        "GET", "/tenants", TENANTS_READ, summary="List tenants", query=_FILTERS, headers=("X-Tenant-Id", *MIN_POSITION),
        answers=(page_of("Tenants.", documents.TenantPage),),
    )  # fmt: skip
    async def read_tenants(request: Request, principal: Principal) -> Response:
        """All tenants for a platform-admin; for others the registered ones of those that the token covers."""
        query = parse(request, _FILTERS)
        limit = query["limit"] or LIMIT_DEFAULT
        if principal.is_platform_admin:
            async with reads.at(request, READ_MODEL):
                listed = await list_tenants(reads.platform_pool, status=query["status"], limit=limit, cursor=query["cursor"])
            return page(request, listed.items, listed.next_cursor)
        covered = await _covered(request, principal)
        async with reads.at(request, READ_MODEL):
            after = _after(query["cursor"])
            items: list[tuple[TenantId, Document]] = []
            for tenant_id in sorted(one for one in covered if one > after):
                document = await get_tenant(reads.reader, tenant_id)
                if document is not None and _has_status(document, query["status"]):
                    items.append((tenant_id, document))
                if len(items) > limit:
                    break
        next_cursor = f"{_OWN_CURSOR}{items[limit - 1][0]}" if len(items) > limit else None
        return page(request, [document.body for _, document in items[:limit]], next_cursor)

    @routes.platform(
        "GET", "/tenants/{tenant_id}", TENANTS_READ, summary="Read a tenant", headers=MIN_POSITION,
        answers=(Answer(200, "The tenant.", documents.Tenant),),
    )  # fmt: skip
    async def read_tenant(request: Request, principal: Principal) -> Response:
        """A tenant sees itself; what is another's does not exist."""
        parse(request, ())
        tenant_id = await shown_tenant(gate, request, principal)
        async with reads.at(request, READ_MODEL):
            document = await get_tenant(reads.reader, tenant_id)
        if document is None:
            raise missing("tenant", tenant_id)
        return found(document.body)

    async def _covered(request: Request, principal: Principal) -> tuple[TenantId, ...]:
        if len(principal.tenants) > 1 and TENANT_HEADER.lower() not in request.headers:
            return principal.tenants
        tenant_id = gate.tenant_of(request, principal)
        await gate.require_registered(tenant_id)
        return (tenant_id,)

    return routes.router


async def shown_tenant(gate: Gate, request: Request, principal: Principal) -> TenantId:
    """The tenant that the path names, if the principal may see it. Raises `Problem`: what is another's does not exist."""
    tenant_id = request.path_params["tenant_id"]
    is_shown = principal.is_platform_admin or tenant_id in principal.tenants
    if not is_shown or not is_tenant_id(tenant_id):
        raise missing("tenant", tenant_id)
    if not principal.is_platform_admin:
        await gate.require_registered(TenantId(tenant_id))
    return TenantId(tenant_id)


def _after(cursor: str | None) -> str:
    if cursor is None:
        return ""
    if not cursor.startswith(_OWN_CURSOR) or not is_tenant_id(cursor.removeprefix(_OWN_CURSOR)):
        raise InvalidCursor
    return cursor.removeprefix(_OWN_CURSOR)


def _has_status(document: Document, status: str | None) -> bool:
    return status is None or f'"status":"{status}"'.encode() in document.body
