# intent_ref: domain.tenant
"""A tenant: whose everything else is."""

from dataclasses import replace
from datetime import datetime
from typing import Literal, assert_never

from domain.immutable import immutable
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import TenantId


@immutable
class TenantRegistered:
    tenant_id: TenantId
    name: str
    at: datetime


@immutable
class TenantSuspended:
    tenant_id: TenantId
    reason: str | None
    at: datetime


@immutable
class TenantReactivated:
    tenant_id: TenantId
    at: datetime


@immutable
class TenantLimitsSet:
    """What the tenant may have under way from now on; where a limit is null, the installation's holds."""

    tenant_id: TenantId
    limits: TenantLimits
    at: datetime


TenantEvent = TenantRegistered | TenantSuspended | TenantReactivated | TenantLimitsSet
TenantStatus = Literal["active", "suspended"]


@immutable
class Tenant:
    """A tenant as its events left it."""

    tenant_id: TenantId
    name: str
    status: TenantStatus
    created_at: datetime
    updated_at: datetime
    limits: TenantLimits = NO_LIMITS


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
        case TenantLimitsSet(limits=limits):
            return replace(state, limits=limits, updated_at=event.at)
        case _:
            assert_never(event)
