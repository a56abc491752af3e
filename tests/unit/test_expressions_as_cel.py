# intent_ref: commands.expressions
"""Our expressions mean what they mean to another implementation of CEL, wherever that one gives an answer.

What is left out on purpose: integers and reals in one sum (CEL refuses, we give a real), `size` of texts outside of ASCII (that
implementation counts bytes), and objects with keys other than texts.
"""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from commands.expressions import ExpressionFailed, evaluate

cel = pytest.importorskip("cel", reason="common-expression-language is not installed")

SCOPE: dict[str, Any] = {
    "inputs": {
        "n": 3,
        "m": -7,
        "r": 1.5,
        "t": "abc",
        "b": True,
        "z": None,
        "l": [3, 1, 2],
        "o": {"k": "v", "n": 1},
        "s": ["a", "b"],
    }
}


def written(form: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda found: form.format(*found))


Kinds = dict[str, st.SearchStrategy[str]]
LEAVES: Kinds = {
    "integer": st.sampled_from(["0", "1", "2", "-3", "9223372036854775807", "inputs.n", "inputs.m", "inputs.l[0]", "inputs.o.n"]),
    "real": st.sampled_from(["0.0", "1.5", "-2.5", "1e3", "inputs.r"]),
    "text": st.sampled_from(["''", "'a'", '"abc"', "r'\\d'", "'\\x41'", "inputs.t", "inputs.o.k", "inputs.s[1]"]),
    "truth": st.sampled_from(["true", "false", "inputs.b", "has(inputs.q)", "has(inputs.o.k)", "(inputs.q == 1)"]),
    "list": st.sampled_from(["[]", "[1, 2]", "inputs.l", "[3, -1]"]),
    "other": st.sampled_from(["null", "inputs.z", "inputs.o", "[[1], 'a', null]"]),
}


def one_level_up(kinds: Kinds) -> Kinds:
    """Expressions of every kind whose parts are of the kinds given."""
    integer, real, text, truth, many = (kinds[kind] for kind in ("integer", "real", "text", "truth", "list"))
    anything = st.one_of(*kinds.values())
    return {
        "integer": st.one_of(
            integer, *[written(f"({{}} {sign} {{}})", integer, integer) for sign in "+-*/%"], written("-({})", integer),
            written("size({})", many), written("int({})", real), written("{}[1]", many), written("{}.size()", text),
            written("({} ? {} : {})", truth, integer, integer),
        ),
        "real": st.one_of(
            real, *[written(f"({{}} {sign} {{}})", real, real) for sign in "+-*/"], written("double({})", integer),
        ),
        "text": st.one_of(
            text, written("({} + {})", text, text), written("string({})", integer), written("string({})", truth),
        ),
        "truth": st.one_of(
            truth,
            *[written(f"({{}} {sign} {{}})", kind, kind) for sign in ("==", "!=", "<", "<=") for kind in (integer, real, text)],
            *[written(f"({{}} {sign} {{}})", truth, truth) for sign in ("&&", "||", "==", "!=")],
            written("({} < {})", integer, real), written("({} == {})", anything, anything), written("!{}", truth),
            written("({} in {})", integer, many), written("{}.contains({})", text, text), written("({} in inputs.o)", text),
            *[written(f"{{}}.{kind}(x, {{}})", many, truth) for kind in ("all", "exists", "exists_one")],
            *[written(f"{{}}.{kind}(x, x > {{}})", many, integer) for kind in ("all", "exists", "exists_one")],
        ),
        "list": st.one_of(
            many, written("[{}, {}]", integer, integer), written("({} + {})", many, many),
            written("{}.map(x, {})", many, integer), written("{}.map(x, x + {})", many, integer),
            written("{}.filter(x, x != {})", many, integer), written("{}.map(x, {}, x)", many, truth),
            written("{}.map(x, {}.map(y, x * y))[0]", many, many),
        ),
        "other": kinds["other"],
    }  # fmt: skip


expressions = st.one_of(*one_level_up(one_level_up(one_level_up(LEAVES))).values())


def theirs(expression: str) -> Any:
    """The other implementation's answer; no example where it has none that is JSON."""
    try:
        found = cel.evaluate(expression, SCOPE)
    except Exception:
        assume(False)
    assume(is_plain(found))
    return found


def is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | str)


@given(expressions)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_where_another_implementation_has_a_value_ours_is_the_same(expression: str):
    expected = theirs(expression)
    try:
        found = evaluate("${{ " + expression + " }}", SCOPE)
    except ExpressionFailed as failure:
        raise AssertionError(f"{expression} is {expected!r}; we say: {failure.message}") from failure
    assert repr(found) == repr(expected)
