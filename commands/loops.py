# intent_ref: commands.progress
"""Loops as they stand: what goes on when an item has failed, and what the items have come to."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from commands.beginnings import child_of_run
from domain.execution import Execution
from domain.execution_events import StepCancelled
from domain.plan import PlannedStep, is_undoing, item_index, item_run
from domain.runs import ACTIVE, StepRun

ERRORS_LISTED_MAX = 100
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
