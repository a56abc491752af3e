# intent_ref: sagas.triggers
"""The trigger saga: intents whose definition has `on` start executions upon events of their own tenant.

The id of a start follows from the intent and the event, so that an event which comes again starts nothing again. Chains are
bounded: an execution that is started upon an event of another stands one deeper than that one, and too deep a start is refused;
events of its own executions fire an intent with `allow_self` alone. An event of a tenant without triggers costs a look into a
dictionary, and is not decoded; while there is no trigger at all, the stream is not even read.

A start that is refused is kept (sagas/trigger_starts.py) before the stream's checkpoint moves: what a limit of the tenant refuses
is tried again, and what cannot be is a dead letter, which somebody may have tried again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from commands.execution import StartExecution
from commands.expressions import ExpressionFailed
from commands.handle import Envelope, Shell, handle
from commands.start_inputs import start_inputs
from commands.triggers import is_of_type, matches
from domain import execution
from domain.custom_event import CustomEventEmitted
from domain.immutable import immutable
from domain.refusals import LimitReached, Refusal, TriggeredTooDeep
from domain.values import ExecutionId, IntentId, TenantId, custom_events_stream, execution_stream
from event_store import codec
from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from sagas.clock import Clock, now
from sagas.starting import check_tenant, error_of, start_id
from sagas.trigger_rows import Firing, Row, Triggers
from sagas.trigger_starts import TENANT_STARTS_MAX, Owed, Refused, TriggerStarts, again_at
from streaming.cloud_events import SOURCE_DEFAULT, subject_of, type_of
from streaming.dead_letters import message_at
from streaming.transport import Message, Transport
from streaming.waiting import first_of

GROUP = "saga.triggers"
ACTOR = "saga:triggers"
EXECUTION_ACTOR = "execution:"
"""What the actor of an event begins with that a step's command has caused; the execution's id follows."""
DEPTH_MAX = 5
"""How long a chain of executions may be that start one another."""
_STARTS_AT_ONCE = 16
_IDLE_SECONDS = 1.0
_SLEEP_SECONDS_MAX = 5.0
_LOOKS_APART_SECONDS = 0.2
_CUSTOM = codec.topic_of(CustomEventEmitted)
_EXECUTION_STREAM, _CUSTOM_STREAM = execution_stream(ExecutionId("")), custom_events_stream(ExecutionId(""))
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads. `decoded`: how often an event was held against a trigger. `dropped`: refused and not kept."""

    seen: int = 0
    decoded: int = 0
    started: int = 0
    repeated: int = 0
    refused: int = 0
    tried_again: int = 0
    dead_letters: int = 0
    dropped: int = 0


@immutable
class _Origin:
    """The execution behind an event, where there is one: of which intent, and how deep in a chain."""

    intent_id: str | None = None
    depth: int = 0


@dataclass(slots=True)
class TriggerSaga:
    """One worker. Any number of them, in any number of processes, share the events."""

    shell: Shell
    transport: Transport
    source: str = SOURCE_DEFAULT
    clock: Clock = now
    statistics: Statistics = field(default_factory=Statistics)
    triggers: Triggers = field(init=False)
    _starts: TriggerStarts = field(init=False)
    _kept: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.triggers = Triggers(self.shell.store)
        self._starts = TriggerStarts(self.shell.store.platform_pool)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(stop), name="triggers-consumer")
            group.create_task(self._keep_trying(stop), name="triggers-again")

    async def _listen(self, stop: asyncio.Event) -> None:
        await self._wait_for_a_trigger(stop)
        if not stop.is_set():
            await self.transport.consume(GROUP, self.take_in, stop=stop)

    async def take_in(self, messages: Sequence[Message]) -> None:
        """The stream's handler: returns when every execution that the events fire is started, or said why not."""
        self.statistics.seen += len(messages)
        await self.triggers.follow(max(message.position for message in messages))
        fired = [(message, row) for message in messages for row in self.triggers.of(message.tenant_id) if _may_fire(row, message)]
        if not fired:
            return
        firings: dict[tuple[str, str], Firing] = {}
        refused: list[Refused] = []
        limit = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def fire(message: Message, row: Row) -> None:
            async with limit:
                firing = await self._fire(message, row)
            if firing is not None:
                _add(firings, row, firing)
                if (one := self._refused(firing, message, row, 1)) is not None:
                    refused.append(one)

        async with asyncio.TaskGroup() as group:
            for message, row in fired:
                group.create_task(fire(message, row), name="trigger")
        if refused:
            await self._keep(refused)
        if firings:
            await self.triggers.record(firings)

    async def try_again(self) -> datetime | None:
        """Tries the refused starts that are due; when the next one is, None where there is none."""
        while True:
            owed = await self._starts.claim(self.clock(), _STARTS_AT_ONCE)
            if owed:
                await self.triggers.follow(await self.shell.store.horizon())
                await asyncio.gather(*[self._try_one(one) for one in owed])
            if len(owed) < _STARTS_AT_ONCE:
                return await self._starts.next_try()

    async def _keep_trying(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._kept.clear()
            seconds = _SLEEP_SECONDS_MAX
            try:
                next_at = await self.try_again()
            except _FAULTS as fault:
                log.warning("refused starts cannot be tried now", fault=repr(fault))
            else:
                if next_at is not None:
                    seconds = min(seconds, max(0.0, (next_at - self.clock()).total_seconds()))
            await first_of(seconds, stop, self._kept)

    async def _try_one(self, owed: Owed) -> None:
        """One refused start. Whatever goes wrong with it stays with it: it comes again after a while."""
        try:
            row = self.triggers.of_intent(owed.tenant_id, owed.intent_id)
            message = await message_at(self.shell.store, owed.tenant_id, owed.position)
            firing = None
            if row is not None and message is not None:
                self.statistics.tried_again += 1
                firing = await self._fire(message, row)
            if firing is None or message is None or row is None:
                log.info("a refused start is not wanted any more", tenant=owed.tenant_id, intent=owed.intent_id)
                await self._starts.done(owed)
                return
            refused = self._refused(firing, message, row, owed.tries + 1)
            if refused is None:
                await self._starts.done(owed)
            else:
                await self._starts.refused_again(refused)
            await self.triggers.record({(owed.tenant_id, owed.intent_id): firing})
        except _FAULTS as fault:
            log.warning("a refused start is tried again later", intent=owed.intent_id, fault=repr(fault))
        except Exception as fault:
            log.error("a refused start cannot be dealt with", intent=owed.intent_id, exc_info=fault)

    def _refused(self, firing: Firing, message: Message, row: Row, tries: int) -> Refused | None:
        """What is kept of a start that was refused; None where nothing was, or where another try could never be wanted."""
        if firing.error is None or firing.refusal is None:
            return None
        again = None
        if isinstance(firing.refusal, LimitReached):
            again = again_at(message.event_id, tries, firing.at, firing.refusal.again_seconds)
        if again is None:
            self.statistics.dead_letters += 1
        return Refused(
            row.tenant_id, row.intent_id, message.event_id, message.position, firing.at, again, firing.error
        )  # fmt: skip

    async def _keep(self, refused: Sequence[Refused]) -> None:
        kept = await self._starts.keep(refused)
        dropped = [one for one in refused if one.key not in kept]
        self.statistics.dropped += len(dropped)
        for tenant_id in {one.tenant_id for one in dropped}:
            log.error("a tenant has too many refused starts; more are not kept", tenant=tenant_id, most=TENANT_STARTS_MAX)
        self._kept.set()

    async def _wait_for_a_trigger(self, stop: asyncio.Event) -> None:
        store = self.shell.store
        while not stop.is_set():
            generation = store.wakeups.generation
            try:
                await self.triggers.follow(await store.horizon())
            except _FAULTS as fault:
                log.warning("triggers cannot be read; trying again", fault=repr(fault))
            if not self.triggers.are_none:
                return
            await first_of(_LOOKS_APART_SECONDS, stop)
            await first_of(_IDLE_SECONDS, stop, store.wakeups.wait(_IDLE_SECONDS, since=generation))

    async def _fire(self, message: Message, row: Row) -> Firing | None:
        """Starts an execution where the event fires the trigger; None where it does not. Raises what may pass."""
        firing = Firing(message.event_id, self.clock())
        tenant_id, command_id = TenantId(row.tenant_id), start_id("event", row.tenant_id, row.intent_id, str(message.event_id))
        try:
            event = self._event(message, row)
            if event is None:
                return None
            origin = await self._origin(message)
            if origin.intent_id == row.intent_id and not row.trigger.allow_self:
                return None
            scope = {"event": event, "tenant": {"id": row.tenant_id}}
            if not matches(row.trigger, event["type"], event["data"], scope):
                return None
            if origin.depth >= DEPTH_MAX:
                raise TriggeredTooDeep(row.intent_id, DEPTH_MAX)
        except (Refusal, ExpressionFailed) as fault:
            return self._said(firing, message, row, fault)
        try:
            await check_tenant(self.shell.store, tenant_id)
            command = StartExecution(
                execution_id=ExecutionId(str(command_id)), intent_id=IntentId(row.intent_id), version=row.intent_version,
                inputs=start_inputs(row.raw, scope), tenant_id=tenant_id, depth=origin.depth + 1,
                started_by=f"event {message.event_id}", at=firing.at,
            )  # fmt: skip
            outcome = await handle(self.shell, command, _envelope(message, command_id))
        except (Refusal, ExpressionFailed) as fault:
            firing.refusal = fault
            return self._said(firing, message, row, fault)
        if outcome.replayed:
            self.statistics.repeated += 1
        else:
            self.statistics.started += 1
            firing.runs = 1
        firing.execution_id = str(command_id)
        return firing

    def _said(self, firing: Firing, message: Message, row: Row, fault: Refusal | ExpressionFailed) -> Firing:
        self.statistics.refused += 1
        firing.error = error_of(fault, firing.at, event_id=str(message.event_id))
        log.warning("an event started nothing", tenant=row.tenant_id, intent=row.intent_id, reason=str(fault))
        return firing

    def _event(self, message: Message, row: Row) -> dict[str, Any] | None:
        """The event as expressions see it, under the type that the trigger is about; None where it is about none of its types."""
        self.statistics.decoded += 1
        kind, data = type_of(message.topic), orjson.loads(message.payload)
        if message.topic == _CUSTOM and not is_of_type(row.trigger, kind):
            kind, data = data["type"], data["data"]
        if not is_of_type(row.trigger, kind):
            return None
        return {
            "id": str(message.event_id), "type": kind, "subject": subject_of(message.stream_id), "source": self.source,
            "time": message.recorded_at.astimezone(UTC).isoformat()[:-6] + "Z", "data": data,
        }  # fmt: skip

    async def _origin(self, message: Message) -> _Origin:
        stream_id, actor = message.stream_id, message.metadata.actor
        if stream_id.startswith((_EXECUTION_STREAM, _CUSTOM_STREAM)):
            execution_id = stream_id.removeprefix(_EXECUTION_STREAM).removeprefix(_CUSTOM_STREAM)
        elif actor.startswith(EXECUTION_ACTOR):
            execution_id = actor.removeprefix(EXECUTION_ACTOR)
        else:
            return _Origin()
        stream = execution_stream(ExecutionId(execution_id))
        state = (await self.shell.store.load(TenantId(message.tenant_id), stream, execution.evolve)).state
        return _Origin() if state is None else _Origin(state.intent_id, state.options.depth)


def _may_fire(row: Row, message: Message) -> bool:
    """Whether the event's topic alone leaves it open that the trigger is fired."""
    if message.position <= row.since_position:
        return False
    return message.topic == _CUSTOM or is_of_type(row.trigger, type_of(message.topic))


def _add(firings: dict[tuple[str, str], Firing], row: Row, firing: Firing) -> None:
    key = (row.tenant_id, row.intent_id)
    before = firings.get(key)
    if before is not None:
        firing.runs += before.runs
        firing.execution_id = firing.execution_id or before.execution_id
        firing.error = firing.error or before.error
    firings[key] = firing


def _envelope(message: Message, command_id: Any) -> Envelope:
    metadata = message.metadata
    return Envelope(
        TenantId(message.tenant_id), command_id, ACTOR, metadata.correlation_id, causation_id=str(message.event_id),
        traceparent=metadata.traceparent,
    )  # fmt: skip
