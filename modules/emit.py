# intent_ref: modules.emit
"""A step that says what has happened, in the tenant's own words: `{"action": "emit", "type": "order.placed", "data": {}}`."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.contract import Invocation

NAME = ModuleName("emit")
_SCHEMA: dict[str, Any] = {
    "type": "object", "required": ["type"], "additionalProperties": False,
    "properties": {"type": {"type": "string", "minLength": 1, "maxLength": 200}, "data": {}},
}  # fmt: skip
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

Emitting = Callable[[Invocation, str, Any], Awaitable[dict[str, Any]]]
"""Puts an event with this type and data into the log, once for the invocation; raises `ModuleError`."""


class Emit:
    """The action `emit` as an in-process module."""

    def __init__(self, emitting: Emitting) -> None:
        self._emitting = emitting
        self.module = Module(
            NAME, (Action(ActionName("emit"), input_schema=_SCHEMA),), Transport("in-process", plugin=NAME), _EPOCH, _EPOCH
        )

    async def call(self, invocation: Invocation) -> Any:
        """Emits the event; its id and type are the result."""
        return await self._emitting(invocation, invocation.parameters["type"], invocation.parameters.get("data"))
