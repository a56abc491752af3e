# intent_ref: tests.execution-core
"""An attempt that was never really made is put off, though not for ever."""

from datetime import timedelta

from domain.execution_events import CompensationFailed, StepFailed
from domain.step_policies import PUT_OFF_MAX, PUT_OFF_SECONDS_MAX
from tests.unit.execution_play import Play, again

OPEN = "circuit-open"


def put_off(play: Play, run: str, times: int) -> None:
    """The run's module cannot be asked, so many times."""
    for _ in range(times):
        assert play.fail(run, OPEN, counts=False)[0].startswith(f"again {run} ")


def test_an_attempt_is_put_off_a_thousand_times_in_a_row_and_then_the_step_fails() -> None:
    play = Play({"action": "a", "retry": 5})
    put_off(play, "a", PUT_OFF_MAX)
    assert play.fail("a", OPEN, counts=False) == ["failed a: module-unavailable", "FAILED by a"]
    assert play.only(StepFailed).error["cause"]["code"] == OPEN
    assert again(play) == play.state


def test_an_attempt_is_put_off_for_a_day_and_then_the_step_fails() -> None:
    play = Play({"action": "a"})
    put_off(play, "a", 1)
    play.later(PUT_OFF_SECONDS_MAX - 1)
    put_off(play, "a", 1)
    assert play.later(1).fail("a", OPEN, counts=False) == ["failed a: module-unavailable", "FAILED by a"]


def test_a_day_at_a_gate_or_at_work_is_no_day_of_being_put_off() -> None:
    play = Play({"action": "a", "approval": True})
    play.later(2 * PUT_OFF_SECONDS_MAX).approve("a")
    play.later(2 * PUT_OFF_SECONDS_MAX)
    put_off(play, "a", 1)
    assert play.complete("a") == ["done a", "COMPLETED"]


def test_an_attempt_that_was_made_begins_the_row_anew() -> None:
    play = Play({"action": "a", "retry": {"max_attempts": 3, "initial_interval": 1}})
    put_off(play, "a", PUT_OFF_MAX)
    assert play.fail("a")[0].startswith("again a ")
    put_off(play, "a", PUT_OFF_MAX)
    assert play.run("a").put_off == PUT_OFF_MAX
    assert play.complete("a") == ["done a", "COMPLETED"]


def test_the_fallback_is_for_a_module_that_cannot_be_asked_too_and_has_a_row_of_its_own() -> None:
    play = Play({"action": "a", "fallback": "b"})
    put_off(play, "a", PUT_OFF_MAX)
    assert play.fail("a", OPEN, counts=False)[0] == "fall back a"
    assert (play.run("a").put_off, play.run("a").put_off_since) == (0, None)
    put_off(play, "a", PUT_OFF_MAX)
    assert play.fail("a", OPEN, counts=False) == ["failed a: module-unavailable", "FAILED by a"]


def test_an_undoing_that_cannot_be_asked_for_is_given_up_and_the_others_go_on() -> None:
    play = Play({"action": "a", "compensate": "undo"}, {"action": "b", "compensate": "other"}, {"action": "c"})
    play.complete("a")
    play.complete("b")
    play.fail("c")
    put_off(play, "~b", PUT_OFF_MAX)
    assert play.fail("~b", OPEN, counts=False) == ["not undone ~b: module-unavailable", "start ~a"]
    assert play.only(CompensationFailed).error["cause"]["code"] == OPEN


def test_a_retry_by_hand_begins_the_row_anew() -> None:
    play = Play({"action": "a"})
    put_off(play, "a", PUT_OFF_MAX)
    play.fail("a", OPEN, counts=False)
    play.retry()
    put_off(play, "a", 1)
    assert play.run("a").put_off_since is not None
    assert play.run("a").due_at == play.run("a").put_off_since + timedelta(seconds=1)  # type: ignore[operator]


def test_the_time_of_the_step_ends_it_sooner() -> None:
    play = Play({"action": "a", "timeouts": {"total": "1h"}})
    put_off(play, "a", 3)
    assert play.later(3_600).out_of_time("a") == ["failed a: timeout", "FAILED by a"]
    assert play.only(StepFailed).error["cause"]["code"] == OPEN
