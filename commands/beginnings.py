# intent_ref: commands.progress
"""What a run's beginning says: the wait before a gate, the start of an attempt or of a child, and the limits that hold for it."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from commands.expressions import ExpressionFailed, evaluate
from commands.kept_values import NotKept, Room
from commands.scope import scope_of
from domain.definition import PRIORITY_DEFAULT
from domain.execution import Execution
from domain.execution_events import StepStarted, StepWaiting
from domain.execution_terms import StepLimits
from domain.plan import Gate, PlannedStep, Work, is_undoing
from domain.runs import StepRun
from domain.step_control import WAIT_SECONDS_MAX, time_of
from domain.step_policies import PUT_OFF_MAX, PUT_OFF_SECONDS_MAX, seconds_of
from domain.values import ExecutionId, StepId
from domain.zoned_times import first_shown, local_time_of, zone_named

RESOURCES_MAX = 100
SLOT_KEY_CHARS_MAX = 200
_CHILDREN = UUID("0d2c1f5e-6f3c-5d0b-9a43-6f4b0a7d9e10")
_NEW = StepRun()
_NO_LIMITS = StepLimits()


def work_of(state: Execution, run_id: str) -> Work:
    """What the run's module is asked to do: the step's action, its fallback, or its compensation."""
    planned = state.plan.step_of(run_id)
    assert planned is not None, "each run belongs to a planned step"
    if is_undoing(run_id):
        assert planned.flow.compensation is not None, "only what can be undone is undone"
        return planned.flow.compensation
    if state.runs.get(StepId(run_id), _NEW).fell_back:
        assert planned.flow.fallback is not None, "only a step with a fallback falls back"
        return planned.flow.fallback
    return state.plan.own_works[planned.id]


def child_of_run(run: StepRun) -> ExecutionId | None:
    """The execution that runs for a run now."""
    if run.status != "waiting" or run.waiting is None or run.waiting.reason != "child":
        return None
    return ExecutionId(run.waiting.detail["execution_id"])


def children_of(state: Execution) -> tuple[ExecutionId, ...]:
    """The executions that run for this one now."""
    return tuple([child for child in map(child_of_run, state.runs.values()) if child is not None])


def resources_in(result: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """(type, id, the rest) of each resource that a result declares in the right form; the first `RESOURCES_MAX` of them."""
    declared = result.get("resources") if isinstance(result, dict) else None
    if not isinstance(declared, list):
        return []
    return [
        (one["type"], one["id"], {key: value for key, value in one.items() if key not in ("type", "id")})
        for one in declared[:RESOURCES_MAX]
        if isinstance(one, dict) and isinstance(one.get("type"), str) and isinstance(one.get("id"), str)
    ]


def wait_for(state: Execution, at: datetime, gate: Gate, number: int, run_id: StepId, room: Room) -> StepWaiting:
    """The run stands before a gate. Raises `ExpressionFailed`."""
    due_at = None
    scope = scope_of(state, run_id)
    if gate.duration is not None:
        seconds = seconds_of(evaluate(gate.duration, scope))
        if seconds is None or not 0 <= seconds <= WAIT_SECONDS_MAX:
            raise ExpressionFailed("/wait/for", "This is not a duration between 0 seconds and 366 days.")
        due_at = at + timedelta(seconds=seconds)
    elif gate.until is not None:
        due_at = _time(evaluate(gate.until, scope), None if gate.zone is None else evaluate(gate.zone, scope))
    detail: dict[str, Any] = {}
    if gate.kind == "approval":
        detail = {"roles": list(gate.roles), "message": room.whole("/approval/message", evaluate(gate.message, scope))}
    elif gate.kind == "signal":
        detail = {"signal": gate.signal}
    reason: Any = "timer" if gate.kind == "wait" else gate.kind
    return StepWaiting(state.execution_id, run_id, reason, number, due_at, gate.on_due, detail, at, expiry_of(state, at, run_id))


def _time(value: Any, zone_name: Any) -> datetime:
    """The time that `value` says, by its own offset where it has one, else by the zone's clocks."""
    at, local = time_of(value), local_time_of(value)
    if at is not None:
        return at
    if zone_name is None or local is None:
        raise ExpressionFailed("/wait/until", "This is not a time with its offset, such as `2026-12-24T18:00:00+01:00`.")
    zone = zone_named(zone_name) if isinstance(zone_name, str) else None
    if zone is None:
        raise ExpressionFailed("/wait/zone", "This is not a name of a time zone, such as `Europe/Berlin`.")
    return first_shown(local, zone)


def expiry_of(state: Execution, at: datetime, run_id: StepId) -> StepLimits | None:
    """When a run that waits must be over as a whole, counted from the first thing it did; None where it has all the time."""
    planned, run = state.plan.step_of(run_id), state.runs.get(run_id, _NEW)
    if planned is None or planned.flow.total_seconds is None:
        return None
    expires_at = None if run.limits is None else run.limits.expires_at
    return StepLimits(state.options.priority, expires_at=expires_at or at + timedelta(seconds=planned.flow.total_seconds))


def limits_again(state: Execution, run_id: StepId, due_at: datetime) -> StepLimits | None:
    """What holds for the run's attempt that is due at `due_at`: as before, and queueing is counted from then."""
    limits, planned = state.runs[run_id].limits, state.plan.step_of(run_id)
    if limits is None or limits.queue_by is None or planned is None or planned.flow.queue_seconds is None:
        return limits
    return replace(limits, queue_by=due_at + timedelta(seconds=planned.flow.queue_seconds))


def child_of(state: Execution, at: datetime, planned: PlannedStep, run_id: StepId, room: Room) -> StepWaiting:
    """The run's work is another execution, whose id follows from the attempt. Raises `ExpressionFailed`."""
    child = planned.flow.child
    assert child is not None, "a workflow step names a workflow"
    attempt = state.runs.get(run_id, _NEW).attempts + 1
    inputs = room.value(f"inputs of {run_id} #{attempt}", evaluate(child.inputs, scope_of(state, run_id)))
    detail = {
        "execution_id": str(uuid5(_CHILDREN, f"{state.options.tenant_id}\n{state.execution_id}\n{run_id}\n{attempt}")),
        "intent": child.intent, "version": child.version, "inputs": inputs, "depth": state.options.depth + 1,
        "priority": state.options.priority, "attempt": attempt,
    }  # fmt: skip
    limits = expiry_of(state, at, run_id)
    return StepWaiting(state.execution_id, run_id, "child", len(planned.flow.gates), None, "fail", detail, at, limits)


def start_of(state: Execution, at: datetime, planned: PlannedStep, run_id: StepId) -> StepStarted:
    """The run's first attempt may be made, or its first after a retry by hand. Raises `ExpressionFailed`."""
    run, work = state.runs.get(run_id, _NEW), work_of(state, run_id)
    limits = _limits(state, at, planned, run_id, run, work)
    return StepStarted(state.execution_id, run_id, work.action, run.attempts + 1, at, limits)


def _limits(
    state: Execution, at: datetime, planned: PlannedStep, run_id: StepId, run: StepRun, work: Work
) -> StepLimits | None:  # fmt: skip
    """What holds for the run's next attempt; None where nothing does."""
    flow, priority = planned.flow, state.options.priority
    metered = work.action if work.is_metered else None
    if priority == PRIORITY_DEFAULT and metered is None and (is_undoing(run_id) or (flow.is_unlimited and run.limits is None)):
        return None
    if is_undoing(run_id):
        return StepLimits(priority, metered=metered)
    queue_by = None if flow.queue_seconds is None else at + timedelta(seconds=flow.queue_seconds)
    expires_at = None if run.limits is None else run.limits.expires_at
    if flow.total_seconds is not None and expires_at is None:
        expires_at = at + timedelta(seconds=flow.total_seconds)
    key = None if run.limits is None else run.limits.slot_key
    if flow.concurrency_key is not None and key is None:
        key = slot_key_of(str(evaluate(flow.concurrency_key, scope_of(state, run_id))))
    limits = StepLimits(priority, queue_by, expires_at, key, None if key is None else flow.concurrency_max, metered)
    return limits if limits != _NO_LIMITS else None


def slot_key_of(text: str) -> str:
    """The key as it is kept: a long one by its beginning and its digest, so that two long ones do not share a slot."""
    if len(text) <= SLOT_KEY_CHARS_MAX:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return text[: SLOT_KEY_CHARS_MAX - len(digest)] + digest


def expression_error(fault: ExpressionFailed) -> dict[str, Any]:
    """The error of a step whose expression cannot be evaluated, or whose value finds no place."""
    if isinstance(fault, NotKept):
        return fault.error
    return {"code": "expression-failed", "message": fault.message, "pointer": fault.pointer}


def is_put_off_too_long(run: StepRun, at: datetime) -> bool:
    """True for a run whose attempt has been put off as often, or for as long, as may be."""
    since = run.put_off_since
    return run.put_off >= PUT_OFF_MAX or (since is not None and (at - since).total_seconds() >= PUT_OFF_SECONDS_MAX)


def unavailable_error(run: StepRun, error: dict[str, Any]) -> dict[str, Any]:
    """The error of a step whose module could not be asked at all, the last time because of `error`."""
    message = f"The module could not be asked: the attempt was put off {run.put_off:,} times in a row."
    return {"code": "module-unavailable", "message": message, "cause": error}


def delay_seconds(work: Work, execution_id: str, run_id: str, attempts: int) -> float:
    """The policy's wait, less the part of it that chance takes. Chance follows from the attempt's name: decisions are pure."""
    delay = work.retry.delay_seconds(attempts)
    if not work.retry.jitter:
        return delay
    digest = hashlib.blake2b(f"{execution_id}\n{run_id}\n{attempts}".encode(), digest_size=4).digest()
    return delay * (1 - work.retry.jitter * int.from_bytes(digest) / 2**32)
