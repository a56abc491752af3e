# intent_ref: domain.execution
"""An execution: one run of one version of an intent, step by step."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, assert_never

from domain.module import RetryPolicy
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, StepId, Version


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as it will be carried out: everything the definition left unsaid is filled in."""

    id: StepId
    action: ActionName
    module: ModuleName
    depends_on: tuple[StepId, ...]
    parameters: dict[str, Any]
    timeout_seconds: float
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The first attempt of a step (or the first one after a retry by hand) may be made."""

    execution_id: ExecutionId
    step: StepId
    action: ActionName
    attempt: int
    at: datetime


@dataclass(frozen=True, slots=True)
class StepRetrying:
    """Attempt `attempt - 1` has failed with `error`; attempt `attempt` may be made from `due_at` on."""

    execution_id: ExecutionId
    step: StepId
    attempt: int
    error: dict[str, Any]
    due_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class StepCompleted:
    execution_id: ExecutionId
    step: StepId
    attempt: int
    result: Any
    at: datetime


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The last attempt has failed. `error` has `code`, `message` and what else the module said."""

    execution_id: ExecutionId
    step: StepId
    attempt: int
    error: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionCompleted:
    execution_id: ExecutionId
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionFailed:
    execution_id: ExecutionId
    step: StepId
    error: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionCancelled:
    execution_id: ExecutionId
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionPaused:
    """Running attempts go on; no further step starts."""

    execution_id: ExecutionId
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionResumed:
    execution_id: ExecutionId
    at: datetime


@dataclass(frozen=True, slots=True)
class ExecutionRetried:
    """A failed execution goes on from `steps`, which are pending again; completed steps keep their results."""

    execution_id: ExecutionId
    steps: tuple[StepId, ...]
    at: datetime


ExecutionEvent = (
    ExecutionStarted
    | StepStarted
    | StepRetrying
    | StepCompleted
    | StepFailed
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
    | ExecutionPaused
    | ExecutionResumed
    | ExecutionRetried
)
ExecutionStatus = Literal["running", "paused", "completed", "failed", "cancelled"]
StepStatus = Literal["pending", "running", "retrying", "completed", "failed", "cancelled"]
ENDED: frozenset[ExecutionStatus] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class StepRun:
    """How far a step has come. `attempts_before` were made before the last retry by hand and do not count against the policy."""

    status: StepStatus = "pending"
    attempts: int = 0
    attempts_before: int = 0
    result: Any = None
    error: dict[str, Any] | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution as its events left it."""

    execution_id: ExecutionId
    intent_id: IntentId
    intent_name: str
    version: Version
    target: str
    inputs: dict[str, Any]
    steps: tuple[PlannedStep, ...]
    runs: dict[StepId, StepRun]
    status: ExecutionStatus
    error: dict[str, Any] | None
    started_at: datetime
    completed_at: datetime | None
    updated_at: datetime

    def step(self, step_id: str) -> PlannedStep | None:
        """The planned step of that id."""
        return next((step for step in self.steps if step.id == step_id), None)


def evolve(state: Execution | None, event: ExecutionEvent) -> Execution:
    """The execution after `event`."""
    if isinstance(event, ExecutionStarted):
        return Execution(
            event.execution_id, event.intent_id, event.intent_name, event.version, event.target, event.inputs, event.steps,
            {step.id: StepRun() for step in event.steps}, "running", None, event.at, None, event.at,
        )  # fmt: skip
    assert state is not None, "an execution's first event starts it"
    match event:
        case StepStarted():
            run = replace(
                state.runs[event.step], status="running", attempts=event.attempt, error=None, due_at=None,
                started_at=event.at, completed_at=None,
            )  # fmt: skip
            return _with_run(state, event.step, run, event.at)
        case StepRetrying():
            run = replace(
                state.runs[event.step],
                status="retrying",
                attempts=event.attempt,
                error=event.error,
                due_at=event.due_at,
            )
            return _with_run(state, event.step, run, event.at)
        case StepCompleted():
            run = replace(
                state.runs[event.step], status="completed", result=event.result, error=None, due_at=None,
                completed_at=event.at,
            )  # fmt: skip
            return _with_run(state, event.step, run, event.at)
        case StepFailed():
            run = replace(state.runs[event.step], status="failed", error=event.error, due_at=None, completed_at=event.at)
            return _with_run(state, event.step, run, event.at)
        case ExecutionCompleted():
            return replace(state, status="completed", completed_at=event.at, updated_at=event.at)
        case ExecutionFailed():
            return replace(state, status="failed", error=event.error, completed_at=event.at, updated_at=event.at)
        case ExecutionCancelled():
            return replace(
                state, status="cancelled", completed_at=event.at, updated_at=event.at,
                runs={step: _cancelled(run, event.at) for step, run in state.runs.items()},
            )  # fmt: skip
        case ExecutionPaused():
            return replace(state, status="paused", updated_at=event.at)
        case ExecutionResumed():
            return replace(state, status="running", updated_at=event.at)
        case ExecutionRetried():
            again = {
                step: StepRun(attempts=state.runs[step].attempts, attempts_before=state.runs[step].attempts)
                for step in event.steps
            }
            return replace(
                state,
                status="running",
                error=None,
                completed_at=None,
                updated_at=event.at,
                runs={**state.runs, **again},
            )
        case _:
            assert_never(event)


def _with_run(state: Execution, step: StepId, run: StepRun, at: datetime) -> Execution:
    return replace(state, runs={**state.runs, step: run}, updated_at=at)


def _cancelled(run: StepRun, at: datetime) -> StepRun:
    if run.status in ("completed", "failed"):
        return run
    return replace(run, status="cancelled", due_at=None, completed_at=at if run.attempts else None)
