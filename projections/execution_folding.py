# intent_ref: projections.executions
"""How events change the document of an execution: what `domain.execution.evolve` says of its state, said of its document.

A document is changed in place, so an event costs what it changes, whatever the size of the plan. The items of a step beyond
the first `SHOWN_MAX`, and as many resources, are not in the document and still have to be known: they are kept beside it.
"""

from dataclasses import dataclass, field
from itertools import islice
from typing import Any, assert_never

from domain import execution_events as events_of
from domain.documents import SHOWN_MAX, timestamp, waiting_document
from domain.execution import loops_kept
from domain.execution_events import ExecutionEvent
from domain.plan import is_undoing, item_index, item_run, step_of_run
from domain.runs import SETTLED, Waiting
from domain.values import StepId
from projections.read_model import EventOutOfOrder

_OVER = SETTLED | {"cancelled"}
_RESET: dict[str, Any] = {
    "status": "pending", "error": None, "fell_back": False, "waiting_for": None, "due_at": None, "compensation": None,
    "started_at": None, "completed_at": None,
}  # fmt: skip


@dataclass(slots=True)
class Folding:
    """A document and what belongs to it unseen. `runs` are the documents of steps and items by id; `resources` all there are."""

    document: dict[str, Any]
    runs: dict[str, dict[str, Any]] = field(init=False)
    resources: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self.runs = {step["id"]: step for step in self.document["steps"]}
        for step in self.document["steps"]:
            if step["items"] is not None:
                self.runs.update({run["id"]: run for run in step["items"]["runs"]})

    @classmethod
    def stored(cls, document: dict[str, Any], hidden: dict[str, Any] | None) -> "Folding":
        """What was stored as a document and `hidden`."""
        folding = cls(document)
        if hidden is not None:
            for run_id, (status, attempts) in hidden["runs"].items():
                folding.runs[run_id] = _new_item(run_id, status, attempts)
            if hidden["resources"]:
                folding.resources = {_key(one): one for one in [*document["resources"], *hidden["resources"]]}
        return folding

    def hidden(self) -> dict[str, Any] | None:
        """What has to be stored beside the document; None for most executions."""
        runs = {}
        if len(self.runs) > len(self.document["steps"]):
            shown = {run["id"] for step in self.document["steps"] if step["items"] for run in step["items"]["runs"]}
            runs = {
                run_id: (run["status"], run["attempts"])
                for run_id, run in self.runs.items() if item_index(run_id) is not None and run_id not in shown
            }  # fmt: skip
        resources = [] if self.resources is None else list(islice(self.resources.values(), SHOWN_MAX, None))
        return {"runs": runs, "resources": resources} if runs or resources else None


def fold(folding: Folding, event: ExecutionEvent) -> None:
    """Changes the document as `event` says."""
    at = timestamp(event.at)
    document = folding.document
    document["updated_at"] = at
    match event:
        case events_of.StepStarted():
            _set(folding, event.step, _run(folding, event.step, at), {
                "status": "running", "attempts": event.attempt, "error": None, "waiting_for": None, "due_at": None,
                "completed_at": None,
            }, started_at=at)  # fmt: skip
        case events_of.StepCompleted():
            run = _run(folding, event.step, at)
            if "result" in run:
                run["result"] = event.result
            _set(folding, event.step, run, {"status": "completed", "error": None, **_over(at)})
        case events_of.ExecutionCompleted():
            document.update(status="completed", result=event.result, completed_at=at)
        case events_of.StepFailed():
            run = _run(folding, event.step, at)
            if "result" in run:
                run["result"] = event.result
            _set(folding, event.step, run, {"status": "failed", "error": event.error, **_over(at)})
        case events_of.StepRetrying():
            _set(folding, event.step, _run(folding, event.step, at), {
                "status": "retrying", "attempts": event.attempt, "error": event.error, "due_at": timestamp(event.due_at),
            })  # fmt: skip
        case events_of.StepSkipped():
            _set(folding, event.step, _run(folding, event.step, at), {"status": "skipped", **_over(at)})
        case events_of.StepCancelled():
            _set(folding, event.step, _run(folding, event.step, at), {"status": "cancelled", **_over(at)})
        case (
            events_of.StepWaiting()
            | events_of.StepExpanded()
            | events_of.StepFallingBack()
            | events_of.StepCompensated()
            | events_of.CompensationFailed()
        ):
            _fold_turn(folding, event, at)
        case events_of.ResourceProvisioned():
            one = {"type": event.type, "id": event.resource_id, "step": event.step}
            _resources(folding)[_key(one)] = one
            _show_resources(folding)
        case events_of.ResourceReleased():
            _resources(folding).pop(f"{event.type}/{event.resource_id}", None)
            _show_resources(folding)
        case events_of.StepApproved() | events_of.StepRejected() | events_of.SignalReceived() | events_of.ExecutionStalled():
            pass
        case _:
            _fold_whole(folding, event, at)


def _fold_turn(
    folding: Folding,
    event: events_of.StepWaiting
    | events_of.StepExpanded
    | events_of.StepFallingBack
    | events_of.StepCompensated
    | events_of.CompensationFailed,
    at: str,
) -> None:
    """What happens seldom to a step, an item or an undoing."""
    run = _run(folding, event.step, at)
    match event:
        case events_of.StepWaiting():
            waiting = Waiting(event.reason, event.gate, event.on_due, event.detail)
            due_at = None if event.due_at is None else timestamp(event.due_at)
            attempts = run["attempts"] + (event.reason == "child")
            said = {"status": "waiting", "attempts": attempts, "waiting_for": waiting_document(waiting), "due_at": due_at}
            _set(folding, event.step, run, said, started_at=at)
        case events_of.StepExpanded():
            run.update(status="running", started_at=at)
            _expand(folding, run, len(event.items))
        case events_of.StepFallingBack():
            run.update(fell_back=True, error=event.error, due_at=None)
        case events_of.StepCompensated():
            run.update(status="completed", error=None, due_at=None, completed_at=at)
            subject = event.step.removeprefix("~")
            _set(folding, subject, _run(folding, subject, at), {"status": "compensated"})
        case events_of.CompensationFailed():
            run.update(status="failed", error=event.error, due_at=None, completed_at=at)
            if len(folding.document["not_undone"]) < SHOWN_MAX:
                folding.document["not_undone"].append(event.step.removeprefix("~"))
        case _:
            assert_never(event)


def _fold_whole(
    folding: Folding,
    event: events_of.ExecutionStarted
    | events_of.CancellationRequested
    | events_of.ExecutionFailing
    | events_of.CompensationStarted
    | events_of.ExecutionFailed
    | events_of.ExecutionCancelled
    | events_of.ExecutionTerminated
    | events_of.ExecutionPaused
    | events_of.ExecutionResumed
    | events_of.ExecutionRetried
    | events_of.ExecutionRerun
    | events_of.ExecutionQueued
    | events_of.ExecutionAdmitted,
    at: str,
) -> None:
    """What happens to the execution as a whole."""
    document = folding.document
    match event:
        case events_of.ExecutionStarted():
            raise EventOutOfOrder(f"The execution {event.execution_id} starts twice")
        case events_of.CancellationRequested():
            document.update(status="cancelling", reason=event.reason)
        case events_of.ExecutionFailing():
            document.update(status="cancelling", error=event.error)
        case events_of.CompensationStarted():
            document["status"] = "compensating"
        case events_of.ExecutionFailed():
            document.update(status="failed", error=event.error, completed_at=at, queued=False)
        case events_of.ExecutionCancelled():
            _cancel_the_rest(folding, at)
            document.update(status="cancelled", reason=event.reason, completed_at=at, queued=False)
        case events_of.ExecutionTerminated():
            _cancel_the_rest(folding, at)
            document.update(status="terminated", reason=event.reason, completed_at=at, queued=False)
        case events_of.ExecutionQueued() | events_of.ExecutionAdmitted():
            document["queued"] = isinstance(event, events_of.ExecutionQueued)
        case events_of.ExecutionPaused():
            document["status"] = "paused"
        case events_of.ExecutionResumed():
            document["status"] = "running"
        case events_of.ExecutionRetried() | events_of.ExecutionRerun():
            _begin_again(folding, set(event.steps), keeps_items=isinstance(event, events_of.ExecutionRetried))
        case _:
            assert_never(event)


def _over(at: str) -> dict[str, Any]:
    return {"waiting_for": None, "due_at": None, "completed_at": at}


def _run(folding: Folding, run_id: str, at: str) -> dict[str, Any]:
    """The document of a step, of an item, or of the undoing of either, which this may be the beginning of."""
    run = folding.runs.get(run_id)
    if run is not None:
        return run
    if not is_undoing(run_id):
        if item_index(run_id) is None:
            raise EventOutOfOrder(f"The execution {folding.document['id']} has no step {run_id!r}")
        run = folding.runs[run_id] = _new_item(run_id, "pending", 0)
        return run
    subject = _run(folding, run_id.removeprefix("~"), at)
    if subject["compensation"] is None:
        subject["compensation"] = {
            "status": "pending", "attempts": 0, "error": None, "due_at": None, "started_at": at, "completed_at": None
        }  # fmt: skip
    undoing: dict[str, Any] = subject["compensation"]
    return undoing


def _set(folding: Folding, run_id: str, run: dict[str, Any], said: dict[str, Any], *, started_at: str | None = None) -> None:
    """Notes what is said of a run. What holds for all runs and not for undoings is passed over for these."""
    if started_at is not None and run["started_at"] is None:
        run["started_at"] = started_at
    if is_undoing(run_id):
        run.update({key: value for key, value in said.items() if key in run})
        if run["status"] in ("running", "retrying"):
            subject = run_id.removeprefix("~")
            _set(folding, subject, _run(folding, subject, ""), {"status": "compensating"})
        return
    if run_id.endswith("]"):
        _count(folding, run_id, run["status"], said["status"])
    run.update(said)


def _count(folding: Folding, run_id: str, before: str, after: str) -> None:
    """One item less is in one status, and one more in another."""
    items = folding.runs[step_of_run(run_id)]["items"]
    if items is None or before == after or (item_index(run_id) or 0) >= items["total"]:
        return
    statuses = items["statuses"]
    statuses[after] = statuses.get(after, 0) + 1
    if statuses[before] == 1:
        del statuses[before]
    else:
        statuses[before] -= 1


def _expand(folding: Folding, step: dict[str, Any], total: int) -> None:
    """The step's items; those of an earlier turn of the execution keep the count of their attempts."""
    runs = []
    for index in range(min(total, SHOWN_MAX)):
        run_id = item_run(step["id"], index)
        run = folding.runs.get(run_id)
        if run is None:
            run = folding.runs[run_id] = _new_item(run_id, "pending", 0)
        runs.append(run)
    step["items"] = {"total": total, "statuses": {"pending": total} if total else {}, "runs": runs}


def _new_item(run_id: str, status: str, attempts: int) -> dict[str, Any]:
    return {
        "id": run_id, "status": status, "attempts": attempts, "error": None, "fell_back": False, "waiting_for": None,
        "due_at": None, "compensation": None, "started_at": None, "completed_at": None,
    }  # fmt: skip


def _cancel_the_rest(folding: Folding, at: str) -> None:
    for run_id, run in folding.runs.items():
        undoing = run["compensation"]
        if undoing is not None and undoing["status"] not in _OVER:
            undoing.update(status="cancelled", due_at=None, completed_at=at if undoing["attempts"] else None)
        if run["status"] not in _OVER and not _has_not_begun(run_id, run):
            said = {"status": "cancelled", "waiting_for": None, "due_at": None, "completed_at": at if run["attempts"] else None}
            _set(folding, run_id, run, said)


def _has_not_begun(run_id: str, run: dict[str, Any]) -> bool:
    """True for an item that has never begun: of it there is nothing to cancel."""
    return run["status"] == "pending" and not run["attempts"] and item_index(run_id) is not None


def _begin_again(folding: Folding, reset: set[StepId], *, keeps_items: bool) -> None:
    document = folding.document
    document.update(status="running", error=None, completed_at=None, not_undone=[], reason=None, result=None)
    kept_loops = loops_kept(((run_id, run["status"]) for run_id, run in folding.runs.items()), reset) if keeps_items else ()
    for run_id, run in folding.runs.items():
        is_item = item_index(run_id) is not None
        if run_id not in reset and not (is_item and step_of_run(run_id) in reset and not keeps_items):
            continue
        if is_item:
            _count(folding, run_id, run["status"], "pending")
            run.update(_RESET)
        else:
            kept = {"status": "running", "started_at": run["started_at"]} if run_id in kept_loops else {}
            run.update({**_RESET, "result": None, **kept})
    for step in document["steps"]:
        if step["id"] in reset and step["id"] not in kept_loops:
            step["items"] = None


def _key(resource: dict[str, Any]) -> str:
    return f"{resource['type']}/{resource['id']}"


def _resources(folding: Folding) -> dict[str, dict[str, Any]]:
    if folding.resources is None:
        folding.resources = {_key(one): one for one in folding.document["resources"]}
    return folding.resources


def _show_resources(folding: Folding) -> None:
    folding.document["resources"] = list(islice(_resources(folding).values(), SHOWN_MAX))
