# intent_ref: write-api.tenants
"""Routes that register and suspend tenants: for the platform's administrators."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import CommandIdentity, command_identity
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.request_keys import MAY_CHANGE_NOTHING, OwnKeys
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Principal
from access.roles import TENANTS_MANAGE
from commands.handle import IdempotencyKeyReused, Shell, handle
from commands.tenant import ReactivateTenant, RegisterTenant, SuspendTenant, TenantCommand
from domain.documents import tenant_document
from domain.refusals import Fault
from domain.values import TenantId, is_tenant_id
from event_store.store import EventStore
from write_api.writing import REPLAY, WRITTEN, Clock, Nothing, envelope, no_body, utc_now, written

_ANY_TENANT: Final = ""


class NewTenant(BaseModel):
    """A tenant to register."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"id": "tenant-123", "name": "Acme"}]})
    id: str = Field(
        description="A slug: lower-case letters, digits and inner hyphens.", examples=["tenant-123"],
        json_schema_extra={"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
    )  # fmt: skip
    name: str = Field(examples=["Acme"], json_schema_extra={"minLength": 1, "maxLength": 200})


class Suspension(BaseModel):
    """Why a tenant is suspended. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "contract ended"}]})
    reason: str | None = None


_REGISTERED: Final = Answer(201, "The tenant.", documents.Tenant, headers=(*WRITTEN, "Location"), at_times=REPLAY)
_CHANGED: Final = Answer(200, "The tenant after the change.", documents.Tenant, headers=WRITTEN, at_times=REPLAY)


def tenants_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """The routes under `/tenants` that change something."""
    routes = GuardedRoutes(gate, "tenants")

    async def obey(
        request: Request, principal: Principal, command: TenantCommand, identity: CommandIdentity, status: int
    ) -> Response:
        tenant_id = command.tenant_id
        outcome = await handle(shell, command, envelope(request, tenant_id, principal, identity))
        gate.forget(tenant_id)
        location = f"{API_PREFIX}/tenants/{tenant_id}" if status == 201 else None
        return written(status, tenant_document(outcome.state), outcome, location=location)

    @routes.platform(
        "POST", "/tenants", TENANTS_MANAGE, summary="Register a tenant", body=NewTenant, key=OwnKeys(),
        answers=(_REGISTERED,), refusals=(409,),
    )  # fmt: skip
    async def register_tenant(request: Request, principal: Principal) -> Response:
        """From then on tokens that cover the tenant work. The caller's own tenant need not be registered."""
        raw = await request.body()
        body = validated(NewTenant, parse_object(raw))
        if not is_tenant_id(body.id):
            rule = "lower-case letters, digits and inner hyphens, 1 to 63 characters"
            faults = [Fault("/id", f"A tenant's id must be {rule}.", "invalid-id")]
            raise Problem("validation-failed", "The body has 1 fault; `errors` lists it.", faults=faults)
        tenant_id = TenantId(body.id)
        command = RegisterTenant(tenant_id=tenant_id, name=body.name, at=clock())
        # The tenant is part of the body here, so the key must be one for all tenants.
        identity = command_identity(request, _ANY_TENANT, principal, raw)
        if identity.request_hash is None:
            return await obey(request, principal, command, identity, 201)
        async with _key_held(shell.store, tenant_id, identity):
            return await obey(request, principal, command, identity, 201)

    @routes.platform(
        "POST", "/tenants/{tenant_id}/suspend", TENANTS_MANAGE, summary="Suspend a tenant", body=Suspension,
        body_required=False, key=MAY_CHANGE_NOTHING, answers=(_CHANGED,),
    )  # fmt: skip
    async def suspend_tenant(request: Request, principal: Principal) -> Response:
        """What it has can be read and not changed until it is reactivated."""
        raw = await request.body()
        body = validated(Suspension, parse_object(raw) if raw else {})
        command = SuspendTenant(tenant_id=_id(request), reason=body.reason, at=clock())
        identity = command_identity(request, command.tenant_id, principal, raw)
        return await obey(request, principal, command, identity, 200)

    @routes.platform(
        "POST", "/tenants/{tenant_id}/reactivate", TENANTS_MANAGE, summary="Reactivate a tenant", body=Nothing,
        body_required=False, key=MAY_CHANGE_NOTHING, answers=(_CHANGED,),
    )  # fmt: skip
    async def reactivate_tenant(request: Request, principal: Principal) -> Response:
        """Ends a suspension."""
        raw = await no_body(request)
        command = ReactivateTenant(tenant_id=_id(request), at=clock())
        identity = command_identity(request, command.tenant_id, principal, raw)
        return await obey(request, principal, command, identity, 200)

    return routes.router


def _id(request: Request) -> TenantId:
    tenant_id = request.path_params["tenant_id"]
    if not is_tenant_id(tenant_id):
        raise Problem("not-found", "There is no such tenant.")
    return TenantId(tenant_id)


@asynccontextmanager
async def _key_held(store: EventStore, tenant_id: TenantId, identity: CommandIdentity) -> AsyncIterator[None]:
    """Lets nobody else use the idempotency key meanwhile. Raises `IdempotencyKeyReused` where it registered another tenant.

    Commands are told apart within their tenant, and two registrations under one key may name two tenants; so for this route
    alone, which is rare, the key is looked for in all of them, through an index of registrations.
    """
    async with store.platform_pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(20830, hashtext($1))", str(identity.command_id))
        other = await connection.fetchval(
            "SELECT tenant_id FROM quantum.events"
            " WHERE topic = 'tenant.registered.v1' AND command_id = $1 AND tenant_id <> $2 LIMIT 1",
            identity.command_id, tenant_id,
        )  # fmt: skip
        if other is not None:
            raise IdempotencyKeyReused
        yield
