# intent_ref: sagas.execution
"""Calls begun before the stream has brought their events: whoever records an answer may go on with what follows from it.

The stream stays the way in which every event gets its reaction. It brings these events too, later, and the handler of a batch
does not return while a call of it is neither over nor stored; so a crash still only repeats calls. Temporal does likewise with
its eager activities. A worker that has lost an execution's partition hears nothing of it any more, which is why it goes on by
itself for `STEPS_AHEAD_MAX` steps and no further (docs/adr/0013).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

from domain.execution_events import StepStarted
from sagas.dispatches import Dispatch
from sagas.reactions import Cause, react

STEPS_AHEAD_MAX = 8
CALLS_AHEAD_MAX = 10_000
FORGET_SECONDS = 30.0


@dataclass(slots=True)
class Begun:
    """A call whose event the stream has not brought yet; `steps`: how many such calls of its execution lie before it."""

    dispatch: Dispatch
    steps: int
    at: float
    is_over: bool = False


class Ahead:
    """What this worker has begun and the stream has not told it of yet."""

    def __init__(self) -> None:
        self._begun: dict[UUID, Begun] = {}

    def steps_after(self, dispatch: Dispatch) -> int | None:
        """How far ahead of the stream the next call of the same execution would be; None where that is too far."""
        before = self._begun.get(dispatch.event_id)
        steps = 1 if before is None else before.steps + 1
        return None if steps > STEPS_AHEAD_MAX or len(self._begun) >= CALLS_AHEAD_MAX else steps

    def begin(self, dispatch: Dispatch, steps: int) -> None:
        """The call is made now."""
        self._begun[dispatch.event_id] = Begun(dispatch, steps, monotonic())

    def over(self, dispatch: Dispatch) -> None:
        """What came of the call is in the log."""
        begun = self._begun.get(dispatch.event_id)
        if begun is not None:
            begun.is_over = True

    def heard_of(self, event_id: UUID) -> Begun | None:
        """The call that was begun for an event which the stream has brought now."""
        return self._begun.pop(event_id, None)

    def forget(self) -> list[Dispatch]:
        """Gives up waiting for the stream where others hear of it now, or where it is far behind: it decides, when it comes."""
        present = monotonic()
        old: list[Dispatch] = []
        for begun in self._begun.values():  # the oldest first
            if begun.at > present - FORGET_SECONDS:
                break
            old.append(begun.dispatch)
        for dispatch in old:
            del self._begun[dispatch.event_id]
        return old


def calls_after(answered: Dispatch, traceparent: str | None, stored: Sequence[tuple[UUID, Any]]) -> list[Dispatch]:
    """The calls that the events of an answer ask for, as the stream will ask for them; without those that ask for more."""
    calls: list[Dispatch] = []
    for event_id, event in stored:
        if type(event) is StepStarted:
            reactions = react(Cause(answered.tenant_id, event_id, answered.correlation_id, traceparent), event)
            calls += [one for one in reactions if len(reactions) == 1 and isinstance(one, Dispatch)]
    return calls
