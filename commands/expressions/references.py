# intent_ref: commands.expressions
"""What an expression refers to, found in its tree: the names, the steps, the inputs, and the rules for each."""

from difflib import get_close_matches
from typing import Any, Literal

from commands.expressions.faults import SyntaxFault
from commands.expressions.functions import FUNCTIONS
from commands.expressions.syntax import (
    Binary,
    Call,
    Choice,
    Constant,
    Has,
    Index,
    ListOf,
    Loop,
    MapOf,
    Name,
    Node,
    Select,
    Unary,
    children,
)  # fmt: skip
from domain.immutable import immutable

VARIABLES = frozenset({"inputs", "steps", "execution", "tenant", "item", "index", "event", "schedule"})
Type = Literal["boolean", "number", "text", "list", "object", "null", "time"]

_RESULTS: dict[str, Type] = {
    "size": "number", "contains": "boolean", "startsWith": "boolean", "endsWith": "boolean", "matches": "boolean",
    "lowerAscii": "text", "upperAscii": "text", "trim": "text", "split": "list", "join": "text", "replace": "text",
    "substring": "text", "int": "number", "double": "number", "string": "text", "bool": "boolean", "timestamp": "time",
    "duration": "time",
}  # fmt: skip


@immutable
class Reference:
    """A variable of the outside and the fields asked of it, as far as they are fixed; `is_asked` for the last one in `has(…)`."""

    name: str
    fields: tuple[str, ...]
    at: int
    is_asked: bool = False


def references_of(tree: Node) -> list[Reference]:
    """Every reference to a variable from outside, and every call judged; raises `SyntaxFault` for what can never work."""
    found: list[Reference] = []
    left: list[tuple[Node, frozenset[str]]] = [(tree, frozenset())]
    while left:
        node, bound = left.pop()
        chain = _chain(node, bound)
        if chain is not None:
            reference, rest = chain
            found.append(_judged(reference))
            left.extend((part, bound) for part in rest)
            continue
        if isinstance(node, Call):
            _judge_call(node)
        if isinstance(node, Loop):
            if node.variable in VARIABLES:
                raise SyntaxFault(f"A loop's variable cannot be named {node.variable!r}, which means something else.", node.at)
            left.append((node.over, bound))
            left.extend((argument, bound | {node.variable}) for argument in node.arguments)
        else:
            left.extend((child, bound) for child in children(node))
    found.sort(key=lambda reference: reference.at)
    return found


def _chain(node: Node, bound: frozenset[str]) -> tuple[Reference, list[Node]] | None:
    """A chain of fields that starts at a variable from outside, and the indices in it that are expressions themselves."""
    fields: list[str] = []
    rest: list[Node] = []
    is_asked = isinstance(node, Has)
    while isinstance(node, Select | Has | Index):
        if isinstance(node, Index):
            key = node.key
            if isinstance(key, Constant) and type(key.value) is str:
                fields.append(key.value)
            else:
                rest.append(key)
                fields.clear()
                is_asked = False
        else:
            fields.append(node.field)
        node = node.operand
    if not isinstance(node, Name) or node.name in bound:
        return None
    return Reference(node.name, tuple(reversed(fields)), node.at, is_asked), rest


def _judged(reference: Reference) -> Reference:
    if reference.name == "steps" and not reference.fields:
        raise SyntaxFault('A step is named in full: `steps.build.result`, or `steps["build-image"].result`.', reference.at)
    return reference


def _judge_call(node: Call) -> None:
    known = FUNCTIONS.get(node.function)
    if known is None:
        near = get_close_matches(node.function[:64], FUNCTIONS, 1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise SyntaxFault(f"There is no function `{node.function[:64]}`.{hint}", node.at)
    _, fewest, most = known
    if not fewest <= len(node.arguments) <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} or {most}"
        raise SyntaxFault(
            f"`{node.function}` takes {wanted} values, what it is called on included, not {len(node.arguments)}.", node.at
        )


def type_of(node: Node) -> Type | None:
    """What an expression is bound to give, None where that depends on what it reads."""
    match node:
        case Constant(value=value):
            return _type_of_constant(value)
        case Has() | Unary(operator="!"):
            return "boolean"
        case Loop(kind=kind):
            return "list" if kind in ("map", "filter") else "boolean"
        case Call(function=function):
            return _RESULTS.get(function, "number" if function.startswith("get") else None)
        case Binary(operator=sign, left=left, right=right):
            if sign in ("+", "-"):
                return type_of(left) or type_of(right)
            return "number" if sign in ("*", "/", "%") else "boolean"
        case Choice(then=then, otherwise=otherwise):
            one = type_of(then)
            return one if one == type_of(otherwise) else None
        case ListOf():
            return "list"
        case MapOf():
            return "object"
        case _:
            return None


def _type_of_constant(value: Any) -> Type:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"
