# intent_ref: commands.execution
"""How an execution that has ended begins again: where it failed, or from any step."""

from commands.progress import Turn, consider_all
from domain.execution import Execution
from domain.execution_events import ExecutionQueued, ExecutionRerun, ExecutionRetried
from domain.plan import is_undoing, item_index, step_of_run
from domain.refusals import ExecutionNotEnded, ExecutionNotFailed, NotFound, TooManyReruns
from domain.runs import SETTLED, StepRun
from domain.values import StepId

RERUNS_MAX = 1_000


def retried(turn: Turn) -> None:
    """A failed execution goes on from what failed. Raises `ExecutionNotFailed`."""
    state = turn.state
    if state.status != "failed":
        raise ExecutionNotFailed(state.execution_id, state.status)
    again = {"failed", "cancelled", "compensated", "compensating"}
    runs = [
        run_id for run_id, run in state.runs.items()
        if run.status in again and not is_undoing(run_id) and not _is_lived_with(state, run_id, run)
    ]  # fmt: skip
    # What came of something that has been undone is no good any more: it is done again as well.
    undone = {step_of_run(run_id) for run_id in runs if state.runs[run_id].status in ("compensated", "compensating")}
    after = {later for step in undone for later in state.plan.descendants(step)}
    runs += [
        run_id for run_id, run in state.runs.items()
        if run.status in SETTLED and not is_undoing(run_id) and step_of_run(run_id) in after
    ]  # fmt: skip
    loops = [step_of_run(run_id) for run_id in runs if item_index(run_id) is not None]
    _check_reruns(state)
    turn.add(ExecutionRetried(state.execution_id, tuple(dict.fromkeys([*runs, *loops])), turn.at))
    _queue_again(turn)
    consider_all(turn)


def _is_lived_with(state: Execution, run_id: StepId, run: StepRun) -> bool:
    step = state.plan.by_id.get(step_of_run(run_id))
    return run.status == "failed" and step is not None and step.flow.goes_on_after_failure


def rerun(turn: Turn, step: StepId) -> None:
    """An ended execution goes on from a step. Raises `ExecutionNotEnded`, `NotFound`."""
    state = turn.state
    if not state.is_over:
        raise ExecutionNotEnded(state.execution_id, state.status)
    if step not in state.plan.by_id:
        raise NotFound("step", step, f"of the execution {state.execution_id}")
    undone = {step_of_run(run_id) for run_id, run in state.runs.items() if run.status in ("compensated", "compensating")}
    after = {later for one in (step, *undone) for later in state.plan.descendants(one)}
    unfinished = {"pending", "cancelled", "failed", "compensated", "compensating"}
    again = tuple([
        one.id for one in state.plan.steps
        if one.id == step or one.id in after or one.id in undone
        or (state.runs[one.id].status in unfinished and not _is_lived_with(state, one.id, state.runs[one.id]))
    ])  # fmt: skip
    _check_reruns(state)
    turn.add(ExecutionRerun(state.execution_id, step, again, turn.at))
    _queue_again(turn)
    consider_all(turn)


def _check_reruns(state: Execution) -> None:
    if state.reruns >= RERUNS_MAX:
        raise TooManyReruns(state.execution_id, RERUNS_MAX)


def _queue_again(turn: Turn) -> None:
    """What has had to wait for its tenant to have room waits again."""
    state = turn.state
    if state.turns:
        turn.add(ExecutionQueued(state.execution_id, state.turns + 1, state.options.priority, turn.at))
