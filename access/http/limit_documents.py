# intent_ref: access.openapi
"""A tenant's limits as answers show them."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from domain.tenant_limits import OnExceeded, TenantLimits
from domain.values import TenantId


class LimitSet(BaseModel):
    """Limits; null: none."""

    concurrent_steps: int | None
    concurrent_executions: int | None
    on_exceeded: OnExceeded | None
    executions_a_minute: int | None
    queue_length: int | None
    weight: float | None


class Limits(BaseModel):
    """What is set for the tenant itself, and what holds for it: that, and the installation's limits for the rest."""

    tenant_id: str = Field(examples=["tenant-123"])
    set: LimitSet
    in_force: LimitSet


def limits_document(tenant_id: TenantId, limits: TenantLimits, installation: TenantLimits) -> dict[str, Any]:
    """The document of `Limits`."""
    return {"tenant_id": tenant_id, "set": asdict(limits), "in_force": asdict(limits.over(installation))}
