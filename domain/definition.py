# intent_ref: domain.definition
"""What an intent's definition may say, judged in three stages: its shape, the business rules, security."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from domain.immutable import immutable
from domain.json_values import Faults, Limits, Place, ValueCheck, together, value_faults
from domain.module import Modules
from domain.refusals import DefinitionInvalid, Fault
from domain.security import forbidding_pattern, quoted
from domain.step_control import WAIT_SECONDS_MAX
from domain.step_policies import did_you_mean, read_seconds
from domain.steps import DraftStep, Step, connect_steps, read_step

__all__ = [
    "Definition", "Limits", "Reading", "Rules", "Step", "inputs_faults", "parse_definition", "read_definition", "stored_faults",
]  # fmt: skip

TARGET_CHARS_MAX = 200
DEFINITION_KEYS = (
    "target", "steps", "inputs", "outputs", "description", "on", "triggers", "schedule", "metadata", "labels", "annotations",
    "parameters", "variables", "timeout", "retry", "concurrency", "on_failure", "on_success", "policies", "version",
    "priority",
)  # fmt: skip
"""What a definition may say; keys with `x-` in front are the author's own."""
PRIORITIES = range(1, 6)
PRIORITY_DEFAULT = 3


@immutable
class Rules:
    """The rules of this installation. `forbidden_targets` are names or shell-style patterns, whatever their case."""

    limits: Limits = field(default_factory=Limits)
    forbidden_targets: tuple[str, ...] = ()


@immutable
class Definition:
    """A definition that holds to every rule."""

    target: str
    steps: tuple[Step, ...]
    inputs_schema: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    timeout_seconds: float | None = None
    priority: int = PRIORITY_DEFAULT


@immutable
class Reading:
    """A definition as far as it can be read, and every fault of the three stages.

    `is_storable` where the log can hold all that it says, so that more can be said of it; `secrets` are where nothing should be
    repeated. `knows_ids` where no step's id is in doubt, and `knows_order` where no dependency is either.
    """

    definition: Definition
    faults: list[Fault]
    is_storable: bool = False
    secrets: tuple[str, ...] = ()
    knows_ids: bool = False
    knows_order: bool = False


def parse_definition(raw: Any, catalogue: Modules, rules: Rules, *, prefix: str = "/definition") -> Definition:
    """The definition behind `raw`; raises `DefinitionInvalid` with every fault of all three stages, and nothing else.
    One with more values or bytes than the limits say is not judged to its end.

    `prefix` is the pointer to `raw` in what the user sent.
    """
    reading = read_definition(raw, catalogue, rules, prefix=prefix)
    if reading.faults:
        raise DefinitionInvalid(reading.faults)
    return reading.definition


def read_definition(raw: Any, catalogue: Modules, rules: Rules, *, prefix: str = "/definition") -> Reading:
    """As `parse_definition`, for those who have more to say of a definition that has faults."""
    check = ValueCheck(rules.limits)
    shape, business, security = check.shape, Faults(), check.security
    if not check.walk(raw, prefix):
        return Reading(Definition("", ()), together((shape, security), prefix))
    is_storable, secrets = isinstance(raw, dict) and not shape.count, tuple([fault.pointer for fault in security.listed])
    target, steps, whole = "", [], _Whole()
    if isinstance(raw, dict):
        _check_keys(raw, prefix, shape)
        target = _read_target(raw, prefix, shape)
        steps = _read_steps(raw, prefix, rules.limits.steps_max, shape, business)
        whole = _read_whole(raw, prefix, shape)
        pattern = forbidding_pattern(target, rules.forbidden_targets)
        if pattern is not None:
            detail = f"The target {quoted(target)} is forbidden here, by the rule {pattern!r}."
            security.add((prefix, "target"), detail, "forbidden-target")
    else:
        shape.add(prefix, "A definition must be an object with a `target` and `steps`.", "type")
    connected = connect_steps(steps, catalogue, business)
    definition = Definition(target, connected, whole.inputs_schema, whole.outputs, whole.timeout_seconds, whole.priority)
    faults = together((shape, business, security), prefix)
    if not faults:
        return Reading(definition, [], is_storable, (), True, True)
    knows_ids = _is_whole(raw, connected) and not any(draft.id_is_broken for draft in steps)
    knows_order = knows_ids and not any("/depends_on" in fault.pointer or fault.code == "duplicate-id" for fault in faults)
    return Reading(definition, faults, is_storable, secrets, knows_ids, knows_order)


def _is_whole(raw: Any, steps: tuple[Step, ...]) -> bool:
    """True where every step that `raw` says has been looked at."""
    said = raw.get("steps") if isinstance(raw, dict) else None
    return said is None or (isinstance(said, list) and len(said) == len(steps))


@dataclass(slots=True)
class _Whole:
    inputs_schema: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    timeout_seconds: float | None = None
    priority: int = PRIORITY_DEFAULT


def _read_whole(raw: dict[Any, Any], place: Place, shape: Faults) -> _Whole:
    """What the definition says of the execution as a whole."""
    whole = _Whole()
    for key in ("inputs", "outputs"):
        if raw.get(key) is not None and not isinstance(raw[key], dict):
            shape.add((place, key), f"`{key}` must be an object.", "type")
        elif raw.get(key) is not None:
            setattr(whole, "inputs_schema" if key == "inputs" else key, raw[key])
    if raw.get("timeout") is not None:
        whole.timeout_seconds = read_seconds(raw["timeout"], (place, "timeout"), shape, most=WAIT_SECONDS_MAX)
    priority = PRIORITY_DEFAULT if raw.get("priority") is None else raw["priority"]
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        shape.add((place, "priority"), "`priority` must be an integer from 1 (first) to 5 (last).", "invalid-number")
    else:
        whole.priority = priority
    return whole


def _check_keys(raw: dict[Any, Any], place: Place, shape: Faults) -> None:
    for key in raw:
        if key not in DEFINITION_KEYS and isinstance(key, str) and not key.startswith("x-"):
            hint = did_you_mean(key, DEFINITION_KEYS, shape)
            shape.add((place, key), f"A definition has no {quoted(key)}.{hint} Names of your own begin with `x-`.", "unknown-key")


def _read_target(raw: dict[Any, Any], place: Place, shape: Faults) -> str:
    target = raw.get("target")
    if target is None:
        shape.add(place, "A definition must have a `target`.", "missing")
    elif not isinstance(target, str) or not target.strip() or len(target) > TARGET_CHARS_MAX:
        shape.add((place, "target"), f"A target must be a string of 1 to {TARGET_CHARS_MAX} characters, not all blank.", "type")
    else:
        return target
    return ""


def _read_steps(raw: dict[Any, Any], place: Place, steps_max: int, shape: Faults, business: Faults) -> list[DraftStep]:
    steps = raw.get("steps")
    if steps is None:
        return []
    here = (place, "steps")
    if not isinstance(steps, list):
        shape.add(here, "`steps` must be an array.", "type")
        return []
    if len(steps) > steps_max:
        # The first ones are looked at all the same; judging any number of them would be work without a limit.
        business.add(here, f"There are {len(steps):,} steps, of at most {steps_max:,}.", "too-many-steps")
    return [read_step(step, (here, index), shape) for index, step in enumerate(steps[:steps_max])]


INPUT_TEXT_BYTES_MAX = 1_048_576
"""How long one text in inputs may be: what is large goes beside the log, so a definition's limit would be for nothing."""


def inputs_faults(inputs: Any, rules: Rules, *, prefix: str = "/inputs") -> list[Fault]:
    """What is wrong with an execution's inputs: they are kept as long as definitions, so the same security holds."""
    if inputs == {}:
        return []
    return value_faults(inputs, prefix, _limits_of_inputs(rules.limits), look_for_secrets=True)


@lru_cache(maxsize=16)
def _limits_of_inputs(limits: Limits) -> Limits:
    return replace(limits, value_bytes_max=max(limits.value_bytes_max, INPUT_TEXT_BYTES_MAX))


_ANSWER_LIMITS = Limits(value_bytes_max=1_048_576)


def stored_faults(value: Any, prefix: str) -> list[Fault]:
    """Why a module's answer cannot go into the log: what it says is its own affair, as long as it can be held."""
    if value is None:
        return []
    return value_faults(value, prefix, _ANSWER_LIMITS, look_for_secrets=False)
