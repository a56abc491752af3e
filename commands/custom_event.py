# intent_ref: commands.custom-event
"""A step says that something has happened, in the tenant's own words."""

import re
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.custom_event import CustomEventEmitted, CustomEvents
from domain.definition import Rules
from domain.json_values import value_faults
from domain.refusals import Fault, Invalid, TooManyCustomEvents
from domain.values import ExecutionId, StepId

TYPE_CHARS_MAX = 200
DATA_BYTES_MAX = 65_536
EVENTS_MAX = 10_000
"""How many events the steps of one execution may emit."""
OURS = "quantum"
"""What the platform's own types begin with."""
_TYPE = re.compile(r"[A-Za-z0-9_-]{1,100}(?:[./:][A-Za-z0-9_-]{1,100}){0,9}")


class EmitEvent(BaseModel):
    """Let it be known that this has happened."""

    model_config = ConfigDict(frozen=True)
    execution_id: ExecutionId
    step: StepId
    type: Any
    data: Any = None
    at: AwareDatetime


def decide(state: CustomEvents | None, command: EmitEvent, rules: Rules) -> list[CustomEventEmitted]:
    """The event; raises `Invalid`, or `TooManyCustomEvents`."""
    if faults := _type_faults(command.type) + _data_faults(command.data, rules):
        raise Invalid(faults)
    if state is not None and state.count >= EVENTS_MAX:
        raise TooManyCustomEvents(command.execution_id, EVENTS_MAX)
    return [CustomEventEmitted(command.execution_id, command.step, command.type, command.data, command.at)]


def _type_faults(type: Any) -> list[Fault]:
    if not isinstance(type, str) or len(type) > TYPE_CHARS_MAX or not _TYPE.fullmatch(type):
        detail = f"`type` is a name such as `order.placed`: letters, digits and . / : _ -, at most {TYPE_CHARS_MAX} of them."
        return [Fault("/type", detail, "invalid-type")]
    if re.split("[./:]", type, maxsplit=1)[0].lower() == OURS:
        return [Fault("/type", f"Types that begin with `{OURS}` are the platform's own.", "invalid-type")]
    return []


def _data_faults(data: Any, rules: Rules) -> list[Fault]:
    if faults := value_faults(data, "/data", rules.limits, look_for_secrets=True):
        return faults
    size = len(orjson.dumps(data))
    if size > DATA_BYTES_MAX:
        return [Fault("/data", f"`data` has {size:,} bytes, of at most {DATA_BYTES_MAX:,}.", "too-large")]
    return []
