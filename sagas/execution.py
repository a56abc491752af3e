# intent_ref: sagas.execution
"""The execution saga: what the log says may be attempted is attempted, and what came of it goes back into the log.

event → `react` → a row in quantum.saga_dispatches → the module → `CompleteStep` or `FailStep` → event. The row is stored
before the stream's checkpoint moves and goes when the outcome is in the log, so a crash anywhere only repeats a call; the
outcome's command id follows from the attempt, so it is recorded once.
"""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from commands.handle import Shell
from event_store import codec
from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from sagas.attempts import Attempts, Call, Statistics, Trace, untraced
from sagas.dispatches import ALIVE_SECONDS, Dispatch, Dispatches, Key
from sagas.reactions import TOPICS, Cause, DropAttempts, Reaction, react, settled
from streaming.transport import Message, Transport

GROUP = "saga.execution"
_HEARTBEAT_SECONDS = 1.0
_CHECKS_AFTER_FAULT = 5
_CLAIM_PAUSE_SECONDS = 0.005
_FAULT_PAUSE_SECONDS = 0.5
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls run at once in this process, and how long they may go on after the stop."""

    calls_max: int = 256
    grace_seconds: float = 10.0


class ExecutionSaga:
    """One worker. Any number of them, in any number of processes, share the work."""

    def __init__(
        self, shell: Shell, transport: Transport, call: Call, *, limits: Limits = Limits(), trace: Trace = untraced
    ) -> None:
        self.statistics = Statistics()
        self._transport, self._limits = transport, limits
        self._attempts = Attempts(shell, call, self.statistics, trace)
        self.worker = secrets.token_hex(8)
        self._dispatches = Dispatches(shell.store.platform_pool, self.worker)
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._over: deque[Key] = deque()
        self._failed: deque[Key] = deque()
        self._look = asyncio.Event()
        self._clean = asyncio.Event()
        self._backlog = True
        self._next_due = 0.0
        self._stopping = False
        self._checks_due = 0
        self._not_running: set[Key] = set()

    @property
    def running(self) -> int:
        """Calls under way in this process."""
        return len(self._running)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; calls under way then get `grace_seconds`, and what is left goes to other workers."""
        loop = asyncio.get_running_loop()
        await self._beat_once()
        heart = asyncio.create_task(self._keep_alive(), name="saga-heartbeat")
        sweeper = asyncio.create_task(self._sweep(), name="saga-sweeper")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._transport.consume(GROUP, self._handle, stop=stop, topics=TOPICS), name="saga-consumer")
                group.create_task(self._take_due(stop), name="saga-timers")
        finally:
            self._stopping = True
            if self._running and stop.is_set():
                began = loop.time()
                await asyncio.wait(self._running.values(), timeout=self._limits.grace_seconds)
                log.info("the saga has stopped", seconds=round(loop.time() - began, 3), given_up=len(self._running))
            await _ended([*self._running.values(), heart, sweeper])
            with contextlib.suppress(*_FAULTS):
                await self._flush()
                await self._dispatches.leave()

    async def _handle(self, messages: Sequence[Message]) -> None:
        """The stream's handler: returns when every reaction is durable."""
        reactions = [reaction for message in messages for reaction in self._reactions(message)]
        self.statistics.reactions += len(reactions)
        self.statistics.observe_reactions(len(reactions))
        dispatches, drops = settled(reactions)
        if drops:
            await self._drop(drops)
        if dispatches:
            await self._store(dispatches)

    def _reactions(self, message: Message) -> list[Reaction]:
        try:
            event, metadata = message.event, message.metadata
        except (codec.UnknownTopic, codec.UndecodableEvent) as fault:
            # Holding the stream up would stop every other execution for the sake of one.
            self.statistics.undecodable += 1
            log.error("an event cannot be read; its execution stands still", position=message.position, fault=str(fault))
            return []
        cause = Cause(message.tenant_id, message.event_id, metadata.correlation_id, metadata.traceparent)
        return react(cause, event)

    async def _store(self, dispatches: Sequence[Dispatch]) -> None:
        now, free = datetime.now(UTC), 0 if self._stopping else self._limits.calls_max - len(self._running)
        take = []
        for dispatch in dispatches:
            take.append(dispatch.due_at <= now and free > 0)
            free -= take[-1]
        try:
            stored = await self._dispatches.insert(dispatches, take)
        except _FAULTS:
            self._checks_due = _CHECKS_AFTER_FAULT
            raise
        for dispatch in dispatches:
            if stored.get(dispatch.key):
                self._start(dispatch)
            elif dispatch.key in stored:
                self._due_at(asyncio.get_running_loop().time() + (dispatch.due_at - now).total_seconds())

    async def _drop(self, drops: Iterable[DropAttempts]) -> None:
        executions = {(drop.tenant_id, drop.execution_id) for drop in drops}
        await self._dispatches.drop(sorted(executions))
        for key, task in self._running.items():
            if key[:2] in executions:
                task.cancel()

    def _start(self, dispatch: Dispatch) -> None:
        if dispatch.key in self._running:
            return
        task = asyncio.create_task(self._make(dispatch), name=f"attempt-{dispatch.step}")
        self._running[dispatch.key] = task
        task.add_done_callback(lambda _task: self._made(dispatch.key))

    async def _make(self, dispatch: Dispatch) -> None:
        try:
            await self._attempts.make(dispatch)
        except Exception as fault:
            self.statistics.postponed += 1
            log.warning("an attempt is made again later", step=dispatch.step, attempt=dispatch.attempt, fault=repr(fault))
            self._failed.append(dispatch.key)
        else:
            self._over.append(dispatch.key)
        self._clean.set()

    def _made(self, key: Key) -> None:
        self._running.pop(key, None)
        if self._backlog:
            self._look.set()

    def _due_at(self, when: float) -> None:
        """Something is to be taken from the table at `when` on the loop's clock."""
        if when < self._next_due:
            self._next_due = when
            self._look.set()

    async def _take_due(self, stop: asyncio.Event) -> None:
        """Timers, what found no room before, and what dead workers left: looked for when due, and once a heartbeat."""
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            self._look.clear()
            self._next_due = loop.time() + _HEARTBEAT_SECONDS
            free = self._limits.calls_max - len(self._running)
            if free > 0:
                try:
                    taken = await self._dispatches.claim(free)
                    self._backlog = len(taken) == free
                    if not self._backlog and (seconds := await self._dispatches.next_due_seconds()) is not None:
                        self._next_due = min(self._next_due, loop.time() + max(seconds, 0.0))
                except _FAULTS as fault:
                    log.warning("due attempts cannot be claimed; trying again", fault=repr(fault))
                    self._checks_due = _CHECKS_AFTER_FAULT
                    taken = []
                    await _first(_FAULT_PAUSE_SECONDS, stop)
                for dispatch in taken:
                    self._start(dispatch)
            else:
                self._backlog = True
            await _first(_CLAIM_PAUSE_SECONDS, stop)
            await self._wait_until_due(stop)

    async def _wait_until_due(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set() and (seconds := self._next_due - loop.time()) > 0:
            await _first(seconds, stop, self._look)
            if self._look.is_set():
                if self._backlog:
                    return
                self._look.clear()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        alive_until, beats = loop.time() + ALIVE_SECONDS, 0
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            began = loop.time()
            if not await self._beat_once():
                continue
            if began > alive_until:
                await self._give_up_what_others_took()
            alive_until = began + ALIVE_SECONDS
            if self._checks_due:
                await self._give_back_what_is_not_running()
            beats += 1
            if beats % 60 == 0:
                with contextlib.suppress(*_FAULTS):
                    await self._dispatches.prune()

    async def _beat_once(self) -> bool:
        try:
            await self._dispatches.beat()
        except _FAULTS as fault:
            log.warning("the saga's heartbeat failed", fault=repr(fault))
            return False
        return True

    async def _give_up_what_others_took(self) -> None:
        """After a heartbeat that came too late: calls that another worker has taken over are not ours any more."""
        with contextlib.suppress(*_FAULTS):
            held = await self._dispatches.held()
            await _ended([task for key, task in self._running.items() if key not in held])

    async def _give_back_what_is_not_running(self) -> None:
        """A lease may have been stored although its answer was lost. Twice seen without a call, it is given back."""
        with contextlib.suppress(*_FAULTS):
            idle = (await self._dispatches.held()) - {*self._running, *self._over, *self._failed}
            if lost := idle & self._not_running:
                log.warning("leases without a call are given back", count=len(lost))
                await self._dispatches.postpone(sorted(lost))
            self._not_running = idle - lost
            self._checks_due -= 1

    async def _sweep(self) -> None:
        """Deletes rows of attempts that are over, as many at once as there are."""
        while True:
            await self._clean.wait()
            self._clean.clear()
            try:
                await self._flush()
            except _FAULTS as fault:
                log.warning("finished attempts are deleted later", fault=repr(fault))
                await asyncio.sleep(_FAULT_PAUSE_SECONDS)
                self._clean.set()

    async def _flush(self) -> None:
        for queue, settle in ((self._over, self._dispatches.delete), (self._failed, self._dispatches.postpone)):
            while keys := list(queue)[:1_000]:
                await settle(keys)
                for _ in keys:
                    queue.popleft()


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=ALIVE_SECONDS)


async def _first(seconds: float, *events: asyncio.Event) -> None:
    """Waits until one of `events` is set, or for `seconds`."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
