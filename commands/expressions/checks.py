# intent_ref: commands.expressions
"""What can be told about expressions before anything runs: when a definition is created, planned or revised."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from commands.expressions.faults import (
    EXPRESSIONS_MAX,
    EvaluationFault,
    ExpressionFailed,
    SyntaxFault,
    WorkExceeded,
)  # fmt: skip
from commands.expressions.references import Reference, type_of
from commands.expressions.templates import OPENING, Expression, parts_of, read_expression, texts_of
from commands.expressions.values import Run, plain
from domain.immutable import immutable
from domain.json_values import Place, pointer
from domain.refusals import Fault

_FAULTS_MAX = 20
_FIELDS = {
    "steps": ("result", "status", "error"),
    "execution": ("id", "intent_name", "version", "started_at", "target"),
    "tenant": ("id",),
    "event": ("id", "type", "subject", "time", "source", "data"),
    "schedule": ("time",),
}
_NO_BOOLEAN = {"number": "a number", "text": "a text", "list": "a list", "object": "an object", "null": "null", "time": "a time"}
_OPEN_SCHEMA = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "$dynamicRef", "dependentSchemas"})


@immutable
class Surroundings:
    """What an expression may refer to. `ancestors` are the steps that have ended by then; None where no order is known."""

    step_ids: Collection[str]
    ancestors: Collection[str] | None
    inputs_schema: Any
    variables: frozenset[str]


def expression_faults(
    place: str,
    value: Any,
    *,
    step_ids: Collection[str],
    ancestors_of_step: Collection[str] | None,
    inputs_schema: Mapping[str, Any] | None,
    allows_item: bool,
) -> list[Fault]:
    """What is wrong with the `${{ … }}` of a value, each with its JSON pointer below `place`; at most 20.

    `ancestors_of_step` are the steps that surely have ended when the value is evaluated; None skips that check. `inputs_schema`
    is the intent's, if it has one. `allows_item` is true inside a `foreach`, where there are `item` and `index`.
    """
    return expression_faults_in(place, value, _surroundings(step_ids, ancestors_of_step, inputs_schema, allows_item))


def expression_faults_in(place: str, value: Any, around: Surroundings) -> list[Fault]:
    """As `expression_faults`, among given surroundings."""
    faults: list[Fault] = []
    count = 0
    try:
        for path, text in texts_of(value):
            where = _pointer(place, path)
            try:
                found = [part for part in parts_of(text) if isinstance(part, Expression)]
            except SyntaxFault as fault:
                faults.append(_syntax_fault(where, fault, text, around))
                found = []
            count += len(found)
            for expression in found:
                faults += _faults_of(where, expression, around)
            if len(faults) >= _FAULTS_MAX or count > EXPRESSIONS_MAX:
                break
    except ExpressionFailed as fault:
        faults.append(Fault(place, fault.message, "invalid-expression"))
    if count > EXPRESSIONS_MAX:
        detail = f"There are more than {EXPRESSIONS_MAX} expressions in this."
        faults.append(Fault(place, detail, "too-many-expressions"))
    return (faults + _keys_faults(place, value))[:_FAULTS_MAX]


def condition_faults(
    place: str,
    value: Any,
    *,
    step_ids: Collection[str],
    ancestors_of_step: Collection[str] | None,
    inputs_schema: Mapping[str, Any] | None,
    allows_item: bool,
) -> list[Fault]:
    """What is wrong with a condition such as `when`: also that it cannot be true or false, or never depends on anything wrong."""
    around = _surroundings(step_ids, ancestors_of_step, inputs_schema, allows_item)
    return condition_faults_in(place, value, around)


def condition_faults_in(place: str, value: Any, around: Surroundings) -> list[Fault]:
    """As `condition_faults`, among given surroundings."""
    if not isinstance(value, str):
        return [Fault(place, "A condition is a text: a CEL expression that is true or false.", "type")]
    try:
        expression = read_expression(value)
    except SyntaxFault as fault:
        return [_syntax_fault(place, fault, value, around)]
    faults = _faults_of(place, expression, around)
    kind = type_of(expression.tree)
    if not faults and kind is not None and kind != "boolean":
        detail = f"A condition must be true or false; this one is {_NO_BOOLEAN[kind]}."
        faults.append(Fault(place, detail, "type"))
    return faults


def _surroundings(
    step_ids: Collection[str], ancestors: Collection[str] | None, schema: Mapping[str, Any] | None, allows_item: bool
) -> Surroundings:
    names = {"inputs", "steps", "execution", "tenant"} | ({"item", "index"} if allows_item else set())
    return Surroundings(step_ids, ancestors, schema, frozenset(names))


def _syntax_fault(place: str, fault: SyntaxFault, text: str, around: Surroundings) -> Fault:
    hint = _bracket_hint(text, around.step_ids)
    return Fault(place, f"{fault} (At character {fault.at + 1}.){hint}", "invalid-expression")


def _bracket_hint(text: str, step_ids: Iterable[str]) -> str:
    """What to write for a step whose id is no name of CEL's, where the text has it as one."""
    named = [id for id in step_ids if not id.isidentifier() and f"steps.{id}" in text]
    return f' Write `steps["{max(named, key=len)}"]` for a step with such an id.' if named else ""


def _faults_of(place: str, expression: Expression, around: Surroundings) -> list[Fault]:
    faults: list[Fault] = []
    for reference in expression.references:
        fault = _reference_fault(place, reference, expression, around)
        if fault is not None:
            faults.append(fault)
    if not faults and not expression.references:
        try:
            run = Run({})
            plain(run, expression.evaluate(run))
        except (EvaluationFault, WorkExceeded) as fault:
            faults.append(Fault(place, f"This can never have a value: {fault}", "invalid-expression"))
    return faults


def _reference_fault(place: str, reference: Reference, expression: Expression, around: Surroundings) -> Fault | None:
    name, fields = reference.name, reference.fields
    if name not in around.variables:
        hint = _bracket_hint(expression.text, around.step_ids)
        if not hint and name in ("item", "index"):
            hint = " It is there within a `foreach` alone."
        return Fault(place, f"There is no variable {name!r} here.{hint}", "unknown-variable")
    if name == "inputs":
        return _input_fault(place, reference, around.inputs_schema)
    if name == "steps":
        fault = _step_fault(place, fields[0], expression.text, around)
        return fault or _field_fault(place, "steps", f"steps.{fields[0]}", fields[1:])
    return _field_fault(place, name, name, fields) if name in _FIELDS else None


def _field_fault(place: str, kind: str, shown: str, fields: tuple[str, ...]) -> Fault | None:
    known = _FIELDS[kind]
    if not fields or fields[0] in known:
        return None
    names = ", ".join(f"`{one}`" for one in known)
    detail = f"`{shown[:150]}` has no {fields[0][:100]!r}; it has {names}.{_near(fields[0], known)}"
    return Fault(place, detail, "unknown-field")


def _step_fault(place: str, step: str, text: str, around: Surroundings) -> Fault | None:
    if step not in around.step_ids:
        hint = _bracket_hint(text, around.step_ids) or _near(step, around.step_ids)
        return Fault(place, f"There is no step {step[:100]!r}.{hint}", "unknown-step")
    if around.ancestors is not None and step not in around.ancestors:
        detail = f"The step {step[:100]!r} need not have ended by then; add it to `depends_on`."
        return Fault(place, detail, "forward-reference")
    return None


def _input_fault(place: str, reference: Reference, schema: Any) -> Fault | None:
    """Whether the schema rules an input out; as soon as it leaves a field open, so does this."""
    fields = reference.fields
    for depth, field in enumerate(fields):
        if not isinstance(schema, Mapping) or _OPEN_SCHEMA & schema.keys():
            return None
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        if field in properties:
            schema = properties[field]
            continue
        others = schema.get("additionalProperties")
        asks = reference.is_asked and depth == len(fields) - 1
        if others is False or (depth == 0 and properties and others is None and not asks):
            shown = ".".join(("inputs", *fields[:depth]))[:150]
            return Fault(place, f"`{shown}` declares no {field[:100]!r}.{_near(field, properties)}", "unknown-input")
        return None
    return None


def _near(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word[:64], [one for one in known if len(one) <= 100][:500], 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _keys_faults(place: str, value: Any) -> list[Fault]:
    faults: list[Fault] = []
    left: list[tuple[Place, Any]] = [(place, value)]
    while left and len(faults) < _FAULTS_MAX:
        here, item = left.pop()
        if isinstance(item, dict):
            if any(isinstance(key, str) and OPENING in key for key in item):
                faults.append(
                    Fault(pointer(here), "A key of this object has `${{` in it; keys are not evaluated.", "expression-in-key")
                )
            left.extend(((here, key), child) for key, child in item.items())
        elif isinstance(item, list):
            left.extend(((here, index), child) for index, child in enumerate(item))
    return faults


def _pointer(root: str, path: tuple[str | int, ...]) -> str:
    place: Place = root
    for key in path:
        place = (place, key)
    return pointer(place)
