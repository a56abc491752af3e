# intent_ref: read-api.explanations
"""Why an execution has not come further, as sentences: from its state, and from what is to be done for it. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, assert_never

from domain.documents import timestamp
from domain.execution import Execution
from domain.immutable import immutable
from domain.plan import PlannedStep, Work, is_undoing, item_run, undoing_run
from domain.runs import SETTLED, StepRun, Waiting
from domain.values import StepId

EXPLAINED_MAX = 1_000
NAMED_MAX = 20
AHEAD_MAX = 10_000
_ON_DUE = {"complete": "goes on without", "fail": "fails", "skip": "is skipped"}


@immutable
class Due:
    """A row of quantum.saga_dispatches as its tenant sees it: see `quantum.explain_execution` (migration 0049)."""

    step: str
    attempt: int
    kind: str
    due_at: datetime
    is_leased: bool
    is_queued: bool
    claims: int
    priority: int
    ahead: int | None
    slot_key: str | None
    slot_max: int | None
    slots_taken: int | None
    queue_by: datetime | None
    offered_at: datetime | None = None
    lease_until: datetime | None = None
    lease_holder: str | None = None
    was_silent: bool = False


@immutable
class Met:
    """A limit that an execution meets: see `quantum.explain_limits` (migration 0019)."""

    kind: str
    action: str | None
    most: int | None
    taken: int | None
    per_seconds: float | None
    available_at: datetime | None
    ahead: int | None


Why = tuple[str, str, dict[str, Any]]
"""(reason, sentence, facts)"""


def explained(state: Execution, rows: Sequence[Due], present: datetime, limits: Sequence[Met] = ()) -> dict[str, Any]:
    """The document of `GET /executions/{id}/explain`."""
    steps = [] if state.is_over else islice(_unfinished(state, _Rows.of(rows, limits), present), EXPLAINED_MAX)
    return {
        "execution_id": state.execution_id,
        "status": state.status,
        "sentence": _whole(state) + _place_in_line(state, limits),
        "steps": [
            {"step": run_id, "status": run.status, "reason": reason, "sentence": sentence, "facts": facts}
            for run_id, run, (reason, sentence, facts) in steps
        ],
    }


def _whole(state: Execution) -> str:
    if state.is_over:
        why = f": {state.error.get('message', state.error.get('code'))}" if state.error is not None else "."
        return f"It has ended, as {state.status}{why}"
    if state.is_queued:
        return "It waits for its turn: as many executions are under way as the tenant may have at a time."
    if state.status == "paused":
        return "It is paused: what runs goes on, and nothing further begins until it is resumed."
    if state.status == "cancelling":
        return "It is coming to its end: no further step begins, and what runs is waited for, for it may have to be undone."
    if state.status == "compensating":
        cause = "it was cancelled" if state.cause == "cancelled" else "it has failed"
        return f"It is being undone, because {cause}: {_count(len(state.undoing), 'step')} to go."
    if state.failing is not None:
        return f"The step {state.failing!r} has failed: no further step begins, and what runs is waited for."
    return f"It runs: {len(state.steps) - state.open} of {_count(len(state.steps), 'step')} are over."


def _place_in_line(state: Execution, limits: Sequence[Met]) -> str:
    """How many there may be, how many there are, and how many come before this one."""
    turn = next((met for met in limits if met.kind == "admission"), None)
    if turn is None or not state.is_queued or state.is_over or turn.most is None:
        return ""
    return f" {turn.taken or 0:,} of {turn.most:,} are under way, and {turn.ahead or 0:,} come before it."


@immutable
class _Rows:
    """Calls by run and attempt, children that have to be started by run, and what limits calls."""

    calls: dict[tuple[str, int], Due]
    children: dict[str, Due]
    limits: Sequence[Met]

    @classmethod
    def of(cls, rows: Sequence[Due], limits: Sequence[Met]) -> "_Rows":
        return cls(
            {(row.step, row.attempt): row for row in rows if row.kind in ("call", "callback", "pull")},
            {row.step: row for row in rows if row.kind == "child"}, limits,
        )  # fmt: skip


def _unfinished(state: Execution, rows: _Rows, present: datetime) -> Iterator[tuple[str, StepRun, Why]]:
    """Every step that is not over, in the order of the plan, each followed by its items that have begun and by undoings."""
    for step in state.steps:
        run = state.runs[step.id]
        if run.items is not None:
            if run.status == "running":
                yield step.id, run, _of_loop(step, run)
            for index in range(len(run.items)):
                yield from _of_run(state, step, item_run(step.id, index), rows, present)
        elif run.status == "pending":
            yield step.id, run, _not_begun(state, step)
        else:
            yield from _of_run(state, step, step.id, rows, present)


def _of_run(
    state: Execution, step: PlannedStep, run_id: StepId, rows: _Rows, present: datetime
) -> Iterator[tuple[str, StepRun, Why]]:
    run = state.runs.get(run_id)
    if run is None:
        return
    if run.status == "waiting" and run.waiting is not None:
        yield run_id, run, _in_time(run, _waits(run.waiting, run.due_at, rows.children.get(run_id), present))
    elif run.status in ("running", "retrying"):
        row = rows.calls.get((run_id, run.attempts))
        yield run_id, run, _in_time(run, _attempted(_work(step, run_id, run), run, row, present, rows.limits))
    undoing = state.runs.get(undoing_run(run_id))
    if undoing is not None and undoing.status in ("running", "retrying"):
        work = _work(step, undoing_run(run_id), undoing)
        row = rows.calls.get((undoing_run(run_id), undoing.attempts))
        reason, sentence, facts = _attempted(work, undoing, row, present, rows.limits)
        yield undoing_run(run_id), undoing, ("compensating", f"It is being undone. {sentence}", {**facts, "call": reason})


def _in_time(run: StepRun, why: Why) -> Why:
    """The same, and until when the step as a whole may take."""
    if run.limits is None or run.limits.expires_at is None:
        return why
    reason, sentence, facts = why
    until = timestamp(run.limits.expires_at)
    return reason, f"{sentence} The step as a whole has until {until}.", {**facts, "step_expires_at": until}


def _work(step: PlannedStep, run_id: str, run: StepRun) -> Work:
    """What the run's module is asked to do."""
    if is_undoing(run_id) and step.flow.compensation is not None:
        return step.flow.compensation
    if run.fell_back and step.flow.fallback is not None:
        return step.flow.fallback
    return step.own_work()


def _not_begun(state: Execution, step: PlannedStep) -> Why:
    if state.status in ("cancelling", "compensating"):
        return "ending", "It will not begin: the execution is coming to its end.", {"execution_status": state.status}
    if state.failing is not None:
        return "ending", f"It will not begin: the step {state.failing!r} has failed.", {"failed_step": state.failing}
    if state.is_queued:
        return "turn", "It cannot begin before the execution has its turn: the tenant has as many under way as it may have.", {}
    left = [before for before in step.depends_on if state.runs[before].status not in SETTLED]
    facts: dict[str, Any] = {"depends_on": [{"step": before, "status": state.runs[before].status} for before in left[:NAMED_MAX]]}
    if left:
        names = _named(left)
        if step.flow.join is not None:
            facts["join"] = step.flow.join
            return "depends-on", f"It begins when {step.flow.join} of its dependencies are done; not over are {names}.", facts
        return "depends-on", f"It depends on {names}, which {'is' if len(left) == 1 else 'are'} not over yet.", facts
    if state.status == "paused":
        return "paused", "It could begin, but the execution is paused: resume it.", {}
    return "next", "Nothing keeps it: it begins with the next event of the execution.", {}


def _of_loop(step: PlannedStep, run: StepRun) -> Why:
    total, at_once = len(run.items or ()), step.flow.foreach.concurrency if step.flow.foreach is not None else 1
    facts = {
        "total": total, "begun": run.items_begun, "over": run.items_settled, "failed": run.items_failed, "concurrency": at_once
    }  # fmt: skip
    sentence = f"{run.items_settled} of {_count(total, 'item')} are over; at most {at_once} at a time are under way."
    if run.items_failed and not step.flow.goes_on_after_failure:
        failed = _count(run.items_failed, "item")
        sentence = f"{failed} failed: no further one begins, what waits is given up, and attempts under way come to their end."
    return "items", sentence, facts


def _waits(waiting: Waiting, due_at: datetime | None, child_row: Due | None, present: datetime) -> Why:
    facts: dict[str, Any] = {"due_at": None if due_at is None else timestamp(due_at), "on_due": waiting.on_due}
    until = "" if due_at is None else f" until {timestamp(due_at)}, and {_ON_DUE[waiting.on_due]} then"
    match waiting.reason:
        case "timer":
            when = "" if due_at is None else f" until {timestamp(due_at)}"
            return "timer", f"It waits{when}.", facts
        case "approval":
            roles = waiting.detail.get("roles") or []
            who = f"somebody with the role {' or '.join(roles)}" if roles else "anybody who may approve"
            said = {"roles": roles, "message": waiting.detail.get("message")}
            return "approval", f"It waits for {who} to approve it{until}.", {**facts, **said}
        case "signal":
            name = waiting.detail.get("signal")
            return "signal", f"It waits for the signal {name!r}{until}.", {**facts, "signal": name}
        case "resume":
            return "paused", "It could go on, but the execution is paused: resume it.", {}
        case "child":
            # A row that sleeps for longer than any limit holds a start back is the sign that the child runs.
            has_begun = child_row is None or child_row.due_at > present + timedelta(days=1)
            return _waits_for_child(waiting, facts, has_begun=has_begun)
        case _:
            assert_never(waiting.reason)


def _waits_for_child(waiting: Waiting, facts: dict[str, Any], *, has_begun: bool) -> Why:
    child, intent = waiting.detail["execution_id"], waiting.detail["intent"]
    facts |= {"execution_id": child, "intent": intent, "has_begun": has_begun, "href": f"/api/v1/executions/{child}"}
    sentence = f"It waits for the execution {child} of the intent {intent!r}, which "
    return "child", sentence + ("runs for it." if has_begun else "is about to be started for it."), facts


def _attempted(work: Work, run: StepRun, row: Due | None, present: datetime, limits: Sequence[Met]) -> Why:
    """Why the attempt that may be made has no outcome yet."""
    facts: dict[str, Any] = {"attempt": run.attempts, "action": work.action, "module": work.module}
    what = f"Attempt {run.attempts}"
    if row is None:
        if run.status == "retrying" and run.due_at is not None and run.due_at > present:
            return _again(what, run, run.due_at, facts)
        return "not-handed-out", f"{what} has been decided on and is on its way to the workers.", facts
    facts |= {"priority": row.priority, "times_taken": row.claims}
    if row.queue_by is not None:
        facts["queue_by"] = timestamp(row.queue_by)
    if row.kind == "callback":
        facts["due_at"] = timestamp(row.due_at)
        return "callback", f"The module {work.module!r} has taken it on, and has until {facts['due_at']} to call back.", facts
    if row.kind == "pull":
        return _for_workers(what, work, row, present, facts, limits)
    if row.is_leased:
        facts["timeout_seconds"] = work.timeout_seconds
        limit = f"{work.timeout_seconds:g} seconds"
        return "under-way", f"{what} is being made: the module {work.module!r} has {limit} to answer.", facts
    if not row.is_queued and row.due_at > present:
        return _again(what, run, row.due_at, facts)
    if row.slot_key is not None and row.slot_max is not None and (row.slots_taken or 0) >= row.slot_max:
        facts |= {"slot_key": row.slot_key, "slot_max": row.slot_max, "slots_taken": row.slots_taken}
        most = f"{row.slot_max} at a time may run with the key {row.slot_key!r}"
        return "slot", f"{what} waits for a slot: {most}, and as many do.", facts
    if (held_back := _held_back(what, work, present, limits)) is not None:
        reason, sentence, more = held_back
        return reason, sentence, {**facts, **more, "ahead": row.ahead}
    if row.ahead is None:
        return "queued", f"{what} is due, and is taken into the queue within a moment.", {**facts, "ahead": None}
    ahead = f"{row.ahead:,}" if row.ahead < AHEAD_MAX else f"{AHEAD_MAX:,} or more"
    sentence = f"{what} is queued behind {ahead} others of this tenant, with priority {row.priority}."
    return "queued", sentence, {**facts, "ahead": row.ahead}


def _for_workers(
    what: str, work: Work, row: Due, present: datetime, facts: dict[str, Any], limits: Sequence[Met]
) -> Why:  # fmt: skip
    """Of work that the module's workers fetch: who has it, or why nobody does."""
    facts |= {
        "offered_at": None if row.offered_at is None else timestamp(row.offered_at), "due_at": timestamp(row.due_at),
        "lease_until": None if row.lease_until is None else timestamp(row.lease_until), "worker": row.lease_holder,
    }  # fmt: skip
    worker = f"The worker {row.lease_holder!r}" if row.lease_holder else "A worker"
    if row.is_leased or row.due_at <= present:
        return "overdue", f"The time of {what.lower()} is over, which is about to be recorded.", facts
    if row.lease_until is not None and row.lease_until > present:
        until = f"until {facts['lease_until']} unless it is heard of before, and until {facts['due_at']} at the most"
        return "fetched", f"{worker} of the module {work.module!r} has {what.lower()}: {until}.", facts
    if row.lease_until is not None or row.was_silent:
        silent = f"{worker} of the module {work.module!r} has fallen silent on {what.lower()}"
        return "offered", f"{silent}: whoever asks next gets it, until {facts['due_at']}.", facts
    # The limits of its action held it back before it was offered.
    if (held_back := _held_back(what, work, present, [met for met in limits if met.kind == "steps"])) is not None:
        reason, sentence, more = held_back
        return reason, sentence, {**facts, **more}
    if row.queue_by is None:
        return "offered", f"{what} was given back, and is offered to other workers until {facts['due_at']}.", facts
    since = f"since {facts['offered_at']}" if row.offered_at is not None else "now"
    offered = f"{what} is offered to the workers of the module {work.module!r} {since}"
    return "offered", f"{offered}; nobody has fetched it yet, and it fails at {facts['due_at']} if nobody does.", facts


def _held_back(what: str, work: Work, present: datetime, limits: Sequence[Met]) -> Why | None:
    """The limit that keeps a call waiting which is due; None where it waits for its turn alone."""
    for met in limits:
        is_full = met.most is not None and (met.taken or 0) >= met.most
        facts: dict[str, Any] = {"limit": met.kind, "most": met.most, "taken": met.taken}
        if met.kind == "steps" and is_full:
            return "limit", f"{what} waits: {met.most:,} steps of the tenant may be under way at a time, and as many are.", facts
        if met.action != work.action:
            continue
        if met.kind == "concurrency" and is_full:
            return "limit", f"{what} waits: {met.most:,} of {work.action!r} may be under way at a time, and as many are.", facts
        if met.kind == "rate" and met.available_at is not None and met.available_at > present:
            facts |= {"per_seconds": met.per_seconds, "available_at": timestamp(met.available_at)}
            rate = f"{met.most:,} of {work.action!r} may be begun in {met.per_seconds:g} seconds"
            return "limit", f"{what} waits: {rate}, and the next one at {facts['available_at']}.", facts
    return None


def _again(what: str, run: StepRun, due_at: datetime, facts: dict[str, Any]) -> Why:
    why = f", because the one before failed: {run.error.get('message', run.error.get('code'))}" if run.error else "."
    return (
        "retry",
        f"{what} may be made from {timestamp(due_at)} on{why}",
        {**facts, "due_at": timestamp(due_at), "error": run.error},
    )


def _named(steps: Sequence[str]) -> str:
    names = [repr(str(step)) for step in steps[:NAMED_MAX]]
    more = len(steps) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
