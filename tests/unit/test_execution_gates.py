# intent_ref: tests.execution-core
"""What a step waits for before its work: a time, a person, a signal; and what happens when it does not come."""

from datetime import datetime
from typing import Any

import pytest

from commands.execution import SIGNAL_BYTES_MAX
from domain.execution_events import StepApproved, StepCompleted, StepFailed, StepRejected, StepWaiting
from domain.refusals import (
    ExecutionHasEnded,
    IntentNotExecutable,
    Invalid,
    NotFound,
    NotYourApproval,
    StepNotAwaitingApproval,
    StepNotWaiting,
    TooManySignals,
)
from tests.unit.execution_play import Play
from tests.unit.samples import after


def waiting(play: Play, run: str = "a") -> StepWaiting:
    """The last event by which the run waits."""
    return [event for event in play.events if isinstance(event, StepWaiting) and event.step == run][-1]


# --- waits


def test_a_wait_before_an_action_holds_it_back_for_so_long() -> None:
    play = Play({"action": "a", "wait": "5m"})
    assert play.begun == ["begin", "wait a: timer"]
    assert (waiting(play).due_at, waiting(play).on_due) == (after(300), "complete")
    assert play.later(300).due("a") == ["start a"]


def test_a_step_that_only_waits_is_done_when_its_time_has_come() -> None:
    play = Play({"wait": 5}, {"action": "a"})
    assert play.begun == ["begin", "wait wait: timer"]
    assert play.later(5).due("wait") == ["done wait", "start a"]
    assert play.run("wait").result == {"waited_until": after(5).isoformat()}


def test_a_wait_until_a_time_is_over_then_wherever_the_time_is_written() -> None:
    play = Play({"action": "a", "wait": {"until": "2026-11-21T12:00:00+03:00"}})
    assert waiting(play).due_at == after(3_600)


@pytest.mark.parametrize("given", ["2026-11-21T12:00:00Z", "2026-11-21T13:00:00+01:00"])
def test_a_time_may_come_from_the_inputs(given: str) -> None:
    play = Play({"action": "a", "wait": {"until": "${{ inputs.at }}"}}, start={"inputs": {"at": given}})
    assert waiting(play).due_at == datetime.fromisoformat(given)


@pytest.mark.parametrize("given", ["5m", 300, 300.0])
def test_a_duration_may_come_from_the_inputs(given: Any) -> None:
    play = Play({"action": "a", "wait": {"for": "${{ inputs.pause }}"}}, start={"inputs": {"pause": given}})
    assert waiting(play).due_at == after(300)


@pytest.mark.parametrize("given", ["soon", -1, "367d", None, True, [], "2026-11-21T08:00:00"])
def test_what_is_no_time_fails_the_step(given: Any) -> None:
    for key in ("for", "until"):
        play = Play({"action": "a", "wait": {key: "${{ inputs.it }}"}}, start={"inputs": {"it": given}})
        assert play.begun == ["begin", "failed a: expression-failed", "FAILED by a"]


def test_a_time_gone_by_is_waited_for_all_the_same_and_is_due_at_once() -> None:
    play = Play({"action": "a", "wait": {"until": "2020-01-01T00:00:00Z"}})
    assert play.due("a") == ["start a"]


# --- approvals


def test_an_approval_starts_the_step_and_says_who_gave_it() -> None:
    play = Play({"action": "a", "approval": {"roles": ["ops"], "message": "Deploy ${{ inputs.n }}?"}}, start={"inputs": {"n": 7}})
    assert play.begun == ["begin", "wait a: approval"]
    assert waiting(play).detail == {"roles": ["ops"], "message": "Deploy 7?"}
    assert play.approve("a", "ops", by="ann") == ["approved a", "start a"]
    assert [event.by for event in play.last if isinstance(event, StepApproved)] == ["ann"]


def test_a_step_that_is_only_an_approval_is_done_with_who_gave_it() -> None:
    play = Play({"approval": True}, {"action": "a"})
    assert play.approve("approval") == ["approved approval", "done approval", "start a"]
    assert play.run("approval").result["approved_by"] == "ann"


def test_a_refused_approval_fails_the_step_for_good() -> None:
    play = Play({"action": "a", "approval": True, "retry": 5})
    assert play.reject("a", comment="not today") == ["rejected a", "failed a: approval-rejected", "FAILED by a"]
    assert play.only(StepRejected).comment == "not today"
    assert play.only(StepFailed).error["by"] == "ann"


def test_a_refused_approval_may_be_lived_with() -> None:
    play = Play({"action": "a", "approval": True, "on_failure": "continue"}, {"action": "b"})
    assert play.reject("a") == ["rejected a", "failed a: approval-rejected", "start b"]


@pytest.mark.parametrize("roles", [(), ("author",), ("OPS",)])
def test_only_the_roles_asked_for_may_judge(roles: tuple[str, ...]) -> None:
    play = Play({"action": "a", "approval": {"roles": ["ops", "lead"]}})
    for judge in (play.approve, play.reject):
        with pytest.raises(NotYourApproval):
            judge("a", *roles)
    assert play.approve("a", "author", "lead") == ["approved a", "start a"]


@pytest.mark.parametrize(
    ("on_expiry", "lines"),
    [
        ("fail", ["failed a: approval-expired", "FAILED by a"]),
        ("approve", ["start a"]),
        ("skip", ["skip a: expired", "start b"]),
    ],
)
def test_an_approval_that_nobody_gives_in_time_ends_as_the_step_says(on_expiry: str, lines: list[str]) -> None:
    play = Play({"action": "a", "approval": {"expires_in": "1h", "on_expiry": on_expiry}}, {"action": "b"})
    assert waiting(play).due_at == after(3_600)
    assert play.later(3_600).due("a") == lines


def test_an_approval_after_it_has_expired_or_been_given_is_refused() -> None:
    play = Play({"action": "a", "approval": {"expires_in": 5, "on_expiry": "approve"}})
    play.due("a")
    for judge in (play.approve, play.reject):
        with pytest.raises(StepNotAwaitingApproval):
            judge("a")
    with pytest.raises(StepNotWaiting):
        play.due("a")


def test_only_a_step_that_waits_for_it_can_be_approved() -> None:
    play = Play({"action": "a"}, {"wait": 5}, {"signal": "s"})
    for run in ("a", "wait", "signal"):
        with pytest.raises(StepNotAwaitingApproval):
            play.approve(run)
    with pytest.raises(NotFound):
        play.approve("nowhere")


def test_a_comment_is_text_that_can_be_stored() -> None:
    play = Play({"action": "a", "approval": True})
    for comment in ("a\0b", "\ud800", "x" * 2_001):
        with pytest.raises(Invalid):
            play.reject("a", comment=comment)


# --- signals


def test_a_signal_starts_the_step_that_waits_for_it() -> None:
    play = Play({"action": "a", "signal": "paid"})
    assert play.begun == ["begin", "wait a: signal"]
    assert play.signal("other") == ["signal other"]
    assert play.signal("paid", {"sum": 5}) == ["signal paid", "start a"]


def test_a_step_that_only_waits_for_a_signal_gives_what_came_with_it() -> None:
    play = Play({"signal": "paid"}, {"action": "a"})
    assert play.signal("paid", {"sum": 5}) == ["signal paid", "done signal", "start a"]
    assert play.run("signal").result == {"sum": 5}


def test_a_signal_that_comes_before_it_is_asked_for_is_kept() -> None:
    play = Play({"action": "a"}, {"signal": "paid"})
    assert play.signal("paid", 5) == ["signal paid"]
    assert play.complete("a") == ["done a", "wait signal: signal", "done signal", "COMPLETED"]
    assert play.run("signal").result == 5


def test_each_signal_serves_one_step_in_the_order_of_arrival() -> None:
    play = Play({"action": "a"}, {"signal": "s", "id": "x", "depends_on": ["a"]}, {"signal": "s", "id": "y", "depends_on": ["a"]})
    play.signal("s", 1)
    assert play.complete("a") == ["done a", "wait x: signal", "done x", "wait y: signal"]
    assert play.signal("s", 2) == ["signal s", "done y", "COMPLETED"]
    assert (play.run("x").result, play.run("y").result) == (1, 2)


@pytest.mark.parametrize(
    ("on_expiry", "lines"),
    [
        ("fail", ["failed a: signal-expired", "FAILED by a"]),
        ("complete", ["start a"]),
        ("skip", ["skip a: expired", "COMPLETED"]),
    ],
)
def test_a_signal_that_does_not_come_in_time_ends_as_the_step_says(on_expiry: str, lines: list[str]) -> None:
    play = Play({"action": "a", "signal": {"name": "s", "expires_in": 5, "on_expiry": on_expiry}})
    assert play.later(5).due("a") == lines


def test_a_signal_is_kept_within_bounds_and_is_json_that_can_be_stored() -> None:
    play = Play({"action": "a"})
    for payload in ("a\0b", 2**70, {"k": "\ud800"}, "x" * SIGNAL_BYTES_MAX):
        with pytest.raises(Invalid):
            play.signal("s", payload)
    for name in ("", "x" * 101, "\0"):
        with pytest.raises(Invalid):
            play.signal(name)
    for number in range(100):
        play.signal(f"s{number % 3}", number)
    with pytest.raises(TooManySignals):
        play.signal("s0")


# --- several gates, and times that come too late


def test_gates_are_passed_one_after_the_other_in_their_order() -> None:
    play = Play({"action": "a", "wait": 5, "approval": {"expires_in": 60}, "signal": "s"})
    assert play.signal("s", "early") == ["signal s"]
    assert play.later(5).due("a", 0) == ["wait a: approval"]
    assert waiting(play).due_at == after(65)
    assert play.approve("a") == ["approved a", "wait a: signal", "start a"]
    assert play.run("a").gates_passed == 3


def test_the_time_of_a_gate_that_was_passed_changes_nothing() -> None:
    play = Play({"action": "a", "wait": 5, "approval": {"expires_in": 60}})
    play.due("a", 0)
    for gate in (0, 2, -1):
        with pytest.raises(StepNotWaiting):
            play.due("a", gate)
    assert play.due("a", 1) == ["failed a: approval-expired", "FAILED by a"]
    with pytest.raises(StepNotWaiting):
        play.due("a", 1)


def test_a_gate_is_not_entered_while_the_condition_is_false() -> None:
    assert Play({"action": "a", "approval": True, "when": "false"}).begun == ["begin", "skip a: condition", "COMPLETED"]


def test_a_failure_elsewhere_gives_up_what_waits() -> None:
    play = Play(
        {"action": "a", "approval": True, "depends_on": []}, {"wait": 9, "depends_on": []}, {"action": "b", "depends_on": []}
    )
    assert play.fail("b") == ["failed b: broken", "give up a", "give up wait", "FAILED by b"]
    for late in (lambda: play.due("wait"), lambda: play.approve("a")):
        with pytest.raises((StepNotWaiting, StepNotAwaitingApproval)):
            late()
    with pytest.raises(ExecutionHasEnded):
        play.signal("s")


def test_a_constant_that_is_no_time_is_refused_before_anything_runs() -> None:
    with pytest.raises(IntentNotExecutable):
        Play({"wait": {"until": "tomorrow"}})


def test_what_passed_a_gate_by_expiry_says_so() -> None:
    play = Play({"signal": {"name": "s", "expires_in": 5, "on_expiry": "complete"}})
    play.due("signal")
    assert play.only(StepCompleted).result == {"expired": True}
