# intent_ref: tests.execution-core
"""What flows through an execution: inputs with their schema, results, expressions, outputs, keys made of them."""

from typing import Any

import pytest

from commands.beginnings import work_of
from commands.expressions import ExpressionFailed, evaluate
from commands.scope import scope_of
from domain.execution_events import ExecutionCompleted, StepFailed, StepStarted
from domain.refusals import IntentNotExecutable, Invalid
from tests.unit.execution_play import Play

SCHEMA = {
    "properties": {
        "n": {"type": "integer", "minimum": 1, "default": 3},
        "who": {"type": "string"},
        "deep": {"type": "object", "properties": {"x": {"default": "y"}}, "default": {}},
    },
    "required": ["who"],
}


def parameters(play: Play, run: str) -> Any:
    """What the run's module is given."""
    return evaluate(work_of(play.state, run).parameters, scope_of(play.state, run))


# --- inputs


def test_inputs_are_completed_by_the_schemas_defaults_and_kept_with_the_execution() -> None:
    play = Play({"action": "a"}, inputs=SCHEMA, start={"inputs": {"who": "ann"}})
    assert play.state.inputs == {"who": "ann", "n": 3, "deep": {"x": "y"}}


@pytest.mark.parametrize("inputs", [{}, {"who": 5}, {"who": "ann", "n": 0}, {"who": "ann", "n": "3"}])
def test_inputs_that_do_not_fit_the_schema_start_nothing(inputs: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        Play({"action": "a"}, inputs=SCHEMA, start={"inputs": inputs})
    assert all(fault.pointer.startswith("/inputs") for fault in caught.value.faults)


def test_inputs_without_a_schema_are_taken_as_they_are() -> None:
    assert Play({"action": "a"}, start={"inputs": {"any": [1]}}).state.inputs == {"any": [1]}


@pytest.mark.parametrize("inputs", [{"password": "hunter2"}, {"nul": "a\0b"}, {"huge": 2**70}])
def test_inputs_hold_no_secret_and_nothing_that_cannot_be_stored(inputs: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        Play({"action": "a"}, start={"inputs": inputs})


# --- expressions


def test_a_result_flows_into_a_later_steps_parameters_with_its_type() -> None:
    step = {"action": "b", "n": "${{ steps.a.result.n }}", "text": "${{ steps.a.result.n }} of ${{ inputs.all }}"}
    play = Play({"action": "a"}, step,
                start={"inputs": {"all": 9}})  # fmt: skip
    play.complete("a", {"n": 4})
    assert parameters(play, "b") == {"n": 4, "text": "4 of 9"}


def test_every_name_of_the_scope_is_there() -> None:
    said = {
        "id": "${{ execution.id }}", "intent": "${{ execution.intent_name }}", "version": "${{ execution.version }}",
        "at": "${{ execution.started_at }}", "target": "${{ execution.target }}", "tenant": "${{ tenant.id }}",
    }  # fmt: skip
    play = Play({"action": "a", "all": said})
    assert parameters(play, "a")["all"] == {
        "id": "0199-execution", "intent": "deploy", "version": 1, "at": "2026-11-21T08:00:00Z", "target": "production",
        "tenant": "t",
    }  # fmt: skip


def test_items_and_their_numbers_flow_into_parameters() -> None:
    play = Play({"action": "a", "foreach": ["x", "y"], "name": "${{ item }}-${{ index }}"})
    assert [parameters(play, f"a[{index}]") for index in range(2)] == [{"name": "x-0"}, {"name": "y-1"}]


def test_an_undoing_sees_the_result_that_it_undoes() -> None:
    play = Play({"action": "a", "compensate": {"action": "undo", "of": "${{ steps.a.result.id }}"}}, {"action": "b"})
    play.complete("a", {"id": 7})
    play.fail("b")
    assert parameters(play, "~a") == {"of": 7}


def test_the_undoing_of_an_item_sees_its_item() -> None:
    play = Play({"action": "a", "foreach": ["x", "y"], "compensate": {"action": "undo", "of": "${{ item }}"}}, {"action": "b"})
    play.complete("a[0]")
    play.complete("a[1]")
    play.fail("b")
    assert parameters(play, "~a[1]") == {"of": "y"}


def test_a_fallback_sees_what_its_step_sees() -> None:
    play = Play({"action": "c"}, {"action": "a", "fallback": {"action": "b", "n": "${{ steps.c.result }}"}})
    play.complete("c", 5)
    play.fail("a")
    assert parameters(play, "a") == {"n": 5}


def test_a_parameter_that_cannot_be_made_is_the_attempts_failure() -> None:
    play = Play({"action": "a", "n": "${{ inputs.nowhere }}"})
    with pytest.raises(ExpressionFailed):
        parameters(play, "a")


@pytest.mark.parametrize(
    "step",
    [
        {"action": "a", "n": "${{ steps.nowhere.result }}"},
        {"action": "a", "n": "${{ steps.b.result }}"},
        {"action": "a", "n": "${{ 1 + }}"},
        {"action": "a", "n": "${{ nowhere }}"},
        {"action": "a", "approval": {"message": "${{ steps.b.result }}"}},
        {"action": "a", "foreach": "${{ steps.b.result }}"},
    ],
)
def test_an_expression_that_can_never_be_right_is_refused_before_anything_runs(step: dict[str, Any]) -> None:
    with pytest.raises(IntentNotExecutable):
        Play(step, {"action": "b"})


def test_a_result_that_an_expression_needs_and_that_is_not_there_fails_the_step_that_needs_it() -> None:
    play = Play({"action": "a"}, {"action": "b", "when": "steps.a.result.ok"})
    assert play.complete("a", {}) == ["done a", "failed b: expression-failed", "FAILED by b"]
    assert "ok" in play.only(StepFailed).error["message"]


# --- outputs


def test_outputs_are_made_of_results_at_the_end() -> None:
    play = Play({"action": "a"}, outputs={"url": "${{ steps.a.result.url }}", "n": 5})
    play.complete("a", {"url": "u"})
    assert play.only(ExecutionCompleted).result == {"url": "u", "n": 5}
    assert play.state.result == {"url": "u", "n": 5}


def test_outputs_that_cannot_be_made_fail_the_execution_and_undo_what_was_done() -> None:
    play = Play({"action": "a", "compensate": "undo"}, outputs={"url": "${{ steps.a.result.url }}"})
    assert play.complete("a", {}) == ["done a", "failing: expression-failed", "undo a", "start ~a"]
    assert play.complete("~a") == ["undone ~a", "FAILED"]
    assert play.retry() == ["retry a", "start a #2"]
    assert play.complete("a", {"url": "u"}) == ["done a", "COMPLETED"]


def test_outputs_that_cannot_be_made_of_what_is_kept_fail_again() -> None:
    play = Play({"action": "a"}, outputs={"url": "${{ steps.a.result.url }}"})
    assert play.complete("a", {}) == ["done a", "failing: expression-failed", "FAILED"]
    assert play.retry() == ["retry", "failing: expression-failed", "FAILED"]
    assert play.rerun("a") == ["rerun a", "start a #2"]
    assert play.complete("a", {"url": "u"}) == ["done a", "COMPLETED"]


# --- keys made of what flows


def test_a_concurrency_key_may_be_made_of_inputs_and_goes_with_every_attempt() -> None:
    step = {"action": "a", "concurrency": {"key": "db-${{ inputs.db }}", "max": 3}, "retry": 2}
    play = Play(step, start={"inputs": {"db": "eu"}})
    (limits,) = [event.limits for event in play.events if isinstance(event, StepStarted)]
    assert limits is not None
    assert (limits.slot_key, limits.slot_max) == ("db-eu", 3)
    play.fail("a")
    assert play.last[0].limits == limits  # type: ignore[union-attr]


def test_a_concurrency_key_is_an_items_own_where_it_is_made_of_it() -> None:
    play = Play({"action": "a", "foreach": ["x", "y"], "concurrency": "${{ item }}"})
    keys = [event.limits.slot_key for event in play.events if isinstance(event, StepStarted) and event.limits]
    assert keys == ["x", "y"]


def test_a_concurrency_key_that_cannot_be_made_fails_the_step() -> None:
    play = Play({"action": "a", "concurrency": "${{ inputs.nowhere }}"})
    assert play.begun == ["begin", "failed a: expression-failed", "FAILED by a"]
    assert isinstance(play.last[1], StepFailed)


def test_a_long_concurrency_key_is_kept_by_its_beginning_and_what_tells_it_apart() -> None:
    keys = []
    for end in ("a", "b"):
        play = Play({"action": "a", "concurrency": "${{ inputs.k }}"}, start={"inputs": {"k": "x" * 1_000 + end}})
        keys.append(play.only(StepStarted).limits.slot_key)
    assert keys[0] != keys[1]
    assert {len(key) for key in keys} == {200}
    assert all(key.startswith("x" * 100) for key in keys)
