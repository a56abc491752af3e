# intent_ref: tests.execution-core
"""What happens on failure: another attempt, the end of a step's time, a fallback, or going on without."""

from datetime import timedelta
from typing import Any

import pytest

from domain.execution_events import ExecutionFailed, StepFailed, StepRetrying, StepStarted
from domain.refusals import StepNotRunning, StepNotWaiting
from tests.unit.execution_play import Play, again
from tests.unit.samples import after

PATIENT = {"max_attempts": 4, "initial_interval": 10, "backoff": 2, "max_interval": 15}


# --- attempts


def test_attempts_are_made_again_with_growing_waits_up_to_the_cap_and_then_no_more() -> None:
    play = Play({"action": "a", "retry": PATIENT})
    assert play.fail("a") == ["again a #2 in 10"]
    assert play.fail("a") == ["again a #3 in 15"]
    assert play.fail("a") == ["again a #4 in 15"]
    assert play.fail("a") == ["failed a: broken", "FAILED by a"]


def test_the_action_says_how_often_where_the_step_does_not() -> None:
    play = Play({"action": "patient"})
    assert play.fail("patient") == ["again patient #2 in 2"]


@pytest.mark.parametrize("jitter", [0.1, 0.5, 1.0])
def test_chance_takes_a_part_of_the_wait_that_is_the_same_in_every_replay(jitter: float) -> None:
    policy = {"max_attempts": 5, "initial_interval": 100, "backoff": 1, "max_interval": 100, "jitter": jitter}
    waits: list[float] = []
    for _ in range(2):
        play = Play({"action": "a", "retry": policy}, {"action": "a", "id": "b", "retry": policy, "depends_on": []})
        for run in ("a", "b", "a", "b"):
            play.fail(run)
            event = play.only(StepRetrying)
            waits.append((event.due_at - event.at).total_seconds())
    assert waits[:4] == waits[4:], "a replay decides otherwise"
    assert len(set(waits)) == 4, "what failed together returns together"
    assert all(100 * (1 - jitter) <= wait <= 100 for wait in waits)


def test_errors_that_no_other_attempt_mends_are_final_whether_the_module_or_the_policy_says_so() -> None:
    policy = {**PATIENT, "non_retryable": ["quota", "gone"]}
    assert Play({"action": "a", "retry": policy}).fail("a", "quota") == ["failed a: quota", "FAILED by a"]
    assert Play({"action": "a", "retry": policy}).fail("a", retryable=False) == ["failed a: broken", "FAILED by a"]
    assert Play({"action": "a", "retry": policy}).fail("a", "other") == ["again a #2 in 10"]


def test_an_attempt_that_was_never_made_is_made_again_soon_and_ends_nothing() -> None:
    play = Play({"action": "a"})
    assert play.fail("a", "circuit-open", counts=False, again_seconds=7) == ["again a #2 in 7"]
    assert play.fail("a", "circuit-open", counts=False, again_seconds=7) == ["again a #3 in 7"]
    assert play.complete("a") == ["done a", "COMPLETED"]


def test_an_attempt_that_was_never_made_leaves_as_many_as_there_were() -> None:
    play = Play({"action": "a", "retry": PATIENT})
    for _ in range(5):
        play.fail("a", "circuit-open", counts=False)
    assert play.fail("a") == ["again a #7 in 10"]
    play.fail("a", "circuit-open", counts=False)
    assert play.fail("a") == ["again a #9 in 15"]
    assert play.fail("a") == ["again a #10 in 15"]
    assert play.fail("a") == ["failed a: broken", "FAILED by a"]


def test_the_answer_to_an_earlier_attempt_is_refused_and_to_this_one_taken_early() -> None:
    play = Play({"action": "a", "retry": PATIENT})
    play.fail("a")
    for late in (play.complete, play.fail):
        with pytest.raises(StepNotRunning):
            late("a", attempt=1)
    assert play.complete("a", attempt=2) == ["done a", "COMPLETED"]


# --- times


def test_queueing_has_a_time_that_is_counted_anew_for_each_attempt() -> None:
    play = Play({"action": "a", "timeouts": {"queue": 5}, "retry": PATIENT})
    assert play.state.runs[play.state.steps[0].id].limits is not None
    begun = next(event for event in play.events if isinstance(event, StepStarted))
    assert begun.limits is not None
    assert begun.limits.queue_by == after(5)
    play.later(100).fail("a")
    event = play.only(StepRetrying)
    assert event.limits.queue_by == event.due_at + timedelta(seconds=5)
    play.fail("a", counts=False, again_seconds=60)
    event = play.only(StepRetrying)
    assert event.limits.queue_by == event.due_at + timedelta(seconds=5)


def test_a_step_has_a_time_for_all_its_attempts() -> None:
    play = Play({"action": "a", "timeouts": {"total": 60}, "retry": PATIENT})
    with pytest.raises(StepNotWaiting):
        play.later(59).out_of_time("a")
    play.fail("a")
    assert play.later(1).out_of_time("a") == ["failed a: timeout", "FAILED by a"]
    with pytest.raises(StepNotRunning):
        play.complete("a", attempt=2)


def test_a_step_that_is_over_or_has_no_such_time_does_not_run_out_of_it() -> None:
    plain, done = Play({"action": "a"}, {"action": "b"}), Play({"action": "a", "timeouts": {"total": 1}}, {"action": "b"})
    done.complete("a")
    for play in (plain, done):
        with pytest.raises(StepNotWaiting):
            play.later(99).out_of_time("a")


def test_a_step_that_ran_out_of_time_may_be_lived_with() -> None:
    play = Play({"action": "a", "timeouts": {"total": 1}, "on_failure": "continue"}, {"action": "b"})
    assert play.later(1).out_of_time("a") == ["failed a: timeout", "start b"]


def test_a_retry_by_hand_has_all_the_time_again() -> None:
    play = Play({"action": "a", "timeouts": {"total": 10}})
    play.later(10).out_of_time("a")
    assert play.later(100).retry() == ["retry a", "start a #2"]
    assert play.only(StepStarted).limits.expires_at == after(120)
    with pytest.raises(StepNotWaiting):
        play.later(5).out_of_time("a")


def test_an_execution_has_a_time_and_gives_everything_up_at_its_end() -> None:
    play = Play(
        {"action": "a"}, {"wait": 9, "depends_on": []}, {"action": "b", "depends_on": [], "retry": 3}, timeout="1h",
    )  # fmt: skip
    play.fail("b")
    assert play.state.options.deadline_at == after(3_600)
    assert play.later(3_600).out_of_time() == ["failing: timeout", "give up a", "give up wait", "give up b", "FAILED"]
    assert play.only(ExecutionFailed).error["code"] == "timeout"
    with pytest.raises(StepNotRunning):
        play.complete("a")


def test_what_completed_is_undone_when_the_executions_time_is_up() -> None:
    play = Play({"action": "a", "compensate": "undo"}, {"action": "b"}, timeout="1h")
    play.complete("a")
    assert play.out_of_time() == ["failing: timeout", "give up b", "undo a", "start ~a"]
    assert play.out_of_time() == []
    assert play.complete("~a") == ["undone ~a", "FAILED"]


def test_the_time_of_a_paused_execution_goes_on() -> None:
    play = Play({"action": "a"}, timeout="1h")
    play.pause()
    assert play.out_of_time() == ["failing: timeout", "give up a", "FAILED"]


# --- fallbacks, and going on without


def test_a_fallback_is_tried_once_the_action_has_failed_for_good() -> None:
    play = Play({"action": "a", "retry": {"max_attempts": 2, "initial_interval": 1}, "fallback": "b"}, {"action": "c"})
    assert play.fail("a") == ["again a #2 in 1"]
    assert play.fail("a") == ["fall back a", "start a #3"]
    assert play.only(StepStarted).action == "b"
    assert play.complete("a", "instead") == ["done a", "start c"]


def test_a_fallback_has_its_own_policy_and_its_failure_is_the_steps() -> None:
    fallback = {"action": "b", "retry": {"max_attempts": 2, "initial_interval": 3}}
    play = Play({"action": "a", "fallback": fallback})
    assert play.fail("a", "first") == ["fall back a", "start a #2"]
    assert play.fail("a", "second") == ["again a #3 in 3"]
    assert play.fail("a", "third") == ["failed a: third", "FAILED by a"]


def test_a_fallback_takes_over_from_an_error_that_is_final() -> None:
    assert Play({"action": "a", "retry": 5, "fallback": "b"}).fail("a", retryable=False) == ["fall back a", "start a #2"]


def test_a_retry_by_hand_begins_with_the_action_and_not_with_its_fallback() -> None:
    play = Play({"action": "a", "fallback": "b"})
    play.fail("a")
    play.fail("a")
    assert play.retry() == ["retry a", "start a #3"]
    assert play.only(StepStarted).action == "a"
    assert play.fail("a") == ["fall back a", "start a #4"]


def test_a_failure_that_is_lived_with_lets_all_that_follows_run_and_the_execution_complete() -> None:
    play = Play({"action": "a", "on_failure": "continue"}, {"action": "b"}, {"action": "c", "when": "steps.a.status == 'failed'"})
    assert play.fail("a") == ["failed a: broken", "start b"]
    assert play.complete("b") == ["done b", "start c"]
    assert play.complete("c") == ["done c", "COMPLETED"]


def test_what_failed_can_be_told_by_later_steps() -> None:
    play = Play({"action": "a", "on_failure": "continue"}, {"action": "b", "when": "steps.a.error.code == 'quota'"})
    assert play.fail("a", "quota") == ["failed a: quota", "start b"]


def test_the_first_failure_is_the_executions_and_running_steps_finish() -> None:
    play = Play({"action": "a"}, {"action": "b", "depends_on": []}, {"action": "c", "depends_on": ["b"]})
    assert play.fail("b", "first") == ["failed b: first"]
    assert play.fail("a", "second") == ["failed a: second", "FAILED by b"]
    assert play.only(ExecutionFailed).error["code"] == "first"


@pytest.mark.parametrize(("result", "code"), [("a\0b", "result-not-storable"), (2**70, "result-not-storable")])
def test_a_result_that_cannot_be_stored_fails_the_step_for_good(result: Any, code: str) -> None:
    play = Play({"action": "a", "retry": 5})
    assert play.complete("a", result) == [f"failed a: {code}", "FAILED by a"]
    assert play.only(StepFailed).error["faults"]
    assert again(play) == play.state
