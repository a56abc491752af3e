# intent_ref: domain.execution
"""What can happen to an execution. `domain/execution.py` says what it is then.

`step` names a run: a step (`deploy`), one item of a step that is done for each of a list (`deploy[3]`), or the undoing of
either (`~deploy`).
"""

from datetime import datetime
from typing import Any

from domain.execution_terms import Cause, Options, Parent, SkipReason, StepLimits, WaitingFor
from domain.immutable import immutable
from domain.plan import OnDue, PlannedStep
from domain.values import ActionName, ExecutionId, IntentId, StepId, Version


@immutable
class ExecutionStarted:
    """The plan is recorded with the start, so that a later version never changes a running execution."""

    execution_id: ExecutionId
    intent_id: IntentId
    intent_name: str
    version: Version
    target: str
    inputs: dict[str, Any]
    steps: tuple[PlannedStep, ...]
    at: datetime
    options: Options | None = None


@immutable
class ExecutionQueued:
    """The tenant has a limit on how many executions may be under way: this one waits for its turn, which is its `turn`-th."""

    execution_id: ExecutionId
    turn: int
    priority: int
    at: datetime


@immutable
class ExecutionAdmitted:
    """The execution that waited for its turn begins."""

    execution_id: ExecutionId
    at: datetime


@immutable
class StepStarted:
    """The first attempt of a run (or the first one after a retry by hand) may be made."""

    execution_id: ExecutionId
    step: StepId
    action: ActionName
    attempt: int
    at: datetime
    limits: StepLimits | None = None


@immutable
class StepRetrying:
    """Attempt `attempt - 1` has failed with `error`; attempt `attempt` may be made from `due_at` on.

    Where it does not count, the attempt was never really made (the module's breaker is open), and the policy allows as many
    as before.
    """

    execution_id: ExecutionId
    step: StepId
    attempt: int
    error: dict[str, Any]
    due_at: datetime
    at: datetime
    limits: StepLimits | None = None
    counts: bool = True


@immutable
class StepCompleted:
    execution_id: ExecutionId
    step: StepId
    attempt: int
    result: Any
    at: datetime


@immutable
class StepFailed:
    """The last attempt has failed, or the step's time is up. `error` has `code`, `message` and what else the module said.

    `result` is what a loop that its failure is lived with has come to all the same: the items' results, null where one failed.
    `child` is the execution that ran for the step when its time was up; it is stopped.
    """

    execution_id: ExecutionId
    step: StepId
    attempt: int
    error: dict[str, Any]
    at: datetime
    result: Any = None
    child: ExecutionId | None = None


@immutable
class StepSkipped:
    """The step is not carried out: its condition is false, all it depends on was skipped, or its approval ran out."""

    execution_id: ExecutionId
    step: StepId
    reason: SkipReason
    at: datetime


@immutable
class StepWaiting:
    """The run waits for a time, a person, a signal or a child execution, or, all its gates behind it, for the end of a pause.
    At `due_at` happens what `on_due` says.

    `gate` is which of the step's gates it stands before; a child is no gate. `detail` says what the reason needs: `roles` and
    `message`, `signal`, or the child's `execution_id`, `intent`, `version` and `inputs`. `limits` say when the step as a whole
    must be over, where it has a time for that.
    """

    execution_id: ExecutionId
    step: StepId
    reason: WaitingFor
    gate: int
    due_at: datetime | None
    on_due: OnDue
    detail: dict[str, Any]
    at: datetime
    limits: StepLimits | None = None


@immutable
class StepApproved:
    """`by` is who approved; what comes next for the step follows in events of its own."""

    execution_id: ExecutionId
    step: StepId
    by: str
    comment: str | None
    at: datetime


@immutable
class StepRejected:
    execution_id: ExecutionId
    step: StepId
    by: str
    comment: str | None
    at: datetime


@immutable
class StepExpanded:
    """The step is done once for each of `items`."""

    execution_id: ExecutionId
    step: StepId
    items: tuple[Any, ...]
    at: datetime


@immutable
class StepFallingBack:
    """The step's action has failed for good with `error`; its fallback is tried instead."""

    execution_id: ExecutionId
    step: StepId
    error: dict[str, Any]
    at: datetime


@immutable
class StepCancelled:
    """The run is given up because the execution fails or is cancelled, or because another item of its loop has failed; `child` is
    the execution that ran for it."""

    execution_id: ExecutionId
    step: StepId
    child: ExecutionId | None
    at: datetime


@immutable
class SignalReceived:
    """A signal from outside. It is kept until a step asks for it."""

    execution_id: ExecutionId
    name: str
    payload: Any
    at: datetime


@immutable
class ResourceProvisioned:
    """A step's result declares that it made this; `resource_id` is the maker's own id."""

    execution_id: ExecutionId
    step: StepId
    type: str
    resource_id: str
    attributes: dict[str, Any]
    at: datetime


@immutable
class ResourceReleased:
    execution_id: ExecutionId
    step: StepId
    type: str
    resource_id: str
    at: datetime


@immutable
class CancellationRequested:
    """No further step starts; attempts under way are waited for, because what they have done may have to be undone."""

    execution_id: ExecutionId
    reason: str | None
    at: datetime


@immutable
class ExecutionFailing:
    """The execution as a whole has failed (its time is up, or its outputs cannot be made); what runs is given up."""

    execution_id: ExecutionId
    error: dict[str, Any]
    at: datetime


@immutable
class CompensationStarted:
    """What completed is undone, in this order, one after the other."""

    execution_id: ExecutionId
    cause: Cause
    runs: tuple[StepId, ...]
    at: datetime


@immutable
class StepCompensated:
    execution_id: ExecutionId
    step: StepId
    attempt: int
    result: Any
    at: datetime


@immutable
class CompensationFailed:
    """The undoing has failed for good: somebody has to look. The others go on."""

    execution_id: ExecutionId
    step: StepId
    attempt: int
    error: dict[str, Any]
    at: datetime


@immutable
class ExecutionCompleted:
    """`result` is what the definition's `outputs` made of the steps' results."""

    execution_id: ExecutionId
    at: datetime
    result: Any = None
    parent: Parent | None = None


@immutable
class ExecutionFailed:
    """`step` is empty where the execution as a whole ran out of time. `not_undone` are the runs whose undoing failed."""

    execution_id: ExecutionId
    step: StepId
    error: dict[str, Any]
    at: datetime
    not_undone: tuple[StepId, ...] = ()
    parent: Parent | None = None


@immutable
class ExecutionCancelled:
    execution_id: ExecutionId
    reason: str | None
    at: datetime
    not_undone: tuple[StepId, ...] = ()
    children: tuple[ExecutionId, ...] = ()
    parent: Parent | None = None


@immutable
class ExecutionTerminated:
    """Ended at once: nothing is waited for, nothing undone."""

    execution_id: ExecutionId
    reason: str | None
    at: datetime
    children: tuple[ExecutionId, ...] = ()
    parent: Parent | None = None


@immutable
class ExecutionPaused:
    """Running attempts go on; no further step starts."""

    execution_id: ExecutionId
    at: datetime


@immutable
class ExecutionResumed:
    execution_id: ExecutionId
    at: datetime


@immutable
class ExecutionRetried:
    """A failed execution goes on from `steps`, which are pending again; completed steps keep their results."""

    execution_id: ExecutionId
    steps: tuple[StepId, ...]
    at: datetime


@immutable
class ExecutionRerun:
    """The execution goes on from `from_step`: that one and all that depend on it (`steps`) are pending again."""

    execution_id: ExecutionId
    from_step: StepId
    steps: tuple[StepId, ...]
    at: datetime


@immutable
class ExecutionStalled:
    """The execution had nothing that would wake it; `missing` has been put right. Should never be seen."""

    execution_id: ExecutionId
    missing: tuple[str, ...]
    at: datetime


ExecutionEvent = (
    ExecutionStarted
    | StepStarted
    | StepRetrying
    | StepCompleted
    | StepFailed
    | StepSkipped
    | StepWaiting
    | StepApproved
    | StepRejected
    | StepExpanded
    | StepFallingBack
    | StepCancelled
    | SignalReceived
    | ResourceProvisioned
    | ResourceReleased
    | CancellationRequested
    | ExecutionFailing
    | CompensationStarted
    | StepCompensated
    | CompensationFailed
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
    | ExecutionTerminated
    | ExecutionPaused
    | ExecutionResumed
    | ExecutionRetried
    | ExecutionRerun
    | ExecutionStalled
    | ExecutionQueued
    | ExecutionAdmitted
)
ENDS = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled, ExecutionTerminated)
"""The events after which an execution has ended."""
