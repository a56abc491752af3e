# intent_ref: read-api.tenant-limits
"""`GET /tenants/{id}/limits`: what a tenant may have under way. Read from the log itself, so it is always up to date."""

from typing import Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.limit_documents import Limits, limits_document
from access.http.operations import Answer
from access.http.queries import parse
from access.http.routing import GuardedRoutes
from access.principal import Principal
from access.roles import TENANTS_READ
from domain.tenant import evolve
from domain.tenant_limits import TenantLimits
from domain.values import tenant_stream
from event_store.store import EventStore
from read_api.reading import found, missing
from read_api.tenants import shown_tenant

_ANSWER: Final = Answer(200, "What is set for the tenant, and what holds for it.", Limits)


def tenant_limits_router(store: EventStore, gate: Gate, installation: TenantLimits) -> APIRouter:
    """The route that shows limits; `installation` is what holds where a tenant has none."""
    routes = GuardedRoutes(gate, "tenants")

    @routes.platform(
        "GET", "/tenants/{tenant_id}/limits", TENANTS_READ, summary="Read a tenant's limits", answers=(_ANSWER,)
    )  # fmt: skip
    async def read_limits(request: Request, principal: Principal) -> Response:
        """A tenant sees its own; what is another's does not exist."""
        parse(request, ())
        tenant_id = await shown_tenant(gate, request, principal)
        loaded = await store.load(tenant_id, tenant_stream(tenant_id), evolve)
        if loaded.state is None:
            raise missing("tenant", tenant_id)
        return found(orjson.dumps(limits_document(tenant_id, loaded.state.limits, installation)))

    return routes.router
