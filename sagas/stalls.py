# intent_ref: sagas.stalls
"""Nothing stalls in silence: goes round the executions that have not ended, and holds what each waits for against the rows that
would wake it. What is missing is put back from the log, said in an event of the execution and counted.

An execution of which the saga has not heard the newest yet (`sagas/hearing.py`) has the stream as its reason to wake, however
far that is behind. The rows could only be missing by a fault of ours, of the database, or by somebody's hand in it. The round
takes a bounded number of executions at a time, so it costs the same however many there are.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import structlog

from commands.execution import ReportStall
from commands.handle import Envelope, Shell, handle
from domain import execution
from domain.execution import Execution
from domain.execution_events import ENDS, ExecutionRerun, ExecutionRetried, ExecutionStarted
from domain.refusals import Refusal
from domain.runs import ACTIVE
from domain.values import ExecutionId, TenantId, execution_stream
from event_store import codec
from event_store.faults import DATABASE_FAULTS
from event_store.ids import derived_id
from event_store.records import StoreUnavailable, StreamBusy
from sagas.admissions import Admissions
from sagas.clock import Clock, now
from sagas.dispatches import Dispatch, Dispatches
from sagas.hearing import Hearing
from sagas.reactions import CHILD_END, Cause, admission_row, outcome_command_id, react
from streaming.waiting import first_of

ROUND_SECONDS = 5.0
ROUND_EXECUTIONS_MAX = 200
GRACE_SECONDS = 30.0
_PAGE_EVENTS = 5_000
_ACTOR = "saga:stalls"
_ENDS = frozenset(codec.topic_of(event) for event in ENDS)
_LIVES = _ENDS | {codec.topic_of(event) for event in (ExecutionStarted, ExecutionRetried, ExecutionRerun)}
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable, StreamBusy)

_LEAD = "SELECT pg_try_advisory_lock(20831, 0)"
_WATCHED = "SELECT position FROM quantum.saga_watch"
_WATCH = "UPDATE quantum.saga_watch SET position = $1"
_BEGUN = """
INSERT INTO quantum.saga_executions (tenant_id, execution_id)
SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING
"""
_ENDED = """
DELETE FROM quantum.saga_executions AS gone
 USING unnest($1::text[], $2::text[]) AS k (tenant_id, execution_id)
 WHERE gone.tenant_id = k.tenant_id AND gone.execution_id = k.execution_id
"""
_NEXT = """
UPDATE quantum.saga_executions AS one SET checked_at = now()
  FROM (SELECT tenant_id, execution_id FROM quantum.saga_executions
         WHERE checked_at < now() - make_interval(secs => $1) ORDER BY checked_at LIMIT $2) AS due
 WHERE one.tenant_id = due.tenant_id AND one.execution_id = due.execution_id
RETURNING one.tenant_id, one.execution_id
"""
_ROWS = "SELECT step, attempt FROM quantum.saga_dispatches WHERE tenant_id = $1 AND execution_id = $2"

log = structlog.get_logger(__name__)
RunKey = tuple[str, int]
"""(run, attempt) of a row."""


@dataclass(slots=True)
class Statistics:
    """What telemetry reads: executions looked at, those that nothing would have woken, and how often one was left to a stream
    that is behind.
    """

    checked: int = 0
    stalled: int = 0
    behind: int = 0
    observe_stall: Callable[[str, tuple[str, ...]], None] = field(default=lambda execution_id, missing: None)


def reasons_to_wake(state: Execution) -> set[RunKey]:
    """The rows that have to be there for an execution in this state: one for each run somebody is busy with or waits for."""
    if state.is_over:
        return set()
    reasons: set[RunKey] = set()
    for run_id, run in state.runs.items():
        if run.status not in ACTIVE or run.items is not None:
            continue
        if run.limits is not None and run.limits.expires_at is not None:
            reasons.add((run_id, 0))
        if run.waiting is not None and run.waiting.reason == "resume":
            continue  # a human's pause is the reason
        reasons.add((run_id, run.attempts if run.waiting is None else -1 - run.waiting.gate))
    if state.is_queued:
        reasons.add(("", admission_row(state.turns)))
    if state.options.deadline_at is not None and state.status in ("running", "paused"):
        reasons.add(("", 0))
    return reasons


class StallCheck:
    """The check. Of all processes one makes it; another takes over when that one is gone."""

    def __init__(
        self, shell: Shell, *, clock: Clock = now, grace_seconds: float = GRACE_SECONDS, round_seconds: float = ROUND_SECONDS,
        hearing: Hearing | None = None,
    ) -> None:  # fmt: skip
        """`hearing`: what the saga has heard; unless given, of those who read the log itself."""
        self._shell, self._store, self._clock = shell, shell.store, clock
        self._hearing = hearing or Hearing(shell.store)
        self._grace_seconds, self._round_seconds = grace_seconds, round_seconds
        self._dispatches, self._admissions = Dispatches(shell.store.platform_pool, ""), Admissions(shell, clock)
        self.statistics = Statistics()

    async def run(self, stop: asyncio.Event) -> None:
        """Goes round until `stop` is set."""
        while not stop.is_set():
            try:
                await self._lead(stop)
            except _FAULTS as fault:
                log.warning("the stall check has to wait", fault=repr(fault))
            await first_of(self._round_seconds, stop)

    async def _lead(self, stop: asyncio.Event) -> None:
        connection = await asyncpg.connect(self._store.platform_dsn, timeout=10)
        try:
            while not stop.is_set():
                if await connection.fetchval(_LEAD, timeout=10):
                    break
                await first_of(self._round_seconds, stop)
            while not stop.is_set():
                await connection.execute("SELECT 1", timeout=10)
                await self.follow()
                await self.check()
                await first_of(self._round_seconds, stop)
        finally:
            connection.terminate()

    async def follow(self) -> None:
        """Reads which executions have begun and ended since the last time."""
        pool = self._store.platform_pool
        position: int = await pool.fetchval(_WATCHED)
        while True:
            page = await self._store.read_log(position, limit=_PAGE_EVENTS, topics=_LIVES)
            lives = {
                (event.tenant_id, event.stream_id.removeprefix("execution-")): event.topic not in _ENDS for event in page.events
            }
            for goes_on, statement in ((True, _BEGUN), (False, _ENDED)):
                keys = sorted(key for key, life in lives.items() if life is goes_on)
                if keys:
                    await pool.execute(statement, [tenant for tenant, _ in keys], [execution_id for _, execution_id in keys])
            if page.next > position:
                position = page.next
                await pool.execute(_WATCH, position)
            if len(page.events) < _PAGE_EVENTS:
                return

    async def check(self) -> int:
        """Looks at the executions that were looked at longest ago; how many of them would never have gone on."""
        rows = await self._store.platform_pool.fetch(_NEXT, self._grace_seconds, ROUND_EXECUTIONS_MAX)
        stalled = 0
        self._hearing.begin()
        for tenant_id, execution_id in rows:
            stalled += await self._check_one(TenantId(tenant_id), ExecutionId(execution_id))
        await self._admissions.release_ended(self._grace_seconds)
        return stalled

    async def _check_one(self, tenant_id: TenantId, execution_id: ExecutionId) -> bool:
        self.statistics.checked += 1
        stream = execution_stream(execution_id)
        loaded = await self._store.load(tenant_id, stream, execution.evolve)
        state = loaded.state
        if state is None or state.is_over:
            await self._store.platform_pool.execute(_ENDED, [tenant_id], [execution_id])
            return False
        if self._clock() - state.updated_at < timedelta(seconds=self._grace_seconds):
            return False  # what has just happened may not have been reacted to yet
        await self._admissions.hold(tenant_id, state)
        rows = await self._store.platform_pool.fetch(_ROWS, tenant_id, execution_id)
        wanted = reasons_to_wake(state) | await self._children_to_hear_of(tenant_id, state)
        missing = wanted - {(row[0], row[1]) for row in rows}
        if missing:
            missing -= await self._recorded(tenant_id, execution_id, missing)
            missing -= await self._on_their_way(tenant_id, state, missing)
        has_nothing_to_do = state.active == 0 and state.status != "paused" and not state.is_queued
        if not missing and not has_nothing_to_do:
            return False
        if (await self._store.load(tenant_id, stream, execution.evolve)).version != loaded.version:
            return False  # it has gone on in the meantime
        await self._mend(tenant_id, execution_id, loaded.version, missing)
        return True

    async def _children_to_hear_of(self, tenant_id: TenantId, state: Execution) -> set[RunKey]:
        """The runs whose child has ended some time ago: the news of it has to be on its way."""
        late = self._clock() - timedelta(seconds=self._grace_seconds)
        heard_of = set()
        for run_id, child_id in _children(state).items():
            child = (await self._store.load(tenant_id, execution_stream(child_id), execution.evolve)).state
            if child is not None and child.completed_at is not None and child.completed_at <= late:
                heard_of.add((str(run_id), CHILD_END))
        return heard_of

    async def _recorded(self, tenant_id: TenantId, execution_id: ExecutionId, keys: set[RunKey]) -> set[RunKey]:
        """Those whose outcome is in the log by now: their rows are gone for good reason."""
        found = set()
        for step, attempt in keys:
            if attempt > 0 and await self._store.read_command(
                tenant_id, outcome_command_id(tenant_id, execution_id, step, attempt)
            ):
                found.add((step, attempt))
        return found

    async def _on_their_way(self, tenant_id: TenantId, state: Execution, keys: set[RunKey]) -> set[RunKey]:
        """Those of which the stream has yet to tell the saga: that is what will wake the execution."""
        coming: set[RunKey] = set()
        children = _children(state)
        for step, attempt in keys:
            told_by = children[step] if attempt == CHILD_END else state.execution_id
            if not await self._hearing.of_newest(tenant_id, execution_stream(ExecutionId(told_by))):
                coming.add((step, attempt))
        self.statistics.behind += bool(coming)
        return coming

    async def _mend(self, tenant_id: TenantId, execution_id: ExecutionId, version: int, missing: set[RunKey]) -> None:
        """Puts the rows back that the log asks for, and says so."""
        dispatches: dict[RunKey, Dispatch] = {}
        events = await self._store.read_stream(tenant_id, execution_stream(execution_id))
        correlation_id = events[0].metadata.correlation_id
        state = (await self._store.load(tenant_id, execution_stream(execution_id), execution.evolve)).state
        if state is not None and any(attempt == CHILD_END for _, attempt in missing):
            for child_id in _children(state).values():
                events += await self._store.read_stream(tenant_id, execution_stream(child_id))
        for event in events:
            metadata = event.metadata
            cause = Cause(tenant_id, event.event_id, metadata.correlation_id, metadata.traceparent)
            for reaction in react(cause, event.event):
                if isinstance(reaction, Dispatch) and reaction.execution_id == execution_id:
                    dispatches[reaction.step, reaction.attempt] = reaction
        rows = [dispatch for key, dispatch in dispatches.items() if key in missing]
        if rows:
            await self._dispatches.insert(rows, [False] * len(rows))
        names = tuple(sorted(f"{step or 'execution'}#{attempt}" for step, attempt in missing))
        self.statistics.stalled += 1
        self.statistics.observe_stall(execution_id, names)
        log.error("an execution had nothing to wake it; mended", execution_id=execution_id, missing=names)
        command = ReportStall(execution_id=execution_id, missing=names, at=self._clock())
        envelope = Envelope(
            tenant_id, derived_id(_namespace(execution_id), f"stall\n{version}"), _ACTOR, correlation_id
        )  # fmt: skip
        with contextlib.suppress(Refusal):
            await handle(self._shell, command, envelope)


def _children(state: Execution) -> dict[str, ExecutionId]:
    waits = [(run_id, run.waiting) for run_id, run in state.runs.items() if run.status == "waiting"]
    return {
        run_id: ExecutionId(waiting.detail["execution_id"])
        for run_id, waiting in waits
        if waiting is not None and waiting.reason == "child"
    }


def _namespace(execution_id: str) -> Any:
    return outcome_command_id("", execution_id, "", 0)
