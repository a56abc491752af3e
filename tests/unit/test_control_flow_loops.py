# intent_ref: tests.execution-core
"""What becomes of the other items of a loop when one has failed, and of their results."""

from typing import Any

import pytest

from domain.execution_events import StepCancelled, StepFailed, StepWaiting
from domain.refusals import StepNotAwaitingApproval, StepNotRunning, StepNotWaiting
from tests.unit.execution_play import Play, again

POLICY: dict[str, Any] = {"retry": {"max_attempts": 3, "initial_interval": 60}}


def loop(items: Any, at_once: int = 10, **more: Any) -> dict[str, Any]:
    return {"action": "a", "foreach": {"items": items, "concurrency": at_once}, **more}


# --- failures that are lived with


def test_the_results_of_the_good_items_are_kept_in_their_places() -> None:
    play = Play(loop(["x", "y", "z"], on_failure="continue"), {"action": "b", "when": "steps.a.result[2] == 2"})
    play.complete("a[2]", 2)
    play.fail("a[1]", "broken")
    assert play.complete("a[0]", 0) == ["done a[0]", "failed a: items-failed", "start b"]
    assert play.run("a").result == [0, None, 2]
    assert again(play) == play.state


def test_the_errors_of_the_failed_items_are_listed_by_their_numbers() -> None:
    play = Play(loop(["x", "y", "z"], on_failure="continue"), {"action": "b", "when": "steps.a.error.items[0].index == 1"})
    play.fail("a[2]", "late")
    play.complete("a[0]")
    assert play.fail("a[1]", "early") == ["failed a[1]: early", "failed a: items-failed", "start b"]
    error = play.run("a").error
    assert error is not None
    assert (error["message"], error["first"]["code"]) == ("2 of 3 items failed.", "early")
    assert error["items"] == [
        {"index": 1, "code": "early", "message": "It broke."}, {"index": 2, "code": "late", "message": "It broke."}
    ]  # fmt: skip


def test_a_loop_of_which_every_item_fails_lists_no_more_than_a_hundred() -> None:
    play = Play(loop(list(range(101)), 101, on_failure="continue"))
    for number in range(101):
        play.fail(f"a[{number}]")
    error, result = play.run("a").error, play.run("a").result
    assert error is not None
    assert (len(error["items"]), error["message"], result) == (100, "101 of 101 items failed.", [None] * 101)
    assert play.status == "completed"


def test_results_may_be_used_by_outputs_and_what_follows() -> None:
    play = Play(
        loop([1, 2], on_failure="continue"), outputs={"good": "${{ steps.a.result.filter(one, one != null) }}"},
    )  # fmt: skip
    play.fail("a[0]")
    play.complete("a[1]", "fine")
    assert play.state.result == {"good": ["fine"]}


def test_a_loop_that_fails_the_execution_keeps_no_list() -> None:
    play = Play(loop([1, 2], 2))
    play.complete("a[0]", "x")
    play.fail("a[1]")
    assert [event.result for event in play.last if isinstance(event, StepFailed)] == [None, None]


# --- siblings of a failed item


def test_a_failed_item_gives_up_the_gates_of_the_others() -> None:
    play = Play(loop([1, 2, 3], approval=True))
    play.approve("a[1]")
    assert play.fail("a[1]") == ["failed a[1]: broken", "give up a[0]", "give up a[2]", "failed a: items-failed", "FAILED by a"]
    with pytest.raises(StepNotAwaitingApproval):
        play.approve("a[0]")


def test_a_rejected_item_gives_up_those_that_wait_for_their_approval() -> None:
    play = Play(loop([1, 2], approval=True))
    assert play.reject("a[0]")[1:] == ["failed a[0]: approval-rejected", "give up a[1]", "failed a: items-failed", "FAILED by a"]


def test_attempts_under_way_come_to_their_end_and_retries_that_have_not_begun_do_not_begin() -> None:
    play = Play(loop([1, 2, 3, 4], **POLICY))
    play.fail("a[1]")
    assert play.fail("a[0]", retryable=False) == ["failed a[0]: broken", "give up a[1]"]
    with pytest.raises(StepNotRunning):
        play.complete("a[1]")
    assert play.complete("a[2]") == ["done a[2]"]
    assert play.complete("a[3]") == ["done a[3]", "failed a: items-failed", "FAILED by a"]


def test_a_retry_that_is_due_is_taken_for_under_way() -> None:
    play = Play(loop([1, 2], **POLICY))
    play.fail("a[1]")
    assert play.later(60).fail("a[0]", retryable=False) == ["failed a[0]: broken"]
    assert play.complete("a[1]") == ["done a[1]", "failed a: items-failed", "FAILED by a"]


def test_what_fails_in_a_loop_that_has_failed_is_tried_no_more_neither_again_nor_otherwise() -> None:
    play = Play(loop([1, 2, 3], fallback="b", **POLICY))
    play.fail("a[0]", retryable=False)
    play.fail("a[0]", retryable=False)
    assert play.fail("a[1]") == ["failed a[1]: broken"]
    assert play.fail("a[2]", "circuit-open", counts=False) == [
        "again a[2] #2 in 1", "give up a[2]", "failed a: items-failed", "FAILED by a",
    ]  # fmt: skip


def test_children_of_the_other_items_are_stopped() -> None:
    play = Play({"workflow": "w", "id": "w", "foreach": [1, 2]})
    running = [event.detail["execution_id"] for event in play.last if isinstance(event, StepWaiting)]
    assert play.child_failed("w[0]") == ["failed w[0]: workflow-failed", "give up w[1] and child", "failed w: items-failed",
                                         "FAILED by w"]  # fmt: skip
    assert play.only(StepCancelled).child == running[1]
    with pytest.raises(StepNotWaiting):
        play.child_done("w[1]")


def test_what_a_pause_holds_back_of_a_failed_loop_does_not_begin_with_its_end() -> None:
    play = Play(loop([1, 2, 3], approval=True))
    play.approve("a[0]")
    play.pause()
    assert play.approve("a[1]") == ["approved a[1]", "wait a[1]: resume"]
    assert play.fail("a[0]") == ["failed a[0]: broken", "give up a[1]", "give up a[2]"]
    assert play.resume() == ["resume", "failed a: items-failed", "FAILED by a"]


def test_a_loop_that_lives_with_failures_gives_nothing_up() -> None:
    play = Play(loop([1, 2], approval=True, on_failure="continue"))
    assert play.reject("a[0]") == ["rejected a[0]", "failed a[0]: approval-rejected"]
    assert play.approve("a[1]") == ["approved a[1]", "start a[1]"]


def test_another_loop_has_nothing_to_do_with_it() -> None:
    play = Play(loop([1, 2], approval=True, depends_on=[]), loop([1, 2], id="b", on_failure="continue", depends_on=[]))
    assert play.fail("b[0]") == ["failed b[0]: broken"]
    assert play.statuses("a[0]", "a[1]", "b[1]") == ["waiting", "waiting", "running"]


def test_a_retry_does_again_what_was_given_up_and_keeps_what_was_done() -> None:
    play = Play(loop([1, 2, 3], approval=True))
    play.approve("a[0]")
    play.complete("a[0]", "kept")
    play.approve("a[1]")
    assert play.fail("a[1]")[-1] == "FAILED by a"
    assert play.retry() == ["retry a a[1] a[2]", "wait a[1]: approval", "wait a[2]: approval"]
    for item in ("a[1]", "a[2]"):
        play.approve(item)
        play.complete(item, item)
    assert (play.status, play.run("a").result) == ("completed", ["kept", "a[1]", "a[2]"])


def test_what_was_done_before_an_item_failed_is_undone_and_what_was_given_up_is_not() -> None:
    play = Play(loop([1, 2, 3], approval=True, compensate="undo"))
    play.approve("a[0]")
    play.complete("a[0]")
    assert play.reject("a[1]")[-2:] == ["undo a[0]", "start ~a[0]"]
    assert play.complete("~a[0]") == ["undone ~a[0]", "FAILED by a"]
