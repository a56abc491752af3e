# intent_ref: commands.shell
"""The one shell: load, fold, decide, append; again on a conflict. The only caller of `EventStore.append`.

What is cached is tried first: an append carries the version it was decided on, so a stale state can only conflict, never
slip through. A refusal, or a decision to do nothing, is never taken on cached state: then the log is asked.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from functools import partial
from typing import Any, Generic, TypeVar, cast, get_args, overload
from uuid import UUID

from commands import claims
from commands import custom_event as custom_commands
from commands import execution as execution_commands
from commands import intent as intent_commands
from commands import module as module_commands
from commands import pull_subscription as pull_commands
from commands import subscription as subscription_commands
from commands import tenant as tenant_commands
from commands.catalogue import together
from commands.custom_event import EmitEvent
from commands.execution import ExecutionCommand, FollowUpCommand, StartExecution
from commands.execution_start import begun, startable
from commands.holdings import MayHold, any_number, newly_held
from commands.intent import CreateIntent, IntentCommand
from commands.kept_inputs import recorded_inputs
from commands.kept_values import Room, ValueStore, with_kept
from commands.module import ModuleCommand
from commands.pull_subscription import PullSubscriptionCommand
from commands.recorded_events import new_event
from commands.starts import MayDescend, MayStart, any_descent, unlimited
from commands.subscription import SubscriptionCommand
from commands.tenant import TenantCommand
from commands.turns import Turns
from domain import custom_event, execution, intent, module, pull_subscription, subscription, tenant
from domain.custom_event import CustomEvents
from domain.definition import Rules
from domain.execution import Execution
from domain.immutable import immutable
from domain.intent import Intent
from domain.module import Modules
from domain.pull_subscription import PullSubscriptions
from domain.refusals import ExecutionExists, LimitReached, NotFound, Refusal, TooManyDescendants
from domain.subscription import Subscriptions
from domain.tenant import Tenant
from domain.values import (
    ExecutionId,
    StreamId,
    TenantId,
    custom_events_stream,
    execution_stream,
    intent_stream,
    modules_stream,
    pull_subscriptions_stream,
    subscriptions_stream,
    tenant_stream,
)
from event_store import codec
from event_store.records import (
    NO_STREAM,
    ClaimTaken,
    Metadata,
    RecordedEvent,
    StreamAppend,
    StreamBusy,
    VersionConflict,
)
from event_store.snapshots import Loaded
from event_store.store import EventStore

S = TypeVar("S")
ATTEMPTS_MAX = 16
NAME_SCOPE, KEY_SCOPE = claims.NAME_SCOPE, claims.KEY_SCOPE


class IdempotencyKeyReused(Refusal):
    """The idempotency key was used for another request: use a new key for a new request."""

    code = "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__(self.__doc__)


@immutable
class Shell:
    """What every command needs: the log, the platform's modules, rules of definitions and starts, a place for large values."""

    store: EventStore
    builtin: Modules
    rules: Rules
    may_start: MayStart = unlimited
    inputs: ValueStore | None = None
    turns: Turns = field(default_factory=Turns)
    may_hold: MayHold = any_number
    may_descend: MayDescend = any_descent


@immutable
class Envelope:
    """Whose command it is, which one, and why. The same `command_id` again has no second effect and gets the first answer.

    `request_hash` tells a repeat from another request under the same id.
    """

    tenant_id: TenantId
    command_id: UUID
    actor: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    request_hash: str | None = None


@immutable
class Outcome(Generic[S]):
    """The state right after the command, its stream's version, and a log position that covers what it stored.

    `stored`: the events it stored now, with their ids; none where it was replayed.
    """

    state: S
    version: int
    position: int
    replayed: bool
    stored: Sequence[tuple[UUID, codec.DomainEvent]] = ()


Command = (
    TenantCommand | IntentCommand | ModuleCommand | SubscriptionCommand | PullSubscriptionCommand | ExecutionCommand | EmitEvent
)


_FOLLOW_UPS: frozenset[type] = frozenset(get_args(FollowUpCommand))


@overload
async def handle(shell: Shell, command: TenantCommand, envelope: Envelope) -> Outcome[Tenant]: ...
@overload
async def handle(shell: Shell, command: IntentCommand, envelope: Envelope) -> Outcome[Intent]: ...
@overload
async def handle(shell: Shell, command: ModuleCommand, envelope: Envelope) -> Outcome[Modules]: ...
@overload
async def handle(shell: Shell, command: SubscriptionCommand, envelope: Envelope) -> Outcome[Subscriptions]: ...
@overload
async def handle(shell: Shell, command: PullSubscriptionCommand, envelope: Envelope) -> Outcome[PullSubscriptions]: ...
@overload
async def handle(shell: Shell, command: EmitEvent, envelope: Envelope) -> Outcome[CustomEvents]: ...
@overload
async def handle(shell: Shell, command: ExecutionCommand, envelope: Envelope) -> Outcome[Execution]: ...
async def handle(shell: Shell, command: Command, envelope: Envelope) -> Outcome[Any]:
    """Obeys `command` once and answers with what it led to.

    Raises a `Refusal` where the rules forbid it; `StreamBusy` and `StoreUnavailable` where it may be sent again.
    """
    if type(command) in _FOLLOW_UPS:
        # By far the most frequent, and a type is found faster than it is told from some twenty others.
        follow_up = cast("FollowUpCommand", command)
        decide = _on_execution(shell, envelope, follow_up)
        return await _obey(shell, envelope, execution_stream(follow_up.execution_id), execution.evolve, decide)
    match command:
        case EmitEvent():
            decide = _pure(lambda state: custom_commands.decide(state, command, shell.rules))
            return await _obey(shell, envelope, custom_events_stream(command.execution_id), custom_event.evolve, decide)
        case StartExecution():
            return await _start_execution(shell, command, envelope)
        case CreateIntent():
            decide = _with_catalogue(shell, command, envelope.tenant_id)
            return await _obey(shell, envelope, intent_stream(command.intent_id), intent.evolve, decide, is_new=True)
        case (
            intent_commands.ReviseIntent()
            | intent_commands.RollBackIntent()
            | intent_commands.DeprecateIntent()
            | intent_commands.ActivateIntent()
            | intent_commands.ArchiveIntent()
            | intent_commands.PauseSchedule()
            | intent_commands.ResumeSchedule()
        ):
            decide = _with_catalogue(shell, command, envelope.tenant_id)
            return await _obey(shell, envelope, intent_stream(command.intent_id), intent.evolve, decide)
        case (
            tenant_commands.RegisterTenant()
            | tenant_commands.SuspendTenant()
            | tenant_commands.ReactivateTenant()
            | tenant_commands.SetTenantLimits()
        ):
            stream = tenant_stream(command.tenant_id)
            return await _obey(
                shell, envelope, stream, tenant.evolve, _pure(lambda state: tenant_commands.decide(state, command))
            )
        case module_commands.RegisterModule() | module_commands.ChangeModule() | module_commands.RemoveModule():
            decide = _pure(lambda state: module_commands.decide(state, command, shell.builtin))
            return await _obey(shell, envelope, modules_stream(), module.evolve, decide)
        case (
            subscription_commands.CreateSubscription()
            | subscription_commands.ChangeSubscription()
            | subscription_commands.RotateSubscriptionSecret()
            | subscription_commands.PauseSubscription()
            | subscription_commands.ResumeSubscription()
            | subscription_commands.DisableSubscription()
            | subscription_commands.EnableSubscription()
            | subscription_commands.DeleteSubscription()
        ):
            decide = _pure(lambda state: subscription_commands.decide(state, command))
            return await _obey(shell, envelope, subscriptions_stream(), subscription.evolve, decide)
        case (
            pull_commands.CreatePullSubscription()
            | pull_commands.ChangePullSubscription()
            | pull_commands.DeletePullSubscription()
        ):
            decide = _pure(lambda state: pull_commands.decide(state, command))
            return await _obey(shell, envelope, pull_subscriptions_stream(), pull_subscription.evolve, decide)
        case _:
            raise TypeError(f"{type(command).__name__} is no command")


@immutable
class Decided:
    """Events, and the state they lead to where the decision knows it already."""

    events: Sequence[codec.DomainEvent]
    state: Any = None


Decide = Callable[[Any, bool], Decided | Awaitable[Decided]]
"""The decision on (state, whether cached facts are good enough); to be awaited only where something has to be asked or kept."""


def _pure(decide: Callable[[Any], Sequence[codec.DomainEvent]]) -> Decide:
    return lambda state, may_be_stale: Decided(decide(state))


def _on_execution(shell: Shell, envelope: Envelope, command: FollowUpCommand) -> Decide:
    def decided(state: Execution | None, may_be_stale: bool) -> Decided | Awaitable[Decided]:
        room = Room()
        turn = execution_commands.decided(state, command, room)
        return _in_more_room(shell, envelope, command, state, room) if room.unkept else Decided(turn.events, turn.state)

    return decided


async def _in_more_room(
    shell: Shell, envelope: Envelope, command: FollowUpCommand, state: Execution | None, room: Room
) -> Decided:  # fmt: skip
    turn = await with_kept(shell.inputs, envelope.tenant_id, room, partial(execution_commands.decided, state, command))
    return Decided(turn.events, turn.state)


def _with_catalogue(shell: Shell, command: IntentCommand, tenant_id: TenantId) -> Decide:
    async def decided(state: Intent | None, may_be_stale: bool) -> Decided:
        catalogue = await actions_of(shell, tenant_id, may_be_stale=may_be_stale)
        events = intent_commands.decide(state, command, catalogue, shell.rules)
        await shell.may_hold(tenant_id, newly_held(state, events))
        return Decided(events)

    return decided


async def actions_of(shell: Shell, tenant_id: TenantId, *, may_be_stale: bool = False) -> Modules:
    """The modules a tenant can use: those that come with the platform, and its own."""
    own = shell.store.states.cached(tenant_id, modules_stream()) if may_be_stale else None
    if own is None:
        own = await shell.store.load(tenant_id, modules_stream(), module.evolve)
        if not own.version:
            shell.store.states.keep(tenant_id, modules_stream(), module.evolve, own)
    if own.state is None or not own.state.by_name:
        return shell.builtin
    return together(own.state, shell.builtin)


async def _start_execution(shell: Shell, command: StartExecution, envelope: Envelope) -> Outcome[Execution]:
    async def decided(state: Execution | None, may_be_stale: bool) -> Decided:
        # The intent is another stream: should it be archived in this very moment, the execution counts as started before.
        loaded = await shell.store.load(envelope.tenant_id, intent_stream(command.intent_id), intent.evolve)
        if loaded.state is None:
            raise NotFound("intent", command.intent_id)
        catalogue = await actions_of(shell, envelope.tenant_id, may_be_stale=may_be_stale)
        start = startable(loaded.state, command, catalogue, shell.rules)
        inputs = await recorded_inputs(start, command, shell.inputs, envelope.tenant_id)
        room = Room()
        turn = begun(start, command, inputs, room)
        if room.unkept:
            turn = await with_kept(shell.inputs, envelope.tenant_id, room, partial(begun, start, command, inputs))
        if command.business_key is not None and turn.state.is_over:
            # It holds its key for no time at all, so the append has nothing to claim; what holds it now goes before.
            value = execution_commands.key_of(command.intent_id, command.business_key)
            holder = await shell.store.claim_holder(envelope.tenant_id, KEY_SCOPE, value)
            if holder is not None and holder != stream:
                raise ExecutionExists(command.business_key, holder.removeprefix(execution_stream(ExecutionId(""))))
        return Decided(turn.events, turn.state)

    stream = execution_stream(command.execution_id)
    try:
        if await shell.may_start(envelope.tenant_id, command.parent is not None):
            command = command.model_copy(update={"queues": True})
        if command.root is not None:
            await shell.may_descend(envelope.tenant_id, command.root, command.execution_id)
    except (LimitReached, TooManyDescendants):
        replay = await _replayed(shell.store, envelope, execution.evolve)
        if replay is None:
            raise
        return replay
    return await _obey(shell, envelope, stream, execution.evolve, decided, is_new=True)


async def _obey(
    shell: Shell, envelope: Envelope, stream_id: StreamId, evolve: Callable[[Any, Any], Any], decide: Decide, *,
    is_new: bool = False,
) -> Outcome[Any]:  # fmt: skip
    store, tenant_id = shell.store, envelope.tenant_id
    with shell.turns.turn(tenant_id, stream_id) as turn:
        if turn.has_line:
            await turn.wait()
        for attempt in range(ATTEMPTS_MAX):
            known = store.states.cached(tenant_id, stream_id)
            if known is None and is_new:
                known = Loaded(None, NO_STREAM)
            may_be_stale = attempt == 0 and known is not None
            loaded = cast("Loaded[Any]", known) if may_be_stale else await store.load(tenant_id, stream_id, evolve)
            try:
                decided = decide(loaded.state, may_be_stale)
                if not isinstance(decided, Decided):
                    decided = await decided
            except Refusal:
                if may_be_stale:
                    continue
                replay = await _replayed(store, envelope, evolve)
                if replay is None:
                    raise
                return replay
            events = decided.events
            if not events:
                if may_be_stale:
                    continue
                replay = await _replayed(store, envelope, evolve)
                return replay or Outcome(loaded.state, loaded.version, await store.horizon(), False)
            encoded = [new_event(event) for event in events]
            try:
                appended = await store.append(
                    tenant_id,
                    [StreamAppend(stream_id, encoded, loaded.version)],
                    command_id=envelope.command_id,
                    metadata=_metadata(envelope),
                    claims=claims.of(stream_id, loaded.state, events),
                )
            except VersionConflict:
                await turn.wait()
                if attempt:
                    await asyncio.sleep(random.uniform(0, 0.002 * attempt))  # noqa: S311 - spreads retries, no secret
                continue
            except ClaimTaken as taken:
                if (replay := await _replayed(store, envelope, evolve)) is not None:
                    return replay
                await claims.refuse_if_held(store, tenant_id, taken)
                continue
            if appended.repeated:
                return await _folded(store, envelope, appended.repeated, evolve)
            state = decided.state
            if state is None:
                state = loaded.state
                for event in events:
                    state = evolve(state, event)
            store.states.keep(tenant_id, stream_id, evolve, Loaded(state, appended.versions[0]))
            stored = [(new.event_id, event) for new, event in zip(encoded, events, strict=True)]
            return Outcome(state, appended.versions[0], appended.position, False, stored)
    replay = await _replayed(store, envelope, evolve)
    if replay is None:
        raise StreamBusy(stream_id, 0.0)
    return replay


async def _replayed(store: EventStore, envelope: Envelope, evolve: Any) -> Outcome[Any] | None:
    """What the same command led to before, if it did."""
    repeated = await store.read_command(envelope.tenant_id, envelope.command_id)
    return await _folded(store, envelope, repeated, evolve) if repeated else None


async def _folded(store: EventStore, envelope: Envelope, repeated: Sequence[RecordedEvent], evolve: Any) -> Outcome[Any]:
    last = repeated[-1]
    if envelope.request_hash is not None and last.metadata.request_hash != envelope.request_hash:
        raise IdempotencyKeyReused
    state = None
    for event in await store.read_stream(envelope.tenant_id, StreamId(last.stream_id), to_version=last.version):
        state = evolve(state, event.event)
    return Outcome(state, last.version, max(event.position for event in repeated), True)


def _metadata(envelope: Envelope) -> Metadata:
    return Metadata(envelope.correlation_id, envelope.causation_id, envelope.actor, envelope.traceparent, envelope.request_hash)
