# intent_ref: write-api.tenant-limits
"""`PUT /tenants/{id}/limits`: what a tenant may have under way, for the platform's administrators to say."""

from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.headers import command_identity
from access.http.json_body import parse_object, validated
from access.http.limit_documents import Limits, limits_document
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.routing import GuardedRoutes
from access.principal import Principal
from access.roles import TENANTS_MANAGE
from commands.handle import Shell, handle
from commands.tenant import SetTenantLimits
from domain.tenant_limits import COUNT_MAX, WEIGHT_MAX, WEIGHT_MIN, OnExceeded, TenantLimits
from domain.values import TenantId, is_tenant_id
from write_api.writing import KEY_HEADERS, REPLAY, WRITTEN, Clock, envelope, utc_now, written


class NewLimits(BaseModel):
    """The limits of a tenant. What is left out or null holds as the installation has it."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={"examples": [{"concurrent_executions": 20, "on_exceeded": "queue", "executions_a_minute": 600}]},
    )  # fmt: skip
    concurrent_steps: int | None = Field(None, ge=1, le=COUNT_MAX, description="Steps under way at once.")
    concurrent_executions: int | None = Field(None, ge=1, le=COUNT_MAX, description="Executions under way at once.")
    on_exceeded: OnExceeded | None = Field(
        None, description="What happens to executions beyond that: they wait for their turn (`queue`), or are refused (`reject`)."
    )
    executions_a_minute: int | None = Field(None, ge=1, le=COUNT_MAX, description="Starts in any minute; more are refused.")
    queue_length: int | None = Field(None, ge=1, le=COUNT_MAX, description="What may wait before starts are refused.")
    weight: float | None = Field(
        None, ge=WEIGHT_MIN, le=WEIGHT_MAX, description="The tenant's share of the workers; others have 1."
    )


_SET: Final = Answer(200, "The limits after the change.", Limits, headers=WRITTEN, at_times=REPLAY)


def tenant_limits_router(shell: Shell, gate: Gate, installation: TenantLimits, *, clock: Clock = utc_now) -> APIRouter:
    """The route that sets limits; `installation` is what holds where a tenant has none."""
    routes = GuardedRoutes(gate, "tenants")

    @routes.platform(
        "PUT", "/tenants/{tenant_id}/limits", TENANTS_MANAGE, summary="Set a tenant's limits", body=NewLimits,
        headers=KEY_HEADERS, answers=(_SET,),
    )  # fmt: skip
    async def set_limits(request: Request, principal: Principal) -> Response:
        """They take the place of those set before, and hold within a second or two, for what waits already as well."""
        raw = await request.body()
        body = validated(NewLimits, parse_object(raw))
        tenant_id = request.path_params["tenant_id"]
        if not is_tenant_id(tenant_id):
            raise Problem("not-found", "There is no such tenant.")
        command = SetTenantLimits(tenant_id=TenantId(tenant_id), limits=TenantLimits(**body.model_dump()), at=clock())
        identity = command_identity(request, tenant_id, principal, raw)
        outcome = await handle(shell, command, envelope(request, TenantId(tenant_id), principal, identity))
        gate.forget(TenantId(tenant_id))
        return written(200, limits_document(TenantId(tenant_id), outcome.state.limits, installation), outcome)

    return routes.router
