# intent_ref: sagas.execution
"""What the execution saga does about an event: a pure function from the event to reactions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from domain.execution import ExecutionCancelled, StepRetrying, StepStarted
from event_store import codec
from event_store.ids import derived_id
from sagas.dispatches import Dispatch

TOPICS = frozenset(codec.topic_of(event) for event in (StepStarted, StepRetrying, ExecutionCancelled))
_NAMESPACE = UUID("7c1e1d2e-92f3-5f0e-8a44-5d7c0b1f3a61")


@dataclass(frozen=True, slots=True)
class Cause:
    """Which event is reacted to, and in which conversation and trace."""

    tenant_id: str
    event_id: UUID
    correlation_id: str
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class DropAttempts:
    """No further attempt of this execution is made; those under way are given up."""

    tenant_id: str
    execution_id: str


Reaction = Dispatch | DropAttempts


def outcome_command_id(tenant_id: str, execution_id: str, step: str, attempt: int) -> UUID:
    """The id of the command that records an attempt's outcome: one attempt, one command, whoever records it."""
    return derived_id(_NAMESPACE, f"{tenant_id}\n{execution_id}\n{step}\n{attempt}")


def react(cause: Cause, event: Any) -> list[Reaction]:
    """What `event` asks for; nothing where it asks for nothing."""
    match event:
        case StepStarted(execution_id=execution, step=step, attempt=attempt, at=at):
            return [_dispatch(cause, execution, step, attempt, at)]
        case StepRetrying(execution_id=execution, step=step, attempt=attempt, due_at=due_at):
            return [_dispatch(cause, execution, step, attempt, due_at)]
        case ExecutionCancelled(execution_id=execution):
            return [DropAttempts(cause.tenant_id, execution)]
        case _:
            return []


def settled(reactions: Iterable[Reaction]) -> tuple[list[Dispatch], list[DropAttempts]]:
    """The attempts left to make, and what is to be dropped, after all of `reactions` in their order."""
    dispatches: dict[object, Dispatch] = {}
    drops: dict[DropAttempts, None] = {}
    for reaction in reactions:
        if isinstance(reaction, Dispatch):
            dispatches[reaction.key] = reaction
            continue
        drops[reaction] = None
        gone = (reaction.tenant_id, reaction.execution_id)
        dispatches = {key: kept for key, kept in dispatches.items() if (kept.tenant_id, kept.execution_id) != gone}
    return list(dispatches.values()), list(drops)


def _dispatch(cause: Cause, execution: str, step: str, attempt: int, due_at: Any) -> Dispatch:
    command_id = outcome_command_id(cause.tenant_id, execution, step, attempt)
    return Dispatch(
        cause.tenant_id, execution, step, attempt, due_at, command_id, cause.event_id, cause.correlation_id, cause.traceparent
    )
