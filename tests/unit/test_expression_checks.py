# intent_ref: commands.expressions
"""What is wrong with an expression is said when it is written, with its place."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.expressions import condition_faults, expression_faults
from domain.refusals import Fault

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"type": "object", "properties": {"cpu": {}}, "additionalProperties": False},
        "open": {"type": "object", "properties": {"known": {}}},
        "any": {"$ref": "#/$defs/any"},
    },
}
AROUND: dict[str, Any] = {
    "step_ids": ["build", "build-image", "test"],
    "ancestors_of_step": frozenset({"build", "build-image"}),
    "inputs_schema": SCHEMA,
    "allows_item": False,
}


def faults_of(value: Any, **around: Any) -> list[Fault]:
    return expression_faults("/definition/steps/0/parameters", value, **{**AROUND, **around})


@pytest.mark.parametrize(
    "expression",
    [
        "inputs.name", "inputs", "inputs.size.cpu", "inputs.open.other", "inputs.any.thing", "has(inputs.unknown)",
        "steps.build.result.anything", 'steps["build-image"].status', "steps.build.error", "execution.started_at", "tenant.id",
        "inputs[inputs.name]", "execution", "[1].map(y, y)", "1 + 1",
    ],
)  # fmt: skip
def test_what_can_have_a_value_has_no_fault(expression: str):
    assert faults_of({"a": ["${{ " + expression + " }}"]}) == []


@pytest.mark.parametrize(
    ("expression", "code", "says"),
    [
        ("inputs.nmae", "unknown-input", "Did you mean 'name'"),
        ("inputs.size.ram", "unknown-input", "`inputs.size` declares no 'ram'"),
        ("has(inputs.size.ram)", "unknown-input", "ram"),
        ("steps.biuld.result", "unknown-step", "Did you mean 'build'"),
        ("steps.test.result", "forward-reference", "depends_on"),
        ("steps.build.reslut", "unknown-field", "Did you mean 'result'"),
        ("steps.build-image.result", "invalid-expression", 'steps["build-image"]'),
        ("steps.build-build", "invalid-expression", "no variable"),
        ("execution.name", "unknown-field", "intent_name"),
        ("tenant.name", "unknown-field", "`id`"),
        ("item.name", "unknown-variable", "foreach"),
        ("event.data", "unknown-variable", "event"),
        ("config.x", "invalid-expression", "`inputs`"),
        ("name", "invalid-expression", "quotes"),
        ("1 +", "invalid-expression", "At character"),
        ("1 / 0", "invalid-expression", "never"),
        ("'a' + 1", "invalid-expression", "never"),
        ("steps", "invalid-expression", "in full"),
    ],
)
def test_what_cannot_have_a_value_says_where_and_why(expression: str, code: str, says: str):
    faults = faults_of({"a": ["x", "${{ " + expression + " }}"]})
    assert [(fault.pointer, fault.code) for fault in faults] == [("/definition/steps/0/parameters/a/1", code)]
    assert says in faults[0].detail


def test_every_fault_is_listed_and_no_more_than_twenty():
    assert len(faults_of(["${{ inputs.a }} ${{ steps.x.result }}", "${{ inputs.b }}"])) == 3
    assert len(faults_of(["${{ inputs.a }}"] * 100)) == 20


def test_an_expression_in_a_key_is_pointed_out():
    assert [(fault.pointer, fault.code) for fault in faults_of({"a": {"${{ inputs.name }}": 1}})] == [
        ("/definition/steps/0/parameters/a", "expression-in-key")
    ]


def test_an_item_is_there_within_a_loop():
    assert faults_of("${{ item.name }}-${{ index }}", allows_item=True) == []


def test_without_an_order_or_a_schema_neither_is_judged():
    assert faults_of("${{ steps.test.result }} ${{ inputs.x }}", ancestors_of_step=None, inputs_schema=None) == []
    assert faults_of("${{ inputs.x }}", inputs_schema={"properties": {"y": {}}, "additionalProperties": True}) == []
    assert faults_of("${{ inputs.x }}", inputs_schema={"additionalProperties": False})


@pytest.mark.parametrize(
    "text", ["inputs.name == 'a'", "${{ steps.build.status == 'completed' }}", "inputs.name", "true", "[1].all(x, x > 0)"]
)
def test_a_condition_that_may_hold_has_no_fault(text: str):
    assert condition_faults("/when", text, **AROUND) == []


@pytest.mark.parametrize(
    "text", ["1", "'true'", "inputs.name + 'x'", "[true]", "size(inputs.name)", "${{ null }}", "1 + 1", "true ? 1 : 2"]
)
def test_a_condition_that_can_never_be_true_or_false_is_a_fault(text: str):
    assert [(fault.pointer, fault.code) for fault in condition_faults("/when", text, **AROUND)] == [("/when", "type")]


@pytest.mark.parametrize("value", [True, None, 1, [], {}])
def test_a_condition_is_a_text(value: Any):
    assert [fault.code for fault in condition_faults("/when", value, **AROUND)] == ["type"]


@given(
    st.recursive(
        st.text(max_size=20).map(lambda text: "${{" + text + "}}") | st.none() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(deadline=None)
def test_any_value_can_be_judged(value: Any):
    for schema in (None, SCHEMA, {"properties": 7}, {"properties": {"x": True}, "additionalProperties": []}):
        for fault in faults_of(value, inputs_schema=schema):
            assert fault.pointer.startswith("/definition/steps/0/parameters")
            assert fault.detail
