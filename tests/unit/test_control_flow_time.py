# intent_ref: tests.execution-core
"""The time that a step has as a whole, gates, children and fallback included; and times by the clocks of a place."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from domain.execution_events import StepCancelled, StepFailed, StepStarted, StepWaiting
from domain.refusals import IntentNotExecutable, StepNotRunning, StepNotWaiting
from sagas.dispatches import Dispatch
from sagas.reactions import Cause, Drop, react
from sagas.stalls import reasons_to_wake
from tests.unit.execution_play import Play, again
from tests.unit.samples import after

HOUR = {"timeouts": {"total": "1h"}}
CAUSE = Cause("t", UUID(int=1), "corr", None)


def rows(play: Play) -> dict[tuple[str, int], Dispatch]:
    """What the last decision asks the saga to do, by run and number."""
    reactions = [reaction for event in play.last for reaction in react(CAUSE, event)]
    return {(one.step, one.attempt): one for one in reactions if isinstance(one, Dispatch)}


# --- the whole of a step


@pytest.mark.parametrize("gate", [{"wait": "2h"}, {"approval": True}, {"signal": "s"}, {"workflow": "w"}])
def test_a_step_without_an_action_runs_out_of_time(gate: dict[str, Any]) -> None:
    play = Play({"id": "a", **gate, **HOUR})
    with pytest.raises(StepNotWaiting):
        play.later(3_599).out_of_time("a")
    assert play.later(1).out_of_time("a") == ["failed a: timeout", "FAILED by a"]


def test_the_time_begins_with_the_first_gate_and_goes_on_behind_it() -> None:
    play = Play({"action": "a", "wait": "10m", "approval": True, "retry": 3, **HOUR})
    assert rows(play)["a", 0].due_at == after(3_600)
    play.later(600).due("a", 0)
    assert rows(play)["a", 0].due_at == after(3_600)
    play.later(600).approve("a")
    assert play.only(StepStarted).limits.expires_at == after(3_600)
    play.later(600).fail("a")
    assert play.later(1_800).out_of_time("a") == ["failed a: timeout", "FAILED by a"]


def test_what_went_wrong_last_is_told_when_the_time_is_up() -> None:
    play = Play({"action": "a", "retry": {"max_attempts": 5, "initial_interval": "59m", "max_interval": "59m"}, **HOUR})
    play.fail("a", "unreachable")
    play.later(3_600).out_of_time("a")
    assert play.only(StepFailed).error["cause"]["code"] == "unreachable"


def test_the_time_covers_the_fallback_which_is_not_begun_when_it_is_up() -> None:
    play = Play({"action": "a", "fallback": "b", **HOUR})
    play.later(600).fail("a")
    assert play.only(StepStarted).limits.expires_at == after(3_600)
    assert play.later(3_000).out_of_time("a") == ["failed a: timeout", "FAILED by a"]
    late = Play({"action": "a", "fallback": "b", **HOUR})
    assert late.later(3_600).out_of_time("a") == ["failed a: timeout", "FAILED by a"]
    with pytest.raises(StepNotRunning):
        late.complete("a", attempt=1)


def test_a_child_is_stopped_when_the_time_of_its_step_is_up() -> None:
    play = Play({"workflow": "w", "id": "a", "on_failure": "continue", **HOUR}, {"action": "b"})
    waiting = play.only(StepWaiting)
    assert waiting.limits.expires_at == after(3_600)
    assert set(rows(play)) == {("a", -1), ("a", 0)}
    assert play.later(3_600).out_of_time("a") == ["failed a: timeout", "start b"]
    failed = play.only(StepFailed)
    assert failed.child == waiting.detail["execution_id"]
    drop, stop = react(CAUSE, failed)
    assert drop == Drop("t", play.state.execution_id, "a")
    assert isinstance(stop, Dispatch)
    assert (stop.kind, stop.execution_id) == ("stop_child", failed.child)
    with pytest.raises(StepNotWaiting):
        play.child_done("a")


def test_the_fallback_of_a_child_has_what_is_left_of_the_time() -> None:
    play = Play({"workflow": "w", "id": "a", "fallback": "b", **HOUR})
    assert play.later(1_000).child_failed("a") == ["fall back a", "start a #2"]
    assert play.only(StepStarted).limits.expires_at == after(3_600)


def test_a_child_that_has_failed_by_itself_is_not_stopped() -> None:
    play = Play({"workflow": "w", "id": "a", **HOUR})
    play.child_failed("a")
    assert play.only(StepFailed).child is None
    assert react(CAUSE, play.only(StepFailed)) == []


def test_each_item_of_a_loop_has_the_time_for_itself() -> None:
    play = Play({"action": "a", "foreach": {"items": [1, 2], "concurrency": 1}, "wait": 60, **HOUR})
    play.due("a[0]")
    play.later(1_000).complete("a[0]")
    assert play.only(StepWaiting).limits.expires_at == after(4_600)
    with pytest.raises(StepNotWaiting):
        play.later(9_999).out_of_time("a")


def test_a_pause_does_not_stop_the_time() -> None:
    play = Play({"action": "a", "approval": True, **HOUR})
    play.pause()
    assert play.later(10).approve("a") == ["approved a", "wait a: resume"]
    assert rows(play)["a", 0].due_at == after(3_600)
    assert play.later(3_590).out_of_time("a") == ["failed a: timeout", "FAILED by a"]


def test_a_cancel_does_not_wait_for_longer_than_the_steps_time() -> None:
    play = Play({"action": "a", "compensate": "undo"}, {"action": "b", "compensate": "other", **HOUR})
    play.complete("a")
    play.cancel()
    assert play.later(3_600).out_of_time("b") == ["failed b: timeout", "undo a", "start ~a"]
    assert play.complete("~a") == ["undone ~a", "CANCELLED"]


def test_the_end_of_the_time_is_a_reason_to_wake_as_long_as_the_step_is_under_way() -> None:
    play = Play({"action": "a", "approval": True, **HOUR})
    assert reasons_to_wake(play.state) == {("a", -1), ("a", 0)}
    play.pause()
    play.approve("a")
    assert reasons_to_wake(play.state) == {("a", 0)}
    play.resume()
    assert reasons_to_wake(play.state) == {("a", 1), ("a", 0)}
    play.complete("a")
    assert reasons_to_wake(play.state) == set()


def test_a_step_whose_gates_were_entered_before_this_was_known_has_its_time_from_its_start() -> None:
    play = Play({"action": "a", "wait": 60, **HOUR})
    play.events[-1] = replace(play.events[-1], limits=None)
    play._state = again(play)
    assert play.later(60).due("a") == ["start a"]
    assert play.only(StepStarted).limits.expires_at == after(3_660)


def test_a_rerun_has_all_the_time_again_for_its_gates_too() -> None:
    play = Play({"action": "a", "wait": 60, **HOUR})
    play.later(3_600).out_of_time("a")
    assert play.later(400).retry() == ["retry a", "wait a: timer"]
    assert play.only(StepWaiting).limits.expires_at == after(7_600)
    assert not [event for event in play.last if isinstance(event, StepCancelled)]


# --- times of a place


@pytest.mark.parametrize(
    ("until", "zone", "at"),
    [
        ("2026-12-24T18:00:00", "Europe/Berlin", "2026-12-24T17:00:00Z"),
        ("2026-07-01T09:00", "America/New_York", "2026-07-01T13:00:00Z"),
        ("2026-12-24", "UTC", "2026-12-24T00:00:00Z"),
        # Put forward at 2:00 to 3:00: the moment itself. A quarter past the gap is what it always is.
        ("2027-03-28T02:30:00", "Europe/Berlin", "2027-03-28T01:00:00Z"),
        ("2027-03-28T02:00:00", "Europe/Berlin", "2027-03-28T01:00:00Z"),
        ("2027-03-28T03:15:00", "Europe/Berlin", "2027-03-28T01:15:00Z"),
        # Put back at 3:00 to 2:00: the first time round.
        ("2027-10-31T02:30:00", "Europe/Berlin", "2027-10-31T00:30:00Z"),
        ("2027-10-31T03:00:00", "Europe/Berlin", "2027-10-31T02:00:00Z"),
        # Half an hour, at Lord Howe; a whole day that Samoa left out.
        ("2026-10-04T02:15:00", "Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("2011-12-30T12:00:00", "Pacific/Apia", "2011-12-30T10:00:00Z"),
    ],
)
def test_a_time_is_by_the_clocks_of_its_zone(until: str, zone: str, at: str) -> None:
    given = {"until": until, "zone": zone}
    written = [{"wait": given}, {"action": "wait", **given}]
    named = [{"wait": {"until": "${{ inputs.until }}", "zone": zone}}, {"wait": {"until": until, "zone": "${{ inputs.zone }}"}}]
    for step in written + named:
        play = Play(step, start={"inputs": given})
        assert play.only(StepWaiting).due_at == datetime.fromisoformat(at)


def test_a_time_from_an_expression_that_has_an_offset_is_taken_by_it() -> None:
    written = {"until": "${{ inputs.at }}", "zone": "Europe/Berlin"}
    play = Play({"wait": written}, start={"inputs": {"at": "2026-12-24T18:00:00Z"}})
    assert play.only(StepWaiting).due_at == datetime.fromisoformat("2026-12-24T18:00:00Z")


@pytest.mark.parametrize(
    ("until", "zone", "pointer"),
    [
        ("2026-12-24T18:00:00", "Europe/Nowhere", "/wait/zone"),
        ("2026-12-24T18:00:00", "../../etc/passwd", "/wait/zone"),
        ("2026-12-24T18:00:00", 5, "/wait/zone"),
        ("soon", "Europe/Berlin", "/wait/until"),
        (5, "Europe/Berlin", "/wait/until"),
        ("9999-12-31T23:59:59", "Europe/Berlin", "/wait/until"),
        ("0001-01-01T00:00:00+14:00", "Europe/Berlin", "/wait/until"),
    ],
)
def test_what_turns_out_to_be_no_time_or_zone_fails_the_step(until: Any, zone: Any, pointer: str) -> None:
    written = {"until": "${{ inputs.until }}", "zone": "${{ inputs.zone }}"}
    play = Play({"action": "a", "wait": written}, start={"inputs": {"until": until, "zone": zone}})
    assert play.begun == ["begin", "failed a: expression-failed", "FAILED by a"]
    error = play.run("a").error
    assert error is not None
    assert error["pointer"] == pointer


@pytest.mark.parametrize(
    ("written", "place", "code"),
    [
        ({"until": "2026-12-24T18:00:00", "zone": "Europe/Nowhere"}, "zone", "invalid-timezone"),
        ({"until": "2026-12-24T18:00:00", "zone": "../Berlin"}, "zone", "invalid-timezone"),
        ({"until": "2026-12-24T18:00:00", "zone": 1}, "zone", "invalid-timezone"),
        ({"until": "2026-12-24T18:00:00Z", "zone": "Europe/Berlin"}, "until", "invalid"),
        ({"until": "tomorrow", "zone": "Europe/Berlin"}, "until", "type"),
        ({"until": ["2026"], "zone": "Europe/Berlin"}, "until", "type"),
        ({"for": 5, "zone": "Europe/Berlin"}, "zone", "invalid"),
        ({"until": "9999-12-31T23:59:59-14:00"}, "until", "type"),
    ],
)
def test_what_is_no_time_or_zone_is_refused_before_anything_runs(written: dict[str, Any], place: str, code: str) -> None:
    with pytest.raises(IntentNotExecutable) as caught:
        Play({"action": "a", "wait": written})
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [(f"/definition/steps/0/wait/{place}", code)]
