# intent_ref: domain.execution
"""What the events of an execution say of it and of its attempts: options, limits, and for what it waits."""

from datetime import datetime
from typing import Any, Literal

from domain.immutable import immutable
from domain.values import ActionName, ExecutionId, StepId, TenantId

WaitingFor = Literal["timer", "approval", "signal", "child", "resume"]
SkipReason = Literal["condition", "dependencies", "expired"]
Cause = Literal["failed", "cancelled"]


@immutable
class Parent:
    """The step of another execution whose work this execution is."""

    execution_id: ExecutionId
    step: StepId


@immutable
class Options:
    """What a start says beyond the plan. `priority` is 1 (first) to 5. `business_key` is held until the execution ends. `root` is
    the execution that all this began with, where a step of another has started this one."""

    tenant_id: TenantId
    priority: int = 3
    business_key: str | None = None
    deadline_at: datetime | None = None
    parent: Parent | None = None
    depth: int = 0
    started_by: str | None = None
    outputs: dict[str, Any] | None = None
    root: ExecutionId | None = None


@immutable
class StepLimits:
    """What holds for an attempt: its priority, when it must have begun, when the run must be over with all that it does, how
    many with the same key may be under way in the tenant, and the action, where that has limits of its own."""

    priority: int = 3
    queue_by: datetime | None = None
    expires_at: datetime | None = None
    slot_key: str | None = None
    slot_max: int | None = None
    metered: ActionName | None = None
