# intent_ref: commands.start-inputs
"""What an execution is given that nobody asks for: the `inputs` of a schedule or a trigger, with templates in them."""

from collections.abc import Mapping
from typing import Any

from commands.expressions import evaluate, has_expressions
from commands.expressions.checks import Surroundings, expression_faults_in
from commands.inputs import faults_of, with_defaults
from domain.refusals import Fault


def start_inputs_faults(raw: Any, place: str, variable: str) -> list[Fault]:
    """What is wrong with `inputs` whose templates may refer to `variable` and `tenant`."""
    if not isinstance(raw, dict):
        return [Fault(place, "`inputs` must be an object.", "type")]
    return expression_faults_in(place, raw, Surroundings((), None, None, frozenset({variable, "tenant"})))


def unfit_faults(inputs: Any, schema: dict[str, Any] | None, place: str) -> list[Fault]:
    """Why no execution could ever start with such `inputs` (None: it is given the schema's defaults), where that can be told."""
    if schema is None:
        return []
    if inputs is None:
        missing = faults_of(schema, with_defaults(schema, {}), f"{place}/inputs")
        return [Fault(place, f"It needs `inputs`: without, nothing can start. {missing[0].detail}", "missing")] if missing else []
    if has_expressions(inputs):
        return []
    return faults_of(schema, with_defaults(schema, inputs), f"{place}/inputs")


def start_inputs(raw: Mapping[str, Any], scope: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that a schedule or a trigger gives, evaluated over `scope`; raises `ExpressionFailed`."""
    found: dict[str, Any] = evaluate(raw.get("inputs") or {}, scope)
    return found
