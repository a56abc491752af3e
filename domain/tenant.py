# intent_ref: domain.tenant
"""A tenant: whose everything else is."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, assert_never

from domain.values import TenantId


@dataclass(frozen=True, slots=True)
class TenantRegistered:
    tenant_id: TenantId
    name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class TenantSuspended:
    tenant_id: TenantId
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class TenantReactivated:
    tenant_id: TenantId
    at: datetime


TenantEvent = TenantRegistered | TenantSuspended | TenantReactivated
TenantStatus = Literal["active", "suspended"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as its events left it."""

    tenant_id: TenantId
    name: str
    status: TenantStatus
    created_at: datetime
    updated_at: datetime


def evolve(state: Tenant | None, event: TenantEvent) -> Tenant:
    """The tenant after `event`."""
    if isinstance(event, TenantRegistered):
        return Tenant(event.tenant_id, event.name, "active", event.at, event.at)
    assert state is not None, "a tenant's first event registers it"
    match event:
        case TenantSuspended():
            return replace(state, status="suspended", updated_at=event.at)
        case TenantReactivated():
            return replace(state, status="active", updated_at=event.at)
        case _:
            assert_never(event)
