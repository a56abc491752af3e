# intent_ref: commands.expressions
"""Values with `${{ expression }}` in their texts: compiled once, evaluated at each dispatch.

A text that is one expression and nothing else becomes the expression's value, with its type. Elsewhere the values are put into
the text: texts as they are, everything else as JSON. To have `${{` itself in a text, write `${{ "${{" }}`. Keys are never
evaluated.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from commands.expressions.evaluation import evaluator
from commands.expressions.faults import (
    EXPRESSION_BYTES_MAX,
    EXPRESSIONS_MAX,
    RESULT_BYTES_MAX,
    EvaluationFault,
    ExpressionFailed,
    SyntaxFault,
    WorkExceeded,
)  # fmt: skip
from commands.expressions.lexer import Token, tokens_of
from commands.expressions.references import VARIABLES, Reference, references_of
from commands.expressions.syntax import Node, tree_of
from commands.expressions.values import VALUE_DEPTH_MAX, Run, as_text, kind_of, plain, size_fault
from domain.immutable import immutable
from domain.json_values import Place, pointer

OPENING = "${{"
_KEPT_MAX = 2_048
_SHOWN_CHARS = 100
_KEPT_BYTES_MAX = 65_536
_OPENING = b"${{"
"""Values with a longer text are compiled each time: what is kept stays small whatever is asked."""


@immutable
class Expression:
    """One expression: its tree, what it refers to, and the function that evaluates it."""

    text: str
    tree: Node
    references: tuple[Reference, ...]
    evaluate: Callable[[Run], Any]


Parts = tuple[str | Expression, ...]
"""A text with expressions in it, in order."""


@immutable
class CompiledValue:
    """A value whose expressions are ready. `references` are the steps it reads, `input_names` the inputs it names."""

    value: Any
    places: tuple[tuple[tuple[str | int, ...], Parts], ...]
    references: frozenset[str]
    input_names: frozenset[str]

    @property
    def is_constant(self) -> bool:
        """Whether evaluating gives back `value` itself, whatever the scope."""
        return not self.places

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """The value with every expression evaluated over `scope`, which is plain JSON; raises `ExpressionFailed`.

        What has no expression in it is shared with `value`, not copied: treat both as unchangeable.
        """
        if not self.places:
            return self.value
        run = Run(dict(scope))
        result: Any = self.value
        copied: set[int] = set()
        for path, parts in self.places:
            result = _with(result, path, _evaluated(run, path, parts), copied)
        if (fault := size_fault(result)) is not None:
            raise ExpressionFailed("", fault)
        return result


def has_expressions(value: Any) -> bool:
    """True where something in the value is to be evaluated, or fails to be; raises `ExpressionFailed` where it is no JSON."""
    return _OPENING in _text(value)


def compile_value(value: Any) -> CompiledValue:
    """The value, ready to be evaluated; raises `ExpressionFailed` where an expression is wrong.

    Values without an expression cost one look through their text. Others are kept by their text, up to 2,048 of them.
    """
    text = _text(value)
    if _OPENING not in text:
        return CompiledValue(value, (), frozenset(), frozenset())
    return _compile_kept(text) if len(text) <= _KEPT_BYTES_MAX else _compile(value)


def _text(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as fault:
        raise ExpressionFailed("", "This is no JSON value.") from fault


@lru_cache(maxsize=_KEPT_MAX)
def _compile_kept(text: bytes) -> CompiledValue:
    return _compile(orjson.loads(text))


def _compile(value: Any) -> CompiledValue:
    places: list[tuple[tuple[str | int, ...], Parts]] = []
    references: list[Reference] = []
    count = 0
    for path, text in texts_of(value):
        try:
            parts = parts_of(text)
        except SyntaxFault as fault:
            raise ExpressionFailed(_pointer(path), str(fault)) from fault
        found = [part for part in parts if isinstance(part, Expression)]
        if not found:
            continue
        count += len(found)
        if count > EXPRESSIONS_MAX:
            raise ExpressionFailed("", f"There are more than {EXPRESSIONS_MAX} expressions in this.")
        places.append((path, parts))
        for expression in found:
            references += expression.references
    steps = frozenset(one.fields[0] for one in references if one.name == "steps")
    inputs = frozenset(one.fields[0] for one in references if one.name == "inputs" and one.fields)
    return CompiledValue(value, tuple(places), steps, inputs)


def texts_of(value: Any, opening: str = OPENING) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text of a value that `opening` occurs in, and the way to it."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while left:
        path, item = left.pop()
        if isinstance(item, str):
            if opening in item:
                yield path, item
        elif isinstance(item, dict | list):
            if len(path) >= 2 * VALUE_DEPTH_MAX:
                raise ExpressionFailed("", f"This is nested deeper than {2 * VALUE_DEPTH_MAX} levels.")
            items = item.items() if isinstance(item, dict) else enumerate(item)
            left.extend(reversed([((*path, key), child) for key, child in items if isinstance(child, str | dict | list)]))


def parts_of(text: str) -> Parts:
    """A text taken apart; raises `SyntaxFault` with the place of the fault in the text."""
    parts: list[str | Expression] = []
    at = 0
    while (start := text.find(OPENING, at)) >= 0:
        if start > at:
            parts.append(text[at:start])
        inside = start + len(OPENING)
        # A look at what may be an expression is never longer than an expression.
        window = text[: inside + EXPRESSION_BYTES_MAX + 2]
        try:
            tokens, at = tokens_of(window, inside, in_template=True)
            parts.append(_expression(text[inside : at - 2], tokens))
        except SyntaxFault as fault:
            if len(window) < len(text) and "is not closed" in str(fault):
                raise _overlong(inside) from fault
            raise SyntaxFault(str(fault), fault.at + inside) from fault
        if len(parts) > 2 * EXPRESSIONS_MAX:
            raise SyntaxFault(f"There are more than {EXPRESSIONS_MAX} expressions in this text.", start)
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)


def _overlong(at: int = 0) -> SyntaxFault:
    return SyntaxFault(f"The expression has more than {EXPRESSION_BYTES_MAX:,} bytes.", at)


def _expression(text: str, tokens: list[Token]) -> Expression:
    if len(text.encode("utf-8", "replace")) > EXPRESSION_BYTES_MAX:
        raise _overlong()
    tree = tree_of(tokens)
    references = tuple(references_of(tree))
    for reference in references:
        if reference.name not in VARIABLES:
            raise SyntaxFault(unknown_variable(reference.name), reference.at)
    return Expression(text.strip(), tree, references, evaluator(tree))


def unknown_variable(name: str) -> str:
    """The sentence about a variable that there is not."""
    known = ", ".join(f"`{one}`" for one in ("inputs", "steps", "execution", "tenant"))
    return f"There is no variable {name[:64]!r}; there are {known}. Texts are written in quotes."


@lru_cache(maxsize=_KEPT_MAX)
def read_expression(text: str) -> Expression:
    """A bare expression, or one as a template and nothing around it; raises `SyntaxFault`."""
    if len(text) > EXPRESSION_BYTES_MAX + 16:
        raise _overlong()
    stripped = text.strip()
    if not stripped.startswith(OPENING):
        return _expression(text, tokens_of(text)[0])
    parts = parts_of(stripped)
    if len(parts) != 1 or not isinstance(parts[0], Expression):
        raise SyntaxFault("A condition is one expression, with nothing around its `${{ }}`.", 0)
    return parts[0]


def condition(text: str, scope: Mapping[str, Any]) -> bool:
    """Whether an expression holds, bare or in `${{ }}`; raises `ExpressionFailed`, also where it is not true or false."""
    try:
        expression = read_expression(text)
    except SyntaxFault as fault:
        raise ExpressionFailed("", str(fault)) from fault
    shown = f"(In `{expression.text[:_SHOWN_CHARS]}`.)"
    try:
        found = expression.evaluate(Run(dict(scope)))
    except (EvaluationFault, WorkExceeded) as fault:
        raise ExpressionFailed("", f"{fault} {shown}") from fault
    if type(found) is not bool:
        raise ExpressionFailed("", f"A condition must be true or false; this one is {kind_of(found)}. {shown}")
    return found


def evaluate(value: Any, scope: Mapping[str, Any]) -> Any:
    """A value with every `${{ … }}` in its texts evaluated over `scope`; raises `ExpressionFailed` and nothing else.

    `scope` is plain JSON under the variables' names. The answer is plain JSON too, of at most 256 KiB where there was anything
    to evaluate; a value without expressions comes back as it is.
    """
    return compile_value(value).evaluate(scope)


def _evaluated(run: Run, path: tuple[str | int, ...], parts: Parts) -> Any:
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return _value_of(run, path, parts[0])
    texts = [part if isinstance(part, str) else as_text(_value_of(run, path, part)) for part in parts]
    size = sum(map(len, texts))
    if size > RESULT_BYTES_MAX:
        raise ExpressionFailed(_pointer(path), f"The text has {size:,} characters, of at most {RESULT_BYTES_MAX:,} bytes.")
    return "".join(texts)


def _value_of(run: Run, path: tuple[str | int, ...], expression: Expression) -> Any:
    try:
        return plain(run, expression.evaluate(run))
    except (EvaluationFault, WorkExceeded) as fault:
        raise ExpressionFailed(_pointer(path), f"{fault} (In `{expression.text[:_SHOWN_CHARS]}`.)") from fault


def _with(root: Any, path: tuple[str | int, ...], value: Any, copied: set[int]) -> Any:
    """`root` with `value` at `path`: what lies on the way is copied, once an evaluation (`copied` has their ids)."""
    if not path:
        return value
    if id(root) not in copied:
        root = root.copy()
        copied.add(id(root))
    here = root
    for key in path[:-1]:
        child = here[key]
        if id(child) not in copied:
            child = child.copy()
            copied.add(id(child))
            here[key] = child
        here = child
    here[path[-1]] = value
    return root


def _pointer(path: tuple[str | int, ...]) -> str:
    place: Place = ""
    for key in path:
        place = (place, key)
    return pointer(place)
