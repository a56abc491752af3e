# intent_ref: ground.given-when-then
"""given(events).when(command).then(events): a decision held against what it must be, exactly and in order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest

from domain.refusals import Refusal
from event_store import codec

S = TypeVar("S")


def folded(evolve: Callable[[Any, Any], S], events: Iterable[Any], state: S | None = None) -> S | None:
    """The state after `events`."""
    for event in events:
        state = evolve(state, event)
    return state


def stored(event: Any) -> Any:
    """The event as the log gives it back."""
    return codec.decode(*codec.encode(event))


@dataclass(frozen=True)
class Decider(Generic[S]):
    """A concept under test: how it folds, and how it decides on (state, command)."""

    evolve: Callable[[Any, Any], S]
    decide: Callable[[S | None, Any], list[Any]]

    def given(self, *events: Any) -> "Given[S]":
        """What has happened so far."""
        return Given(self, events)


@dataclass(frozen=True)
class Given(Generic[S]):
    """A past."""

    decider: Decider[S]
    events: tuple[Any, ...]

    @property
    def state(self) -> S | None:
        """The state that the past has led to, as it is read from the log."""
        return folded(self.decider.evolve, (stored(event) for event in self.events))

    def when(self, command: Any) -> "When[S]":
        """The command that comes in now."""
        return When(self, command)


@dataclass(frozen=True)
class When(Generic[S]):
    """A past and a command."""

    given: Given[S]
    command: Any

    def then(self, *expected: Any) -> Given[S]:
        """Holds that exactly these events happen, in this order; gives the past with them in it, to go on from."""
        happened = self.given.decider.decide(self.given.state, self.command)
        assert happened == list(expected)
        assert [stored(event) for event in happened] == list(expected), "an event changes on its way through the log"
        return Given(self.given.decider, (*self.given.events, *happened))

    def then_nothing(self) -> None:
        """Holds that nothing happens."""
        self.then()

    def then_refused(self, refusal: type[Refusal], **facts: Any) -> Refusal:
        """Holds that exactly this refusal is raised, with these facts."""
        with pytest.raises(Refusal) as caught:
            self.given.decider.decide(self.given.state, self.command)
        assert type(caught.value) is refusal
        assert {name: getattr(caught.value, name) for name in facts} == facts
        return caught.value

    def then_faults(self, refusal: type[Refusal], *pointers_and_codes: tuple[str, str]) -> None:
        """Holds that the input is refused for exactly these faults, in this order."""
        caught: Any = self.then_refused(refusal)
        assert [(fault.pointer, fault.code) for fault in caught.faults] == list(pointers_and_codes)
