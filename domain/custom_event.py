# intent_ref: domain.custom-event
"""Events of a tenant's own making: what its steps say has happened, in names of its own."""

from datetime import datetime
from typing import Any

from domain.immutable import immutable
from domain.values import ExecutionId, StepId


@immutable
class CustomEventEmitted:
    """A step said that something has happened: `type` and `data` are the tenant's own."""

    execution_id: ExecutionId
    step: StepId
    type: str
    data: Any
    at: datetime


@immutable
class CustomEvents:
    """What the steps of one execution have said: how much of it there is."""

    count: int


def evolve(state: CustomEvents | None, event: CustomEventEmitted) -> CustomEvents:
    """The events after `event`."""
    return CustomEvents(1 if state is None else state.count + 1)
