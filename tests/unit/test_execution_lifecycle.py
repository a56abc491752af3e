# intent_ref: tests.execution-core
"""What people ask of an execution: pause, resume, cancel, terminate, retry, rerun; keys and versions; and what comes too late."""

from typing import Any

import pytest

from commands.execution import claims, decide, key_of
from commands.execution_commands import ReportStall, StartExecution
from commands.execution_start import decide_start
from domain.execution import evolve
from domain.execution_events import ExecutionCancelled, ExecutionRerun, ExecutionStalled, StepStarted
from domain.intent import IntentRevised
from domain.refusals import (
    ExecutionHasEnded,
    ExecutionNotEnded,
    ExecutionNotFailed,
    ExecutionNotPaused,
    Invalid,
    NotFound,
    StepNotAwaitingApproval,
    StepNotRunning,
    StepNotWaiting,
)
from domain.values import TenantId, Version
from tests.unit.execution_play import ACTIONS, Play, again, intent_of
from tests.unit.given_when_then import folded
from tests.unit.samples import AT, EXECUTION, INTENT, RULES

A, B, C = {"action": "a"}, {"action": "b"}, {"action": "c"}


# --- pause and resume


def test_a_pause_lets_what_runs_end_and_begins_nothing() -> None:
    play = Play(A, B)
    assert play.pause() == ["pause"]
    assert play.pause() == []
    assert play.complete("a") == ["done a"]
    assert play.resume() == ["resume", "start b"]
    with pytest.raises(ExecutionNotPaused):
        play.resume()


@pytest.mark.parametrize("step", [{"action": "a", "wait": 5}, {"action": "a", "approval": True}, {"action": "a", "signal": "s"}])
def test_what_comes_for_a_waiting_step_during_a_pause_is_kept_and_begins_its_work_only_afterwards(step: Any) -> None:
    play = Play(step)
    play.pause()
    come = {"wait": lambda: play.due("a"), "approval": lambda: play.approve("a"), "signal": lambda: play.signal("s")}
    lines = next(come[key] for key in come if key in step)()
    assert lines[-1] == "wait a: resume"
    for late in (lambda: play.due("a"), lambda: play.due("a", 0), lambda: play.approve("a")):
        with pytest.raises((StepNotWaiting, StepNotAwaitingApproval)):
            late()
    assert again(play) == play.state
    assert play.resume() == ["resume", "start a"]
    assert play.complete("a") == ["done a", "COMPLETED"]


def test_a_child_held_back_by_a_pause_begins_afterwards() -> None:
    play = Play({"workflow": "w", "approval": True})
    play.pause()
    assert play.approve("workflow") == ["approved workflow", "wait workflow: resume"]
    assert play.resume() == ["resume", "wait workflow: child"]


def test_the_next_gate_is_reached_during_a_pause() -> None:
    play = Play({"action": "a", "wait": 5, "approval": True})
    play.pause()
    assert play.due("a") == ["wait a: approval"]
    assert play.approve("a") == ["approved a", "wait a: resume"]
    assert play.resume() == ["resume", "start a"]


def test_a_step_that_only_waits_ends_during_a_pause_and_nothing_follows_it() -> None:
    play = Play({"wait": 5}, A)
    play.pause()
    assert play.due("wait") == ["done wait"]
    assert play.resume() == ["resume", "start a"]


def test_what_a_pause_holds_back_is_given_up_when_another_step_fails() -> None:
    play = Play({"action": "a", "approval": True, "depends_on": []}, {"action": "b", "depends_on": []})
    play.pause()
    play.approve("a")
    assert play.fail("b") == ["failed b: broken", "give up a", "FAILED by b"]


def test_the_items_of_a_loop_are_held_back_by_a_pause() -> None:
    play = Play({"action": "a", "foreach": {"items": [1, 2, 3], "concurrency": 1}})
    play.pause()
    assert play.complete("a[0]") == ["done a[0]"]
    assert play.resume() == ["resume", "start a[1]"]


def test_a_failed_attempt_is_made_again_during_a_pause_and_so_is_a_fallback() -> None:
    play = Play({"action": "a", "retry": {"max_attempts": 2, "initial_interval": 1}, "fallback": "b"})
    play.pause()
    assert play.fail("a") == ["again a #2 in 1"]
    assert play.fail("a") == ["fall back a", "start a #3"]


def test_a_paused_execution_ends_when_its_last_step_does() -> None:
    done, lost = Play(A), Play(A, B)
    done.pause()
    lost.pause()
    assert done.complete("a") == ["done a", "COMPLETED"]
    assert lost.fail("a") == ["failed a: broken", "FAILED by a"]


# --- ends


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "terminate"])
def test_what_has_ended_stays_so(end: str) -> None:
    play = Play(A)
    getattr(play, end)(*(["a"] if end in ("complete", "fail") else []))
    for command in (play.cancel, play.terminate, play.pause, play.resume, play.out_of_time, lambda: play.signal("s")):
        with pytest.raises(ExecutionHasEnded):
            command()
    for answer in (play.complete, play.fail):
        with pytest.raises(StepNotRunning):
            answer("a", attempt=1)
    if end != "fail":
        with pytest.raises(ExecutionNotFailed):
            play.retry()


def test_terminating_ends_everything_at_once() -> None:
    play = Play(A, {"action": "b", "foreach": [1, 2], "depends_on": []}, {"approval": True, "depends_on": []}, C)
    assert play.terminate() == ["TERMINATED"]
    assert set(play.statuses()) == {"cancelled"}
    assert set(play.statuses("b[0]", "b[1]")) == {"cancelled"}


@pytest.mark.parametrize("reason", ["x" * 2_001, "a\0b", "\ud800"])
def test_a_reason_is_text_that_can_be_stored(reason: str) -> None:
    with pytest.raises(Invalid):
        Play(A).cancel(reason)


def test_a_reason_may_be_left_out() -> None:
    play = Play(A)
    play.cancel(None)
    assert play.only(ExecutionCancelled).reason is None


def test_an_execution_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        decide(None, ReportStall(execution_id=EXECUTION, at=AT, missing=("a",)))


def test_a_stall_is_told_and_changes_nothing_else() -> None:
    play = Play(A)
    before = play.state
    assert play.obey(ReportStall, missing=("dispatch a",)) == ["stalled dispatch a"]
    assert play.only(ExecutionStalled).missing == ("dispatch a",)
    assert play.state == before


# --- retry and rerun


def test_a_retry_begins_with_what_failed_and_keeps_what_completed() -> None:
    play = Play(A, B, {"action": "c", "depends_on": ["a"]})
    play.complete("a", "kept")
    play.fail("b")
    play.complete("c", "kept too")
    assert play.retry() == ["retry b", "start b #2"]
    assert play.complete("b") == ["done b", "COMPLETED"]
    assert (play.run("a").result, play.run("c").result) == ("kept", "kept too")


def test_a_retry_begins_what_the_failure_had_held_back_or_given_up() -> None:
    play = Play(
        {"action": "a", "depends_on": []}, {"action": "b", "depends_on": []}, {"action": "c", "depends_on": ["b"]},
        {"wait": 5, "depends_on": []},
    )  # fmt: skip
    play.fail("a")
    assert play.complete("b") == ["done b", "FAILED by a"]
    assert play.retry() == ["retry a wait", "start a #2", "start c", "wait wait: timer"]


def test_a_failure_that_was_lived_with_is_not_retried() -> None:
    play = Play({"action": "a", "on_failure": "continue"}, B)
    play.fail("a")
    play.fail("b")
    assert play.retry() == ["retry b", "start b #2"]


def test_a_rerun_does_a_step_and_what_follows_it_again_and_keeps_the_rest() -> None:
    play = Play(A, B, {"action": "c", "depends_on": ["a"]}, {"action": "d", "depends_on": ["b", "c"]})
    for step in "abcd":
        play.complete(step, f"{step} 1")
    assert play.status == "completed"
    assert play.rerun("b") == ["rerun b d", "start b #2"]
    assert play.only(ExecutionRerun).from_step == "b"
    assert play.complete("b", "b 2") == ["done b", "start d #2"]
    assert play.complete("d", "d 2") == ["done d", "COMPLETED"]
    assert [play.run(step).result for step in "abcd"] == ["a 1", "b 2", "c 1", "d 2"]


@pytest.mark.parametrize("end", ["cancel", "terminate", "fail"])
def test_a_rerun_takes_up_what_never_came_to_its_end(end: str) -> None:
    play = Play(A, B, C)
    play.complete("a")
    getattr(play, end)(*(["b"] if end == "fail" else []))
    assert play.rerun("b") == ["rerun b c", "start b #2"]
    play.complete("b")
    assert play.complete("c") == ["done c", "COMPLETED"]


def test_a_rerun_leaves_a_failure_that_was_lived_with_alone_where_it_does_not_depend_on_it() -> None:
    play = Play({"action": "a", "on_failure": "continue", "depends_on": []}, {"action": "b", "depends_on": []})
    play.fail("a")
    play.complete("b")
    assert play.rerun("b") == ["rerun b", "start b #2"]


def test_a_rerun_asks_conditions_and_gates_again() -> None:
    play = Play(A, {"action": "b", "when": "steps.a.result == 1", "approval": True})
    assert play.complete("a", 2) == ["done a", "skip b: condition", "COMPLETED"]
    play.rerun("a")
    assert play.complete("a", 1) == ["done a", "wait b: approval"]
    assert play.approve("b") == ["approved b", "start b"]


def test_only_what_has_ended_is_rerun_and_from_a_step_that_it_has() -> None:
    play = Play(A)
    with pytest.raises(ExecutionNotEnded):
        play.rerun("a")
    play.complete("a")
    for step in ("nowhere", "a[0]", "~a", ""):
        with pytest.raises(NotFound):
            play.rerun(step)


def test_an_answer_from_before_a_rerun_is_refused() -> None:
    play = Play(A, B)
    play.complete("a")
    play.terminate()
    play.rerun("b")
    with pytest.raises(StepNotRunning):
        play.complete("b", attempt=1)
    assert play.complete("b", attempt=2) == ["done b", "COMPLETED"]


# --- keys, priorities, versions


def keyed(*steps: Any) -> Play:
    return Play(*steps, start={"business_key": "order-7"})


def claimed(play: Play) -> list[tuple[str, bool]]:
    before = folded(evolve, play.events[: len(play.events) - len(play.last)])
    return claims(before, play.last)


def test_a_business_key_is_held_from_the_start_to_the_end_and_again_after_a_retry() -> None:
    key = key_of(INTENT, "order-7")
    play = keyed(A, B)
    assert claimed(play) == [(key, True)]
    play.complete("a")
    assert claimed(play) == []
    play.fail("b")
    assert claimed(play) == [(key, False)]
    play.retry()
    assert claimed(play) == [(key, True)]
    play.complete("b")
    assert claimed(play) == [(key, False)]
    play.rerun("b")
    assert claimed(play) == [(key, True)]
    play.cancel()
    assert claimed(play) == [(key, False)]
    play.rerun("b")
    play.terminate()
    assert claimed(play) == [(key, False)]


def test_a_key_is_not_held_by_what_has_ended_as_soon_as_it_began() -> None:
    assert claimed(keyed({"action": "a", "when": "false"})) == [(key_of(INTENT, "order-7"), False)]


def test_without_a_key_nothing_is_held() -> None:
    play = Play(A)
    assert claimed(play) == []
    play.complete("a")
    assert claimed(play) == []


def test_one_intents_keys_have_nothing_to_do_with_anothers() -> None:
    assert key_of("one", "k") != key_of("two", "k")


@pytest.mark.parametrize("key", ["x" * 201, "a\0b"])
def test_a_business_key_is_a_text_that_can_be_stored(key: str) -> None:
    with pytest.raises(Invalid):
        Play(A, start={"business_key": key})


@pytest.mark.parametrize(("said", "whole", "priority"), [(None, None, 3), (1, None, 1), (None, 5, 5), (2, 5, 2)])
def test_a_priority_is_the_starts_or_the_intents_and_goes_with_every_attempt(said: Any, whole: Any, priority: int) -> None:
    play = Play(A, priority=whole, start={"priority": said})
    assert play.state.options.priority == priority
    limits = next(event.limits for event in play.events if isinstance(event, StepStarted))
    assert (limits is None and priority == 3) or (limits is not None and limits.priority == priority)


@pytest.mark.parametrize("priority", [0, 6, -1, 99])
def test_a_priority_is_from_1_to_5(priority: int) -> None:
    with pytest.raises(Invalid):
        Play(A, start={"priority": priority})


def test_an_undoing_has_its_executions_priority() -> None:
    play = Play({"action": "a", "compensate": "undo"}, B, start={"priority": 1})
    play.complete("a")
    play.fail("b")
    assert play.only(StepStarted).limits.priority == 1


def test_a_running_execution_keeps_the_version_that_it_began_with() -> None:
    first, second = {"target": "t", "steps": [A, B]}, {"target": "t", "steps": [C]}
    play = Play(intent=intent_of(first))
    revised = intent_of(first, IntentRevised(INTENT, Version(2), second, None, {}, AT))
    other = Play(intent=revised)
    assert play.complete("a") == ["done a", "start b"]
    assert (play.state.version, other.state.version) == (1, 2)
    assert other.begun == ["begin", "start c"]
    assert Play(intent=revised, start={"version": 1}).begun == ["begin", "start a"]
    with pytest.raises(NotFound):
        Play(intent=revised, start={"version": 3})


def test_a_start_says_on_whose_behalf_it_is() -> None:
    command = StartExecution(execution_id=EXECUTION, intent_id=INTENT, at=AT, tenant_id=TenantId("t"), started_by="schedule")
    (started, *_) = decide_start(intent_of({"target": "t", "steps": [A]}), command, ACTIONS, RULES)
    assert started.options.started_by == "schedule"  # type: ignore[union-attr]
