# intent_ref: commands.expressions
"""From a tree to a function of its variables, with CEL's semantics and every bit of work counted.

Without a loop the work of an expression is bounded by its length and the size of what it reads. A loop pays for its body on
every round; what makes or compares values of any size pays by that size (`Run.charge`). The count depends on nothing but the
expression and its variables, so what ends here ends the same way on every machine and in every replay.
"""

import operator
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from math import inf, isnan, nan
from typing import Any

from commands.expressions.faults import EvaluationFault
from commands.expressions.functions import FUNCTIONS
from commands.expressions.syntax import Binary, Call, Choice, Constant, Has, Index, ListOf, Loop, MapOf, Name, Node, Select, Unary
from commands.expressions.values import Run, are_equal, check_is_whole, integer, kind_of

Evaluate = Callable[[Run], Any]

_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NUMBERS = (int, float)
_ABSENT = object()


def evaluator(node: Node) -> Evaluate:
    """The function that evaluates a tree; it raises `EvaluationFault` and `WorkExceeded`."""
    match node:
        case Constant(value=value):
            return lambda run: value
        case Name(name=name):
            return _variable(name)
        case Select() | Index(key=Constant()):
            return _path(node)
        case Index(operand=operand, key=key):
            of, at = evaluator(operand), evaluator(key)
            return lambda run: _element(of(run), at(run))
        case Has(operand=operand, field=field):
            return _has(evaluator(operand), field)
        case Call(function=function, arguments=arguments):
            return _call(function, [evaluator(argument) for argument in arguments])
        case Loop():
            return _loop(node)
        case Unary(operator=sign, operand=operand):
            return _not(evaluator(operand)) if sign == "!" else _minus(evaluator(operand))
        case Binary(operator=sign, left=left, right=right):
            return _binary(sign, evaluator(left), evaluator(right))
        case Choice(condition=condition, then=then, otherwise=otherwise):
            return _choice(evaluator(condition), evaluator(then), evaluator(otherwise))
        case ListOf(items=items):
            parts = [evaluator(item) for item in items]
            return lambda run: [part(run) for part in parts]
        case MapOf(items=pairs):
            return _map([(evaluator(key), evaluator(value)) for key, value in pairs])
        case _:
            raise AssertionError(f"no evaluation of {type(node).__name__}")


def _variable(name: str) -> Evaluate:
    def value(run: Run) -> Any:
        try:
            return run.variables[name]
        except KeyError:
            raise EvaluationFault(f"There is no {name!r} here.") from None

    return value


def _path(node: Node) -> Evaluate:
    """Fields and fixed elements in a row, in one function: what most expressions are."""
    keys: list[str | int] = []
    while isinstance(node, Select) or (isinstance(node, Index) and isinstance(node.key, Constant)):
        keys.append(node.field if isinstance(node, Select) else node.key.value)  # type: ignore[attr-defined]
        node = node.operand
    keys.reverse()
    start = evaluator(node)

    def value(run: Run) -> Any:
        found = start(run)
        for key in keys:
            is_there = type(found) is dict and type(key) is str and key in found
            found = found[key] if is_there else _element(found, key)
        return found

    return value


def _element(value: Any, key: Any) -> Any:
    kind = type(value)
    if kind is dict:
        if type(key) is not str:
            raise EvaluationFault(f"An object's field is named by a text, not by {kind_of(key)}.")
        if key not in value:
            check_is_whole(value)
            raise EvaluationFault(f"There is no field {key[:100]!r}; `has(object.field)` asks whether there is.")
        return value[key]
    if kind is list:
        if type(key) is float and key.is_integer():
            key = int(key)
        if type(key) is not int:
            raise EvaluationFault(f"An element of a list is named by a whole number, not by {kind_of(key)}.")
        if not 0 <= key < len(value):
            raise EvaluationFault(f"There is no element {key} in a list of {len(value):,}.")
        return value[key]
    shown = f"{key[:100]!r}" if type(key) is str else "such an element"
    raise EvaluationFault(f"{kind_of(value).capitalize()} has no {shown}.")


def _has(of: Evaluate, field: str) -> Evaluate:
    def value(run: Run) -> bool:
        found = of(run)
        if type(found) is not dict:
            raise EvaluationFault(f"`has` asks an object for a field, not {kind_of(found)}.")
        if field not in found:
            check_is_whole(found)
        return field in found

    return value


def _call(name: str, arguments: list[Evaluate]) -> Evaluate:
    function, _, _ = FUNCTIONS[name]
    if len(arguments) == 1:
        only = arguments[0]
        return lambda run: function(run, only(run))
    return lambda run: function(run, *[argument(run) for argument in arguments])


def _boolean(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise EvaluationFault(f"{where} needs true or false, and was given {kind_of(value)}.")
    return value


def _not(of: Evaluate) -> Evaluate:
    return lambda run: not _boolean(of(run), "`!`")


def _minus(of: Evaluate) -> Evaluate:
    def value(run: Run) -> Any:
        found = of(run)
        if type(found) is int:
            return integer(-found)
        if type(found) in (float, timedelta):
            return -found
        raise EvaluationFault(f"`-` needs a number, and was given {kind_of(found)}.")

    return value


def _choice(condition: Evaluate, then: Evaluate, otherwise: Evaluate) -> Evaluate:
    return lambda run: then(run) if _boolean(condition(run), "`? :`") else otherwise(run)


def _map(pairs: list[tuple[Evaluate, Evaluate]]) -> Evaluate:
    def value(run: Run) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, item in pairs:
            name = key(run)
            if type(name) is not str:
                raise EvaluationFault(f"An object's key must be a text, not {kind_of(name)}.")
            if name in made:
                raise EvaluationFault(f"An object has the key {name[:100]!r} twice.")
            made[name] = item(run)
        return made

    return value


# -- operators


def _binary(sign: str, left: Evaluate, right: Evaluate) -> Evaluate:
    if sign in ("&&", "||"):
        return _decide(sign, left, right)
    if sign == "==":
        return lambda run: are_equal(run, left(run), right(run))
    if sign == "!=":
        return lambda run: not are_equal(run, left(run), right(run))
    if sign == "in":
        return lambda run: _is_in(run, left(run), right(run))
    if sign in _ORDER:
        compare = _ORDER[sign]
        return lambda run: _ordered(run, sign, compare, left(run), right(run))
    if sign == "+":
        return lambda run: _sum(run, left(run), right(run))
    if sign == "-":
        return lambda run: _difference(left(run), right(run))
    return lambda run: _product(sign, left(run), right(run))


def _decide(sign: str, left: Evaluate, right: Evaluate) -> Evaluate:
    """`&&` and `||`: the side that decides wins, whichever it is, even over a side that has no value."""
    decides = sign == "||"
    where = f"`{sign}`"

    def value(run: Run) -> bool:
        try:
            if _boolean(left(run), where) is decides:
                return decides
        except EvaluationFault:
            if _boolean(right(run), where) is decides:
                return decides
            raise
        return _boolean(right(run), where)

    return value


def _is_in(run: Run, item: Any, among: Any) -> bool:
    if type(among) is dict:
        check_is_whole(among)
        return type(item) is str and item in among
    if type(among) is list:
        return any(are_equal(run, item, other) for other in among)
    raise EvaluationFault(f"`in` looks into a list or an object, not {kind_of(among)}.")


def _ordered(run: Run, sign: str, compare: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    one, other = type(left), type(right)
    if one is str and other is str:
        run.charge_text(min(len(left), len(right)))
        return compare(left, right)
    if (one in _NUMBERS and other in _NUMBERS) or (one is other and one in (bool, datetime, timedelta)):
        return compare(left, right)
    raise _unfit(sign, left, right)


def _unfit(sign: str, left: Any, right: Any) -> EvaluationFault:
    hint = ""
    if {type(left), type(right)} & {str} and sign == "+":
        hint = " `string(…)` makes a text of a number."
    return EvaluationFault(f"`{sign}` cannot be used between {kind_of(left)} and {kind_of(right)}.{hint}")


def _sum(run: Run, left: Any, right: Any) -> Any:
    one, other = type(left), type(right)
    if one is int and other is int:
        return integer(left + right)
    if one in _NUMBERS and other in _NUMBERS:
        return float(left) + float(right)
    if one is str and other is str:
        run.charge_text(len(left) + len(right))
        return left + right
    if one is list and other is list:
        run.charge(len(left) + len(right))
        return left + right
    if (one is timedelta and other in (timedelta, datetime)) or (one is datetime and other is timedelta):
        return _in_time(operator.add, left, right)
    raise _unfit("+", left, right)


def _difference(left: Any, right: Any) -> Any:
    one, other = type(left), type(right)
    if one is int and other is int:
        return integer(left - right)
    if one in _NUMBERS and other in _NUMBERS:
        return float(left) - float(right)
    if one in (datetime, timedelta) and other in (one, timedelta):
        return _in_time(operator.sub, left, right)
    raise _unfit("-", left, right)


def _in_time(operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    try:
        return operation(left, right)
    except OverflowError:
        raise EvaluationFault("This time is outside of the years 1 to 9999.") from None


def _product(sign: str, left: Any, right: Any) -> Any:
    one, other = type(left), type(right)
    if one not in _NUMBERS or other not in _NUMBERS or (sign == "%" and float in (one, other)):
        raise _unfit(sign, left, right)
    if one is int and other is int:
        if sign == "*":
            return integer(left * right)
        if right == 0:
            raise EvaluationFault(f"`{sign}` by zero.")
        whole = abs(left) // abs(right)
        whole = whole if (left < 0) == (right < 0) else -whole
        return integer(whole) if sign == "/" else left - right * whole
    if sign == "*":
        return float(left) * float(right)
    if float(right) == 0.0:
        negative = str(float(right))[0] == "-"
        return nan if left == 0 or isnan(left) else (-inf if (left < 0) != negative else inf)
    return float(left) / float(right)


# -- loops


def _loop(node: Loop) -> Evaluate:
    over, variable = evaluator(node.over), node.variable
    first = evaluator(node.arguments[0])
    second = evaluator(node.arguments[1]) if len(node.arguments) > 1 else None
    price = 1 + sum(argument.size for argument in node.arguments)
    outcome = _outcome(node.kind, first, second)
    rounds_of = _rounds(node, price)

    def value(run: Run) -> Any:
        values = over(run)
        if type(values) not in (list, dict):
            raise EvaluationFault(f"`{node.kind}` goes over a list or an object, not {kind_of(values)}.")
        if type(values) is dict:
            check_is_whole(values)
        variables = run.variables
        before = variables.get(variable, _ABSENT)
        try:
            return outcome(run, rounds_of(run, values))
        finally:
            variables.pop(variable, None)
            if before is not _ABSENT:
                variables[variable] = before

    return value


def _rounds(node: Loop, price: int) -> Callable[[Run, Iterable[Any]], Iterable[Any]]:
    """Every element in turn, the loop's variable standing for it, and paid for."""

    def rounds(run: Run, values: Iterable[Any]) -> Iterable[Any]:
        for value in values:
            run.charge(price)
            run.variables[node.variable] = value
            yield value

    return rounds


def _outcome(kind: str, first: Evaluate, second: Evaluate | None) -> Callable[[Run, Iterable[Any]], Any]:
    match kind:
        case "map" if second is not None:
            return lambda run, rounds: [second(run) for _ in rounds if _boolean(first(run), "`map`")]
        case "map":
            return lambda run, rounds: [first(run) for _ in rounds]
        case "filter":
            return lambda run, rounds: [value for value in rounds if _boolean(first(run), "`filter`")]
        case "exists_one":
            return lambda run, rounds: sum([_boolean(first(run), "`exists_one`") for _ in rounds]) == 1
        case "all" | "exists":
            return lambda run, rounds: _quantify(rounds, first, run, kind)
        case _ as other:
            raise AssertionError(f"no loop {other}")


def _quantify(rounds: Iterable[Any], holds: Evaluate, run: Run, kind: str) -> bool:
    """`all` and `exists`: an element that decides wins over those without a value, as with `&&` and `||`."""
    decides, failed = kind == "exists", None
    for _ in rounds:
        try:
            if _boolean(holds(run), f"`{kind}`") is decides:
                return decides
        except EvaluationFault as fault:
            failed = failed or fault
    if failed is not None:
        raise failed
    return not decides
