# intent_ref: commands.progress
"""How an execution goes on: which steps begin, wait, are skipped or undone, and when it ends. Pure; nothing else decides this.

A `Turn` is one decision under way: the events decided so far and the state they lead to, so that each rule below sees what
the ones before it have brought about.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from commands.beginnings import (
    child_of,
    child_of_run,
    children_of,
    delay_seconds,
    expiry_of,
    expression_error,
    limits_again,
    resources_in,
    start_of,
    wait_for,
    work_of,
)
from commands.expressions import ExpressionFailed, condition, evaluate
from commands.kept_values import Room
from commands.loops import has_items_under_way, is_cut_short, results_of, unfit_items_error, withdrawn
from commands.scope import scope_of
from domain.execution import Execution, evolve
from domain.execution_events import (
    CompensationStarted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionFailing,
    ExecutionStarted,
    ResourceProvisioned,
    StepCancelled,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepFallingBack,
    StepRetrying,
    StepSkipped,
    StepWaiting,
)
from domain.execution_terms import Cause
from domain.plan import PlannedStep, item_run, step_of_run, undoing_run
from domain.runs import StepRun
from domain.values import ExecutionId, StepId

ACTIVE_MAX = 2_000
"""How many runs of an execution loops may bring under way: what begins or is given up together is one append."""
_NEW = StepRun()


class Turn:
    """One decision under way. `queue` holds steps that may have become ready; `room` is what its values may take in the log."""

    def __init__(self, state: Execution, at: datetime, room: Room | None = None) -> None:
        self.state, self.at, self.room = state, at, room or Room()
        self.events: list[ExecutionEvent] = []
        self.queue: deque[PlannedStep] = deque()

    @classmethod
    def first(cls, started: ExecutionStarted, room: Room | None = None) -> "Turn":
        """The turn that begins an execution."""
        turn = cls(evolve(None, started), started.at, room)
        turn.events.append(started)
        return turn

    def add(self, event: ExecutionEvent) -> None:
        """Decides `event`."""
        self.events.append(event)
        self.state = evolve(self.state, event)

    def run(self, run_id: str) -> StepRun:
        """The run as it is by now."""
        return self.state.runs.get(StepId(run_id), _NEW)


def consider_all(turn: Turn) -> None:
    """Every step may have become ready: at the start, and after a pause."""
    turn.queue.extend(turn.state.plan.steps)


def go_on_after_pause(turn: Turn) -> None:
    """What the pause has held back begins, and every step may have become ready."""
    held = [run_id for run_id, run in turn.state.runs.items()
            if run.status == "waiting" and run.waiting is not None and run.waiting.reason == "resume"]  # fmt: skip
    for run_id in held:
        planned = turn.state.plan.step_of(run_id)
        assert planned is not None, "each run belongs to a planned step"
        if turn.state.failing is None and not is_cut_short(turn.state, planned, run_id):
            _enter(turn, planned, run_id, len(planned.flow.gates), None)
    consider_all(turn)


def complete(turn: Turn, run_id: StepId, attempt: int, result: Any) -> None:
    """The run is done, and what follows from it."""
    execution_id = turn.state.execution_id
    _settle(turn, StepCompleted(execution_id, run_id, attempt, result, turn.at))
    for kind, identity, attributes in resources_in(result):
        turn.add(ResourceProvisioned(execution_id, run_id, kind, identity, attributes, turn.at))


def fail(turn: Turn, run_id: StepId, attempt: int, error: dict[str, Any], *, retryable: bool = True) -> None:
    """An attempt of the run has failed: another one, the fallback, or the end of the step."""
    state, run = turn.state, turn.run(run_id)
    planned = state.plan.step_of(run_id)
    assert planned is not None, "each run belongs to a planned step"
    if is_cut_short(state, planned, run_id):
        fail_for_good(turn, run_id, attempt, error)
        return
    work = work_of(state, run_id)
    attempts = attempt - run.attempts_before
    final = not retryable or attempts >= work.retry.attempts_max or error.get("code") in work.retry.non_retryable
    if not final and state.status != "cancelling":
        due_at = turn.at + timedelta(seconds=delay_seconds(work, state.execution_id, run_id, attempts))
        limits = limits_again(state, run_id, due_at)
        turn.add(StepRetrying(state.execution_id, run_id, attempt + 1, error, due_at, turn.at, limits))
        return
    fall_back(turn, run_id, attempt, error)


def put_off(turn: Turn, run_id: StepId, attempt: int, error: dict[str, Any], seconds: float) -> None:
    """An attempt of the run was never really made: it is made again in `seconds`, and the policy allows as many as before."""
    state, planned = turn.state, turn.state.plan.step_of(run_id)
    assert planned is not None, "each run belongs to a planned step"
    due_at = turn.at + timedelta(seconds=seconds)
    limits = limits_again(state, run_id, due_at)
    turn.add(StepRetrying(state.execution_id, run_id, attempt + 1, error, due_at, turn.at, limits, counts=False))
    if is_cut_short(state, planned, run_id):
        turn.add(StepCancelled(state.execution_id, run_id, None, turn.at))
        turn.queue.append(planned)


def fall_back(turn: Turn, run_id: StepId, attempt: int, error: dict[str, Any]) -> None:
    """The run's work has failed, and is not tried again: its fallback is, where it has one."""
    state, run, planned = turn.state, turn.run(run_id), turn.state.plan.step_of(run_id)
    assert planned is not None, "each run belongs to a planned step"
    if planned.flow.fallback is not None and not run.fell_back and state.status in ("running", "paused"):
        turn.add(StepFallingBack(state.execution_id, run_id, error, turn.at))
        turn.add(start_of(turn.state, turn.at, planned, run_id))
        return
    fail_for_good(turn, run_id, attempt, error)


def fail_for_good(
    turn: Turn, run_id: StepId, attempt: int, error: dict[str, Any], child: ExecutionId | None = None
) -> None:  # fmt: skip
    """The run has failed, and nothing else is tried. `child` still runs for it, and is stopped."""
    _settle(turn, StepFailed(turn.state.execution_id, run_id, attempt, error, turn.at, child=child))


def skip(turn: Turn, run_id: StepId, reason: Any) -> None:
    """The run is not carried out."""
    _settle(turn, StepSkipped(turn.state.execution_id, run_id, reason, turn.at))


def pass_gate(turn: Turn, run_id: StepId, result: Any) -> None:
    """What the run waited for has come."""
    waiting = turn.run(run_id).waiting
    planned = turn.state.plan.step_of(run_id)
    assert waiting is not None, "only a waiting run has a gate to pass"
    assert planned is not None, "each run belongs to a planned step"
    if waiting.reason == "child":
        complete(turn, run_id, turn.run(run_id).attempts, result)
    else:
        _enter(turn, planned, run_id, waiting.gate + 1, result)


def advance(turn: Turn) -> None:
    """Begins what can begin, and ends the execution where nothing is left to do."""
    while True:
        state = turn.state
        if state.status not in ("running", "paused", "cancelling"):
            return
        if state.status == "cancelling" or state.failing is not None:
            _give_up(turn)
            if turn.state.active == 0:
                undo(turn, state.cause or "failed")
            return
        if state.open == 0:
            _finish(turn)
            return
        if state.status == "paused" or state.is_queued or not turn.queue:
            return
        _begin_step(turn, turn.queue.popleft())


def undo(turn: Turn, cause: Cause) -> None:
    """Compensates what completed, the last first; where there is nothing to undo, the execution ends.

    Nothing is under way any more; loops that were cut short are given up.
    """
    for run_id, run in turn.state.runs.items():
        if run.status == "running" and run.items is not None:
            turn.add(StepCancelled(turn.state.execution_id, run_id, None, turn.at))
    state = turn.state
    if state.undoable:
        turn.add(CompensationStarted(state.execution_id, cause, tuple(reversed(state.undoable)), turn.at))
    next_undoing(turn)


def next_undoing(turn: Turn) -> None:
    """The next compensation, or the end."""
    state = turn.state
    if state.undoing:
        planned = state.plan.step_of(state.undoing[0])
        assert planned is not None, "each run belongs to a planned step"
        turn.add(start_of(turn.state, turn.at, planned, undoing_run(state.undoing[0])))
    elif state.cause == "cancelled":
        turn.add(
            ExecutionCancelled(
                state.execution_id, state.reason, turn.at, state.not_undone, children_of(state), state.options.parent
            )
        )  # fmt: skip
    else:
        step = state.failing or StepId("")
        error = state.runs[step].error if step else state.error
        assert error is not None, "what failed has its error"
        turn.add(ExecutionFailed(state.execution_id, step, error, turn.at, state.not_undone, state.options.parent))


def _settle(turn: Turn, event: StepCompleted | StepFailed | StepSkipped) -> None:
    """Decides that a run is over; whoever waited for it comes into the queue."""
    turn.add(event)
    step = step_of_run(event.step)
    if event.step == step:
        # All but the last answer of a wide layer change nothing for those behind it: they need no look.
        plan, waits = turn.state.plan, turn.state.waits
        for number in plan.joints_behind[step]:
            joint = plan.joints[number]
            turn.queue.extend(joint.early if waits[number] else joint.steps)
        return
    planned = turn.state.plan.by_id[step]
    turn.queue.append(planned)
    if isinstance(event, StepFailed) and not planned.flow.goes_on_after_failure:
        for given_up in withdrawn(turn.state, planned, turn.at):
            turn.add(given_up)


def _go_on_with_items(turn: Turn, planned: PlannedStep) -> None:
    state, step, whole = turn.state, planned.id, turn.run(planned.id)
    if whole.items is None or whole.status != "running":
        return
    is_over = whole.items_settled == len(whole.items)
    stops = whole.items_failed > 0 and not planned.flow.goes_on_after_failure
    if is_over or (stops and not has_items_under_way(state, planned)):
        runs = [state.runs.get(item_run(step, index), _NEW) for index in range(len(whole.items))]
        results, error = results_of(turn.room, step, runs, stops=stops)
        if error is not None:
            _settle(turn, StepFailed(state.execution_id, step, whole.attempts, error, turn.at, results))
        else:
            _settle(turn, StepCompleted(state.execution_id, step, whole.attempts, results, turn.at))
    elif not stops and state.failing is None:
        _begin_items(turn, planned)


def _begin_step(turn: Turn, planned: PlannedStep) -> None:
    state, flow = turn.state, planned.flow
    if turn.run(planned.id).items is not None:
        _go_on_with_items(turn, planned)
        return
    if turn.run(planned.id).status != "pending" or not _is_ready(turn, planned):
        return
    if _is_dead(state, planned):
        skip(turn, planned.id, "dependencies")
        return
    try:
        if flow.when is not None and not condition(flow.when, scope_of(state, planned.id)):
            skip(turn, planned.id, "condition")
            return
        if flow.foreach is not None:
            items = turn.room.whole("/foreach", evaluate(flow.foreach.items, scope_of(state, planned.id)))
            _expand(turn, planned, items)
            return
    except ExpressionFailed as fault:
        fail_for_good(turn, planned.id, 0, expression_error(fault))
        return
    _enter(turn, planned, planned.id, 0, None)


def _is_ready(turn: Turn, planned: PlannedStep) -> bool:
    left = turn.state.waits[turn.state.plan.joint_of[planned.id]]
    if planned.flow.join is None or left == 0:
        return left == 0
    return sum(_counts(turn.state.runs[before]) for before in planned.depends_on) >= planned.flow.join


def _counts(run: StepRun) -> bool:
    """True for a dependency that is done, well or not: its failure is one that the plan lives with."""
    return run.status in ("completed", "failed")


def _is_dead(state: Execution, planned: PlannedStep) -> bool:
    if not planned.depends_on:
        return False
    if planned.flow.join is not None:
        return sum(_counts(state.runs[before]) for before in planned.depends_on) < planned.flow.join
    return planned.flow.skips_with_dependencies and all(state.runs[before].status == "skipped" for before in planned.depends_on)


def _expand(turn: Turn, planned: PlannedStep, items: Any) -> None:
    begun = sum(len(turn.run(step.id).items or ()) for step in turn.state.steps)
    if (error := unfit_items_error(items, begun, len(turn.events))) is not None:
        fail_for_good(turn, planned.id, 0, error)
        return
    turn.add(StepExpanded(turn.state.execution_id, planned.id, tuple(items), turn.at))
    if items:
        _begin_items(turn, planned)
    else:
        complete(turn, planned.id, 0, [])


def _begin_items(turn: Turn, planned: PlannedStep) -> None:
    """Begins items until as many are under way as may be."""
    assert planned.flow.foreach is not None, "only a loop has items"
    whole = turn.run(planned.id)
    for index in range(whole.items_next, len(whole.items or ())):
        whole = turn.run(planned.id)
        under_way = whole.items_begun - whole.items_settled
        if under_way >= planned.flow.foreach.concurrency or turn.state.status != "running":
            return
        if under_way and turn.state.active >= ACTIVE_MAX:
            return  # it goes on when one of its own is over
        if whole.items_failed and not planned.flow.goes_on_after_failure:
            return
        run_id = item_run(planned.id, index)
        if turn.run(run_id).status == "pending":
            _enter(turn, planned, run_id, 0, None)


def _enter(turn: Turn, planned: PlannedStep, run_id: StepId, gate: int, result: Any) -> None:
    """The run stands before its gate number `gate`, or before its work. `result` is what the gate before it gave."""
    state, flow = turn.state, planned.flow
    for number in range(gate, len(flow.gates)):
        try:
            waiting = wait_for(state, turn.at, flow.gates[number], number, run_id, turn.room)
        except ExpressionFailed as fault:
            fail_for_good(turn, run_id, turn.run(run_id).attempts, expression_error(fault))
            return
        turn.add(waiting)
        buffered = state.signals.get(flow.gates[number].signal or "", ())
        if not buffered:
            return
        result = buffered[0]
    if flow.work == "none":
        complete(turn, run_id, turn.run(run_id).attempts, result)
        return
    if state.status == "paused":
        limits = expiry_of(state, turn.at, run_id)
        turn.add(StepWaiting(state.execution_id, run_id, "resume", len(flow.gates), None, "complete", {}, turn.at, limits))
        return
    try:
        turn.add(
            start_of(turn.state, turn.at, planned, run_id)
            if flow.work == "action"
            else child_of(turn.state, turn.at, planned, run_id, turn.room)
        )
    except ExpressionFailed as fault:
        fail_for_good(turn, run_id, turn.run(run_id).attempts, expression_error(fault))


def _give_up(turn: Turn) -> None:
    """Nothing waits, and where the execution is cancelled nothing is tried again, while it comes to its end."""
    state = turn.state
    if state.active == 0:
        return
    gone: Iterable[str] = ("waiting",)
    if state.status == "cancelling":
        gone = ("waiting", "retrying", "running") if state.cause == "failed" else ("waiting", "retrying")
    for run_id, run in state.runs.items():
        if run.status in gone and run.items is None:
            turn.add(StepCancelled(state.execution_id, run_id, child_of_run(run), turn.at))


def _finish(turn: Turn) -> None:
    state = turn.state
    result = None
    if state.options.outputs is not None:
        try:
            result = turn.room.value("outputs", evaluate(state.options.outputs, scope_of(state, None)))
        except ExpressionFailed as fault:
            turn.add(ExecutionFailing(state.execution_id, expression_error(fault), turn.at))
            undo(turn, "failed")
            return
    turn.add(ExecutionCompleted(state.execution_id, turn.at, result, state.options.parent))
