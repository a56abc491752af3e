# intent_ref: commands.definitions
"""Whether a definition can be kept: its shape and rules (`domain/definition.py`), and then all that it says in expressions,
schemas, schedules and triggers, as far as that can be told before anything runs. All of it is said at once: where one part has
faults, the others are judged all the same, less what would only follow from those faults."""

from typing import Any

import orjson

from commands.expressions import condition_faults, expression_faults
from commands.inputs import schema_faults
from commands.schedules import schedule_faults
from commands.start_inputs import unfit_faults
from commands.triggers import trigger_faults
from domain.definition import Definition, Reading, Rules, read_definition
from domain.json_values import pointer
from domain.module import Modules
from domain.plan_graph import ancestors
from domain.refusals import DefinitionInvalid, Fault
from domain.steps import Step

_FAULTS_MAX = 100
_OPENING = b"${{"
_CONTROL_WITH_TEMPLATES = ("fallback", "compensate", "foreach", "wait", "approval", "signal", "workflow", "concurrency")
_GATE_WITH_TEMPLATES = ("for", "until", "zone", "message", "expires_in")
"""What a step says that is a gate by its `action`."""


def checked_definition(raw: Any, catalogue: Modules, rules: Rules, *, prefix: str = "/definition") -> Definition:
    """The definition behind `raw`; raises `DefinitionInvalid` with every fault."""
    reading = read_definition(raw, catalogue, rules, prefix=prefix)
    faults = reading.faults
    if reading.is_storable and len(faults) < _FAULTS_MAX:
        faults = faults + [fault for fault in _more_faults(raw, reading, prefix) if not _is_secret(fault, reading.secrets)]
    if faults:
        raise DefinitionInvalid(faults if len(reading.faults) > _FAULTS_MAX else faults[:_FAULTS_MAX])
    return reading.definition


def _more_faults(raw: dict[str, Any], reading: Reading, prefix: str) -> list[Fault]:
    definition = reading.definition
    faults: list[Fault] = []
    schema = definition.inputs_schema
    if schema is not None and (found := schema_faults(schema, f"{prefix}/inputs")):
        faults, schema = faults + found, None
    if raw.get("schedule") is not None:
        faults += schedule_faults(raw["schedule"], f"{prefix}/schedule")
    if raw.get("on") is not None:
        faults += trigger_faults(raw["on"], f"{prefix}/on")
    if not faults and not reading.faults and definition.steps:
        for key in ("schedule", "on"):
            if raw.get(key) is not None:
                faults += unfit_faults(raw[key].get("inputs"), schema, f"{prefix}/{key}")
    if _says_anything(raw, definition):
        faults += _expressions_faults(raw, reading, schema, prefix)
    return faults


def _is_secret(fault: Fault, secrets: tuple[str, ...]) -> bool:
    """True for a fault of what holds a secret: its sentence might repeat that."""
    return any(fault.pointer == secret or fault.pointer.startswith(f"{secret}/") for secret in secrets)


def _says_anything(raw: Any, definition: Definition) -> bool:
    """False where there is no expression anywhere, as in most definitions: then nothing is looked at closely."""
    if any(step.control is not None and step.control.when is not None for step in definition.steps):
        return True
    return _OPENING in orjson.dumps(raw)


def _expressions_faults(raw: dict[str, Any], reading: Reading, schema: Any, prefix: str) -> list[Fault]:
    definition = reading.definition
    ids = [step.id for step in definition.steps]
    # Where a step does not wait for all it names, what has surely ended by then is not told by the graph.
    written = raw["steps"][: len(definition.steps)] if definition.steps else []
    joins = any(isinstance(said, dict) and said.get("join") is not None for said in written)
    before = ancestors([(step.id, step.depends_on) for step in definition.steps]) if reading.knows_order and not joins else None
    faults: list[Fault] = []
    for number, (step, said) in enumerate(zip(definition.steps, written, strict=True)):
        if not isinstance(said, dict):
            continue
        faults += _step_faults(said, step, f"{prefix}/steps/{number}", ids, None if before is None else before[step.id], schema)
        if len(faults) >= _FAULTS_MAX:
            break
    if definition.outputs is not None:
        faults += expression_faults(
            f"{prefix}/outputs", definition.outputs, step_ids=ids, ancestors_of_step=None, inputs_schema=schema, allows_item=False
        )  # fmt: skip
    return faults if reading.knows_ids else [fault for fault in faults if fault.code != "unknown-step"]


def _step_faults(
    raw: dict[str, Any], step: Step, place: str, ids: list[str], ended: frozenset[str] | None, schema: Any
) -> list[Fault]:
    said = step.control
    faults: list[Fault] = []
    if said is not None and said.when is not None:
        faults += condition_faults(
            f"{place}/when", said.when, step_ids=ids, ancestors_of_step=ended, inputs_schema=schema, allows_item=False
        )  # fmt: skip
    is_loop, is_gate = raw.get("foreach") is not None, not step.has_action and raw.get("action") is not None
    for key, value in raw.items():
        if (
            key in step.parameters
            or (said is not None and key in _CONTROL_WITH_TEMPLATES)
            or (is_gate and key in _GATE_WITH_TEMPLATES)
        ):
            known = None if ended is None else ended | {step.id} if key == "compensate" else ended
            faults += expression_faults(
                pointer((place, key)), value, step_ids=ids, ancestors_of_step=known, inputs_schema=schema,
                allows_item=is_loop and key != "foreach",
            )  # fmt: skip
    return faults
