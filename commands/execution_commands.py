# intent_ref: commands.execution
"""What one may ask of an execution. `commands/execution.py` says what then happens."""

from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.execution_terms import Parent
from domain.immutable import immutable
from domain.values import ExecutionId, IntentId, StepId, TenantId


class StartExecution(BaseModel):
    """Let this version of the intent be carried out; the current one where None. One that `queues` waits for its turn."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    intent_id: IntentId
    version: int | None = None
    inputs: dict[str, Any] = {}
    tenant_id: TenantId = TenantId("")
    priority: int | None = None
    business_key: str | None = None
    parent: Parent | None = None
    depth: int = 0
    root: ExecutionId | None = None
    started_by: str | None = None
    queues: bool = False
    at: AwareDatetime


class _FollowUp(BaseModel):
    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    at: AwareDatetime


@immutable
class CompleteStep:
    """The module has answered: attempt `attempt` is done, with this result.

    As the two commands below, it is made of values that have been checked where they came in, for every step: so it checks none.
    """

    execution_id: ExecutionId
    at: datetime
    step: StepId
    attempt: int
    result: Any = None


@immutable
class FailStep:
    """Attempt `attempt` has failed. `error` has `code` and `message`; not `retryable` means that no other attempt would help.

    An attempt that does not count was never really made (the module's breaker is open): it is made again after `again_seconds`.
    """

    execution_id: ExecutionId
    at: datetime
    step: StepId
    attempt: int
    error: dict[str, Any]
    retryable: bool = True
    counts: bool = True
    again_seconds: float = 1.0


@immutable
class RecordOutcomes:
    """Several answers that came at the same time. Those that come too late are left out."""

    execution_id: ExecutionId
    at: datetime
    outcomes: tuple[CompleteStep | FailStep, ...]


class PassGate(_FollowUp):
    """What the step waited for at its gate number `gate` has come: the time, or the child's end with this result."""

    step: StepId
    gate: int
    result: Any = None


class FailGate(_FollowUp):
    """What the step waited for will not come."""

    step: StepId
    gate: int
    error: dict[str, Any]


class ExpireStep(_FollowUp):
    """Time is up: for the gate number `gate`, or, where None, for the step with all its attempts."""

    step: StepId
    gate: int | None


class ExpireExecution(_FollowUp):
    """Time is up for the execution."""


class ApproveStep(_FollowUp):
    """Somebody with these roles approves."""

    step: StepId
    by: str
    roles: frozenset[str]
    comment: str | None = None


class RejectStep(_FollowUp):
    """Somebody with these roles does not approve."""

    step: StepId
    by: str
    roles: frozenset[str]
    comment: str | None = None


class SignalExecution(_FollowUp):
    """Something has happened outside that steps may wait for."""

    name: str
    payload: Any = None


class CancelExecution(_FollowUp):
    """Let no further step start; what completed is undone where it can be."""

    reason: str | None = None


class TerminateExecution(_FollowUp):
    """Let it end at once: nothing is waited for, nothing undone."""

    reason: str | None = None


class AdmitExecution(_FollowUp):
    """Let the execution begin that has waited for the tenant to have room."""


class PauseExecution(_FollowUp):
    """Let no further step start until it is resumed; what runs goes on."""


class ResumeExecution(_FollowUp):
    """Let the paused execution go on."""


class RetryExecution(_FollowUp):
    """Let the failed execution go on from the steps that failed."""


class RerunExecution(_FollowUp):
    """Let the ended execution go on from this step; what does not depend on it keeps its results."""

    step: StepId


class ReportStall(_FollowUp):
    """The execution had nothing to wake it; `missing` has been put right."""

    missing: tuple[str, ...]


FollowUpCommand = (
    CompleteStep | FailStep | RecordOutcomes | PassGate | FailGate | ExpireStep | ExpireExecution | ApproveStep | RejectStep
    | SignalExecution | CancelExecution | TerminateExecution | AdmitExecution | PauseExecution | ResumeExecution
    | RetryExecution | RerunExecution | ReportStall
)  # fmt: skip
ExecutionCommand = StartExecution | FollowUpCommand
