# intent_ref: commands.tenant
"""What one may ask of a tenant, and what then happens."""

from typing import assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.input_rules import name_faults, text_faults
from domain.refusals import Fault, Invalid, NotFound, TenantExists
from domain.tenant import Tenant, TenantEvent, TenantLimitsSet, TenantReactivated, TenantRegistered, TenantSuspended
from domain.tenant_limits import TenantLimits, limits_faults
from domain.values import TenantId, is_tenant_id

REASON_CHARS_MAX = 2_000


class RegisterTenant(BaseModel):
    """Let there be a tenant."""

    model_config = ConfigDict(frozen=True)
    tenant_id: TenantId
    name: str
    at: AwareDatetime


class SuspendTenant(BaseModel):
    """Let the tenant be read and not changed."""

    model_config = ConfigDict(frozen=True)
    tenant_id: TenantId
    reason: str | None = None
    at: AwareDatetime


class ReactivateTenant(BaseModel):
    """Let the suspended tenant be changed again."""

    model_config = ConfigDict(frozen=True)
    tenant_id: TenantId
    at: AwareDatetime


class SetTenantLimits(BaseModel):
    """Let these limits hold for the tenant, instead of those that were set before."""

    model_config = ConfigDict(frozen=True)
    tenant_id: TenantId
    limits: TenantLimits
    at: AwareDatetime


TenantCommand = RegisterTenant | SuspendTenant | ReactivateTenant | SetTenantLimits


def decide(state: Tenant | None, command: TenantCommand) -> list[TenantEvent]:
    """What happens on `command`; nothing where the tenant is that way already.

    Raises `TenantExists`, `NotFound` or `Invalid`.
    """
    if isinstance(command, RegisterTenant):
        if state is not None:
            raise TenantExists(command.tenant_id)
        faults = name_faults(command.name)
        if not is_tenant_id(command.tenant_id):
            rule = "lower-case letters, digits and inner hyphens, 1 to 63 characters"
            faults.insert(0, Fault("/id", f"A tenant's id must be {rule}.", "invalid-id"))
        if faults:
            raise Invalid(faults)
        return [TenantRegistered(command.tenant_id, command.name, command.at)]
    if state is None:
        raise NotFound("tenant", command.tenant_id, "on this platform")
    match command, state.status:
        case SuspendTenant(), "active":
            if faults := text_faults(command.reason, "/reason", REASON_CHARS_MAX):
                raise Invalid(faults)
            return [TenantSuspended(command.tenant_id, command.reason, command.at)]
        case ReactivateTenant(), "suspended":
            return [TenantReactivated(command.tenant_id, command.at)]
        case SetTenantLimits(limits=limits), _:
            if faults := limits_faults(limits):
                raise Invalid(faults)
            return [] if limits == state.limits else [TenantLimitsSet(command.tenant_id, limits, command.at)]
        case SuspendTenant() | ReactivateTenant(), _:
            return []
        case _:
            assert_never(command)
