# intent_ref: commands.expressions
"""A hostile expression ends soon, with a sentence, and ends the same way each time."""

import sys
import threading
from typing import Any

import pytest

from commands.expressions import ExpressionFailed, evaluate, expression_faults
from commands.expressions.faults import WORK_MAX
from commands.expressions.templates import read_expression
from commands.expressions.values import Run

NUMBERS = list(range(50_000))
TEXT = "x" * 200_000
DEEP: Any = 1
for _ in range(60):
    DEEP = [DEEP]
SCOPE: dict[str, Any] = {"inputs": {"numbers": NUMBERS, "text": TEXT, "deep": DEEP, "n": 1}}

HOSTILE = {
    "loops in loops": "inputs.numbers.all(x, inputs.numbers.all(y, x + y >= 0))",
    "three loops": "[1,2,3,4,5,6,7,8,9].map(a, [1,2,3,4,5,6,7,8,9].map(b, inputs.numbers.map(c, c)))",
    "doubling a text": '["0123456789"]' + ".map(a, a + a)" * 60,
    "doubling a list": "[[1]]" + ".map(a, a + a)" * 60,
    "doubling what is shown": "[1]" + ".map(a, [a, a])" * 60,
    "comparing what was doubled": "[1]" + ".map(a, [a, a])" * 40 + " == [1]" + ".map(a, [a, a])" * 40,
    "adding a long text": "inputs.text" + " + inputs.text" * 60,
    "adding a long list": "inputs.numbers" + " + inputs.numbers" * 60,
    "looking for each": "inputs.numbers.all(x, x in inputs.numbers)",
    "comparing long texts": "inputs.numbers.all(x, inputs.text == inputs.text)",
    "ordering long texts": "inputs.numbers.all(x, inputs.text <= inputs.text)",
    "searching a long text": "inputs.numbers.all(x, !inputs.text.contains('xy'))",
    "beginnings": "inputs.numbers.all(x, inputs.text.startsWith(inputs.text))",
    "replacing by more": "inputs.text.replace('x', '" + "y" * 1_000 + "')",
    "replacing between": "inputs.text.replace('', 'yyyyyy')",
    "splitting": "inputs.text.split('')",
    "joining": "inputs.numbers.map(x, inputs.text).join(',')",
    "many patterns": r"inputs.numbers.all(x, !'a'.matches('\\w{50}\\pL{20}' + string(x)))",
    "failing everywhere": "inputs.numbers.exists(x, inputs.numbers.exists(y, y.a))",
    "hiding the failure": "inputs.numbers.exists(x, x.a || inputs.numbers.map(z, z) == [])",
    "a result that is too large": "inputs.numbers.map(x, x)",
    "times": "inputs.numbers.map(x, string(timestamp(x)))",
    "wrapping": "inputs.deep" + ".map(x, [[x]])" * 30,
    "parentheses": "(" * 1_000 + "1" + ")" * 1_000,
    "brackets": "[" * 400 + "]" * 400,
    "braces": '{"a":' * 100 + "1" + "}" * 100,
    "signs": "-" * 900 + "inputs.n",
    "choices": "true?1:" * 200 + "1",
    "fields": "inputs" + ".a" * 400,
    "a long sum": "1" + "+1" * 450,
    "unclosed": "size(" * 200,
    "parts": "1" + ",1" * 2_000,
    "characters": "'" + "a" * 5_000 + "'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_expression_fails_with_a_sentence(name: str):
    failures = set()
    for _ in range(2):
        with pytest.raises(ExpressionFailed) as raised:
            evaluate("${{ " + HOSTILE[name] + " }}", SCOPE)
        failures.add(raised.value.message)
    assert len(failures) == 1


@pytest.mark.parametrize("pattern", ["(x|xx)+$y", "(.*x){20}y", "(x+x+)+y", r"(\\w{100}){5}"])
def test_no_pattern_takes_longer_than_the_text_is_long(pattern: str):
    assert evaluate("${{ inputs.text.matches('" + pattern + "') }}", {"inputs": {"text": "x" * 20_000}}) in (True, False)


def test_the_work_of_a_value_is_that_of_all_its_expressions():
    once = "${{ inputs.numbers.all(x, x >= 0) }}"
    short = {"inputs": {"numbers": NUMBERS[:20_000]}}
    assert evaluate(once, short) is True
    with pytest.raises(ExpressionFailed, match="units of work"):
        evaluate([once] * 20, short)


def test_work_depends_on_the_expression_and_its_values_alone():
    expression = read_expression("inputs.names.filter(n, n.matches('^a')).map(n, n + '!').join(',') != ''")
    spent = set()
    for _ in range(3):
        run = Run({"inputs": {"names": ["ab", "ba", "ac"]}})
        assert expression.evaluate(run) is True
        spent.add(WORK_MAX - run.left)
    assert len(spent) == 1


def test_a_value_has_a_limited_number_of_expressions():
    for value in (["${{ 1 }}"] * 201, "${{ 1 }}" * 201):
        with pytest.raises(ExpressionFailed, match="200"):
            evaluate(value, SCOPE)
        assert [fault.pointer.split("/")[1] for fault in expression_faults(
            "/p", value, step_ids=(), ancestors_of_step=None, inputs_schema=None, allows_item=False
        )] == ["p"]  # fmt: skip
    assert evaluate(["${{ 1 }}"] * 200, SCOPE) == [1] * 200


def test_the_largest_expression_needs_no_more_than_half_of_the_stack():
    """Evaluated where some hundred calls are under way already, as they are on an event loop."""
    deepest = "[1]" + ".map(x, x)" * 60
    nested = "[1].map(x, " * 22 + "1" + ")" * 22
    limit, outcome = sys.getrecursionlimit(), []

    def below(depth: int) -> None:
        if depth:
            below(depth - 1)
            return
        outcome.append((evaluate("${{ " + deepest + " }}", SCOPE), evaluate("${{ " + nested + " }}", SCOPE)))

    below(limit // 2 - 50)
    assert outcome[0][0] == [1]


def test_the_largest_expressions_fit_on_a_small_stack():
    """256 KiB, less than any platform gives a thread."""
    results: list[Any] = []
    before = threading.stack_size(262_144)
    try:
        thread = threading.Thread(target=lambda: results.append(evaluate("${{ 1" + " + 1" * 60 + " }}", SCOPE)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join(30)
    assert results == [61]
