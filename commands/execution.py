# intent_ref: commands.execution
"""What one may ask of an execution, and what then happens. The planning of steps is here and nowhere else."""

from datetime import datetime, timedelta
from typing import Any, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.definition import Definition, Rules, Step, inputs_faults, parse_definition, stored_faults
from domain.execution import (
    ENDED,
    Execution,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionStarted,
    PlannedStep,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
    evolve,
)
from domain.input_rules import text_faults
from domain.intent import Intent
from domain.module import Modules, RetryPolicy
from domain.refusals import (
    DefinitionInvalid,
    ExecutionHasEnded,
    ExecutionNotFailed,
    ExecutionNotPaused,
    Fault,
    IntentIsArchived,
    IntentNotExecutable,
    Invalid,
    NotFound,
    StepNotRunning,
)
from domain.values import ActionName, ExecutionId, IntentId, StepId

TIMEOUT_SECONDS_DEFAULT = 300.0
REASON_CHARS_MAX = 2_000


class StartExecution(BaseModel):
    """Let this version of the intent be carried out; the current one where None."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    intent_id: IntentId
    version: int | None = None
    inputs: dict[str, Any] = {}
    at: AwareDatetime


class CompleteStep(BaseModel):
    """The module has answered: attempt `attempt` is done, with this result."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    step: StepId
    attempt: int
    result: Any = None
    at: AwareDatetime


class FailStep(BaseModel):
    """Attempt `attempt` has failed. `error` has `code` and `message`; not `retryable` means that no other attempt would help."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    step: StepId
    attempt: int
    error: dict[str, Any]
    retryable: bool = True
    at: AwareDatetime


class CancelExecution(BaseModel):
    """Let no further step start, and answers under way count for nothing."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    reason: str | None = None
    at: AwareDatetime


class PauseExecution(BaseModel):
    """Let no further step start until it is resumed; what runs goes on."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    at: AwareDatetime


class ResumeExecution(BaseModel):
    """Let the paused execution go on."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    at: AwareDatetime


class RetryExecution(BaseModel):
    """Let the failed execution go on from the steps that failed."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    at: AwareDatetime


FollowUpCommand = CompleteStep | FailStep | CancelExecution | PauseExecution | ResumeExecution | RetryExecution
ExecutionCommand = StartExecution | FollowUpCommand


def decide_start(intent: Intent | None, command: StartExecution, catalogue: Modules, rules: Rules) -> list[ExecutionEvent]:
    """The start of an execution: its plan, and every step that waits for no other.

    Raises `NotFound`, `IntentIsArchived`, `IntentNotExecutable`, or `Invalid` for the inputs.
    """
    if intent is None:
        raise NotFound("intent", command.intent_id)
    if intent.status == "archived":
        raise IntentIsArchived(command.intent_id)
    version = intent.current if command.version is None else intent.version(command.version)
    if version is None:
        raise NotFound("version", str(command.version), f"of the intent {command.intent_id}")
    definition = _executable(version.definition, catalogue, rules)
    if faults := inputs_faults(command.inputs, rules):
        raise Invalid(faults)
    started = ExecutionStarted(
        command.execution_id, intent.intent_id, intent.name, version.version, definition.target, command.inputs,
        tuple(_planned(step, catalogue) for step in definition.steps), command.at,
    )  # fmt: skip
    return [started, *_starts(evolve(None, started), command.at)]


def decide(state: Execution | None, command: FollowUpCommand) -> list[ExecutionEvent]:
    """What happens on `command`; nothing where the execution is that way already.

    Raises `NotFound`, `StepNotRunning`, `ExecutionHasEnded`, `ExecutionNotPaused`, `ExecutionNotFailed` or `Invalid`.
    """
    if state is None:
        raise NotFound("execution", command.execution_id)
    execution_id, at = state.execution_id, command.at
    match command, state.status:
        case CompleteStep(), _:
            return _completed(state, command)
        case FailStep(), _:
            return _failed(state, command)
        case RetryExecution(), "failed":
            return _retried(state, command)
        case RetryExecution(), _:
            raise ExecutionNotFailed(execution_id, state.status)
        case ((CancelExecution() | PauseExecution() | ResumeExecution()), _) if state.status in ENDED:
            raise ExecutionHasEnded(execution_id, state.status)
        case CancelExecution(), _:
            _check_reason(command.reason)
            return [ExecutionCancelled(execution_id, command.reason, at)]
        case PauseExecution(), "running":
            return [ExecutionPaused(execution_id, at)]
        case PauseExecution(), _:
            return []
        case ResumeExecution(), "paused":
            resumed = ExecutionResumed(execution_id, at)
            return [resumed, *_starts(evolve(state, resumed), at)]
        case ResumeExecution(), _:
            raise ExecutionNotPaused(execution_id, state.status)
        case _:
            assert_never(command)


def _completed(state: Execution, command: CompleteStep) -> list[ExecutionEvent]:
    _check_running(state, command)
    if faults := stored_faults(command.result, "/result"):
        return _step_failed(state, command, _unstorable("result-not-storable", "result", faults))
    completed = StepCompleted(state.execution_id, command.step, command.attempt, command.result, command.at)
    return [completed, *_consequences(evolve(state, completed), command.at)]


def _failed(state: Execution, command: FailStep) -> list[ExecutionEvent]:
    _check_running(state, command)
    faults = stored_faults(command.error, "/error")
    error = _unstorable("error-not-storable", "error", faults) if faults else command.error
    step, run = _step(state, command.step), state.runs[command.step]
    attempts_counted = command.attempt - run.attempts_before
    if not command.retryable or attempts_counted >= step.retry.attempts_max:
        return _step_failed(state, command, error)
    due_at = command.at + timedelta(seconds=step.retry.delay_seconds(attempts_counted))
    return [StepRetrying(state.execution_id, step.id, command.attempt + 1, error, due_at, command.at)]


def _step_failed(state: Execution, command: CompleteStep | FailStep, error: dict[str, Any]) -> list[ExecutionEvent]:
    failed = StepFailed(state.execution_id, command.step, command.attempt, error, command.at)
    return [failed, *_consequences(evolve(state, failed), command.at)]


def _retried(state: Execution, command: RetryExecution) -> list[ExecutionEvent]:
    steps = tuple(step.id for step in state.steps if state.runs[step.id].status == "failed")
    retried = ExecutionRetried(state.execution_id, steps, command.at)
    return [retried, *_starts(evolve(state, retried), command.at)]


def _consequences(state: Execution, at: datetime) -> list[ExecutionEvent]:
    """What an answered step brings about: the end of the execution, or the start of steps, or neither yet."""
    statuses = {run.status for run in state.runs.values()}
    if statuses == {"completed"}:
        return [ExecutionCompleted(state.execution_id, at)]
    if "failed" in statuses and not statuses & {"running", "retrying"}:
        first = _first_failed(state)
        error = state.runs[first].error
        assert error is not None, "a failed step has its error"
        return [ExecutionFailed(state.execution_id, first, error, at)]
    return _starts(state, at)


def _first_failed(state: Execution) -> StepId:
    """The step whose failure came first; the others may have failed because of it."""
    failed = [step.id for step in state.steps if state.runs[step.id].status == "failed"]
    return min(failed, key=lambda step: state.runs[step].completed_at or state.updated_at)


def _starts(state: Execution, at: datetime) -> list[ExecutionEvent]:
    """The start of each step that waits for no other any more, in the order of the plan."""
    if state.status != "running" or any(run.status == "failed" for run in state.runs.values()):
        return []
    return [
        StepStarted(state.execution_id, step.id, step.action, state.runs[step.id].attempts + 1, at)
        for step in state.steps
        if state.runs[step.id].status == "pending" and all(state.runs[before].status == "completed" for before in step.depends_on)
    ]


def _check_running(state: Execution, command: CompleteStep | FailStep) -> None:
    run = state.runs.get(command.step)
    if run is None or run.status not in ("running", "retrying") or run.attempts != command.attempt:
        raise StepNotRunning(state.execution_id, command.step, command.attempt)


def _step(state: Execution, step_id: StepId) -> PlannedStep:
    step = state.step(step_id)
    assert step is not None, "each run belongs to a planned step"
    return step


def _executable(raw: Any, catalogue: Modules, rules: Rules) -> Definition:
    """The definition, where today's modules and rules let it be carried out."""
    try:
        definition = parse_definition(raw, catalogue, rules)
    except DefinitionInvalid as refusal:
        raise IntentNotExecutable(refusal.faults) from refusal
    faults: list[Fault] = []
    if not definition.steps:
        faults.append(Fault("/definition/steps", "An intent without steps cannot be executed.", "no-steps"))
    for index, step in enumerate(definition.steps):
        for key in step.reserved:
            faults.append(Fault(f"/definition/steps/{index}/{key}", f"`{key}` cannot be carried out yet.", "not-supported"))
    if faults:
        raise IntentNotExecutable(faults)
    return definition


def _planned(step: Step, catalogue: Modules) -> PlannedStep:
    """The step with all it left unsaid: from its action first, else from the platform."""
    module = catalogue.with_action(step.action)
    action = module.action(step.action) if module is not None else None
    assert module is not None, "a valid definition names known actions"
    assert action is not None, "the module was found by the action"
    return PlannedStep(
        id=StepId(step.id),
        action=ActionName(step.action),
        module=module.name,
        depends_on=tuple(StepId(before) for before in step.depends_on),
        parameters=step.parameters,
        timeout_seconds=step.timeout_seconds or action.timeout_seconds or TIMEOUT_SECONDS_DEFAULT,
        retry=step.retry or action.retry or RetryPolicy(),
    )


def _unstorable(code: str, what: str, faults: list[Fault]) -> dict[str, Any]:
    """The error of a step whose module gave an answer that the log cannot hold."""
    places = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults[:10]]
    return {"code": code, "message": f"The module's {what} cannot be stored.", "faults": places}


def _check_reason(reason: str | None) -> None:
    if faults := text_faults(reason, "/reason", REASON_CHARS_MAX):
        raise Invalid(faults)
