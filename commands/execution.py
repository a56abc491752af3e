# intent_ref: commands.execution
"""What one may ask of an execution, and what then happens. How it goes on is in `commands/progress.py`."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, assert_never

import orjson

from commands.again import rerun, retried
from commands.beginnings import child_of_run, children_of, is_put_off_too_long, unavailable_error, work_of
from commands.execution_commands import (
    AdmitExecution,
    ApproveStep,
    CancelExecution,
    CompleteStep,
    ExecutionCommand,
    ExpireExecution,
    ExpireStep,
    FailGate,
    FailStep,
    FollowUpCommand,
    PassGate,
    PauseExecution,
    RecordOutcomes,
    RejectStep,
    ReportStall,
    RerunExecution,
    ResumeExecution,
    RetryExecution,
    SignalExecution,
    StartExecution,
    TerminateExecution,
)
from commands.kept_values import Room
from commands.progress import (
    Turn,
    advance,
    complete,
    consider_all,
    fail,
    fail_for_good,
    fall_back,
    go_on_after_pause,
    next_undoing,
    pass_gate,
    put_off,
    skip,
)
from domain.definition import stored_faults
from domain.execution import Execution
from domain.execution_events import (
    ENDS,
    CancellationRequested,
    CompensationFailed,
    ExecutionAdmitted,
    ExecutionCancelled,
    ExecutionEvent,
    ExecutionFailing,
    ExecutionPaused,
    ExecutionRerun,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionStalled,
    ExecutionStarted,
    ExecutionTerminated,
    ResourceReleased,
    SignalReceived,
    StepApproved,
    StepCompensated,
    StepRejected,
)
from domain.execution_terms import Options
from domain.input_rules import text_faults
from domain.plan import is_undoing
from domain.refusals import (
    ExecutionHasEnded,
    ExecutionNotPaused,
    Fault,
    Invalid,
    NotFound,
    NotYourApproval,
    StepNotAwaitingApproval,
    StepNotRunning,
    StepNotWaiting,
    TooManySignals,
)
from domain.runs import ACTIVE, StepRun
from domain.step_policies import NAME_RULE, is_name
from domain.values import StepId

__all__ = [
    "REASON_CHARS_MAX",
    "AdmitExecution",
    "ApproveStep",
    "CancelExecution",
    "CompleteStep",
    "ExecutionCommand",
    "ExpireExecution",
    "ExpireStep",
    "FailGate",
    "FailStep",
    "FollowUpCommand",
    "PassGate",
    "PauseExecution",
    "RecordOutcomes",
    "RejectStep",
    "ReportStall",
    "RerunExecution",
    "ResumeExecution",
    "RetryExecution",
    "SignalExecution",
    "StartExecution",
    "TerminateExecution",
    "claims",
    "decide",
    "key_of",
]

REASON_CHARS_MAX = 2_000
SIGNALS_KEPT_MAX = 100
SIGNAL_BYTES_MAX = 262_144


def decide(state: Execution | None, command: FollowUpCommand) -> list[ExecutionEvent]:
    """What happens on `command`; nothing where the execution is that way already.

    Raises `NotFound`, `Invalid`, or the refusal that is named for the reason.
    """
    return decided(state, command).events


def decided(state: Execution | None, command: FollowUpCommand, room: Room | None = None) -> Turn:
    """As `decide`, and with the state that the events lead to. `room` is what its values may take in the log."""
    if state is None:
        raise NotFound("execution", command.execution_id)
    turn = Turn(state, command.at, room)
    match command:
        case CompleteStep() | FailStep():
            _answered(turn, command)
        case RecordOutcomes(outcomes=outcomes):
            for outcome in outcomes:
                with suppress(StepNotRunning):
                    _answered(turn, outcome)
        case PassGate() | FailGate() | ExpireStep():
            _gate_over(turn, command)
        case ApproveStep() | RejectStep():
            _judged(turn, command)
        case RetryExecution():
            retried(turn)
        case RerunExecution(step=step):
            rerun(turn, step)
        case _ if state.is_over:
            raise ExecutionHasEnded(state.execution_id, state.status)
        case SignalExecution(name=name, payload=payload):
            _signalled(turn, name, payload)
        case ExpireExecution():
            if state.status in ("running", "paused"):
                error = {"code": "timeout", "message": "The execution was not over in the time that its definition allows."}
                turn.add(ExecutionFailing(state.execution_id, error, turn.at))
        case CancelExecution(reason=reason):
            _cancelled(turn, reason)
        case TerminateExecution(reason=reason):
            _check_reason(reason)
            children = children_of(state)
            turn.add(ExecutionTerminated(state.execution_id, reason, turn.at, children, state.options.parent))
        case AdmitExecution():
            if state.is_queued:
                turn.add(ExecutionAdmitted(state.execution_id, turn.at))
                consider_all(turn)
        case PauseExecution():
            if state.status == "running":
                turn.add(ExecutionPaused(state.execution_id, turn.at))
        case ResumeExecution():
            _resumed(turn)
        case ReportStall(missing=missing):
            turn.add(ExecutionStalled(state.execution_id, missing, turn.at))
            consider_all(turn)
        case _:
            assert_never(command)
    if turn.events:
        advance(turn)
    return turn


def claims(state: Execution | None, events: Sequence[ExecutionEvent]) -> list[tuple[str, bool]]:
    """(business key, whether it is taken or given back): held from the start to the end, and again after a retry or a rerun.

    Where one decision does both, what it came to in the end counts.
    """
    key = None if state is None else _business_key(state.intent_id, state.options)
    claimed: dict[str, bool] = {}
    for event in events:
        if isinstance(event, ExecutionStarted):
            key = _business_key(event.intent_id, event.options)
        if key is not None and isinstance(event, (ExecutionStarted, ExecutionRetried, ExecutionRerun, *ENDS)):
            claimed[key] = not isinstance(event, ENDS)
    return list(claimed.items())


def _business_key(intent_id: str, options: Options | None) -> str | None:
    return None if options is None or options.business_key is None else key_of(intent_id, options.business_key)


def key_of(intent_id: str, business_key: str) -> str:
    """What is claimed for a business key: one intent's keys have nothing to do with another's."""
    return f"{intent_id}/{business_key}"


def _answered(turn: Turn, command: CompleteStep | FailStep) -> None:
    """A module's answer about an attempt."""
    state, run_id, attempt = turn.state, command.step, command.attempt
    run = state.runs.get(run_id)
    if run is None or run.status not in ("running", "retrying") or run.attempts != attempt or run.items is not None:
        raise StepNotRunning(state.execution_id, run_id, attempt)
    if state.is_over:
        raise StepNotRunning(state.execution_id, run_id, attempt)
    if isinstance(command, FailStep):
        faults = stored_faults(command.error, "/error")
        error = _unstorable("error-not-storable", "error", faults) if faults else command.error
        counts, retryable = command.counts, command.retryable
        if not counts and is_put_off_too_long(run, turn.at):
            counts, retryable, error = True, False, unavailable_error(run, error)
        if not counts:
            put_off(turn, run_id, attempt, error, command.again_seconds)
        elif is_undoing(run_id):
            _undoing_failed(turn, run_id, attempt, error, retryable)
        else:
            fail(turn, run_id, attempt, error, retryable=retryable)
    elif faults := stored_faults(command.result, "/result"):
        error = _unstorable("result-not-storable", "result", faults)
        if is_undoing(run_id):
            _undoing_failed(turn, run_id, attempt, error, False)
        else:
            fail_for_good(turn, run_id, attempt, error)
    elif is_undoing(run_id):
        _undone(turn, run_id, attempt, command.result)
    else:
        complete(turn, run_id, attempt, command.result)


def _undone(turn: Turn, run_id: StepId, attempt: int, result: Any) -> None:
    subject = StepId(run_id.removeprefix("~"))
    turn.add(StepCompensated(turn.state.execution_id, run_id, attempt, result, turn.at))
    for resource in [kept for kept in turn.state.resources.values() if kept.step == subject]:
        turn.add(ResourceReleased(turn.state.execution_id, subject, resource.type, resource.resource_id, turn.at))
    next_undoing(turn)


def _undoing_failed(turn: Turn, run_id: StepId, attempt: int, error: dict[str, Any], retryable: bool) -> None:
    run, work = turn.run(run_id), work_of(turn.state, run_id)
    attempts = attempt - run.attempts_before
    if retryable and attempts < work.retry.attempts_max and error.get("code") not in work.retry.non_retryable:
        fail(turn, run_id, attempt, error)
        return
    turn.add(CompensationFailed(turn.state.execution_id, run_id, attempt, error, turn.at))
    next_undoing(turn)


def _gate_over(turn: Turn, command: PassGate | FailGate | ExpireStep) -> None:
    state, run_id = turn.state, command.step
    run = state.runs.get(run_id, StepRun())
    if isinstance(command, ExpireStep) and command.gate is None:
        _out_of_time(turn, run_id, run)
        return
    if state.status not in ("running", "paused"):
        raise StepNotWaiting(state.execution_id, run_id)
    if run.waiting is None or run.status != "waiting" or run.waiting.gate != command.gate:
        raise StepNotWaiting(state.execution_id, run_id)
    match command:
        case PassGate(result=result):
            pass_gate(turn, run_id, result)
        case FailGate(error=error):
            fall_back(turn, run_id, run.attempts, error)
        case ExpireStep():
            _expired(turn, run_id, run)
        case _:
            assert_never(command)


def _out_of_time(turn: Turn, run_id: StepId, run: StepRun) -> None:
    """The time of the run as a whole is up: nothing else is tried, and a child is stopped. A cancel waits no longer either."""
    expires_at = None if run.limits is None else run.limits.expires_at
    is_under_way = run.status in ACTIVE and turn.state.status in ("running", "paused", "cancelling")
    if expires_at is None or not is_under_way or expires_at > turn.at:
        raise StepNotWaiting(turn.state.execution_id, run_id)
    error: dict[str, Any] = {"code": "timeout", "message": "The step was not over in the time that it has as a whole."}
    if run.error is not None:
        error["cause"] = run.error
    fail_for_good(turn, run_id, run.attempts, error, child_of_run(run))


def _expired(turn: Turn, run_id: StepId, run: StepRun) -> None:
    assert run.waiting is not None, "the caller has looked"
    reason: Literal["expired"] = "expired"
    match run.waiting.on_due:
        case "complete":
            pass_gate(turn, run_id, {"waited_until": turn.at.isoformat()} if run.waiting.reason == "timer" else {"expired": True})
        case "skip":
            skip(turn, run_id, reason)
        case "fail":
            what = {"approval": "Nobody approved in time.", "signal": "The signal did not come in time."}
            error = {"code": f"{run.waiting.reason}-expired", "message": what.get(run.waiting.reason, "Time is up.")}
            fail_for_good(turn, run_id, run.attempts, error)
        case _:
            assert_never(run.waiting.on_due)


def _judged(turn: Turn, command: ApproveStep | RejectStep) -> None:
    state, run_id = turn.state, command.step
    _check_reason(command.comment, "/comment")
    run = state.runs.get(run_id)
    if state.step(run_id) is None:
        raise NotFound("step", run_id, f"of the execution {state.execution_id}")
    if run is None or run.status != "waiting" or run.waiting is None or run.waiting.reason != "approval":
        raise StepNotAwaitingApproval(state.execution_id, run_id)
    if state.status not in ("running", "paused"):
        raise StepNotAwaitingApproval(state.execution_id, run_id)
    asked = run.waiting.detail["roles"]
    if asked and not command.roles.intersection(asked):
        raise NotYourApproval(run_id, asked)
    if isinstance(command, ApproveStep):
        turn.add(StepApproved(state.execution_id, run_id, command.by, command.comment, turn.at))
        pass_gate(turn, run_id, {"approved_by": command.by, "comment": command.comment})
    else:
        turn.add(StepRejected(state.execution_id, run_id, command.by, command.comment, turn.at))
        said = {"by": command.by, "comment": command.comment}
        error = {"code": "approval-rejected", "message": "The approval was refused.", **said}
        fail_for_good(turn, run_id, run.attempts, error)


def _resumed(turn: Turn) -> None:
    state = turn.state
    if state.status != "paused":
        raise ExecutionNotPaused(state.execution_id, state.status)
    turn.add(ExecutionResumed(state.execution_id, turn.at))
    go_on_after_pause(turn)


def _signalled(turn: Turn, name: str, payload: Any) -> None:
    state = turn.state
    if not is_name(name):
        raise Invalid([Fault("/name", f"A signal's name is {NAME_RULE}.", "type")])
    if faults := stored_faults(payload, "/payload"):
        raise Invalid(faults)
    if (size := len(orjson.dumps(payload))) > SIGNAL_BYTES_MAX:
        raise Invalid([Fault("/payload", f"This has {size:,} bytes, of at most {SIGNAL_BYTES_MAX:,}.", "too-large")])
    if sum(len(kept) for kept in state.signals.values()) >= SIGNALS_KEPT_MAX:
        raise TooManySignals(state.execution_id, SIGNALS_KEPT_MAX)
    turn.add(SignalReceived(state.execution_id, name, payload, turn.at))
    if state.status not in ("running", "paused"):
        return
    for run_id, run in state.runs.items():
        if run.waiting is not None and run.status == "waiting" and run.waiting.detail.get("signal") == name:
            pass_gate(turn, run_id, payload)
            return


def _cancelled(turn: Turn, reason: str | None) -> None:
    """Where nothing has to be undone, at once; else attempts under way are waited for, because they may have had effects."""
    state = turn.state
    _check_reason(reason)
    if state.status in ("cancelling", "compensating"):
        return
    under_way = [run_id for run_id, run in state.runs.items() if run.status == "running" and run.items is None]
    if state.undoable or any(step.flow.compensation is not None for step in map(state.step, under_way) if step is not None):
        turn.add(CancellationRequested(state.execution_id, reason, turn.at))
    else:
        children = children_of(state)
        turn.add(ExecutionCancelled(state.execution_id, reason, turn.at, (), children, state.options.parent))


def _unstorable(code: str, what: str, faults: list[Fault]) -> dict[str, Any]:
    """The error of a step whose module gave an answer that the log cannot hold."""
    places = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults[:10]]
    return {"code": code, "message": f"The module's {what} cannot be stored.", "faults": places}


def _check_reason(reason: str | None, pointer: str = "/reason") -> None:
    if faults := text_faults(reason, pointer, REASON_CHARS_MAX):
        raise Invalid(faults)
