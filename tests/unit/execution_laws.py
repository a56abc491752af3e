# intent_ref: tests.execution-core
"""What holds of every execution after every event, whatever happened: counted and looked up anew, without the core's own ways."""

from domain.execution import ENDED, Execution
from domain.execution_events import (
    CompensationStarted,
    ExecutionEvent,
    ExecutionRerun,
    ExecutionRetried,
    ExecutionStarted,
    StepCompensated,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepRetrying,
    StepStarted,
    StepWaiting,
)
from domain.plan import PlannedStep
from domain.runs import ACTIVE, SETTLED, StepRun
from domain.values import StepId

_DONE = frozenset({"completed", "failed"})


def check_event(state: Execution | None, event: ExecutionEvent) -> None:
    """Holds what must be so when `event` comes about."""
    if isinstance(event, ExecutionStarted):
        assert state is None
        return
    assert state is not None
    goes_on = isinstance(event, ExecutionRetried | ExecutionRerun)
    assert (state.status in ENDED) == goes_on, "nothing follows the end but a retry or a rerun, and these follow nothing else"
    match event:
        case StepStarted(step=run_id, attempt=attempt):
            _check_first(state, run_id)
            assert attempt == _run(state, run_id).attempts + 1, "an attempt is left out, or made twice"
        case StepWaiting(step=run_id, reason=reason) if _run(state, run_id).status == "waiting" and reason != "child":
            assert state.status in ("running", "paused"), "a run goes on from gate to gate in an execution that does not"
        case StepWaiting(step=run_id) | StepExpanded(step=run_id):
            _check_first(state, run_id)
        case StepRetrying(step=run_id, attempt=attempt):
            assert attempt == _run(state, run_id).attempts + 1
            assert _run(state, run_id).status in ("running", "retrying")
        case StepCompleted(step=run_id) | StepFailed(step=run_id):
            assert _run(state, run_id).status in (*ACTIVE, "pending"), "a run is settled twice"
        case CompensationStarted(runs=runs):
            assert list(runs) == list(reversed(state.undoable))
            assert state.active == 0, "undoing begins while something is still under way"
        case StepCompensated(step=run_id):
            assert state.undoing[0] == run_id[1:], "compensations come in the order that was announced"
        case _:
            pass


def _check_first(state: Execution, run_id: str) -> None:
    """A run that begins something: its dependencies allow it, and the execution is of a mind to."""
    if run_id.startswith("~"):
        assert state.status == "compensating"
        assert state.undoing[0] == run_id[1:]
        assert state.active == 0, "undoings come one after the other"
        return
    is_going_on = state.status == "running" or (state.status == "paused" and _run(state, run_id).fell_back)
    assert not state.is_queued, f"{run_id} begins something before the execution has its turn"
    assert is_going_on, f"{run_id} begins something in an execution that is {state.status}"
    step = state.plan.step_of(run_id)
    assert step is not None
    assert may_begin(state, step), f"{run_id} begins too early"


def may_begin(state: Execution, step: PlannedStep) -> bool:
    """True where the step's dependencies allow it to begin."""
    statuses = [state.runs[before].status for before in step.depends_on]
    if step.flow.join is not None:
        return sum(status in _DONE for status in statuses) >= step.flow.join
    return all(status in SETTLED for status in statuses)


def _run(state: Execution, run_id: str) -> StepRun:
    return state.runs.get(StepId(run_id), StepRun())


def check_state(state: Execution) -> None:
    """Holds what must be so between decisions."""
    check_counters(state)
    if state.status in ENDED:
        assert state.active == 0, "an ended execution waits for something"
        assert not [run_id for run_id, run in state.runs.items() if run.status in ACTIVE], "a run goes on after the end"
        assert state.completed_at is not None
        assert state.undoing == ()
    elif state.status != "paused":
        waits = [run_id for run_id, run in state.runs.items() if run.status == "waiting"]
        assert not (waits and state.failing), "a failing execution still waits"
        assert state.active > 0 or state.is_queued, f"nothing would ever wake this execution: it is {state.status}"
    if state.status == "completed":
        assert all(state.runs[step.id].status in ("completed", "skipped", "failed") for step in state.steps)
    if state.status == "failed":
        assert state.error is not None


def check_counters(state: Execution) -> None:
    """Holds that what is counted on the way is what counting anew gives."""
    plan = [step.id for step in state.steps]
    settled = [step for step in plan if state.runs[step].status in SETTLED]
    assert state.open == len(plan) - len(settled)
    assert state.active == sum(run.status in ACTIVE and run.items is None for run in state.runs.values())
    assert {step.id: state.waits[state.plan.joint_of[step.id]] for step in state.steps} == {
        step.id: sum(state.runs[before].status not in SETTLED for before in step.depends_on) for step in state.steps
    }  # fmt: skip
    for step in state.steps:
        run = state.runs[step.id]
        if run.items is not None and run.status == "running":
            parts = [_run(state, f"{step.id}[{index}]") for index in range(len(run.items))]
            assert run.items_begun == sum(part.status != "pending" for part in parts)
            assert run.items_settled == sum(part.status in SETTLED for part in parts)
            assert run.items_failed == sum(part.status == "failed" for part in parts)
            assert all(part.status != "pending" for part in parts[: run.items_next]), "an item is passed over"
            cut_short = run.items_failed > 0 and not step.flow.goes_on_after_failure
            assert not (cut_short and "waiting" in [part.status for part in parts]), "a failed loop still waits"
    if state.status in ("running", "paused"):
        failing = [s for s in state.steps if state.runs[s.id].status == "failed" and not s.flow.goes_on_after_failure]
        assert (state.failing is None) == (not failing)
