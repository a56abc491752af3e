# intent_ref: read-api.explanations
"""`GET /executions/{id}/explain`: why each unfinished step has not run yet."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.operations import Answer
from access.http.plan_documents import Explained
from access.http.queries import parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_READ
from domain.execution import evolve
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import ExecutionId, TenantId, execution_stream
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from projections.pages import storable
from read_api.explaining import EXPLAINED_MAX, Due, Met, explained
from read_api.reading import found, missing

_ROWS: Final = "SELECT * FROM quantum.explain_execution($1, $2, $3)"
_LIMITS: Final = "SELECT * FROM quantum.explain_limits($1, $2, $3, $4)"


def utc_now() -> datetime:
    """The time that explanations go by."""
    return datetime.now(UTC)


def explanations_router(
    gate: Gate, store: EventStore, *, installation: TenantLimits = NO_LIMITS, clock: Callable[[], datetime] = utc_now
) -> APIRouter:  # fmt: skip
    """The route that explains executions. It reads the log itself, so it needs no position to wait for.

    `installation`: the limits of tenants for which nothing else is set.
    """
    routes = GuardedRoutes(gate, "executions")

    @routes.tenant(
        "GET", "/executions/{execution_id}/explain", EXECUTIONS_READ, summary="Explain an execution",
        answers=(Answer(200, "Why each unfinished step has not come further.", Explained),),
    )  # fmt: skip
    async def explain_execution(request: Request, access: Access) -> Response:
        """What it waits for: other steps, a time, a person, a signal, a child, its turn, a module, or to be resumed."""
        execution_id = request.path_params["execution_id"]
        parse(request, ())
        if not storable(execution_id):
            raise missing("execution", execution_id)
        loaded = await store.load(access.tenant_id, execution_stream(ExecutionId(execution_id)), evolve)
        if loaded.state is None:
            raise missing("execution", execution_id)
        rows = await waited_for(store.tenant_pool, access.tenant_id, execution_id)
        limits = await limits_met(store.tenant_pool, access.tenant_id, execution_id, installation)
        return found(orjson.dumps(explained(loaded.state, rows, clock(), limits)))

    return routes.router


async def waited_for(tenant_pool: Any, tenant_id: TenantId, execution_id: str) -> list[Due]:
    """What is to be done for an execution, at most `EXPLAINED_MAX` rows of it. Raises `StoreUnavailable`."""
    try:
        rows = await tenant_pool.fetch(_ROWS, tenant_id, execution_id, EXPLAINED_MAX)
    except DATABASE_AWAY as fault:
        raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
    return [Due(**row) for row in rows]


async def limits_met(tenant_pool: Any, tenant_id: TenantId, execution_id: str, installation: TenantLimits) -> list[Met]:
    """The limits that may keep an execution waiting. Raises `StoreUnavailable`."""
    defaults = (installation.concurrent_steps, installation.concurrent_executions)
    try:
        rows = await tenant_pool.fetch(_LIMITS, tenant_id, execution_id, *defaults)
    except DATABASE_AWAY as fault:
        raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
    return [Met(**row) for row in rows]
