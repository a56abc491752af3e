# intent_ref: read-api.explanations
"""Why an execution has not come further: each reason as a sentence with its facts, from states that commands brought about."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.execution import CancelExecution, CompleteStep, FailStep, PauseExecution, decide
from domain.execution import ENDED, evolve
from domain.values import ExecutionId, StepId
from read_api.explaining import EXPLAINED_MAX, Due, Met, explained
from tests.execution_histories import BROKEN, executions, started

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class Told:
    """An execution, and what is said of it."""

    def __init__(self, *steps: dict[str, Any], **inputs: Any) -> None:
        self.state: Any = None
        self._happen(started({"target": "t", "steps": list(steps)}, AT, inputs=inputs))

    def _happen(self, events: list[Any]) -> None:
        for event in events:
            self.state = evolve(self.state, event)

    def asked(self, command: Any, **fields: Any) -> None:
        self._happen(decide(self.state, command(execution_id=ExecutionId("e-1"), at=AT, **fields)))

    def of(self, step: str, *rows: Due) -> tuple[str, str, dict[str, Any]]:
        """(reason, sentence, facts) of a step."""
        [found] = [one for one in explained(self.state, rows, AT)["steps"] if one["step"] == step]
        return found["reason"], found["sentence"], found["facts"]


def due(step: str, attempt: int = 1, **fields: Any) -> Due:
    """A call that is due."""
    facts: dict[str, Any] = {
        "kind": "call", "due_at": AT, "is_leased": False, "is_queued": False, "claims": 0, "priority": 3, "ahead": None,
        "slot_key": None, "slot_max": None, "slots_taken": None, "queue_by": None,
    }  # fmt: skip
    return Due(step, attempt, **{**facts, **fields})


@pytest.mark.parametrize(
    ("row", "reason", "sentence"),
    [
        ({"is_leased": True, "claims": 1}, "under-way", "Attempt 1 is being made: the module 'm-1' has 300 seconds to answer."),
        (
            {"is_queued": True, "ahead": 7, "priority": 2}, "queued",
            "Attempt 1 is queued behind 7 others of this tenant, with priority 2.",
        ),
        (
            {"is_queued": True, "ahead": 10_000}, "queued",
            "Attempt 1 is queued behind 10,000 or more others of this tenant, with priority 3.",
        ),
        (
            {"is_queued": True, "ahead": 0, "slot_key": "eu", "slot_max": 2, "slots_taken": 2}, "slot",
            "Attempt 1 waits for a slot: 2 at a time may run with the key 'eu', and as many do.",
        ),
        ({}, "queued", "Attempt 1 is due, and is taken into the queue within a moment."),
        (
            {"kind": "callback", "due_at": AT + timedelta(minutes=5)}, "callback",
            "The module 'm-1' has taken it on, and has until 2026-11-21T08:05:00Z to call back.",
        ),
        ({"due_at": AT + timedelta(seconds=30)}, "retry", "Attempt 1 may be made from 2026-11-21T08:00:30Z on."),
    ],
)  # fmt: skip
def test_a_step_that_may_be_attempted_is_where_its_row_says(row: dict[str, Any], reason: str, sentence: str) -> None:
    assert Told({"action": "make"}).of("make", due("make", **row))[:2] == (reason, sentence)


def test_a_row_of_an_earlier_attempt_says_nothing_of_this_one() -> None:
    told = Told({"action": "make", "retry": {"max_attempts": 3, "initial_interval": 60}})
    told.asked(FailStep, step=StepId("make"), attempt=1, error=BROKEN)
    reason, sentence, facts = told.of("make", due("make", 1, is_leased=True))
    assert (reason, facts["attempt"], facts["error"]) == ("retry", 2, BROKEN)
    assert sentence == "Attempt 2 may be made from 2026-11-21T08:01:00Z on, because the one before failed: It broke."
    assert Told({"action": "make"}).of("make")[0] == "not-handed-out"


def test_a_step_that_has_not_begun_names_what_it_depends_on() -> None:
    many = [{"id": f"s{number}", "action": "make", "depends_on": []} for number in range(30)]
    told = Told(*many, {"id": "last", "action": "tell", "depends_on": [one["id"] for one in many]})
    told.asked(CompleteStep, step=StepId("s0"), attempt=1)
    reason, sentence, facts = told.of("last")
    assert (reason, len(facts["depends_on"])) == ("depends-on", 20)
    assert sentence.startswith("It depends on 's1', 's2', ")
    assert sentence.endswith("'s20' and 9 more, which are not over yet.")


def test_a_pause_is_named_where_it_alone_keeps_a_step_and_an_end_where_nothing_begins_any_more() -> None:
    told = Told(
        {"id": "a", "action": "make", "compensate": "remove"}, {"id": "b", "action": "tell"}, {"id": "c", "action": "tell"}
    )
    told.asked(PauseExecution)
    assert told.of("b")[0] == "depends-on"
    told.asked(CompleteStep, step=StepId("a"), attempt=1)
    assert told.of("b")[:2] == ("paused", "It could begin, but the execution is paused: resume it.")
    told.asked(CancelExecution)
    said = explained(told.state, [due("~a", is_leased=True)], AT)
    assert said["sentence"] == "It is being undone, because it was cancelled: 1 step to go."
    assert [(one["step"], one["reason"]) for one in said["steps"]] == [("~a", "compensating"), ("b", "ending"), ("c", "ending")]
    assert said["steps"][0]["facts"].items() >= {"call": "under-way", "action": "remove"}.items()
    told.asked(CompleteStep, step=StepId("~a"), attempt=1)
    assert explained(told.state, [], AT)["sentence"] == "It has ended, as cancelled."


def test_a_failing_step_keeps_the_others_and_is_named() -> None:
    told = Told({"id": "a", "action": "make", "depends_on": []}, {"id": "b", "action": "make", "depends_on": []},
                {"id": "c", "action": "tell", "depends_on": ["b"]})  # fmt: skip
    told.asked(FailStep, step=StepId("a"), attempt=1, error=BROKEN)
    assert told.of("c")[:2] == ("ending", "It will not begin: the step 'a' has failed.")
    told.asked(CompleteStep, step=StepId("b"), attempt=1)
    assert explained(told.state, [], AT)["sentence"] == "It has ended, as failed: It broke."


def test_an_execution_that_waits_for_its_turn_says_so() -> None:
    events = started({"target": "t", "steps": [{"action": "make"}]}, AT, queues=True)
    state: Any = None
    for event in events:
        state = evolve(state, event)
    said = explained(state, [], AT)
    assert said["sentence"].startswith("It waits for its turn: ")
    assert [(one["step"], one["reason"]) for one in said["steps"]] == [("make", "turn")]


@pytest.mark.parametrize("step", [{"action": "make"}, {"id": "make", "approval": True}, {"id": "make", "workflow": "release@2"}])
def test_a_step_with_a_time_for_all_it_does_says_until_when(step: dict[str, Any]) -> None:
    _, sentence, facts = Told({**step, "timeouts": {"total": "90s"}}).of("make", due("make", is_leased=True))
    assert sentence.endswith("The step as a whole has until 2026-11-21T08:01:30Z.")
    assert facts["step_expires_at"] == "2026-11-21T08:01:30Z"


def test_a_child_says_whether_it_has_begun() -> None:
    told = Told({"id": "run", "workflow": "release@2"})
    assert told.of("run", due("run", -1, kind="child", is_queued=True))[2]["has_begun"] is False
    assert told.of("run", due("run", -1, kind="child", due_at=NEVER))[2]["has_begun"] is True


def test_what_is_said_of_a_thousand_items_is_bounded() -> None:
    told = Told({"id": "each", "action": "make", "foreach": {"items": list(range(1_000)), "concurrency": 1_000}})
    said = explained(told.state, [due(f"each[{number}]", is_leased=True) for number in range(1_000)], AT)
    assert len(said["steps"]) == EXPLAINED_MAX
    assert said["steps"][0]["facts"] == {"total": 1_000, "begun": 1_000, "over": 0, "failed": 0, "concurrency": 1_000}


@settings(max_examples=150, deadline=None)
@given(history=executions(), queued=st.booleans())
def test_of_every_execution_that_has_not_ended_something_is_said_of_each_step_that_is_not_over(
    history: list[Any], queued: bool
) -> None:
    state: Any = None
    for event in history:
        state = evolve(state, event)
    rows = [
        due(run_id, run.attempts, is_queued=queued, ahead=1 if queued else None)
        for run_id, run in state.runs.items() if run.status in ("running", "retrying")
    ]  # fmt: skip
    said = explained(state, rows, AT)
    assert said["sentence"]
    told = {one["step"] for one in said["steps"]}
    busy = {run_id for run_id, run in state.runs.items() if run.status in ("running", "retrying", "waiting")}
    assert told >= (set() if state.status in ENDED else busy)
    assert all(one["sentence"].endswith((".", "broke.")) or one["reason"] == "retry" for one in said["steps"])


def pulled(**fields: Any) -> Due:
    """Work that is offered since a minute ago."""
    offered = {"kind": "pull", "offered_at": AT - timedelta(minutes=1), "due_at": AT + timedelta(hours=1)}
    return due("make", **{**offered, "queue_by": AT + timedelta(hours=1), **fields})


FETCHED: dict[str, Any] = {
    "queue_by": None, "claims": 2, "lease_until": AT + timedelta(seconds=30), "lease_holder": "worker-7",
    "due_at": AT + timedelta(minutes=5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason", "sentence"),
    [
        (
            {}, "offered",
            "Attempt 1 is offered to the workers of the module 'm-1' since 2026-11-21T07:59:00Z; nobody has fetched it yet, and"
            " it fails at 2026-11-21T09:00:00Z if nobody does.",
        ),
        (
            FETCHED, "fetched",
            "The worker 'worker-7' of the module 'm-1' has attempt 1: until 2026-11-21T08:00:30Z unless it is heard of before,"
            " and until 2026-11-21T08:05:00Z at the most.",
        ),
        (
            {**FETCHED, "lease_holder": None}, "fetched",
            "A worker of the module 'm-1' has attempt 1: until 2026-11-21T08:00:30Z unless it is heard of before, and"
            " until 2026-11-21T08:05:00Z at the most.",
        ),
        (
            {**FETCHED, "lease_until": AT}, "offered",
            "The worker 'worker-7' of the module 'm-1' has fallen silent on attempt 1: whoever asks next gets it, until"
            " 2026-11-21T08:05:00Z.",
        ),
        (
            {**FETCHED, "lease_until": None, "was_silent": True}, "offered",
            "The worker 'worker-7' of the module 'm-1' has fallen silent on attempt 1: whoever asks next gets it, until"
            " 2026-11-21T08:05:00Z.",
        ),
        (
            {**FETCHED, "lease_until": None, "lease_holder": None}, "offered",
            "Attempt 1 was given back, and is offered to other workers until 2026-11-21T08:05:00Z.",
        ),
        ({"due_at": AT}, "overdue", "The time of attempt 1 is over, which is about to be recorded."),
        ({**FETCHED, "is_leased": True}, "overdue", "The time of attempt 1 is over, which is about to be recorded."),
    ],
)  # fmt: skip
def test_work_for_workers_is_offered_or_somebodys_and_says_until_when(row: dict[str, Any], reason: str, sentence: str) -> None:
    said, words, facts = Told({"action": "make"}).of("make", pulled(**row))
    assert (said, words) == (reason, sentence)
    assert facts["worker"] == row.get("lease_holder")
    assert facts["offered_at"] == "2026-11-21T07:59:00Z"


def test_work_that_the_tenants_limit_on_steps_keeps_from_workers_says_so() -> None:
    told = Told({"action": "make"})
    full = [Met("steps", None, 2, 2, None, None, None), Met("concurrency", "make", 1, 1, None, None, None)]
    [said] = explained(told.state, [pulled()], AT, full)["steps"]
    assert said["reason"] == "limit"
    assert "2 steps of the tenant may be under way" in said["sentence"]
    [said] = explained(told.state, [pulled()], AT, full[1:])["steps"]
    assert said["reason"] == "offered", "its action's limit held it back before it was offered"
