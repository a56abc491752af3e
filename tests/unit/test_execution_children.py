# intent_ref: tests.execution-core
"""Workflows in workflows: how one begins, and what its end means for the step that it runs for."""

from typing import Any

import pytest

from domain.execution_events import ExecutionCancelled, ExecutionCompleted, ExecutionTerminated, StepCancelled, StepWaiting
from domain.execution_terms import Parent
from domain.refusals import IntentNotExecutable, StepNotWaiting
from domain.values import ExecutionId, StepId
from tests.unit.execution_play import Play
from tests.unit.samples import EXECUTION

PARENT = Parent(ExecutionId("0199-parent"), StepId("w"))


def child(**more: Any) -> dict[str, Any]:
    return {"id": "w", "workflow": {"name": "other@2", "inputs": {"n": "${{ inputs.n }}"}}, **more}


def play_of(*steps: dict[str, Any], **more: Any) -> Play:
    return Play(*steps, start={"inputs": {"n": 5}, **more})


def test_a_child_begins_with_inputs_from_its_parent_and_one_level_deeper() -> None:
    play = play_of(child(), depth=3, priority=1)
    assert play.begun == ["begin", "wait w: child"]
    detail = play.only(StepWaiting).detail
    assert (detail["intent"], detail["version"], detail["inputs"]) == ("other", 2, {"n": 5})
    assert (detail["depth"], detail["priority"]) == (4, 1)


def test_a_childs_id_is_the_same_in_every_replay_and_another_for_every_attempt() -> None:
    one, two = play_of(child()), play_of(child())
    first = one.only(StepWaiting).detail["execution_id"]
    assert two.only(StepWaiting).detail["execution_id"] == first
    one.child_failed("w")
    one.retry()
    assert one.only(StepWaiting).detail["execution_id"] != first


def test_a_child_that_ends_well_gives_its_result_to_the_step() -> None:
    play = play_of(child(), {"action": "a"})
    assert play.child_done("w", {"x": 1}) == ["done w", "start a"]
    assert play.run("w").result == {"x": 1}


@pytest.mark.parametrize("code", ["workflow-failed", "workflow-cancelled", "workflow-unknown"])
def test_a_child_that_does_not_end_well_fails_the_step(code: str) -> None:
    assert play_of(child()).child_failed("w", code) == [f"failed w: {code}", "FAILED by w"]


def test_a_failed_child_may_be_lived_with() -> None:
    play = play_of(child(on_failure="continue"), {"action": "a"})
    assert play.child_failed("w") == ["failed w: workflow-failed", "start a"]


def test_a_failed_child_has_the_steps_fallback() -> None:
    play = play_of(child(fallback="b"), {"action": "a"})
    assert play.child_failed("w") == ["fall back w", "start w #2"]
    assert play.complete("w", "instead") == ["done w", "start a"]


def test_a_child_stands_behind_the_gates_of_its_step() -> None:
    play = play_of(child(approval=True))
    assert play.begun == ["begin", "wait w: approval"]
    assert play.approve("w") == ["approved w", "wait w: child"]
    with pytest.raises(StepNotWaiting):
        play.due("w", 0)
    assert play.child_done("w") == ["done w", "COMPLETED"]


def test_children_can_be_started_for_each_of_a_list() -> None:
    play = play_of(child(foreach={"items": ["x", "y"], "concurrency": 1}))
    assert play.begun == ["begin", "each w: 2", "wait w[0]: child"]
    first = play.only(StepWaiting).detail["execution_id"]
    assert play.child_done("w[0]", 0) == ["done w[0]", "wait w[1]: child"]
    assert play.only(StepWaiting).detail["execution_id"] != first
    assert play.child_done("w[1]", 1) == ["done w[1]", "done w", "COMPLETED"]


def test_the_end_of_a_child_twice_is_refused() -> None:
    play = play_of(child(), {"action": "a"})
    play.child_done("w")
    with pytest.raises(StepNotWaiting):
        play.due("w", 0)


@pytest.mark.parametrize(("end", "kind"), [("cancel", ExecutionCancelled), ("terminate", ExecutionTerminated)])
def test_children_end_with_their_parent(end: str, kind: type[Any]) -> None:
    play = play_of(child())
    running = play.only(StepWaiting).detail["execution_id"]
    getattr(play, end)()
    assert play.only(kind).children == (running,)


def test_a_failure_elsewhere_stops_the_child() -> None:
    play = play_of(child(depends_on=[]), {"action": "a", "depends_on": []})
    running = play.only(StepWaiting).detail["execution_id"]
    assert play.fail("a") == ["failed a: broken", "give up w and child", "FAILED by a"]
    assert [event.child for event in play.last if isinstance(event, StepCancelled)] == [running]


def test_the_parent_is_told_of_every_end() -> None:
    done = Play({"action": "a"}, start={"parent": PARENT, "depth": 1})
    assert done.complete("a")[-1] == "COMPLETED"
    failed = Play({"action": "a"}, start={"parent": PARENT, "depth": 1})
    assert failed.fail("a")[-1] == "FAILED by a"
    cancelled, ended = [Play({"action": "a"}, start={"parent": PARENT, "depth": 1}) for _ in range(2)]
    cancelled.cancel()
    ended.terminate()
    for play in (done, failed, cancelled, ended):
        assert play.last[-1].parent == PARENT  # type: ignore[union-attr]


def test_workflows_nest_only_so_deep() -> None:
    assert Play({"action": "a"}, start={"depth": 10}).status == "running"
    with pytest.raises(IntentNotExecutable):
        Play({"action": "a"}, start={"depth": 11})


def test_a_childs_inputs_that_cannot_be_made_fail_the_step() -> None:
    play = Play({"workflow": {"name": "other", "inputs": {"n": "${{ inputs.nowhere }}"}}})
    assert play.begun == ["begin", "failed workflow: expression-failed", "FAILED by workflow"]


def test_a_completed_child_can_be_undone_by_the_step() -> None:
    play = play_of(child(compensate={"action": "undo", "of": "${{ steps.w.result }}"}), {"action": "a"})
    play.child_done("w", "x")
    assert play.fail("a") == ["failed a: broken", "undo w", "start ~w"]
    assert play.complete("~w") == ["undone ~w", "FAILED by a"]
    assert play.state.execution_id == EXECUTION


def test_a_finished_execution_without_outputs_gives_nothing() -> None:
    play = Play({"action": "a"})
    play.complete("a", 5)
    assert play.only(ExecutionCompleted).result is None


def test_a_retried_parent_starts_another_child() -> None:
    play = play_of(child())
    play.child_failed("w")
    assert play.retry() == ["retry w", "wait w: child"]
    assert play.child_done("w") == ["done w", "COMPLETED"]
