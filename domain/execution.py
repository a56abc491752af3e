# intent_ref: domain.execution
"""An execution as its events left it: one run of one version of an intent, step by step."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, assert_never

from domain.execution_events import (
    CancellationRequested,
    CompensationFailed,
    CompensationStarted,
    ExecutionAdmitted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionFailing,
    ExecutionPaused,
    ExecutionQueued,
    ExecutionRerun,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionStalled,
    ExecutionStarted,
    ExecutionTerminated,
    ResourceProvisioned,
    ResourceReleased,
    SignalReceived,
    StepApproved,
    StepCancelled,
    StepCompensated,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepFallingBack,
    StepRejected,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepWaiting,
)
from domain.execution_terms import Cause, Options
from domain.immutable import immutable
from domain.plan import Plan, PlannedStep, is_undoing, item_index, shared_plan, step_of_run
from domain.runs import ACTIVE, SETTLED, StepRun, Waiting, changed
from domain.values import ExecutionId, IntentId, StepId, TenantId, Version

ExecutionStatus = Literal["running", "paused", "cancelling", "compensating", "completed", "failed", "cancelled", "terminated"]
ENDED: frozenset[ExecutionStatus] = frozenset({"completed", "failed", "cancelled", "terminated"})


@immutable
class Resource:
    """Something a step has made, by the maker's own id."""

    type: str
    resource_id: str
    step: StepId


_UNSAID = Options(TenantId(""))
_NEW = StepRun()


@dataclass(frozen=True)
class Execution:
    """An execution as its events left it.

    `open` counts the steps that are not settled, `active` the runs somebody or something is busy with, `waits` for how many
    steps each of the plan's joints still waits: so that an answer costs no look at the whole plan. `failing` is the step whose
    failure ends the execution. `undoable` are completed runs that can be undone, in the order of completion; `undoing` what is
    left to undo.
    `turns`: how often it had to wait for the tenant to have room; while it `is_queued`, nothing of it begins.
    `reruns`: how often it was begun again after its end.
    """

    execution_id: ExecutionId
    intent_id: IntentId
    intent_name: str
    version: Version
    target: str
    inputs: dict[str, Any]
    plan: Plan
    options: Options
    runs: dict[StepId, StepRun]
    status: ExecutionStatus
    error: dict[str, Any] | None
    started_at: datetime
    completed_at: datetime | None
    updated_at: datetime
    open: int
    active: int
    waits: tuple[int, ...]
    failing: StepId | None = None
    undoable: tuple[StepId, ...] = ()
    undoing: tuple[StepId, ...] = ()
    not_undone: tuple[StepId, ...] = ()
    cause: Cause | None = None
    reason: str | None = None
    result: Any = None
    signals: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    turns: int = 0
    is_queued: bool = False
    reruns: int = 0

    @property
    def steps(self) -> tuple[PlannedStep, ...]:
        """The plan's steps, in its order."""
        return self.plan.steps

    @property
    def is_over(self) -> bool:
        """True once it has ended; a retry or a rerun begins it again."""
        return self.status in ENDED

    @property
    def is_plain(self) -> bool:
        """True where modules' answers alone move the execution: no gate, no child, no turn, no time limit beyond an attempt's."""
        return self.options.deadline_at is None and self.plan.is_plain and not self.turns

    def step(self, run_id: str) -> PlannedStep | None:
        """The planned step behind a run."""
        return self.plan.step_of(run_id)


def evolve(state: Execution | None, event: ExecutionEvent) -> Execution:
    """The execution after `event`."""
    if isinstance(event, ExecutionStarted):
        return _started(event)
    assert state is not None, "an execution's first event starts it"
    at = event.at
    match event:
        case StepStarted() | StepRetrying() | StepWaiting() | StepExpanded() | StepFallingBack():
            return _going_on(state, event)
        case StepCompleted() | StepFailed() | StepSkipped() | StepCancelled():
            return _over(state, event)
        case StepCompensated() | CompensationFailed():
            return _undone(state, event)
        case StepApproved() | StepRejected() | ExecutionStalled():
            return changed(state, updated_at=at)
        case SignalReceived(name=name, payload=payload):
            signals = {**state.signals, name: (*state.signals.get(name, ()), payload)}
            return changed(state, signals=signals, updated_at=at)
        case ResourceProvisioned(step=step, type=kind, resource_id=identity):
            known = {**state.resources, f"{kind}/{identity}": Resource(kind, identity, step)}
            return changed(state, resources=known, updated_at=at)
        case ResourceReleased(type=kind, resource_id=identity):
            left = {key: kept for key, kept in state.resources.items() if key != f"{kind}/{identity}"}
            return changed(state, resources=left, updated_at=at)
        case CancellationRequested(reason=reason):
            return changed(state, status="cancelling", cause="cancelled", reason=reason, updated_at=at)
        case ExecutionFailing(error=error):
            return changed(state, status="cancelling", cause="failed", error=error, updated_at=at)
        case CompensationStarted(cause=cause, runs=runs):
            return changed(state, status="compensating", cause=cause, undoing=runs, updated_at=at)
        case ExecutionCompleted(result=result):
            return changed(state, status="completed", result=result, completed_at=at, updated_at=at)
        case ExecutionFailed(error=error):
            return changed(state, status="failed", error=error, undoing=(), completed_at=at, updated_at=at)
        case ExecutionCancelled(reason=reason):
            return changed(_with_nothing_active(state, at), status="cancelled", reason=reason, completed_at=at)
        case ExecutionTerminated(reason=reason):
            return changed(_with_nothing_active(state, at), status="terminated", reason=reason, completed_at=at)
        case ExecutionQueued(turn=turn):
            return changed(state, turns=turn, is_queued=True, updated_at=at)
        case ExecutionAdmitted():
            return changed(state, is_queued=False, updated_at=at)
        case ExecutionPaused():
            return changed(state, status="paused", updated_at=at)
        case ExecutionResumed():
            return changed(state, status="running", updated_at=at)
        case ExecutionRetried(steps=runs):
            return _again(state, runs, at, keeps_items=True)
        case ExecutionRerun(steps=runs):
            return _again(state, runs, at, keeps_items=False)
        case _:
            assert_never(event)


def _started(event: ExecutionStarted) -> Execution:
    plan = shared_plan(event.steps)
    runs = {step.id: _NEW for step in event.steps}
    return Execution(
        event.execution_id, event.intent_id, event.intent_name, event.version, event.target, event.inputs, plan,
        event.options or _UNSAID, runs, "running", None, event.at, None, event.at,
        open=len(runs), active=0, waits=plan.joint_sizes,
    )  # fmt: skip


def _going_on(state: Execution, event: StepStarted | StepRetrying | StepWaiting | StepExpanded | StepFallingBack) -> Execution:
    run = state.runs.get(event.step, _NEW)
    match event:
        case StepStarted(attempt=attempt, at=at, limits=limits):
            state, run = _past_its_gate(state, run)
            run = changed(
                run, status="running", attempts=attempt, error=None, due_at=None, started_at=run.started_at or at,
                completed_at=None, limits=limits or run.limits,
            )  # fmt: skip
        case StepRetrying():
            run = changed(
                run, status="retrying", attempts=event.attempt, attempts_before=run.attempts_before + (not event.counts),
                error=event.error, due_at=event.due_at, put_off=0 if event.counts else run.put_off + 1,
                put_off_since=None if event.counts else run.put_off_since or event.at,
            )  # fmt: skip
        case StepWaiting():
            state, run = _past_its_gate(state, run)
            waiting = Waiting(event.reason, event.gate, event.on_due, event.detail)
            attempts = run.attempts + (event.reason == "child")
            run = changed(
                run, status="waiting", attempts=attempts, waiting=waiting, due_at=event.due_at,
                started_at=run.started_at or event.at, limits=event.limits or run.limits,
            )  # fmt: skip
        case StepExpanded():
            run = changed(run, status="running", items=event.items, started_at=event.at)
        case StepFallingBack():
            run = changed(
                run, fell_back=True, attempts_before=run.attempts, error=event.error, due_at=None, put_off=0, put_off_since=None
            )  # fmt: skip
        case _:
            assert_never(event)
    if is_undoing(event.step):
        subject = StepId(event.step.removeprefix("~"))
        state = _with_run(state, subject, changed(state.runs[subject], status="compensating"), event.at)
    return _with_run(state, event.step, run, event.at)


def _past_its_gate(state: Execution, run: StepRun) -> tuple[Execution, StepRun]:
    """The run with its gate behind it; a signal it waited for is used up."""
    if run.waiting is None:
        return state, run
    if run.waiting.reason == "signal":
        name = run.waiting.detail["signal"]
        state = changed(state, signals={**state.signals, name: state.signals.get(name, ())[1:]})
    passed = run.gates_passed + (run.waiting.reason not in ("child", "resume"))
    return state, changed(run, waiting=None, due_at=None, gates_passed=passed)


def _over(state: Execution, event: StepCompleted | StepFailed | StepSkipped | StepCancelled) -> Execution:
    step, at = event.step, event.at
    before = state.runs.get(step, _NEW)
    state, run = _past_its_gate(state, before)
    match event:
        case StepCompleted(result=result):
            run = changed(run, status="completed", result=result, error=None, due_at=None, completed_at=at)
        case StepFailed(error=error, result=result):
            run = changed(run, status="failed", error=error, result=result, due_at=None, completed_at=at)
        case StepSkipped():
            run = changed(run, status="skipped", due_at=None, completed_at=at)
        case StepCancelled():
            return _with_run(state, step, changed(run, status="cancelled", due_at=None, completed_at=at), at)
        case _:
            assert_never(event)
    planned = state.plan.by_id.get(step)
    if planned is None:
        return _item_settled(_with_run(state, step, run, at), step, run)
    if before.status in SETTLED:
        return _with_run(state, step, run, at)
    fails = run.status == "failed" and not planned.flow.goes_on_after_failure
    waits = state.waits
    if joints := state.plan.joints_behind[step]:
        counts = list(waits)
        for number in joints:
            counts[number] -= 1
        waits = tuple(counts)
    return _with_run(
        state, step, run, at, open=state.open - 1, waits=waits, failing=state.failing or (step if fails else None),
        undoable=_undoable(state, planned, step, run),
    )  # fmt: skip


def _item_settled(state: Execution, run_id: StepId, run: StepRun) -> Execution:
    step = step_of_run(run_id)
    whole = state.runs[step]
    failed = run.status == "failed"
    whole = changed(whole, items_settled=whole.items_settled + 1, items_failed=whole.items_failed + failed)
    return changed(
        state, runs={**state.runs, step: whole}, undoable=_undoable(state, state.plan.by_id[step], run_id, run)
    )  # fmt: skip


def _undoable(state: Execution, planned: PlannedStep, run_id: StepId, run: StepRun) -> tuple[StepId, ...]:
    if run.status != "completed" or planned.flow.compensation is None or run.items is not None:
        return state.undoable
    return (*state.undoable, run_id)


def _undone(state: Execution, event: StepCompensated | CompensationFailed) -> Execution:
    run_id, at = event.step, event.at
    subject = StepId(run_id.removeprefix("~"))
    run = changed(state.runs[run_id], due_at=None, completed_at=at)
    left = tuple([other for other in state.undoing if other != subject])
    match event:
        case StepCompensated(result=result):
            state = _with_run(state, run_id, changed(run, status="completed", result=result, error=None), at)
            state = _with_run(state, subject, changed(state.runs[subject], status="compensated"), at)
            undoable = tuple([other for other in state.undoable if other != subject])
            return changed(state, undoing=left, undoable=undoable)
        case CompensationFailed(error=error):
            state = _with_run(state, run_id, changed(run, status="failed", error=error), at)
            return changed(state, undoing=left, not_undone=(*state.not_undone, subject))
        case _:
            assert_never(event)


def _with_run(state: Execution, run_id: StepId, run: StepRun, at: datetime, **others: Any) -> Execution:
    """The execution with that run, and `others` of its fields."""
    before = state.runs.get(run_id, _NEW)
    active = state.active + _is_active(run) - _is_active(before)
    runs = {**state.runs, run_id: run}
    index = item_index(run_id) if before.status == "pending" else None
    if index is not None and not is_undoing(run_id):
        step = step_of_run(run_id)
        runs[step] = changed(runs[step], items_begun=runs[step].items_begun + 1, items_next=index + 1)
    return changed(state, runs=runs, active=active, updated_at=at, **others)


def _is_active(run: StepRun) -> bool:
    """True for a run that somebody or something is busy with; the items of a step are, not the step that has them."""
    return run.status in ACTIVE and run.items is None


def _with_nothing_active(state: Execution, at: datetime) -> Execution:
    """Every run that was not over is cancelled."""
    over = SETTLED | {"cancelled"}
    runs = {
        run_id: run
        if run.status in over
        else changed(run, status="cancelled", due_at=None, waiting=None, completed_at=at if run.attempts else None)
        for run_id, run in state.runs.items()
    }
    return changed(state, runs=runs, active=0, undoing=(), updated_at=at)


def _again(state: Execution, run_ids: Iterable[StepId], at: datetime, *, keeps_items: bool) -> Execution:
    """The execution with some runs pending again. Attempts go on counting, so that none is ever taken for another one."""
    reset = set(run_ids)
    kept = loops_kept(((run_id, run.status) for run_id, run in state.runs.items()), reset) if keeps_items else frozenset()
    runs: dict[StepId, StepRun] = {}
    for run_id, run in state.runs.items():
        step = step_of_run(run_id)
        is_part = run_id not in state.plan.by_id
        if is_undoing(run_id) and run_id.removeprefix("~") in reset:
            runs[run_id] = changed(_NEW, attempts=run.attempts, attempts_before=run.attempts)
        elif run_id in reset or (is_part and step in reset and not keeps_items):
            runs[run_id] = changed(_NEW, attempts=run.attempts, attempts_before=run.attempts)
            if run.items is not None and run_id in kept:
                runs[run_id] = changed(runs[run_id], status="running", items=run.items, started_at=run.started_at)
        else:
            runs[run_id] = run
    undoable = tuple([run_id for run_id in state.undoable if runs[run_id].status == "completed"])
    return changed(
        _recounted(state, runs), status="running", error=None, completed_at=None, updated_at=at, undoable=undoable,
        undoing=(), not_undone=(), cause=None, reason=None, result=None, is_queued=False,
        reruns=state.reruns + 1,
    )  # fmt: skip


def loops_kept(statuses: Iterable[tuple[str, str]], reset: set[StepId]) -> frozenset[StepId]:
    """The loops that keep something of what was done: the items of any other one are made anew when it is done again."""
    return frozenset(
        step_of_run(run_id) for run_id, status in statuses
        if run_id not in reset and status in SETTLED and not is_undoing(run_id) and item_index(run_id) is not None
    )  # fmt: skip


def _recounted(state: Execution, runs: dict[StepId, StepRun]) -> Execution:
    """What the counters say of `runs`, counted anew."""
    plan = state.plan
    for step in plan.steps:
        run = runs[step.id]
        if run.items is None or run.status != "running":
            continue
        parts = [part for run_id, part in runs.items() if item_index(run_id) is not None and step_of_run(run_id) == step.id
                 and not is_undoing(run_id)]  # fmt: skip
        settled = [part for part in parts if part.status in SETTLED]
        failed = sum(part.status == "failed" for part in settled)
        runs[step.id] = changed(run, items_next=0, items_begun=len(settled), items_settled=len(settled), items_failed=failed)
    settled_steps = {step.id for step in plan.steps if runs[step.id].status in SETTLED}
    waits = tuple([sum(before not in settled_steps for before in joint.before) for joint in plan.joints])
    failing = next(
        (step.id for step in plan.steps if runs[step.id].status == "failed" and not step.flow.goes_on_after_failure), None
    )  # fmt: skip
    return changed(
        state, runs=runs, waits=waits, open=len(plan.steps) - len(settled_steps), failing=failing,
        active=sum(_is_active(run) for run in runs.values()),
    )  # fmt: skip
