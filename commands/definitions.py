# intent_ref: commands.definitions
"""Whether a definition can be kept: its shape and rules (`domain/definition.py`), and then all that it says in expressions,
schemas, schedules and triggers, as far as that can be told before anything runs."""

from typing import Any

import orjson

from commands.expressions import condition_faults, expression_faults
from commands.inputs import schema_faults
from commands.schedules import schedule_faults
from commands.start_inputs import unfit_faults
from commands.triggers import trigger_faults
from domain.definition import Definition, Rules, parse_definition
from domain.module import Modules
from domain.plan_graph import ancestors
from domain.refusals import DefinitionInvalid, Fault
from domain.steps import Step

_FAULTS_MAX = 100
_OPENING = b"${{"
_CONTROL_WITH_TEMPLATES = ("fallback", "compensate", "foreach", "wait", "approval", "signal", "workflow", "concurrency")


def checked_definition(raw: Any, catalogue: Modules, rules: Rules, *, prefix: str = "/definition") -> Definition:
    """The definition behind `raw`; raises `DefinitionInvalid` with every fault."""
    definition = parse_definition(raw, catalogue, rules, prefix=prefix)
    faults: list[Fault] = []
    if definition.inputs_schema is not None:
        faults += schema_faults(definition.inputs_schema, f"{prefix}/inputs")
    if raw.get("schedule") is not None:
        faults += schedule_faults(raw["schedule"], f"{prefix}/schedule")
    if raw.get("on") is not None:
        faults += trigger_faults(raw["on"], f"{prefix}/on")
    if not faults and definition.steps:
        for key in ("schedule", "on"):
            if raw.get(key) is not None:
                faults += unfit_faults(raw[key].get("inputs"), definition.inputs_schema, f"{prefix}/{key}")
    if not faults and _says_anything(raw, definition):
        faults += _expressions_faults(raw, definition, prefix)
    if faults:
        raise DefinitionInvalid(faults[:_FAULTS_MAX])
    return definition


def _says_anything(raw: Any, definition: Definition) -> bool:
    """False where there is no expression anywhere, as in most definitions: then nothing is looked at closely."""
    if any(step.control is not None and step.control.when is not None for step in definition.steps):
        return True
    return _OPENING in orjson.dumps(raw)


def _expressions_faults(raw: dict[str, Any], definition: Definition, prefix: str) -> list[Fault]:
    ids = [step.id for step in definition.steps]
    # Where a step does not wait for all it names, what has surely ended by then is not told by the graph.
    is_plain = not any(step.control is not None and step.control.join is not None for step in definition.steps)
    before = ancestors([(step.id, step.depends_on) for step in definition.steps]) if is_plain else None
    faults: list[Fault] = []
    for number, step in enumerate(definition.steps):
        ended = None if before is None else before[step.id]
        place = f"{prefix}/steps/{number}"
        faults += _step_faults(raw["steps"][number], step, place, ids, ended, definition.inputs_schema)
        if len(faults) >= _FAULTS_MAX:
            break
    if definition.outputs is not None:
        faults += expression_faults(
            f"{prefix}/outputs", definition.outputs, step_ids=ids, ancestors_of_step=None,
            inputs_schema=definition.inputs_schema, allows_item=False,
        )  # fmt: skip
    return faults


def _step_faults(
    raw: dict[str, Any], step: Step, place: str, ids: list[str], ended: frozenset[str] | None, schema: Any
) -> list[Fault]:
    said = step.control
    faults: list[Fault] = []
    if said is not None and said.when is not None:
        faults += condition_faults(
            f"{place}/when", said.when, step_ids=ids, ancestors_of_step=ended, inputs_schema=schema, allows_item=False
        )  # fmt: skip
    is_loop = said is not None and said.is_loop
    for key, value in raw.items():
        if key in step.parameters or (said is not None and key in _CONTROL_WITH_TEMPLATES):
            known = None if ended is None else ended | {step.id} if key == "compensate" else ended
            faults += expression_faults(
                f"{place}/{_token(key)}", value, step_ids=ids, ancestors_of_step=known, inputs_schema=schema,
                allows_item=is_loop and key != "foreach",
            )  # fmt: skip
    return faults


def _token(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
