# intent_ref: tests.execution-core
"""All that is wrong with a definition is said at once, and nothing that only follows from something else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.definitions import checked_definition
from domain.refusals import DefinitionInvalid
from tests.unit.samples import CATALOGUE, RULES, SMALL


def found(raw: Any, rules: Any = RULES) -> list[tuple[str, str]]:
    """(pointer, code) of each fault."""
    with pytest.raises(DefinitionInvalid) as caught:
        checked_definition(raw, CATALOGUE, rules, prefix="")
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


def test_faults_of_shape_rules_schemas_schedules_triggers_and_expressions_come_together() -> None:
    raw = {
        "target": "",
        "inputs": {"type": "array"},
        "schedule": {"cron": "soon"},
        "on": {"type": 5},
        "outputs": {"x": "${{ steps.a.nothing }}"},
        "steps": [
            {"action": "a", "retry": 0, "x": "${{ inputs.", "y": "${{ nobody.x }}"},
            {"action": "nowhere", "when": "1 + 1", "x": "${{ steps.a.nothing }}"},
            {"id": "w", "action": "wait", "until": "${{ nobody.x }}"},
        ],
    }
    assert found(raw) == [
        ("/target", "type"), ("/steps/0/retry", "invalid-number"), ("/steps/1/action", "unknown-action"),
        ("/inputs/type", "type"), ("/schedule/cron", "invalid-cron"), ("/on/type", "invalid-type"),
        ("/steps/0/x", "invalid-expression"), ("/steps/0/y", "invalid-expression"), ("/steps/1/when", "type"),
        ("/steps/1/x", "unknown-field"), ("/steps/2/until", "invalid-expression"), ("/outputs/x", "unknown-field"),
    ]  # fmt: skip


def test_what_is_given_to_a_start_is_not_held_against_inputs_that_are_wrong_themselves() -> None:
    raw = {"target": "t", "inputs": {"properties": 5}, "steps": [{"action": "a", "x": "${{ inputs.nowhere }}"}]}
    assert found(raw) == [("/inputs/properties", "invalid-schema")]


def test_a_step_whose_id_is_in_doubt_may_be_the_very_one_that_is_meant() -> None:
    raw = {
        "target": "t",
        "steps": [{"action": "a", "id": 5}, {"action": "b", "x": "${{ steps.build.result }}", "y": "${{ no.x }}"}],
    }
    assert found(raw) == [("/steps/0/id", "type"), ("/steps/1/y", "invalid-expression")]


@pytest.mark.parametrize(
    ("steps", "pointer", "code"),
    [
        ([{"action": "a", "depends_on": ["b"]}, {"action": "b"}], "/steps/0/depends_on", "cycle"),
        ([{"action": "a"}, {"action": "b", "depends_on": ["x"]}], "/steps/1/depends_on/0", "unknown-step"),
        ([{"action": "a"}, {"action": "b", "depends_on": "a"}], "/steps/1/depends_on", "type"),
        ([{"action": "a"}, {"action": "a", "id": "a"}, {"action": "b", "id": "a"}], "/steps/2/id", "duplicate-id"),
    ],
)
def test_what_comes_before_what_is_not_judged_where_it_is_in_doubt(steps: list[Any], pointer: str, code: str) -> None:
    last = {
        "action": "c",
        "id": "c",
        "x": "${{ steps.a.result + steps.b.result }}",
        "y": "${{ steps.z.result }}",
        "depends_on": [],
    }
    faults = found({"target": "t", "steps": [*steps, last]})
    assert faults[0] == (pointer, code)
    assert {one for one in faults[1:] if one[1] == "forward-reference"} == set()
    assert (f"/steps/{len(steps)}/y", "unknown-step") in faults


def test_what_comes_before_what_is_judged_where_other_things_are_wrong() -> None:
    raw = {"target": 5, "steps": [{"action": "a", "x": "${{ steps.b.result }}"}, {"action": "b"}]}
    assert found(raw) == [("/target", "type"), ("/steps/0/x", "forward-reference")]


def test_an_items_name_is_known_in_a_loop_whose_items_are_wrong() -> None:
    raw = {"target": "t", "steps": [{"action": "a", "foreach": 5, "x": "${{ item.name }}"}]}
    assert found(raw) == [("/steps/0/foreach", "type")]


def test_what_holds_a_secret_is_not_looked_into_any_further() -> None:
    raw = {"target": "t", "steps": [{"action": "a", "password": "${{ hunter", "x": "${{ nobody.x }}"}]}
    assert found(raw) == [("/steps/0/password", "secret"), ("/steps/0/x", "invalid-expression")]


@pytest.mark.parametrize("raw", [None, 5, "x", [], {"steps": 5}, {"steps": {"a": 1}}, {"steps": [5, None, "x"]}, {"outputs": 5}])
def test_nothing_of_the_right_shape_is_judged_to_its_end_all_the_same(raw: Any) -> None:
    assert found(raw)
    assert found({"outputs": {"x": "${{ steps.a.result + nobody.x }}"}, **raw} if isinstance(raw, dict) else raw)


def test_what_is_too_large_or_cannot_be_stored_is_not_looked_into() -> None:
    expression = {"action": "a", "x": "${{ nobody.x }}"}
    deep: Any = "${{ nobody.x }}"
    for _ in range(10):
        deep = [deep]
    assert found({"target": "t", "steps": [{**expression, "n": 2**70}]}) == [("/steps/0/n", "unstorable")]
    assert found({"target": "t", "steps": [{**expression, "n": "\ud800"}]}) == [("/steps/0/n", "unstorable")]
    assert ("/steps/0/x", "invalid-expression") not in found({"target": "t", "steps": [{**expression, "n": deep}]}, SMALL)


def test_no_more_than_a_hundred_faults_are_told() -> None:
    raw = {"target": "t", "steps": [{"action": "a", "id": f"s{n}", "retry": 0, "x": "${{ nobody.x }}"} for n in range(70)]}
    faults = found(raw)
    assert len(faults) == 100
    assert faults[69:71] == [("/steps/69/retry", "invalid-number"), ("/steps/0/x", "invalid-expression")]
    raw["steps"] = [{"action": "a", "id": f"s{n}", "retry": 0, "x": "${{ nobody.x }}"} for n in range(120)]
    assert found(raw)[-1] == ("", "more-faults")


_WORDS = st.sampled_from(
    ["a", "b", "${{ steps.a.result }}", "${{ item }}", "${{", "inputs.x", "wait", "any", "continue", 0, 5, True, None]
)
_VALUES = st.recursive(_WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["action", "for", "until", "zone", "name", "items", "total", "x"]), inner, max_size=3,
), max_leaves=5)  # fmt: skip
_STEPS = st.dictionaries(
    st.sampled_from([
        "action", "id", "depends_on", "when", "join", "wait", "approval", "signal", "foreach", "workflow", "retry", "timeouts",
        "fallback", "compensate", "concurrency", "on_failure", "until", "for", "x",
    ]),
    _VALUES, max_size=5,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["target", "inputs", "outputs", "schedule", "on", "timeout"]), _VALUES, max_size=4),
    st.lists(_STEPS | _WORDS, max_size=4) | _VALUES,
)
def test_whatever_is_written_is_judged_or_refused_with_pointers_to_what_is_there(whole: dict[str, Any], steps: Any) -> None:
    raw = {"target": "t", **whole, "steps": steps}
    try:
        checked_definition(raw, CATALOGUE, RULES, prefix="/definition")
    except DefinitionInvalid as refusal:
        assert refusal.faults
        assert all(fault.pointer.startswith("/definition") and fault.detail for fault in refusal.faults)
