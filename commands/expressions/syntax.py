# intent_ref: commands.expressions
"""From tokens to a tree: the grammar of CEL without messages, bytes and unsigned integers.

Every node knows how deep the tree below it is, so that neither reading nor evaluating can run out of stack.
"""

from collections.abc import Iterable
from typing import Any, Literal

from commands.expressions.faults import DEPTH_MAX, NESTING_MAX, SyntaxFault
from commands.expressions.lexer import INTEGER_MAX, Token
from domain.immutable import immutable

MACROS = {"all": (2,), "exists": (2,), "exists_one": (2,), "map": (2, 3), "filter": (2,)}
"""Loops over a list or an object's keys: `list.map(x, …)`; how many arguments each takes."""
RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "in", "let", "loop", "package", "namespace",
     "return", "var", "void", "while"}
)  # fmt: skip
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}
_BINARY: dict[str, int] = {
    "||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "in": 3, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5,
}  # fmt: skip


@immutable
class Node:
    """A part of an expression; `at` is its place in the text, `depth` the longest way down, `size` how many parts it has."""

    at: int
    depth: int
    size: int


@immutable
class Constant(Node):
    value: Any


@immutable
class Name(Node):
    name: str


@immutable
class Select(Node):
    operand: Node
    field: str


@immutable
class Has(Node):
    operand: Node
    field: str


@immutable
class Index(Node):
    operand: Node
    key: Node


@immutable
class Call(Node):
    function: str
    arguments: tuple[Node, ...]


@immutable
class Loop(Node):
    kind: str
    over: Node
    variable: str
    arguments: tuple[Node, ...]


@immutable
class Unary(Node):
    operator: Literal["-", "!"]
    operand: Node


@immutable
class Binary(Node):
    operator: str
    left: Node
    right: Node


@immutable
class Choice(Node):
    condition: Node
    then: Node
    otherwise: Node


@immutable
class ListOf(Node):
    items: tuple[Node, ...]


@immutable
class MapOf(Node):
    items: tuple[tuple[Node, Node], ...]


def children(node: Node) -> tuple[Node, ...]:
    """The parts right below a node, as they are written."""
    match node:
        case Select(operand=operand) | Has(operand=operand) | Unary(operand=operand):
            return (operand,)
        case Index(operand=operand, key=key):
            return (operand, key)
        case Call(arguments=arguments):
            return arguments
        case Loop(over=over, arguments=arguments):
            return (over, *arguments)
        case Binary(left=left, right=right):
            return (left, right)
        case Choice(condition=condition, then=then, otherwise=otherwise):
            return (condition, then, otherwise)
        case ListOf(items=items):
            return items
        case MapOf(items=pairs):
            return tuple(part for pair in pairs for part in pair)
        case _:
            return ()


def tree_of(tokens: list[Token]) -> Node:
    """The tree of an expression; raises `SyntaxFault`."""
    return _Reader(tokens).whole()


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._next, self._nesting = tokens, 0, 0

    def whole(self) -> Node:
        if len(self._tokens) == 1:
            raise SyntaxFault("There is no expression here.", 0)
        node = self._expression()
        if self._next < len(self._tokens) - 1:
            raise self._unexpected()
        return node

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _takes(self, mark: str) -> bool:
        if self._token.kind == "mark" and self._token.text == mark:
            self._next += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._takes(mark):
            raise self._unexpected(f"`{mark}`")

    def _unexpected(self, wanted: str = "") -> SyntaxFault:
        token = self._token
        found = "The expression ends" if token.kind == "end" else f"There is {token.text[:40]!r}"
        return SyntaxFault(f"{found} where {wanted or 'it cannot go on like this'}{' is expected' if wanted else ''}.", token.at)

    def _deeper(self) -> None:
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            raise SyntaxFault(f"The expression nests deeper than {NESTING_MAX} levels.", self._token.at)

    def _expression(self) -> Node:
        self._deeper()
        condition = self._binary(1)
        if self._takes("?"):
            then = self._expression()
            self._expect(":")
            otherwise = self._expression()
            condition = Choice(*_place(condition.at, (condition, then, otherwise)), condition, then, otherwise)
        self._nesting -= 1
        return condition

    def _binary(self, weakest: int) -> Node:
        left = self._unary()
        while True:
            token = self._token
            strength = _BINARY.get(token.text, 0) if token.kind in ("mark", "name") else 0
            if strength < weakest:
                return left
            self._next += 1
            right = self._binary(strength + 1)
            left = Binary(*_place(token.at, (left, right)), token.text, left, right)

    def _unary(self) -> Node:
        token = self._token
        if token.kind == "mark" and token.text in ("-", "!"):
            self._deeper()
            self._next += 1
            operand: Node
            following = self._token
            if token.text == "-" and following.kind == "value" and type(following.value) in (int, float):
                self._next += 1
                operand = self._member(Constant(following.at, 1, 1, -following.value))
            else:
                operand = self._unary()
                operand = Unary(*_place(token.at, (operand,)), "-" if token.text == "-" else "!", operand)
            self._nesting -= 1
            return operand
        return self._member(self._primary())

    def _member(self, node: Node) -> Node:
        while True:
            at = self._token.at
            if self._takes("."):
                field = self._take()
                if field.kind != "name":
                    self._next -= 1
                    raise self._unexpected("the name of a field")
                node = self._call_on(node, field) if self._takes("(") else Select(*_place(at, (node,)), node, field.text)
            elif self._takes("["):
                key = self._expression()
                self._expect("]")
                node = Index(*_place(at, (node, key)), node, key)
            elif self._token.kind == "mark" and self._token.text == "{" and isinstance(node, Name | Select):
                raise SyntaxFault('There are no messages here: an object is written `{"key": value}`.', at)
            elif self._token.kind == "value" and self._token.text.startswith("."):
                raise SyntaxFault("An element of a list is written with brackets, such as `[0]`.", at)
            else:
                return node

    def _call_on(self, node: Node, name: Token) -> Node:
        if name.text not in MACROS:
            arguments = (node, *self._arguments(")"))
            return Call(*_place(name.at, arguments), name.text, arguments)
        parts = self._arguments(")")
        if len(parts) not in MACROS[name.text]:
            raise SyntaxFault(f"`{name.text}` is written `list.{name.text}(x, …)`.", name.at)
        variable = parts[0]
        if not isinstance(variable, Name):
            raise SyntaxFault(f"The first argument of `{name.text}` is a name for the element, such as `x`.", name.at)
        return Loop(*_place(name.at, (node, *parts)), name.text, node, variable.name, parts[1:])

    def _primary(self) -> Node:
        token = self._take()
        if token.kind == "value":
            if type(token.value) is int and token.value > INTEGER_MAX:
                raise SyntaxFault("This integer does not fit into 64 bits.", token.at)
            return Constant(token.at, 1, 1, token.value)
        if token.kind == "name":
            return self._named(token)
        if token.kind == "mark" and token.text == "(":
            node = self._expression()
            self._expect(")")
            return node
        if token.kind == "mark" and token.text == "[":
            items = self._arguments("]")
            return ListOf(*_place(token.at, items), items)
        if token.kind == "mark" and token.text == "{":
            return self._map(token.at)
        self._next -= 1
        raise self._unexpected("a value")

    def _named(self, token: Token) -> Node:
        if token.text in _CONSTANTS:
            return Constant(token.at, 1, 1, _CONSTANTS[token.text])
        if token.text in RESERVED:
            raise SyntaxFault(f"{token.text!r} is a reserved word.", token.at)
        if not self._takes("("):
            return Name(token.at, 1, 1, token.text)
        arguments = self._arguments(")")
        if token.text == "has":
            if len(arguments) != 1 or not isinstance(arguments[0], Select):
                raise SyntaxFault("`has` asks for a field: `has(object.field)`.", token.at)
            asked = arguments[0]
            return Has(token.at, asked.depth, asked.size, asked.operand, asked.field)
        return Call(*_place(token.at, arguments), token.text, arguments)

    def _arguments(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._takes(closing):
            items.append(self._expression())
            if not self._takes(","):
                self._expect(closing)
                break
        return tuple(items)

    def _map(self, at: int) -> Node:
        items: list[tuple[Node, Node]] = []
        while not self._takes("}"):
            key = self._expression()
            self._expect(":")
            items.append((key, self._expression()))
            if not self._takes(","):
                self._expect("}")
                break
        return MapOf(*_place(at, (part for pair in items for part in pair)), tuple(items))


def _place(at: int, parts: Iterable[Node]) -> tuple[int, int, int]:
    depth, size = 0, 1
    for part in parts:
        depth, size = max(depth, part.depth), size + part.size
    if depth >= DEPTH_MAX:
        raise SyntaxFault(f"The expression is a chain of more than {DEPTH_MAX} links; write it in two parts.", at)
    return at, depth + 1, size
