# intent_ref: modules.transform
"""A step whose result is a value: `{"action": "transform", "value": "${{ … }}"}`. Expressions are worked out before the call."""

from datetime import UTC, datetime
from typing import Any

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.contract import Invocation

NAME = ModuleName("transform")
_SCHEMA: dict[str, Any] = {
    "type": "object", "required": ["value"], "additionalProperties": False, "properties": {"value": {}},
}  # fmt: skip
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Transform:
    """The action `transform` as an in-process module."""

    def __init__(self) -> None:
        action = Action(ActionName("transform"), input_schema=_SCHEMA)
        self.module = Module(NAME, (action,), Transport("in-process", plugin=NAME), _EPOCH, _EPOCH)

    async def call(self, invocation: Invocation) -> Any:
        """The value."""
        return invocation.parameters["value"]
