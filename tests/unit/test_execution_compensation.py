# intent_ref: tests.execution-core
"""What completed is undone when the whole fails or is cancelled: in reverse order, one after the other, retried, recorded."""

from typing import Any

import pytest

from commands.beginnings import work_of
from domain.execution_events import CompensationStarted, ExecutionCancelled, ExecutionFailed, StepStarted
from domain.refusals import StepNotRunning
from tests.unit.execution_play import Play

UNDO = {"compensate": {"action": "undo"}}


def chain(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"action": name, **UNDO, **more} for name in names]


def test_what_completed_is_undone_in_reverse_order_one_after_the_other() -> None:
    play = Play(*chain("a", "b", "c"), {"action": "d"})
    for step in "abc":
        play.complete(step)
    assert play.fail("d") == ["failed d: broken", "undo c b a", "start ~c"]
    assert play.only(CompensationStarted).cause == "failed"
    assert play.complete("~c") == ["undone ~c", "start ~b"]
    assert play.complete("~b") == ["undone ~b", "start ~a"]
    assert play.statuses() == ["compensating", "compensated", "compensated", "failed"]
    assert play.complete("~a") == ["undone ~a", "FAILED by d"]
    assert play.only(ExecutionFailed).not_undone == ()
    assert play.statuses() == ["compensated", "compensated", "compensated", "failed"]


def test_the_order_is_that_of_completion_and_not_that_of_the_plan() -> None:
    play = Play(*chain("a", "b", "c", depends_on=[]), {"action": "d", "depends_on": []})
    for step in "bca":
        play.complete(step)
    assert play.fail("d") == ["failed d: broken", "undo a c b", "start ~a"]


def test_undoing_begins_when_nothing_is_under_way_any_more_and_undoes_what_ended_meanwhile() -> None:
    play = Play(*chain("a", "b", depends_on=[]), {"action": "c", "depends_on": []})
    play.complete("a")
    assert play.fail("c") == ["failed c: broken"]
    assert play.complete("b") == ["done b", "undo b a", "start ~b"]


def test_what_failed_is_not_undone_and_what_cannot_be_undone_is_left() -> None:
    play = Play(*chain("a"), {"action": "b"}, *chain("c"))
    play.complete("a")
    play.complete("b")
    assert play.fail("c") == ["failed c: broken", "undo a", "start ~a"]


def test_the_action_says_how_it_is_undone_where_the_step_does_not() -> None:
    play = Play({"action": "make", "size": 3}, {"action": "a"})
    play.complete("make")
    play.fail("a")
    assert play.only(StepStarted).action == "unmake"
    assert work_of(play.state, "~make").parameters == {"size": 3}


def test_a_step_may_say_otherwise_than_its_action() -> None:
    own = Play({"action": "make", "compensate": "undo"}, {"action": "a"})
    none = Play({"action": "make", "compensate": False}, {"action": "a"})
    for play in (own, none):
        play.complete("make")
    assert own.fail("a")[-1] == "start ~make"
    assert own.only(StepStarted).action == "undo"
    assert none.fail("a") == ["failed a: broken", "FAILED by a"]


def test_items_are_undone_like_steps_the_last_first() -> None:
    play = Play({"action": "a", "foreach": [1, 2, 3], **UNDO}, {"action": "b"})
    for index in (1, 0, 2):
        play.complete(f"a[{index}]")
    assert play.fail("b") == ["failed b: broken", "undo a[2] a[0] a[1]", "start ~a[2]"]
    for index, then in ((2, "start ~a[0]"), (0, "start ~a[1]"), (1, "FAILED by b")):
        assert play.complete(f"~a[{index}]") == [f"undone ~a[{index}]", then]


def test_the_items_of_a_loop_that_failed_are_undone() -> None:
    play = Play({"action": "a", "foreach": {"items": [1, 2, 3], "concurrency": 1}, **UNDO})
    play.complete("a[0]")
    assert play.fail("a[1]") == ["failed a[1]: broken", "failed a: items-failed", "undo a[0]", "start ~a[0]"]
    assert play.complete("~a[0]") == ["undone ~a[0]", "FAILED by a"]


def test_an_undoing_is_tried_again_by_its_own_policy() -> None:
    compensate = {"action": "undo", "retry": {"max_attempts": 3, "initial_interval": 5, "non_retryable": ["gone"]}}
    play = Play({"action": "a", "compensate": compensate}, {"action": "b"})
    play.complete("a")
    play.fail("b")
    assert play.fail("~a") == ["again ~a #2 in 5"]
    assert play.fail("~a", "open", counts=False, again_seconds=2) == ["again ~a #3 in 2"]
    assert play.complete("~a") == ["undone ~a", "FAILED by b"]


@pytest.mark.parametrize("how", [{"code": "gone"}, {"retryable": False}])
def test_an_undoing_that_fails_for_good_is_told_and_the_others_go_on(how: dict[str, Any]) -> None:
    compensate = {"action": "undo", "retry": {"max_attempts": 3, "non_retryable": ["gone"]}}
    play = Play({"action": "a", **UNDO}, {"action": "b", "compensate": compensate}, {"action": "c"})
    play.complete("a")
    play.complete("b")
    play.fail("c")
    code = how.get("code", "broken")
    assert play.fail("~b", **how) == [f"not undone ~b: {code}", "start ~a"]
    assert play.complete("~a") == ["undone ~a", "FAILED by c"]
    assert play.only(ExecutionFailed).not_undone == ("b",)


def test_an_undoings_result_that_cannot_be_stored_is_a_failed_undoing() -> None:
    play = Play({"action": "a", **UNDO}, {"action": "b"})
    play.complete("a")
    play.fail("b")
    assert play.complete("~a", "\0") == ["not undone ~a: result-not-storable", "FAILED by b"]


def test_a_late_answer_of_an_undoing_is_refused() -> None:
    play = Play(*chain("a", "b"), {"action": "c"})
    play.complete("a")
    play.complete("b")
    play.fail("c")
    play.complete("~b")
    for run in ("~b", "b", "~c"):
        with pytest.raises(StepNotRunning):
            play.complete(run, attempt=1)


# --- on cancel


def test_cancelling_undoes_what_completed_after_what_runs_has_ended() -> None:
    play = Play(*chain("a", "b"), {"action": "c"})
    play.complete("a")
    assert play.cancel() == ["cancelling"]
    assert play.cancel() == []
    assert play.complete("b") == ["done b", "undo b a", "start ~b"]
    assert play.only(CompensationStarted).cause == "cancelled"
    play.complete("~b")
    assert play.complete("~a") == ["undone ~a", "CANCELLED"]
    assert play.only(ExecutionCancelled).reason == "enough"
    assert play.statuses() == ["compensated", "compensated", "cancelled"]


def test_an_attempt_that_fails_while_being_cancelled_is_not_made_again() -> None:
    play = Play({"action": "a", **UNDO, "retry": 5, "fallback": "b"})
    assert play.cancel() == ["cancelling"]
    assert play.fail("a") == ["failed a: broken", "CANCELLED"]


def test_cancelling_waits_for_nothing_that_could_not_be_undone() -> None:
    play = Play({"action": "a"}, *chain("b"))
    assert play.cancel() == ["CANCELLED"]
    assert play.statuses() == ["cancelled", "cancelled"]


def test_cancelling_gives_up_what_waits_and_what_is_to_be_tried_again() -> None:
    play = Play(
        *chain("a"), {"action": "b", "retry": 3}, {"wait": 9, "depends_on": ["a"]}, {"workflow": "w", "depends_on": ["a"]},
    )  # fmt: skip
    play.complete("a")
    play.fail("b")
    assert play.cancel() == ["cancelling", "give up b", "give up wait", "give up workflow and child", "undo a", "start ~a"]


def test_an_undoing_under_way_is_not_stopped_by_cancelling_pausing_or_time() -> None:
    play = Play(*chain("a"), {"action": "b"}, timeout="1h")
    play.complete("a")
    play.fail("b")
    for command in (play.cancel, play.pause, play.out_of_time):
        assert command() == []
    assert play.complete("~a") == ["undone ~a", "FAILED by b"]


def test_terminating_undoes_nothing_and_stops_an_undoing() -> None:
    play = Play(*chain("a"), {"action": "b"})
    play.complete("a")
    assert play.terminate() == ["TERMINATED"]
    play = Play(*chain("a"), {"action": "b"})
    play.complete("a")
    play.fail("b")
    assert play.terminate() == ["TERMINATED"]
    with pytest.raises(StepNotRunning):
        play.complete("~a")


# --- what was made


MADE = {"resources": [{"type": "vm", "id": "i-1", "zone": "eu"}, {"type": "ip", "id": "x"}]}


def test_what_a_step_made_is_kept_and_released_when_the_step_is_undone() -> None:
    play = Play({"action": "make"}, {"action": "a"})
    assert play.complete("make", MADE) == ["done make", "made vm/i-1", "made ip/x", "start a"]
    assert {resource.type for resource in play.state.resources.values()} == {"vm", "ip"}
    play.fail("a")
    assert play.complete("~make")[:3] == ["undone ~make", "released vm/i-1", "released ip/x"]
    assert play.state.resources == {}


def test_what_was_made_stays_where_the_undoing_failed() -> None:
    play = Play({"action": "make"}, {"action": "a"})
    play.complete("make", MADE)
    play.fail("a")
    play.fail("~make")
    assert len(play.state.resources) == 2


@pytest.mark.parametrize(
    "declared",
    [None, 5, "vm", {"type": "vm"}, [5], [{"type": "vm"}], [{"type": 5, "id": "x"}], [{"id": "x", "type": None}], [None]],
)
def test_what_is_no_declaration_declares_nothing(declared: Any) -> None:
    play = Play({"action": "make"})
    assert play.complete("make", {"resources": declared}) == ["done make", "COMPLETED"]


def test_no_more_than_a_hundred_resources_are_taken_from_one_result() -> None:
    play = Play({"action": "make"}, {"action": "a"})
    play.complete("make", {"resources": [{"type": "vm", "id": str(n)} for n in range(150)]})
    assert len(play.state.resources) == 100


def test_what_items_made_is_released_item_by_item() -> None:
    play = Play({"action": "make", "foreach": [1, 2]}, {"action": "a"})
    for index in range(2):
        play.complete(f"make[{index}]", {"resources": [{"type": "vm", "id": f"i-{index}"}]})
    play.fail("a")
    assert play.complete("~make[1]")[:2] == ["undone ~make[1]", "released vm/i-1"]
    assert play.complete("~make[0]")[:2] == ["undone ~make[0]", "released vm/i-0"]


# --- and again


def test_a_retry_does_again_what_was_undone_and_all_that_came_of_it() -> None:
    play = Play(*chain("a"), {"action": "b"}, {"action": "c"})
    play.complete("a", 1)
    play.complete("b", 2)
    play.fail("c")
    play.complete("~a")
    assert play.retry() == ["retry a c b", "start a #2"]
    assert play.complete("a") == ["done a", "start b #2"]
    assert play.complete("b") == ["done b", "start c #2"]
    assert play.fail("c") == ["failed c: broken", "undo a", "start ~a #2"]
    assert play.complete("~a") == ["undone ~a", "FAILED by c"]


def test_a_retry_leaves_alone_what_has_nothing_to_do_with_what_was_undone() -> None:
    play = Play(*chain("a"), {"action": "b", "depends_on": []}, {"action": "c", "depends_on": ["a", "b"]})
    play.complete("a")
    play.complete("b", "kept")
    play.fail("c")
    play.complete("~a")
    assert play.retry() == ["retry a c", "start a #2"]
    assert play.run("b").result == "kept"


def test_the_items_of_what_was_undone_are_made_anew_on_a_retry() -> None:
    play = Play(*chain("a"), {"action": "b", "foreach": "${{ steps.a.result }}"}, {"action": "c"})
    play.complete("a", ["old"])
    play.complete("b[0]")
    play.fail("c")
    play.complete("~a")
    play.retry()
    assert play.complete("a", ["new", "newer"]) == ["done a", "each b: 2", "start b[0] #2", "start b[1]"]
