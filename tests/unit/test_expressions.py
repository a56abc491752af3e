# intent_ref: commands.expressions
"""Templates and conditions have the values that CEL says, and nothing but the scope can be seen by them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.expressions import ExpressionFailed, compile_value, condition, evaluate

SCOPE: dict[str, Any] = {
    "inputs": {"n": 3, "ratio": 1.5, "name": "Zoë", "on": True, "none": None, "list": [3, 1, 2], "tags": {"a": "x", "b-c": "y"}},
    "steps": {
        "build": {"result": {"image": "registry/app:1", "sizes": [1, 2.5]}, "status": "completed", "error": None},
        "build-image": {"result": [10, 20], "status": "failed", "error": {"code": "timeout"}},
    },
    "execution": {"id": "e-1", "intent_name": "deploy", "version": 2, "started_at": "2026-03-01T10:00:00Z", "target": "prod"},
    "tenant": {"id": "tenant-123"},
}


def value_of(expression: str) -> Any:
    return evaluate("${{ " + expression + " }}", SCOPE)


def message_of(expression: str) -> str:
    with pytest.raises(ExpressionFailed) as raised:
        value_of(expression)
    return raised.value.message


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.n", 3),
        ("inputs.ratio", 1.5),
        ("inputs.none", None),
        ("inputs.on", True),
        ("inputs.list", [3, 1, 2]),
        ('inputs.tags["b-c"]', "y"),
        ("inputs.list[inputs.list[1]]", 1),
        ("steps.build.result.image", "registry/app:1"),
        ('steps["build-image"].result[1]', 20),
        ('steps["build-image"].error.code', "timeout"),
        ("execution.version + 1", 3),
        ("tenant.id", "tenant-123"),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 - 2 - 1", 4),
        ("7 / 2.0", 3.5),
        ("inputs.n + inputs.ratio", 4.5),
        ("2.0", 2.0),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("-9223372036854775808", -(2**63)),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("[1, [true]] == [1.0, [1]]", False),
        ('{"a": 1} == {"a": 1.0}', True),
        ('"a" + "b"', "ab"),
        ("[1] + [2]", [1, 2]),
        ("2 in inputs.list", True),
        ('"a" in inputs.tags', True),
        ("true in [1]", False),
        ("inputs.n > 2 ? 'big' : 'small'", "big"),
        ("has(inputs.n) && !has(inputs.m)", True),
        ("has(inputs.m) ? inputs.m : 7", 7),
        ("inputs.m || true", True),
        ("true || inputs.m", True),
        ("inputs.m && false", False),
        ("size(inputs.name)", 3),
        ("inputs.list.size() + size(inputs.tags)", 5),
        ("inputs.list.map(x, x * 2)", [6, 2, 4]),
        ("inputs.list.map(x, x > 1, x)", [3, 2]),
        ("inputs.list.filter(x, x != 1)", [3, 2]),
        ("inputs.list.all(x, x > 0)", True),
        ("inputs.list.exists(x, x == 9)", False),
        ("inputs.list.exists_one(x, x == 1)", True),
        ("[1, 'a'].exists(x, x == 'a' || x > 5)", True),
        ("[[1, 2], [3]].map(x, x.map(y, y + x[0]))", [[2, 3], [6]]),
        ("[1, 2].map(x, [10].map(x, x)[0] + x)", [11, 12]),
        ("inputs.tags.map(k, k)", ["a", "b-c"]),
        ('{"a": {"b": [1, null]}}', {"a": {"b": [1, None]}}),
        ('"Zoë".startsWith("Z") && "Zoë".endsWith("ë") && "Zoë".contains("o")', True),
        (r'"v1.2".matches("^v[0-9]+\\.[0-9]+$")', True),
        (r'"v1x2".matches(r"^v\d\.\d$")', False),
        ('" A b ".trim().lowerAscii() + "c".upperAscii()', "a bC"),
        ('"a,b".split(",").join("+")', "a+b"),
        ('"aXbX".replace("X", "-")', "a-b-"),
        ('"registry/app".substring(9)', "app"),
        ('int("42") + int(1.9) + int(true ? 1 : 0)', 44),
        ('double("1.5")', 1.5),
        ('string(1) + string(1.5) + string(2.0) + string(true)', "11.52true"),
        ('bool("true")', True),
        ('timestamp("2026-01-01T01:00:00+02:00")', "2025-12-31T23:00:00Z"),
        ('timestamp(execution.started_at) + duration("1h30m")', "2026-03-01T11:30:00Z"),
        ('timestamp(execution.started_at).getMonth()', 2),
        ('duration("90s")', "90s"),
        ('duration("-1.5s")', "-1.5s"),
        ('timestamp("2026-01-02T00:00:00Z") - timestamp("2026-01-01T00:00:00Z") > duration("23h")', True),
        ('"\\u00e9\\n\\x41\\101"', "é\nAA"),
        ("r'\\n'", "\\n"),
        ("'''a\n'b'''", "a\n'b"),
        ('"}}"', "}}"),
        ("// a remark\n 1", 1),
        ('"${{"', "${{"),
    ],
)  # fmt: skip
def test_an_expression_has_its_value(expression: str, value: Any):
    found = value_of(expression)
    assert (found, type(found)) == (value, type(value))


def test_a_text_with_more_around_has_the_values_put_in():
    text = (
        "v${{ inputs.n }}-${{inputs.name}} ${{ inputs.list }} ${{ inputs.none }} ${{ inputs.on }} ${{ 2.0 }} ${{ inputs.tags }}"
    )
    assert evaluate(text, SCOPE) == 'v3-Zoë [3,1,2] null true 2.0 {"a":"x","b-c":"y"}'
    assert evaluate("${{ inputs.n }} ", SCOPE) == "3 "


def test_values_are_found_wherever_they_are_and_the_rest_is_left_alone():
    value = {"a": ["${{ inputs.n }}", {"b": "${{ tenant.id }}", "${{ key }}": "as it is"}], "c": {"d": [1, 2.0, None]}}
    before = json.dumps(value)
    assert evaluate(value, SCOPE) == {"a": [3, {"b": "tenant-123", "${{ key }}": "as it is"}], "c": {"d": [1, 2.0, None]}}
    assert json.dumps(value) == before
    assert evaluate(value, {**SCOPE, "inputs": {"n": 4}})["a"][0] == 4


def test_what_a_value_refers_to_is_known_before_it_is_evaluated():
    compiled = compile_value({"a": '${{ steps.build.result + steps["build-image"].result[0] }}', "b": "x ${{ has(inputs.n) }}"})
    assert compiled.references == {"build", "build-image"}
    assert compiled.input_names == {"n"}
    assert not compiled.is_constant
    assert compile_value({"a": 1}).is_constant
    assert compile_value("${{ inputs.list.map(inputx, inputx) }}").input_names == {"list"}


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("inputs.m", "no field 'm'"),
        ("inputs.n.m", "A number has no 'm'"),
        ("inputs.list[3]", "no element 3"),
        ("inputs.list['a']", "whole number"),
        ("steps.test.result", "no field 'test'"),
        ("item", "no 'item' here"),
        ("1 / 0", "by zero"),
        ("9223372036854775807 + 1", "64 bits"),
        ("9223372036854775808", "64 bits"),
        ("'a' + 1", "`string(…)`"),
        ("1 < 'a'", "between a number and a text"),
        ("!1", "true or false"),
        ("1 ? 2 : 3", "true or false"),
        ("true && 1", "true or false"),
        ("1.0 / 0.0", "not finite"),
        ("[0.0 / 0.0]", "not finite"),
        ('"\\x00"', "NUL"),
        ("{1: 2}", "must be a text"),
        ("{'a': 1, 'a': 2}", "twice"),
        ("foo(1)", "no function `foo`"),
        ("sise(inputs.name)", "Did you mean `size`"),
        ("size(1, 2)", "takes 1"),
        ("size(1)", "needs a text"),
        ("[1].map(1, 2)", "a name for the element"),
        ("[1].map(inputs, 2)", "means something else"),
        ("has(inputs)", "has(object.field)"),
        ("1u", "unsigned"),
        ("b'a'", "bytes"),
        ("steps", "named in full"),
        ("steps[inputs.name].result", "named in full"),
        ("inputs.list.0", "[0]"),
        ("Some{a: 1}", "no messages"),
        ("a.b", "no variable 'a'"),
        ("__import__('os')", "no function"),
        ("1 +", "ends"),
        ("", "no expression"),
        ("1 2", "cannot go on"),
        ("'abc", "not closed"),
        ("#", "cannot have '#'"),
        ("if", "reserved"),
        (r"'\q'", "no escape"),
        (r"'\ud800'", "no character"),
        ("'x'.matches('(')", "no regular expression"),
        ("'x'.matches('(?=a)')", "no regular expression"),
        ("timestamp('yesterday')", "RFC 3339"),
        ("timestamp('9999-12-31T23:59:59-01:00')", "RFC 3339"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('9999h')", "years"),
        ("duration('soon')", "span"),
        ("int('1x')", "cannot make"),
        ("int(1e300)", "cannot make"),
        ("'abc'.substring(2, 1)", "outside"),
    ],
)  # fmt: skip
def test_what_has_no_value_says_why(expression: str, says: str):
    assert says in message_of(expression)


def test_a_failure_says_which_text_of_the_value_it_was():
    with pytest.raises(ExpressionFailed) as raised:
        evaluate({"a/b": [1, "x ${{ inputs.m }}"]}, SCOPE)
    assert raised.value.pointer == "/a~1b/1"
    assert "`inputs.m`" in raised.value.message


@pytest.mark.parametrize("text", ["${{", "a ${{ inputs.n }", "${{ '}}", "${{ {'a': 1 }}", "${{ }}"])
def test_a_template_that_does_not_close_is_a_failure(text: str):
    with pytest.raises(ExpressionFailed):
        evaluate(text, SCOPE)


@pytest.mark.parametrize("text", ["inputs.n == 3", "${{ inputs.n == 3 }}", " ${{inputs.on}} ", "inputs.on"])
def test_a_condition_may_be_bare_or_a_template(text: str):
    assert condition(text, SCOPE) is True


@pytest.mark.parametrize("text", ["inputs.n", "'true'", "inputs.none", "x ${{ true }}", "${{ true }}${{ true }}", "", "inputs.m"])
def test_a_condition_is_true_or_false_and_nothing_else(text: str):
    with pytest.raises(ExpressionFailed):
        condition(text, SCOPE)


@pytest.mark.parametrize(
    "expression",
    [
        "inputs.__class__", "inputs.name.__len__", 'inputs["__dict__"]', "inputs.list.append", "inputs.name.format(1)",
        "tenant.__init__", "run", "variables", "globals()", "open('/etc/passwd')", "inputs.tags.keys()", "env", "os.environ",
        "execution.tenant", "tenants", 'steps["build"].__class__', "inputs.tags.items", "type(inputs)",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_scope_can_be_reached(expression: str):
    message_of(expression)


def test_what_is_no_json_in_the_scope_never_comes_out():
    class Secret:
        field = "value"

    for planted in (Secret(), Secret, {1, 2}, b"bytes", ("a",), object()):
        scope = {"inputs": {"x": planted}}
        for expression in ("inputs.x", "[inputs.x]", "inputs.x.field", "string(inputs.x)", "inputs.x + ''", "{'a': inputs.x}"):
            with pytest.raises(ExpressionFailed):
                evaluate("${{ " + expression + " }}", scope)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_a_value_without_an_expression_comes_back_as_it_is(value: Any):
    if "${{" not in json.dumps(value, ensure_ascii=False):
        assert evaluate(value, {}) is value


@given(json_values)
def test_what_is_read_is_what_was_there(value: Any):
    if "\\u0000" not in json.dumps(value):
        assert evaluate("${{ inputs.x }}", {"inputs": {"x": value}}) == value
        assert evaluate({"a": ["${{ inputs.x }}"]}, {"inputs": {"x": value}}) == {"a": [value]}


WORDS = (
    "inputs steps . [ ] ( ) { } , : ? + - * / % ! == != < <= && || in true null 1 2.5 0 'a' has size map all exists filter x "
    "inputs.list steps.build.result matches string timestamp duration }} ${{ // \n r'\\d' é"
)
words = st.sampled_from(WORDS.split(" "))


@given(st.text(max_size=60) | st.lists(words, max_size=25).map(" ".join) | st.lists(words, max_size=25).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_value_or_fails_with_a_sentence(text: str):
    for whole in ("${{ " + text + " }}", text, "${{" + text):
        try:
            json.dumps(evaluate(whole, SCOPE), allow_nan=False)
        except ExpressionFailed as failure:
            assert failure.message.strip()
    try:
        assert type(condition(text, SCOPE)) is bool
    except ExpressionFailed as failure:
        assert failure.message.strip()
