# intent_ref: commands.triggers
"""Events that start an execution: `on: {type, when}`, judged when it is written and held against each event."""

import re
from collections.abc import Mapping
from typing import Any

from commands.expressions import condition
from commands.expressions.checks import Surroundings, condition_faults_in
from commands.start_inputs import start_inputs_faults
from domain.json_values import pointer
from domain.refusals import Fault
from domain.schedule import Trigger

_TYPE = re.compile(r"(?:[A-Za-z0-9_-]{1,100}[./:]){0,9}(?:[A-Za-z0-9_-]{1,100}|\*)")
_TYPE_CHARS_MAX = 200
_KEYS = ("type", "when", "inputs", "allow_self")


def read_trigger(raw: Any) -> Trigger:
    """The trigger that `raw` describes, which has no `trigger_faults`."""
    return Trigger(raw["type"], raw.get("when"), raw.get("allow_self") is True)


def trigger_faults(raw: Any, place: str) -> list[Fault]:
    """What is wrong with a trigger: `type` (a type of event, or its beginning and `*`), `when`, `inputs` and `allow_self`, by
    pointers below `place`.

    `when`, and templates in `inputs`, may refer to `event` (`id`, `type`, `subject`, `time`, `source`, `data`) and `tenant`.
    """
    if not isinstance(raw, dict):
        return [Fault(place, "A trigger is an object with `type`, and `when` if not every such event is meant.", "type")]
    faults = [
        Fault(pointer((place, key)), f"A trigger has no such key; it has {', '.join(_KEYS)}.", "unknown-key")
        for key in list(raw)[:20]
        if key not in _KEYS
    ]
    kind = raw.get("type")
    if kind is None:
        faults.append(Fault(place, "A trigger has a `type`: the events that it is about.", "missing"))
    elif not isinstance(kind, str) or len(kind) > _TYPE_CHARS_MAX or not _TYPE.fullmatch(kind):
        detail = "`type` is a type of event such as `order.placed`, or the beginning of some with `*` as its last part."
        faults.append(Fault(f"{place}/type", detail, "invalid-type"))
    if raw.get("when") is not None:
        around = Surroundings((), None, None, frozenset({"event", "tenant"}))
        faults += condition_faults_in(f"{place}/when", raw["when"], around)
    if raw.get("inputs") is not None:
        faults += start_inputs_faults(raw["inputs"], f"{place}/inputs", "event")
    if not isinstance(raw.get("allow_self", False), bool):
        faults.append(Fault(f"{place}/allow_self", "`allow_self` is true or false.", "type"))
    return faults


def is_of_type(trigger: Trigger, event_type: str) -> bool:
    """Whether the trigger is about events of this type."""
    if trigger.type.endswith("*"):
        return event_type.startswith(trigger.type[:-1])
    return event_type == trigger.type


def matches(trigger: Trigger, event_type: str, data: Any, scope: Mapping[str, Any]) -> bool:
    """Whether an event fires the trigger. `scope` has `tenant`, and under `event` what else is known of it (id, subject, …).

    Raises `ExpressionFailed` where `when` has no value for this event: whoever asks says so where the author sees it, and
    does not start anything.
    """
    if not is_of_type(trigger, event_type):
        return False
    if trigger.when is None:
        return True
    event = {**scope.get("event", {}), "type": event_type, "data": data}
    return condition(trigger.when, {**scope, "event": event})
