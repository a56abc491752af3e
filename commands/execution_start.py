# intent_ref: commands.execution
"""How an execution starts: what is carried out, with which inputs, under which conditions."""

from datetime import timedelta
from typing import Any

from commands.definitions import checked_definition
from commands.execution_commands import StartExecution
from commands.inputs import faults_of, with_defaults
from commands.kept_values import Room
from commands.planning import plan_of
from commands.progress import Turn, advance, consider_all
from domain.definition import Definition, Rules, inputs_faults
from domain.execution_events import ExecutionEvent, ExecutionQueued, ExecutionStarted
from domain.execution_terms import Options
from domain.immutable import immutable
from domain.input_rules import text_faults
from domain.intent import Intent
from domain.module import Modules
from domain.plan import PlannedStep
from domain.refusals import DefinitionInvalid, Fault, IntentIsArchived, IntentNotExecutable, Invalid, NotFound
from domain.values import TenantId, Version

BUSINESS_KEY_CHARS_MAX = 200
DEPTH_MAX = 10
_KEPT_MAX = 1_000
_kept: dict[tuple[int, int, int], tuple[Any, tuple[Definition, tuple[PlannedStep, ...]]]] = {}


@immutable
class Start:
    """What is to be carried out: a version of an intent, whose definition today's modules and rules let through, and its plan."""

    intent: Intent
    version: Version
    definition: Definition
    plan: tuple[PlannedStep, ...]


def decide_start(intent: Intent | None, command: StartExecution, catalogue: Modules, rules: Rules) -> list[ExecutionEvent]:
    """The start of an execution: its plan, and every step that waits for no other.

    Raises `NotFound`, `IntentIsArchived`, `IntentNotExecutable`, or `Invalid` for the inputs.
    """
    start = startable(intent, command, catalogue, rules)
    return begun(start, command, fitting_inputs(start, command.inputs)).events


def startable(intent: Intent | None, command: StartExecution, catalogue: Modules, rules: Rules) -> Start:
    """What the command is about; its inputs are such as can be kept at all. Raises as `decide_start`."""
    if intent is None:
        raise NotFound("intent", command.intent_id)
    if intent.status == "archived":
        raise IntentIsArchived(command.intent_id)
    version = intent.current if command.version is None else intent.version(command.version)
    if version is None:
        raise NotFound("version", str(command.version), f"of the intent {command.intent_id}")
    start = Start(intent, version.version, *_judged(version.definition, catalogue, rules))
    if faults := inputs_faults(command.inputs, rules):
        raise Invalid(faults)
    return start


def fitting_inputs(start: Start, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with the schema's defaults; raises `Invalid` where they do not fit it."""
    schema = start.definition.inputs_schema
    if schema is None:
        return inputs
    inputs = with_defaults(schema, inputs)
    if faults := faults_of(schema, inputs):
        raise Invalid(faults)
    return inputs


def begun(start: Start, command: StartExecution, inputs: dict[str, Any], room: Room | None = None) -> Turn:
    """The start with these inputs, as they go into the log, and the state that the events lead to. `room` as for `decided`."""
    at = command.at
    started = ExecutionStarted(
        command.execution_id, start.intent.intent_id, start.intent.name, start.version, start.definition.target, inputs,
        start.plan, at, _options(command, start.definition),
    )  # fmt: skip
    turn = Turn.first(started, room)
    if command.queues:
        turn.add(ExecutionQueued(command.execution_id, 1, turn.state.options.priority, at))
    consider_all(turn)
    advance(turn)
    return turn


def executable(raw: Any, catalogue: Modules, rules: Rules) -> Definition:
    """The definition, where today's modules and rules let it be carried out; raises `IntentNotExecutable`."""
    return _judged(raw, catalogue, rules)[0]


def _judged(raw: Any, catalogue: Modules, rules: Rules) -> tuple[Definition, tuple[PlannedStep, ...]]:
    """The definition and its plan. Those judged last are kept: the same objects again mean the same judgement."""
    key = (id(raw), id(catalogue), id(rules))
    kept = _kept.get(key)
    if kept is not None:
        return kept[1]
    try:
        definition = checked_definition(raw, catalogue, rules)
    except DefinitionInvalid as refusal:
        raise IntentNotExecutable(refusal.faults) from refusal
    if not definition.steps:
        raise IntentNotExecutable([Fault("/definition/steps", "An intent without steps cannot be executed.", "no-steps")])
    judged = definition, plan_of(definition, catalogue)
    if len(_kept) >= _KEPT_MAX:
        del _kept[next(iter(_kept))]
    _kept[key] = (raw, catalogue, rules), judged  # the objects are held, so that their ids stay theirs
    return judged


def _options(command: StartExecution, definition: Definition) -> Options | None:
    if faults := text_faults(command.business_key, "/business_key", BUSINESS_KEY_CHARS_MAX):
        raise Invalid(faults)
    if command.priority is not None and command.priority not in range(1, 6):
        raise Invalid([Fault("/priority", "A priority is an integer from 1 (first) to 5 (last).", "invalid-number")])
    if command.depth > DEPTH_MAX:
        raise IntentNotExecutable([Fault("/depth", f"Workflows may nest {DEPTH_MAX} deep.", "too-deep")])
    seconds = definition.timeout_seconds
    options = Options(
        command.tenant_id, command.priority or definition.priority, command.business_key,
        None if seconds is None else command.at + timedelta(seconds=seconds), command.parent, command.depth, command.started_by,
        definition.outputs, command.root,
    )  # fmt: skip
    return options if options != Options(TenantId("")) else None
