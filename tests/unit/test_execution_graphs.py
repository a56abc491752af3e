# intent_ref: tests.execution-core
"""Branches, joins and conditions: what begins when, and what never does."""

from typing import Any

import pytest

from domain.refusals import IntentNotExecutable, StepNotRunning
from tests.unit.execution_play import Play


def step(action: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "depends_on": list(depends_on), **more}


def test_branches_run_side_by_side_and_the_join_waits_for_all() -> None:
    play = Play(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
    assert play.begun == ["begin", "start a"]
    assert play.complete("a") == ["done a", "start b", "start c"]
    assert play.complete("c") == ["done c"]
    assert play.complete("b") == ["done b", "start d"]
    assert play.complete("d") == ["done d", "COMPLETED"]


def test_a_join_of_any_goes_on_with_the_first_and_only_once() -> None:
    play = Play(step("a"), step("b"), step("c", "a", "b", join="any"))
    assert play.complete("b") == ["done b", "start c"]
    assert play.complete("a") == ["done a"]
    assert play.complete("c") == ["done c", "COMPLETED"]


def test_the_execution_ends_only_when_the_slower_branches_have_ended_too() -> None:
    play = Play(step("a"), step("b"), step("c", "a", "b", join="any"))
    assert play.complete("b") == ["done b", "start c"]
    assert play.complete("c") == ["done c"]
    assert play.complete("a") == ["done a", "COMPLETED"]


@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_a_join_of_a_number_waits_for_so_many_of_whichever(order: str) -> None:
    play = Play(step("a"), step("b"), step("c"), step("d", "a", "b", "c", join=2))
    first, second, third = order
    assert play.complete(first) == [f"done {first}"]
    assert play.complete(second) == [f"done {second}", "start d"]
    assert play.complete(third) == [f"done {third}"]


def test_a_failure_that_is_lived_with_counts_towards_a_join() -> None:
    play = Play(step("a", on_failure="continue"), step("b"), step("c", "a", "b", join="any"))
    assert play.fail("a") == ["failed a: broken", "start c"]


def test_a_skipped_step_does_not_count_towards_a_join_of_any() -> None:
    play = Play(step("a", when="false"), step("b"), step("c", "a", "b", join="any"))
    assert play.begun == ["begin", "skip a: condition", "start b"]
    assert play.complete("b") == ["done b", "start c"]


def test_a_join_that_can_never_be_reached_is_skipped_and_so_is_what_follows_it() -> None:
    play = Play(
        step("a", when="false"), step("b", when="false"), step("c"), step("d", "a", "b", "c", join=2), step("e", "d"),
    )  # fmt: skip
    assert "start d" not in play.begun
    assert play.complete("c") == ["done c", "skip d: dependencies", "skip e: dependencies", "COMPLETED"]


@pytest.mark.parametrize(("given", "line"), [(True, "start a"), (False, "skip a: condition")])
def test_a_condition_decides_whether_a_step_is_carried_out(given: bool, line: str) -> None:
    assert Play(step("a", when="inputs.go"), start={"inputs": {"go": given}}).begun[1] == line


def test_a_condition_may_be_written_as_a_template() -> None:
    assert Play(step("a", when="${{ inputs.n > 1 }}"), start={"inputs": {"n": 2}}).begun == ["begin", "start a"]


def test_a_condition_is_judged_when_the_steps_turn_has_come() -> None:
    play = Play(step("a"), step("b", "a", when="steps.a.result.ok"), step("c", "a", when="!steps.a.result.ok"))
    assert play.complete("a", {"ok": False}) == ["done a", "skip b: condition", "start c"]


@pytest.mark.parametrize("when", ["inputs.nowhere", "inputs.n", "1 / (inputs.n - inputs.n) > 0"])
def test_a_condition_that_is_neither_true_nor_false_fails_the_step(when: str) -> None:
    play = Play(step("a", when=when), start={"inputs": {"n": 5}})
    assert play.begun == ["begin", "failed a: expression-failed", "FAILED by a"]


@pytest.mark.parametrize("when", ["'yes'", "1 +", "nowhere", "steps.b.result"])
def test_a_condition_that_can_never_be_right_is_refused_before_anything_runs(when: str) -> None:
    with pytest.raises(IntentNotExecutable):
        Play(step("a", when=when))


def test_a_step_that_names_only_skipped_ones_is_skipped_with_them() -> None:
    play = Play(step("a"), step("b", "a", when="false"), step("c", "b"), step("d", "c"), step("e", "a"))
    assert play.complete("a") == ["done a", "skip b: condition", "start e", "skip c: dependencies", "skip d: dependencies"]
    assert play.complete("e") == ["done e", "COMPLETED"]


def test_a_step_that_merely_comes_next_runs_after_a_skipped_one() -> None:
    play = Play({"action": "a", "when": "false"}, {"action": "b"})
    assert play.begun == ["begin", "skip a: condition", "start b"]


def test_a_step_with_one_living_dependency_runs_when_the_others_were_skipped() -> None:
    play = Play(step("a", when="false"), step("b"), step("c", "a", "b"))
    assert play.complete("b") == ["done b", "start c"]


def test_a_choice_runs_one_branch_and_the_merge_follows_once() -> None:
    choice = [
        step("a"), step("b", "a", when="steps.a.result == 'b'"), step("c", "a", when="steps.a.result == 'c'"),
        step("d", "b", "c"),
    ]  # fmt: skip
    for taken in "bc":
        play = Play(*choice)
        assert f"start {taken}" in play.complete("a", taken)
        assert play.complete(taken) == [f"done {taken}", "start d"]
        assert play.complete("d") == ["done d", "COMPLETED"]
    assert Play(*choice).complete("a", "neither") == [
        "done a", "skip b: condition", "skip c: condition", "skip d: dependencies", "COMPLETED",
    ]  # fmt: skip


def test_an_execution_of_which_everything_is_skipped_is_completed() -> None:
    assert Play(step("a", when="false"), step("b", "a")).begun == [
        "begin",
        "skip a: condition",
        "skip b: dependencies",
        "COMPLETED",
    ]


def test_what_a_skipped_step_would_have_given_can_be_asked_for_with_has() -> None:
    play = Play(step("a", when="false"), {"action": "b", "when": "steps.a.status == 'skipped'"})
    assert play.begun == ["begin", "skip a: condition", "start b"]


def test_a_wide_graph_begins_all_at_once_and_joins_once() -> None:
    wide = [step("a", id=f"s{n}") for n in range(100)]
    play = Play(*wide, step("b", *[f"s{n}" for n in range(100)]))
    assert len(play.begun) == 101
    for n in range(99, 0, -1):
        assert play.complete(f"s{n}") == [f"done s{n}"]
    assert play.complete("s0") == ["done s0", "start b"]


def test_an_answer_twice_or_for_what_is_not_under_way_is_refused_and_changes_nothing() -> None:
    play = Play(step("a"), step("b", "a"))
    before = play.state
    for run, attempt in [("a", 0), ("a", 2), ("b", 0), ("b", 1), ("nowhere", 1), ("a[0]", 1), ("~a", 1), ("", 0)]:
        for answer in (play.complete, play.fail):
            with pytest.raises(StepNotRunning):
                answer(run, attempt=attempt)
    assert play.state == before
