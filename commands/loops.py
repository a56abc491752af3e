# intent_ref: commands.progress
"""Loops as they stand: what goes on when an item has failed, and what the items have come to."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from commands.beginnings import child_of_run
from commands.expressions.values import is_claim
from commands.kept_values import NotKept, Room
from domain.execution import Execution
from domain.execution_events import StepCancelled
from domain.plan import PlannedStep, is_undoing, item_index, item_run
from domain.runs import ACTIVE, StepRun
from domain.step_control import ALL_ITEMS_MAX, ITEMS_MAX
from domain.values import StepId

ERRORS_LISTED_MAX = 100
EVENTS_MAX = 3_500
"""How many events a decision may come to before a loop begins, its items counted: one append takes 4,096."""
_MESSAGE_CHARS_MAX = 500


def is_cut_short(state: Execution, planned: PlannedStep, run_id: str) -> bool:
    """True for an item of a loop that has failed, because another item has: of it, nothing more begins."""
    if planned.flow.foreach is None or planned.flow.goes_on_after_failure or is_undoing(run_id) or item_index(run_id) is None:
        return False
    return state.runs[planned.id].items_failed > 0


def withdrawn(state: Execution, planned: PlannedStep, at: datetime) -> list[StepCancelled]:
    """Gives up the items of a failed loop that only wait, or would be tried again later; attempts under way come to their end."""
    return [
        StepCancelled(state.execution_id, item_run(planned.id, index), child_of_run(run), at)
        for index, run in _begun(state, planned)
        if run.status == "waiting" or (run.status == "retrying" and run.due_at is not None and run.due_at > at)
    ]


def has_items_under_way(state: Execution, planned: PlannedStep) -> bool:
    """True as long as somebody or something is busy with an item."""
    return any(run.status in ACTIVE for _, run in _begun(state, planned))


def _begun(state: Execution, planned: PlannedStep) -> Iterator[tuple[int, StepRun]]:
    for index in range(state.runs[planned.id].items_next):
        run = state.runs.get(item_run(planned.id, index))
        if run is not None:
            yield index, run


def unfit_items_error(items: Any, begun: int, events: int) -> dict[str, Any] | None:
    """Why a loop cannot be done over `items`, where the execution's loops have `begun` items already, and the decision has come
    to so many `events`; None where it can."""
    if not isinstance(items, list) or len(items) > ITEMS_MAX:
        what = "an artifact: the list is too large to stand in the log" if is_claim(items) else "something that is no array"
        what = f"{len(items):,} items, of at most {ITEMS_MAX:,}" if isinstance(items, list) else what
        return {"code": "items-invalid", "message": f"`foreach` was given {what}."}
    if begun + len(items) > ALL_ITEMS_MAX:
        message = f"The loops of an execution may have {ALL_ITEMS_MAX:,} items together; these would make {begun + len(items):,}."
        return {"code": "too-many-items", "message": message}
    if events + len(items) > EVENTS_MAX:
        message = f"Too much happens at once for {len(items):,} items more: let the loops of this execution follow one another."
        return {"code": "too-many-items", "message": message}
    return None


def results_of(
    room: Room, step: StepId, runs: Sequence[StepRun], *, stops: bool
) -> tuple[Any, dict[str, Any] | None]:  # fmt: skip
    """What a loop that is over has come to: the results of its items, and its error where some have failed, or where the results
    find no place. A loop that `stops` because one has failed has no results."""
    error = items_error(runs) if any(run.status == "failed" for run in runs) else None
    try:
        return None if stops else room.value(f"result of {step}", [run.result for run in runs]), error
    except NotKept as fault:
        return None, fault.error if error is None else {**error, "result_left_out": fault.error}


def items_error(runs: Sequence[StepRun]) -> dict[str, Any]:
    """The error of a loop of which some items have failed: `first` is the first one's, `items` are `{index, code, message}` of
    the first `ERRORS_LISTED_MAX`. What else a module said of its failure is in the item's own error."""
    failed = [(index, run.error or {}) for index, run in enumerate(runs) if run.status == "failed"]
    return {
        "code": "items-failed",
        "message": f"{len(failed)} of {len(runs)} items failed.",
        "first": failed[0][1],
        "items": [
            {"index": index, "code": error.get("code"), "message": str(error.get("message", ""))[:_MESSAGE_CHARS_MAX]}
            for index, error in failed[:ERRORS_LISTED_MAX]
        ],
    }
