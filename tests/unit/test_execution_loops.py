# intent_ref: tests.execution-core
"""Steps that are done once for each of a list."""

from typing import Any

import pytest

from domain.refusals import IntentNotExecutable, StepNotRunning
from tests.unit.execution_play import Play


def loop(items: Any, at_once: int = 10, **more: Any) -> dict[str, Any]:
    return {"action": "a", "foreach": {"items": items, "concurrency": at_once}, **more}


def test_a_step_is_done_for_each_item_and_gives_their_results_in_their_order() -> None:
    play = Play(loop(["x", "y", "z"]), {"action": "b"})
    assert play.begun == ["begin", "each a: 3", "start a[0]", "start a[1]", "start a[2]"]
    assert play.complete("a[2]", 2) == ["done a[2]"]
    assert play.complete("a[0]", 0) == ["done a[0]"]
    assert play.complete("a[1]", 1) == ["done a[1]", "done a", "start b"]
    assert play.run("a").result == [0, 1, 2]


def test_only_so_many_items_are_under_way_at_once_and_the_next_follows() -> None:
    play = Play(loop(list(range(5)), 2))
    assert play.begun == ["begin", "each a: 5", "start a[0]", "start a[1]"]
    assert play.complete("a[1]") == ["done a[1]", "start a[2]"]
    assert play.complete("a[0]") == ["done a[0]", "start a[3]"]
    assert play.complete("a[3]") == ["done a[3]", "start a[4]"]
    assert play.complete("a[4]") == ["done a[4]"]
    assert play.complete("a[2]") == ["done a[2]", "done a", "COMPLETED"]


def test_nothing_to_do_is_done_at_once() -> None:
    play = Play(loop([]), {"action": "b"})
    assert play.begun == ["begin", "each a: 0", "done a", "start b"]
    assert play.run("a").result == []


def test_a_thousand_items_come_to_their_end_in_order() -> None:
    play = Play(loop(list(range(1_000)), 1_000))
    assert len(play.begun) == 1_002
    for number in range(999):
        assert play.complete(f"a[{number}]", number) == [f"done a[{number}]"]
    assert play.complete("a[999]", 999) == ["done a[999]", "done a", "COMPLETED"]
    assert play.run("a").result == list(range(1_000))


def test_items_may_come_from_an_earlier_result() -> None:
    play = Play({"action": "b"}, loop("${{ steps.b.result.hosts }}"))
    assert play.complete("b", {"hosts": ["x", "y"]}) == ["done b", "each a: 2", "start a[0]", "start a[1]"]


@pytest.mark.parametrize("given", [None, 5, "text", {"a": 1}, list(range(1_001))])
def test_what_is_no_list_or_too_long_fails_the_step(given: Any) -> None:
    play = Play({"action": "b"}, loop("${{ steps.b.result }}"))
    assert play.complete("b", given) == ["done b", "failed a: items-invalid", "FAILED by a"]


def test_a_failed_item_lets_those_under_way_finish_and_begins_no_other() -> None:
    play = Play(loop(list(range(4)), 2))
    assert play.fail("a[0]") == ["failed a[0]: broken"]
    assert play.complete("a[1]") == ["done a[1]", "failed a: items-failed", "FAILED by a"]
    assert play.statuses("a[2]", "a[3]") == ["pending", "pending"]
    error = play.run("a").error
    assert error is not None
    assert error["first"]["code"] == "broken"


def test_where_failure_is_lived_with_every_item_has_its_turn_and_what_follows_runs() -> None:
    play = Play(loop(list(range(3)), 1, on_failure="continue"), {"action": "b"})
    assert play.fail("a[0]") == ["failed a[0]: broken", "start a[1]"]
    assert play.complete("a[1]") == ["done a[1]", "start a[2]"]
    assert play.fail("a[2]") == ["failed a[2]: broken", "failed a: items-failed", "start b"]
    error = play.run("a").error
    assert error is not None
    assert error["message"] == "2 of 3 items failed."
    assert play.complete("b") == ["done b", "COMPLETED"]


def test_an_item_is_tried_again_by_the_steps_policy_and_keeps_its_place() -> None:
    play = Play(loop([1, 2, 3], 1, retry={"max_attempts": 2, "initial_interval": 5}))
    assert play.fail("a[0]") == ["again a[0] #2 in 5"]
    assert play.complete("a[0]") == ["done a[0]", "start a[1]"]


def test_an_item_has_a_fallback_of_its_own() -> None:
    play = Play(loop([1, 2], 1, fallback="b"))
    assert play.fail("a[0]") == ["fall back a[0]", "start a[0] #2"]
    assert play.complete("a[0]", "instead") == ["done a[0]", "start a[1]"]


def test_items_see_their_value_and_number() -> None:
    play = Play(loop(["eu", "us"], signal="go-on", approval={"message": "${{ item }} is ${{ index }}"}))
    waiting = play.run("a[1]").waiting
    assert waiting is not None
    assert waiting.detail["message"] == "us is 1"


def test_each_item_stands_before_its_own_gates() -> None:
    play = Play(loop([1, 2], approval=True))
    assert play.begun == ["begin", "each a: 2", "wait a[0]: approval", "wait a[1]: approval"]
    assert play.approve("a[1]") == ["approved a[1]", "start a[1]"]
    assert play.reject("a[0]") == ["rejected a[0]", "failed a[0]: approval-rejected"]
    assert play.complete("a[1]") == ["done a[1]", "failed a: items-failed", "FAILED by a"]


def test_an_item_may_be_skipped_and_gives_nothing() -> None:
    play = Play(loop([1, 2], approval={"expires_in": 5, "on_expiry": "skip"}))
    assert play.due("a[0]") == ["skip a[0]: expired"]
    assert play.approve("a[1]") == ["approved a[1]", "start a[1]"]
    assert play.complete("a[1]", 2) == ["done a[1]", "done a", "COMPLETED"]
    assert play.run("a").result == [None, 2]


def test_an_item_whose_expression_fails_is_a_failed_item() -> None:
    play = Play(loop([{"s": 1}, {}], 1, wait={"for": "${{ item.s }}"}))
    assert play.begun == ["begin", "each a: 2", "wait a[0]: timer"]
    assert play.due("a[0]") == ["start a[0]"]
    assert play.complete("a[0]") == ["done a[0]", "failed a[1]: expression-failed", "failed a: items-failed", "FAILED by a"]


def test_after_an_item_whose_expression_fails_no_other_begins() -> None:
    play = Play(loop([{}, {"s": 1}, {"s": 1}], 2, wait={"for": "${{ item.s }}"}))
    assert play.begun == ["begin", "each a: 3", "failed a[0]: expression-failed", "failed a: items-failed", "FAILED by a"]
    assert play.statuses("a[1]", "a[2]") == ["pending", "pending"]


def test_a_retry_does_only_the_failed_and_the_missing_items_again() -> None:
    play = Play(loop(list(range(4)), 2))
    play.complete("a[0]", "kept")
    play.fail("a[1]")
    assert play.complete("a[2]") == ["done a[2]", "failed a: items-failed", "FAILED by a"]
    assert play.retry() == ["retry a a[1]", "start a[1] #2", "start a[3]"]
    assert play.complete("a[3]") == ["done a[3]"]
    assert play.complete("a[1]") == ["done a[1]", "done a", "COMPLETED"]
    assert play.run("a").result == ["kept", None, None, None]


def test_a_rerun_does_every_item_again_with_new_items() -> None:
    play = Play({"action": "b"}, loop("${{ steps.b.result }}"))
    play.complete("b", [1, 2])
    play.complete("a[0]")
    assert play.complete("a[1]")[-1] == "COMPLETED"
    assert play.rerun("b") == ["rerun b a", "start b #2"]
    assert play.complete("b", [3]) == ["done b", "each a: 1", "start a[0] #2"]
    with pytest.raises(StepNotRunning):
        play.complete("a[1]")
    assert play.complete("a[0]", "new") == ["done a[0]", "done a", "COMPLETED"]
    assert play.run("a").result == ["new"]


def test_a_loop_cut_short_by_another_branch_is_no_longer_running_and_can_be_retried() -> None:
    play = Play(loop(list(range(3)), 1, depends_on=[]), {"action": "b", "depends_on": []})
    assert play.fail("b") == ["failed b: broken"]
    assert play.complete("a[0]")[-1] == "FAILED by b"
    assert play.run("a").status == "cancelled"
    lines = play.retry()
    assert "start b #2" in lines
    assert "start a[1]" in lines
    play.complete("b")
    play.complete("a[1]")
    assert play.complete("a[2]") == ["done a[2]", "done a", "COMPLETED"]


def test_a_loop_cut_short_by_another_branch_can_be_rerun() -> None:
    play = Play(loop(list(range(2)), 1, depends_on=[]), {"action": "b", "depends_on": []})
    play.fail("b")
    play.complete("a[0]")
    lines = play.rerun("b")
    assert "start b #2" in lines
    play.complete("b")
    while play.status == "running":
        run = next(run_id for run_id, run in play.state.runs.items() if run.status == "running" and run.items is None)
        play.complete(run)
    assert play.status == "completed"


def test_the_answer_for_the_whole_of_a_loop_is_refused() -> None:
    play = Play(loop([1]))
    with pytest.raises(StepNotRunning):
        play.complete("a", attempt=0)


def test_a_condition_is_asked_once_for_the_whole_loop() -> None:
    assert Play(loop([1], when="false")).begun == ["begin", "skip a: condition", "COMPLETED"]


def test_an_item_has_no_loop_of_its_own_to_refer_to() -> None:
    with pytest.raises(IntentNotExecutable):
        Play({"action": "a", "x": "${{ item }}"})


def test_loops_bring_only_so_many_runs_under_way_together_and_each_goes_on_by_itself() -> None:
    names = [f"l{number}" for number in range(5)]
    play = Play(*[loop(list(range(1_000)), 1_000, id=name, depends_on=[]) for name in names])
    under_way = {name: [run for run in play.state.runs if run.startswith(f"{name}[")] for name in names}
    assert [len(under_way[name]) for name in names] == [1_000, 1_000, 1, 1, 1]
    assert play.complete("l4[0]") == ["done l4[0]", "start l4[1]"]
    assert play.complete("l0[0]") == ["done l0[0]"]
    assert play.complete("l0[1]") == ["done l0[1]"]
    assert play.complete("l0[2]") == ["done l0[2]"]
    assert play.complete("l3[0]") == ["done l3[0]", "start l3[1]"]
    assert play.complete("l0[3]") == ["done l0[3]"]
    assert play.complete("l3[1]") == ["done l3[1]", "start l3[2]", "start l3[3]"]
    play.cancel()
    assert play.status == "cancelled"


def test_all_items_of_crowded_loops_come_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.progress.ACTIVE_MAX", 20)
    play = Play(*[loop(list(range(15)), 15, id=f"l{number}", depends_on=[]) for number in range(3)])
    left = [run for run, state in play.state.runs.items() if state.status == "running" and "[" in run]
    done = 0
    while left:
        for run in left:
            play.complete(run)
            done += 1
        left = [run for run, state in play.state.runs.items() if state.status == "running" and "[" in run]
    assert (done, play.status) == (45, "completed")


def test_loops_whose_items_all_fail_at_once_stay_within_one_append() -> None:
    broken = {"wait": {"for": "${{ item > 0 ? 'never' : 'x' }}"}, "on_failure": "continue"}
    play = Play(*[loop(list(range(1_000)), 1, id=f"l{number}", depends_on=[], **broken) for number in range(8)])
    assert len(play.last) < 4_096
    codes = [play.run(f"l{number}").error["code"] for number in range(8)]
    assert codes == ["items-failed"] * 3 + ["too-many-items"] * 5
    assert play.status == "completed"


def test_loops_that_begin_together_are_not_taken_for_too_much() -> None:
    play = Play(*[loop(list(range(1_000)), 1_000, id=f"l{number}", depends_on=[]) for number in range(10)])
    assert play.statuses() == ["running"] * 10
    assert len(play.last) < 4_096
