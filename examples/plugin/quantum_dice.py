# intent_ref: examples.modules
"""A plug-in: the action `throw-dice`, for every tenant, inside the platform's process."""

import random
from datetime import UTC, datetime
from typing import Any

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.contract import Invocation, ModuleError

_SINCE = datetime(2026, 1, 1, tzinfo=UTC)
_INPUT = {"type": "object", "properties": {"sides": {"type": "integer", "minimum": 1}}}


class Dice:
    """The plug-in. The platform makes one and calls it for every attempt of a step with its action."""

    module = Module(
        ModuleName("dice"),
        (Action(ActionName("throw-dice"), input_schema=_INPUT),),
        Transport("in-process", plugin="dice"),
        _SINCE,
        _SINCE,
    )

    async def call(self, invocation: Invocation) -> dict[str, Any]:
        """The number thrown: the same for the same attempt, however often the platform asks."""
        sides = invocation.parameters.get("sides", 6)
        if sides == 1:
            raise ModuleError("no-such-dice", "A dice needs two sides at least.", retryable=False)
        return {"thrown": random.Random(invocation.idempotency_key).randint(1, sides), "sides": sides}  # noqa: S311 - a game
