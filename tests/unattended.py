# intent_ref: tests.schedules
"""What tests of schedules and triggers share: a clock that stands until it is set, and a tenant with the schedule saga."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from access.start_limits import StartLimits
from access.start_rate import StartRate
from access.tenant_directory import TenantDirectory
from commands.custom_event import EmitEvent
from commands.execution import StartExecution
from commands.handle import Envelope, Outcome, Shell, handle
from commands.intent import CreateIntent, ReviseIntent
from commands.tenant import RegisterTenant, SetTenantLimits
from domain import execution
from domain.definition import Rules
from domain.execution import Execution
from domain.execution_events import ExecutionStarted
from domain.intent import Intent
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import ExecutionId, IntentId, StepId, TenantId, execution_stream
from event_store.ids import uuid7
from event_store.records import RecordedEvent
from event_store.store import EventStore
from modules.catalogue import builtin, in_process
from modules.http import HttpModules
from sagas.schedule_rows import TOPICS
from sagas.schedules import ScheduleSaga
from sagas.triggers import TriggerSaga
from streaming.embedded import EmbeddedTransport
from streaming.transport import Message

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS: list[dict[str, Any]] = [{"action": "no-op"}]


class StandingClock:
    """A clock that says what it was set to."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def pass_by(self, **spans: float) -> None:
        """Lets time pass: `hours=1`, `seconds=5`."""
        self.at += timedelta(**spans)


class Land:
    """A tenant on a store, and the schedule saga of one process, driven by hand."""

    def __init__(self, store: EventStore, tenant: str, clock: StandingClock | None = None) -> None:
        self.store, self.tenant, self.clock = store, TenantId(tenant), clock or StandingClock()
        self.shell = Shell(store, builtin(in_process(HttpModules(allow_private=True), sandbox=True)), Rules())
        limits = StartLimits(TenantDirectory(store), store.platform_pool, StartRate(), NO_LIMITS)
        self.shell = replace(self.shell, may_start=limits.may_start)
        self.saga = ScheduleSaga(self.shell, EmbeddedTransport(store), self.clock)
        self.triggers = TriggerSaga(self.shell, EmbeddedTransport(store), clock=self.clock)
        self._positions = {"schedules": 0, "triggers": 0}

    async def registered(self) -> None:
        """The tenant, without limits yet."""
        await handle(self.shell, RegisterTenant(tenant_id=self.tenant, name=self.tenant, at=self.clock()), self.envelope())

    async def limit(self, **limits: Any) -> None:
        """What the tenant may have under way from now on."""
        command = SetTenantLimits(tenant_id=self.tenant, limits=TenantLimits(**limits), at=self.clock())
        await handle(self.shell, command, self.envelope())

    async def used_up(self) -> None:
        """A tenant that may have one execution under way, and has: others are refused."""
        await self.registered()
        await self.limit(concurrent_executions=1, on_exceeded="reject")
        await self.store.platform_pool.execute("INSERT INTO quantum.saga_admissions VALUES ($1, 'e-0')", self.tenant)

    async def freed(self) -> None:
        """It may have as many as it likes."""
        await self.limit()

    def envelope(self) -> Envelope:
        """Somebody asks, in this tenant."""
        return Envelope(self.tenant, uuid7(), "ada", "corr-1")

    async def intent(self, *, steps: Sequence[Mapping[str, Any]] = STEPS, **definition: Any) -> IntentId:
        """A new intent with, say, a `schedule`."""
        intent_id = IntentId(str(uuid7()))
        body = {"target": "production", "steps": list(steps), **definition}
        create = CreateIntent(intent_id=intent_id, name=f"i-{intent_id}", definition=body, at=self.clock())
        await handle(self.shell, create, self.envelope())
        return intent_id

    async def revise(self, intent_id: IntentId, **definition: Any) -> None:
        """Its next version."""
        body = {"target": "production", "steps": list(STEPS), **definition}
        await self.ask(ReviseIntent(intent_id=intent_id, definition=body, at=self.clock()))

    async def ask(self, command: Any) -> Outcome[Intent]:
        """Any command about an intent."""
        return await handle(self.shell, command, self.envelope())

    async def messages(self, reader: str = "schedules") -> list[Message]:
        """What the stream has of this tenant since this reader last asked."""
        topics = TOPICS if reader == "schedules" else None
        found: list[RecordedEvent] = []
        while True:
            page = await self.store.read_log(self._positions[reader], limit=1_000, topics=topics)
            found += [event for event in page.events if event.tenant_id == self.tenant]
            if page.next == self._positions[reader]:
                return [Message.of(event) for event in found]
            self._positions[reader] = page.next

    async def fire(self) -> None:
        """The trigger saga deals with what has happened, and with what that leads to, until nothing more happens."""
        while messages := await self.messages("triggers"):
            await self.triggers.take_in(messages)

    async def emit(self, type: str, data: Any = None, *, execution_id: str = "e-1") -> None:
        """A step says that something has happened."""
        command = EmitEvent(execution_id=ExecutionId(execution_id), step=StepId("tell"), type=type, data=data, at=self.clock())
        await handle(self.shell, command, self.envelope())

    async def execute(self, intent_id: IntentId) -> str:
        """Starts an execution by hand."""
        execution_id = ExecutionId(str(uuid7()))
        command = StartExecution(execution_id=execution_id, intent_id=intent_id, tenant_id=self.tenant, at=self.clock())
        await handle(self.shell, command, self.envelope())
        return execution_id

    async def trigger_row(self, intent_id: IntentId) -> Any:
        """What the saga knows of a trigger."""
        return await self.store.platform_pool.fetchrow(
            "SELECT * FROM quantum.saga_triggers WHERE tenant_id = $1 AND intent_id = $2", self.tenant, intent_id
        )

    async def look(self) -> datetime | None:
        """The saga takes in what has happened, and starts what is due."""
        if messages := await self.messages():
            await self.saga.take_in(messages)
        return await self.saga.look()

    async def pass_until(self, end: datetime) -> None:
        """Time passes to `end`, and the saga looks whenever it wants to."""
        next_at = await self.look()
        while next_at is not None and next_at < end:
            self.clock.at = max(self.clock.at, next_at)
            next_at = await self.saga.look()
        self.clock.at = end

    async def executions(self, intent_id: IntentId) -> list[ExecutionStarted]:
        """What was started of an intent, in the order of the log."""
        rows = await self.store.platform_pool.fetch(
            "SELECT stream_id FROM quantum.events WHERE tenant_id = $1 AND topic = 'execution.started.v1' ORDER BY position",
            self.tenant,
        )
        started = []
        for row in rows:
            (first, *_) = await self.store.read_stream(self.tenant, row[0], limit=1)
            if isinstance(first.event, ExecutionStarted) and first.event.intent_id == intent_id:
                started.append(first.event)
        return started

    async def times(self, intent_id: IntentId) -> list[datetime]:
        """When its executions were started."""
        return [event.at for event in await self.executions(intent_id)]

    async def state(self, execution_id: str) -> Execution:
        """An execution."""
        loaded = await self.store.load(self.tenant, execution_stream(ExecutionId(execution_id)), execution.evolve)
        assert loaded.state is not None
        return loaded.state

    async def row(self, intent_id: IntentId) -> Any:
        """What the saga knows of a schedule."""
        return await self.store.platform_pool.fetchrow(
            "SELECT * FROM quantum.saga_schedules WHERE tenant_id = $1 AND intent_id = $2", self.tenant, intent_id
        )
