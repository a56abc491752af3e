# intent_ref: sagas.schedules
"""The schedule saga: intents whose definition has a `schedule` start executions at their times.

event about an intent → `react` → a row in quantum.saga_schedules, to be looked at → a look, by any one process: what is due is
started, and the row says when to look next. The id of a start follows from tenant, intent and time, so that a process which dies
between a start and the row costs a repeat, and starts nothing twice. What is started is what the log says in that moment: a
schedule that was paused, revised or archived a moment ago starts nothing by its old row.

A time that a limit of the tenant refuses is owed: it is tried again until it is started, or until the schedule's policy for
missed times lets it go. What is not started in the end is counted, with the reason.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson
import structlog

from commands.execution import StartExecution
from commands.expressions import ExpressionFailed
from commands.handle import Envelope, Shell, handle
from commands.schedule_turns import Turn, turn_of
from commands.schedules import read_schedule, schedule_faults
from commands.start_inputs import start_inputs
from domain import execution, intent
from domain.documents import timestamp
from domain.refusals import IntentNotExecutable, LimitReached, Refusal
from domain.schedule import Schedule
from domain.values import ExecutionId, IntentId, TenantId, execution_stream, intent_stream
from event_store import codec
from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable, StreamBusy
from sagas.clock import Clock, now
from sagas.schedule_rows import TOPICS, Row, ScheduleRows, Settled, merged, react
from sagas.starting import check_tenant, error_of, start_id
from streaming.transport import Message, Transport
from streaming.waiting import first_of

GROUP = "saga.schedules"
ACTOR = "saga:schedules"
_LOOKS_AT_ONCE = 16
_SLEEP_SECONDS_MAX = 5.0
_AGAIN_SECONDS = 1.0
_FAULT_PAUSE_SECONDS = 0.5
TRY_SECONDS_APART_MAX = 300.0
OWED_SECONDS_MAX = 86_400.0
"""How long a time that a limit refuses is tried, where no other one takes its place before."""
_INSTANT = timedelta(microseconds=1)
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable, StreamBusy)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads. `refused` counts every refusal, `missed` the times that were not started after all; `looks` are the
    times that the table was asked, whatever it had.
    """

    started: int = 0
    repeated: int = 0
    refused: int = 0
    missed: int = 0
    passed_over: int = 0
    looks: int = 0
    undecodable: int = 0


@dataclass(slots=True)
class _Runs:
    """What became of the runs of one turn."""

    started: int = 0
    passed_over: int = 0
    last_time: datetime | None = None
    last_execution_id: str | None = None
    error: str | None = None
    missed: int = 0
    last_missed: str | None = None
    owed_time: datetime | None = None
    owed_since: datetime | None = None
    tries: int = 0
    again_at: datetime | None = None

    def miss(self, error: str | None) -> None:
        """One more time is not started, and will not be."""
        self.missed += 1
        self.last_missed = error

    def owe(self, row: Row, at: datetime, present: datetime, pause_seconds: float) -> None:
        """A time is not started now, and is tried again."""
        is_first = row.owed_time != at
        self.owed_time, self.owed_since = at, present if is_first else row.owed_since
        self.tries = 1 if is_first else row.tries + 1
        pause_seconds = min(TRY_SECONDS_APART_MAX, max(pause_seconds, 2.0 ** min(self.tries - 1, 10)))
        self.again_at = present + timedelta(seconds=pause_seconds)

    def settled(self, turn: Turn, present: datetime) -> Settled:
        """What the row is told; where a time is owed, all before it is dealt with and nothing behind it."""
        dealt_until, look_at = turn.dealt_until, turn.look_at
        if self.owed_time is not None and self.again_at is not None:
            dealt_until = self.owed_time - _INSTANT
            # Where the next time comes first, it is for the policy to say whether this one still counts.
            look_at = self.again_at if look_at is None or look_at <= present else min(look_at, self.again_at)
        return Settled(
            dealt_until, look_at, self.started, self.passed_over, self.last_time, self.last_execution_id, self.error, self.missed,
            self.last_missed, self.owed_time, self.owed_since, self.tries,
        )  # fmt: skip


@dataclass(slots=True)
class ScheduleSaga:
    """One worker. Any number of them, in any number of processes, share the schedules."""

    shell: Shell
    transport: Transport
    clock: Clock = now
    statistics: Statistics = field(default_factory=Statistics)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.transport.consume(GROUP, self.take_in, stop=stop, topics=TOPICS), name="schedules-consumer")
            group.create_task(self._start_due(stop), name="schedules-timer")

    def wake(self) -> None:
        """The time has changed by more than passing (an injected clock was set): look now."""
        self._changed.set()

    async def take_in(self, messages: Sequence[Message]) -> None:
        """The stream's handler: returns when the table knows what the events say."""
        changes = []
        for message in messages:
            try:
                change = react(message.tenant_id, message.version, message.event)
            except (codec.UnknownTopic, codec.UndecodableEvent) as fault:
                self.statistics.undecodable += 1
                log.error("an event about an intent cannot be read", position=message.position, fault=str(fault))
                continue
            if change is not None:
                changes.append(change)
        if changes:
            await self._rows.apply(merged(changes))
            self._changed.set()

    async def look(self) -> datetime | None:
        """Starts what is due. When to look again: the time of the next schedule, None where there is none."""
        while True:
            self.statistics.looks += 1
            rows = await self._rows.claim(self.clock(), _LOOKS_AT_ONCE)
            await asyncio.gather(*[self._look_at(row) for row in rows])
            if len(rows) < _LOOKS_AT_ONCE:
                return await self._rows.next_look()

    @property
    def _rows(self) -> ScheduleRows:
        return ScheduleRows(self.shell.store.platform_pool)

    async def _start_due(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._changed.clear()
            try:
                next_at = await self.look()
            except _FAULTS as fault:
                log.warning("schedules cannot be looked at; trying again", fault=repr(fault))
                await first_of(_FAULT_PAUSE_SECONDS, stop)
                continue
            seconds = _SLEEP_SECONDS_MAX
            if next_at is not None:
                # Not past the limit: another process may take in an earlier time, and die before it looks.
                seconds = min(seconds, max(0.0, (next_at - self.clock()).total_seconds()))
            await first_of(seconds, stop, self._changed)

    async def _look_at(self, row: Row) -> None:
        """One schedule. Whatever goes wrong with it stays with it: its row comes again after a while."""
        try:
            await self._take_turn(row)
        except _FAULTS as fault:
            log.warning("a schedule is looked at again later", intent=row.intent_id, fault=repr(fault))
        except Exception as fault:
            log.error("a schedule cannot be dealt with", intent=row.intent_id, exc_info=fault)

    async def _take_turn(self, row: Row) -> None:
        present = self.clock()
        known = await self.shell.store.load(TenantId(row.tenant_id), intent_stream(IntentId(row.intent_id)), intent.evolve)
        if known.version > row.stream_version or known.state is None:
            # The row is behind the log; what is about to be taken in says when to look.
            await self._rows.look_at(row, present + timedelta(seconds=_AGAIN_SECONDS))
            return
        if row.schedule is None or known.state.schedule_paused or known.state.status == "archived":
            await self._rows.settle(row, Settled(row.dealt_until, None))
            return
        raw = orjson.loads(row.schedule)
        if faults := schedule_faults(raw, "/definition/schedule"):
            # It was written when other rules held.
            self.statistics.refused += 1
            error = error_of(IntentNotExecutable(faults), present)
            await self._rows.settle(row, Settled(row.dealt_until, None, error=error, missed=1, last_missed=error))
            return
        schedule = read_schedule(raw)
        turn = turn_of(schedule, row.dealt_until, present, row.key)
        runs = _Runs(last_execution_id=row.last_execution_id)
        if row.owed_time is not None and row.owed_time not in turn.runs:
            runs.miss(row.last_error)  # the policy has let it go
        for at in turn.runs:
            if (
                at == row.owed_time
                and row.owed_since is not None
                and present - row.owed_since > timedelta(seconds=OWED_SECONDS_MAX)
            ):
                runs.miss(row.last_error)
                continue
            await self._run(row, schedule, at, runs)
            if runs.owed_time is not None:
                break
        self.statistics.passed_over += runs.passed_over
        self.statistics.missed += runs.missed
        await self._rows.settle(row, runs.settled(turn, present))

    async def _run(self, row: Row, schedule: Schedule, at: datetime, runs: _Runs) -> None:
        """Starts the run of a time, or says why not. Raises what keeps that from being known."""
        tenant_id, command_id = TenantId(row.tenant_id), start_id("schedule", row.tenant_id, row.intent_id, timestamp(at))
        if schedule.overlap == "skip" and await self._still_runs(tenant_id, runs.last_execution_id, str(command_id)):
            runs.passed_over += 1
            return
        try:
            await check_tenant(self.shell.store, tenant_id)
            scope = {"schedule": {"time": timestamp(at)}, "tenant": {"id": row.tenant_id}}
            raw = orjson.loads(row.schedule or "{}")
            command = StartExecution(
                execution_id=ExecutionId(str(command_id)), intent_id=IntentId(row.intent_id), version=row.intent_version,
                inputs=start_inputs(raw, scope), tenant_id=tenant_id, started_by=f"schedule of intent {row.intent_id}",
                at=self.clock(),
            )  # fmt: skip
            outcome = await handle(self.shell, command, Envelope(tenant_id, command_id, ACTOR, str(command_id)))
        except (Refusal, ExpressionFailed) as fault:
            self.statistics.refused += 1
            runs.error = error_of(fault, self.clock(), time=timestamp(at))
            if isinstance(fault, LimitReached):
                runs.owe(row, at, self.clock(), fault.again_seconds)
            else:
                runs.miss(runs.error)
            log.warning("a scheduled execution was refused", tenant=row.tenant_id, intent=row.intent_id, reason=str(fault))
            return
        runs.started += 1
        runs.last_time, runs.last_execution_id, runs.error = at, str(command_id), None
        if outcome.replayed:
            self.statistics.repeated += 1
        else:
            self.statistics.started += 1

    async def _still_runs(self, tenant_id: TenantId, execution_id: str | None, own: str) -> bool:
        if execution_id is None or execution_id == own:
            return False
        loaded = await self.shell.store.load(tenant_id, execution_stream(ExecutionId(execution_id)), execution.evolve)
        return loaded.state is not None and not loaded.state.is_over
