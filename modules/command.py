# intent_ref: modules.command
"""A step that gives the platform a command, within its own tenant: one of those that the installation allows."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.contract import Invocation

NAME = ModuleName("command")
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

Commanding = Callable[[Invocation, str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Gives the command of this name with these arguments, once for the invocation; raises `ModuleError`."""


class Command:
    """The action `command` as an in-process module: `name` is one of `allowed`, `arguments` are the command's own."""

    def __init__(self, commanding: Commanding, allowed: Sequence[str]) -> None:
        schema = {
            "type": "object", "required": ["name"], "additionalProperties": False,
            "properties": {"name": {"enum": sorted(allowed)}, "arguments": {"type": "object"}},
        }  # fmt: skip
        self._commanding = commanding
        self.module = Module(
            NAME, (Action(ActionName("command"), input_schema=schema),), Transport("in-process", plugin=NAME), _EPOCH, _EPOCH
        )

    async def call(self, invocation: Invocation) -> Any:
        """Gives the command; what it led to is the result."""
        return await self._commanding(invocation, invocation.parameters["name"], invocation.parameters.get("arguments", {}))
