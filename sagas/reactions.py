# intent_ref: sagas.execution
"""What the execution saga does about an event: a pure function from the event to reactions."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from domain.execution_events import (
    ENDS,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionQueued,
    ExecutionStarted,
    ExecutionTerminated,
    StepCancelled,
    StepFailed,
    StepRetrying,
    StepStarted,
    StepWaiting,
)
from domain.execution_terms import Parent, StepLimits
from domain.immutable import immutable
from event_store import codec
from event_store.ids import derived_id
from sagas.dispatches import FIRST, Dispatch, Kind

_EVENTS = (ExecutionStarted, ExecutionQueued, StepStarted, StepRetrying, StepWaiting, StepFailed, StepCancelled, *ENDS)
TOPICS = frozenset(codec.topic_of(event) for event in _EVENTS)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""When something is due that waits for others alone."""
CHILD_END = -1000
"""Stands for the attempt in the row that tells a run of its child's end."""
_NAMESPACE = UUID("7c1e1d2e-92f3-5f0e-8a44-5d7c0b1f3a61")
_NO_LIMITS = StepLimits()


@immutable
class Cause:
    """Which event is reacted to, and in which conversation and trace."""

    tenant_id: str
    event_id: UUID
    correlation_id: str
    traceparent: str | None


@immutable
class Drop:
    """Nothing more is done for this run, or for any run where None; calls under way are given up.

    `is_tidying` where the execution is complete: then only timers that nobody needs any more can be left.
    """

    tenant_id: str
    execution_id: str
    step: str | None = None
    is_tidying: bool = False


Reaction = Dispatch | Drop


def admission_row(turn: int) -> int:
    """Stands for the attempt in the row of an execution that waits for its turn."""
    return -1 - turn


def outcome_command_id(tenant_id: str, execution_id: str, step: str, attempt: int) -> UUID:
    """The id of the command that records an attempt's outcome: one attempt, one command, whoever records it."""
    return derived_id(_NAMESPACE, f"{tenant_id}\n{execution_id}\n{step}\n{attempt}")


def react(cause: Cause, event: Any) -> list[Reaction]:
    """What `event` asks for; nothing where it asks for nothing."""
    match event:
        case ExecutionStarted(execution_id=execution, options=options):
            if options is None or options.deadline_at is None:
                return []
            return [_other(cause, "deadline", execution, "", 0, options.deadline_at, None)]
        case ExecutionQueued(execution_id=execution, turn=turn, priority=priority, at=at):
            return [replace(_other(cause, "admission", execution, "", admission_row(turn), at, None), priority=priority)]
        case StepStarted(execution_id=execution, step=step, action=action, attempt=attempt, at=at, limits=limits):
            call = _call(cause, execution, step, attempt, at, limits, action)
            return [call] if limits is None else [call, *_expiry(cause, execution, step, limits)]
        case StepRetrying(execution_id=execution, step=step, attempt=attempt, due_at=due_at, limits=limits):
            return [_call(cause, execution, step, attempt, due_at, limits)]
        case StepWaiting(execution_id=execution, step=step, limits=limits):
            return [*_gate(cause, event), *_expiry(cause, execution, step, limits)]
        case StepFailed(execution_id=execution, step=step, child=child, at=at) if child is not None:
            return [Drop(cause.tenant_id, execution, step), _stop(cause, child, "cancel", at)]
        case StepCancelled(execution_id=execution, step=step, child=child, at=at):
            gone: list[Reaction] = [Drop(cause.tenant_id, execution, step)]
            return gone if child is None else [*gone, _stop(cause, child, "cancel", at)]
        case ExecutionCompleted() | ExecutionFailed() | ExecutionCancelled() | ExecutionTerminated():
            return _ended(cause, event)
        case _:
            return []


def _gate(cause: Cause, event: StepWaiting) -> list[Reaction]:
    execution, step, gate = event.execution_id, event.step, event.gate
    match event.reason:
        case "child":
            return [_other(cause, "child", execution, step, -1 - gate, event.at, {**event.detail, "gate": gate})]
        case "resume":
            return []  # a human's pause is what it waits for
        case _:
            return [_other(cause, "gate", execution, step, -1 - gate, event.due_at or NEVER, {"gate": gate})]


def _expiry(cause: Cause, execution: str, step: str, limits: StepLimits | None) -> list[Reaction]:
    """The end of the time that the step has as a whole; said again by each event of the step, and one row."""
    if limits is None or limits.expires_at is None:
        return []
    return [_other(cause, "expiry", execution, step, 0, limits.expires_at, None)]


def settled(reactions: Iterable[Reaction]) -> tuple[list[Dispatch], list[Drop]]:
    """What is left to do, and what is to be dropped, after all of `reactions` in their order."""
    dispatches: dict[object, Dispatch] = {}
    drops: dict[Drop, None] = {}
    for reaction in reactions:
        if isinstance(reaction, Dispatch):
            dispatches[reaction.key] = reaction
            continue
        drops[reaction] = None
        if not reaction.is_tidying:
            dispatches = {key: kept for key, kept in dispatches.items() if not _drops(reaction, kept)}
    return list(dispatches.values()), list(drops)


def _drops(drop: Drop, dispatch: Dispatch) -> bool:
    return (
        (dispatch.tenant_id, dispatch.execution_id) == (drop.tenant_id, drop.execution_id)
        and drop.step in (None, dispatch.step)
        and dispatch.kind not in ("child_end", "stop_child")
    )


def _ended(
    cause: Cause, event: ExecutionCompleted | ExecutionFailed | ExecutionCancelled | ExecutionTerminated
) -> list[Reaction]:
    execution = event.execution_id
    reactions: list[Reaction] = [Drop(cause.tenant_id, execution, is_tidying=isinstance(event, ExecutionCompleted))]
    if isinstance(event, ExecutionCancelled | ExecutionTerminated):
        how: Literal["cancel", "terminate"] = "cancel" if isinstance(event, ExecutionCancelled) else "terminate"
        reactions += [_stop(cause, child, how, event.at) for child in event.children]
    if event.parent is not None:
        reactions.append(_child_end(cause, event, event.parent))
    return reactions


def _child_end(cause: Cause, event: Any, parent: Parent) -> Dispatch:
    """The parent hears what became of its child."""
    detail: dict[str, Any]
    match event:
        case ExecutionCompleted(result=result):
            detail = {"result": result}
        case ExecutionFailed(error=error):
            detail = {"error": {"code": "workflow-failed", "message": "The workflow failed.", "cause": error}}
        case _:
            detail = {"error": {"code": "workflow-cancelled", "message": "The workflow was ended before it was done."}}
    detail["child"] = event.execution_id
    return _other(cause, "child_end", parent.execution_id, parent.step, CHILD_END, event.at, detail)


def _stop(cause: Cause, child: str, how: str, at: datetime) -> Dispatch:
    return _other(cause, "stop_child", child, "", -1, at, {"how": how})


def _call(
    cause: Cause, execution: str, step: str, attempt: int, due_at: datetime, limits: StepLimits | None, action: str = ""
) -> Dispatch:
    command_id, limits = outcome_command_id(cause.tenant_id, execution, step, attempt), limits or _NO_LIMITS
    return Dispatch(
        cause.tenant_id, execution, step, attempt, due_at, command_id, cause.event_id, cause.correlation_id, cause.traceparent,
        "call", limits.priority, limits.slot_key, limits.slot_max, limits.queue_by, metered=limits.metered, action=action,
    )  # fmt: skip


def _other(
    cause: Cause, kind: Kind, execution: str, step: str, attempt: int, due_at: datetime, detail: dict[str, Any] | None
) -> Dispatch:
    command_id = derived_id(_NAMESPACE, f"{cause.tenant_id}\n{cause.event_id}\n{kind}\n{execution}\n{step}")
    return Dispatch(
        cause.tenant_id, execution, step, attempt, due_at, command_id, cause.event_id, cause.correlation_id, cause.traceparent,
        kind, FIRST, detail=None if detail is None else orjson.dumps(detail).decode(),
    )  # fmt: skip
