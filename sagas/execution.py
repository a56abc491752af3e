# intent_ref: sagas.execution
"""The execution saga: what the log says may be attempted is attempted, and what came of it goes back into the log.

event → `react` → a row in quantum.saga_dispatches → the module → `CompleteStep` or `FailStep` → event. The row is stored
before the stream's checkpoint moves and goes when the outcome is in the log, so a crash anywhere only repeats a call; the
outcome's command id follows from the attempt, so it is recorded once. A call that is over before the checkpoint moves needs no
row (docs/adr/0013).
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog

from commands.handle import Outcome, Shell
from domain.execution import Execution
from domain.refusals import LimitReached
from event_store import codec
from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from sagas.admissions import Admissions
from sagas.ahead import Ahead, calls_after
from sagas.attempts import Attempts, Call, Statistics, Trace, untraced
from sagas.calls import Calls
from sagas.clock import Clock, now
from sagas.dispatches import ALIVE_SECONDS, Dispatch, Dispatches, Key, Later
from sagas.new_executions import asks_nothing, keep_new
from sagas.quickness import Quickness
from sagas.reactions import NEVER, TOPICS, Cause, Drop, Reaction, react, settled
from sagas.room import Limits, Room
from sagas.sweeping import Sweeper
from sagas.wakes import Wakes
from streaming.transport import Message, Transport
from streaming.waiting import cancelled, first_of

__all__ = ["GROUP", "ExecutionSaga", "Limits"]

GROUP = "saga.execution"
_HEARTBEAT_SECONDS = 1.0
_CHECKS_AFTER_FAULT = 5
_CLAIM_PAUSE_SECONDS = 0.005
_FAULT_PAUSE_SECONDS = 0.5
_QUICK_SECONDS_MAX = 0.05
_MESSAGES_MAX = 100
_BEGUN_TOGETHER = 16
_LIMITS = Limits()
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)

log = structlog.get_logger(__name__)


class ExecutionSaga:
    """One worker. Any number of them, in any number of processes, share the work."""

    def __init__(
        self, shell: Shell, transport: Transport, call: Call, *, limits: Limits = _LIMITS, trace: Trace = untraced,
        clock: Clock | None = None, offered: Callable[[str], None] = lambda tenant_id: None,
    ) -> None:  # fmt: skip
        """`offered` is told of each tenant with new work for its modules' workers to fetch."""
        self.statistics = Statistics()
        self._shell, self._offered = shell, offered
        self._transport, self._limits, self._clock = transport, limits, clock or now
        self._wakes, self._admissions = Wakes(shell, self._clock), Admissions(shell, self._clock)
        self.worker = secrets.token_hex(8)
        self._dispatches = Dispatches(shell.store.platform_pool, self.worker, clock, installation=limits.installation)
        self._calls = Calls(self._make, self._made)
        self._room = Room(limits)
        self._quickness, self._ahead = Quickness(), Ahead()
        self._attempts = Attempts(shell, call, self.statistics, trace, self._clock, self._go_on, self._quickness.took)
        self._rowless: set[Key] = set()
        self._unmade: set[Key] = set()
        self._asleep: set[Key] = set()
        self._sweeper = Sweeper(self._dispatches, self._look_again)
        self._look = asyncio.Event()
        self._stopping = False
        self._next_due, self._checks_due = 0.0, 0
        self._not_running: set[Key] = set()

    @property
    def running(self) -> int:
        """Calls under way in this process."""
        return len(self._calls)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; calls under way then get `grace_seconds`, and what is left goes to other workers."""
        loop = asyncio.get_running_loop()
        await self._beat_once()
        heart = asyncio.create_task(self._keep_alive(), name="saga-heartbeat")
        sweeper = asyncio.create_task(self._sweeper.run(), name="saga-sweeper")
        try:
            async with asyncio.TaskGroup() as group:
                consuming = self._transport.consume(GROUP, self._handle, stop=stop, topics=TOPICS, batch_max=_MESSAGES_MAX)
                group.create_task(consuming, name="saga-consumer")
                group.create_task(self._take_due(stop), name="saga-timers")
        finally:
            self._stopping = True
            if self._calls and stop.is_set():
                began = loop.time()
                await asyncio.wait(self._calls.tasks(), timeout=self._limits.grace_seconds)
                log.info("the saga has stopped", seconds=round(loop.time() - began, 3), given_up=len(self._calls))
            await cancelled([*self._calls.tasks(), heart, sweeper], ALIVE_SECONDS)
            with contextlib.suppress(*_FAULTS):
                await self._sweeper.flush()
                await self._dispatches.leave()

    async def _handle(self, messages: Sequence[Message]) -> None:
        """The stream's handler: returns when every reaction is durable."""
        keep_new(self._shell.store.states, messages)
        reactions: list[Reaction] = []
        for message in messages:
            begun = self._ahead.heard_of(message.event_id)
            if begun is not None and begun.dispatch.key in self._rowless:
                reactions.append(begun.dispatch)
            elif (begun is None or not begun.is_over) and not asks_nothing(self._shell.store.states, message):
                reactions += self._reactions(message)
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
        """Sees to it that every dispatch is made, whatever happens to this process.

        A call that this worker makes at once and that is over at once needs no row: as long as the handler has not returned, the
        stream brings its event again. So such calls are made first; what is not over after a moment gets its row then.
        """
        present = self._clock()
        begun = [dispatch for dispatch in dispatches if dispatch.key in self._rowless]
        dispatches = [dispatch for dispatch in dispatches if dispatch.key not in self._rowless] if begun else dispatches
        take = [False] * len(dispatches) if self._stopping else self._room.taken_at_once(dispatches, present)
        quick = [dispatch for dispatch, taken in zip(dispatches, take, strict=True) if taken and self._is_quick(dispatch)]
        keys = {dispatch.key for dispatch in quick}
        others = [(dispatch, taken) for dispatch, taken in zip(dispatches, take, strict=True) if dispatch.key not in keys]
        self._rowless |= keys
        for dispatch in quick:
            self._begin(dispatch)
        quick += begun
        try:
            if others:
                with self._room.kept_for([row.tenant_id for row, taken in others if taken]):
                    await self._insert([row for row, _ in others], [taken for _, taken in others], present)
            if quick:
                await self._see_through(quick)
        except BaseException:
            # The stream brings their events again, so whatever becomes of these calls now is for the table to say.
            self._disown({dispatch.key for dispatch in quick})
            raise

    def _disown(self, keys: set[Key]) -> None:
        """Leaves it to others to see these calls without a row through."""
        self._rowless -= keys
        self._unmade -= keys
        self._asleep -= keys

    def _is_quick(self, dispatch: Dispatch) -> bool:
        return dispatch.kind == "call" and dispatch.key not in self._calls and self._quickness.is_quick(dispatch)

    def _go_on(self, answered: Dispatch, traceparent: str | None, outcome: Outcome[Execution], *, is_free: bool) -> None:
        """Begins the quick calls that an answer has led to; the stream brings them, too (sagas/ahead.py). `is_free`: whoever has
        recorded the answer has nothing else to do, so that it can go on with a call itself."""
        if self._stopping or (steps := self._ahead.steps_after(answered)) is None:
            return
        calls = [call for call in calls_after(answered, traceparent, outcome.stored) if self._is_quick(call)]
        after = answered if is_free and len(calls) == 1 else None
        for call, taken in zip(calls, self._room.taken_at_once(calls, self._clock()), strict=True):
            if taken:
                self._ahead.begin(call, steps)
                self._rowless.add(call.key)
                self._begin(call, after)

    async def _see_through(self, quick: Sequence[Dispatch]) -> None:
        """Waits a moment for calls without a row; those that go on, or have to be made again, get one."""
        await self._calls.over([dispatch.key for dispatch in quick], _QUICK_SECONDS_MAX)
        left = [dispatch for dispatch in quick if dispatch.key in self._rowless]
        try:
            if left:
                await self._dispatches.insert(left, [True] * len(left))
        except _FAULTS:
            self._checks_due = _CHECKS_AFTER_FAULT
            raise
        for key in [dispatch.key for dispatch in left]:
            if key in self._unmade:
                self._unmade.discard(key)
                self._sweeper.failed(key)
            elif key not in self._rowless and key not in self._asleep:
                self._sweeper.over(key)  # while its row was being stored
        self._rowless.difference_update(dispatch.key for dispatch in left)
        self._asleep.difference_update(dispatch.key for dispatch in quick)
        self._sweeper.sweep()

    async def _insert(self, dispatches: Sequence[Dispatch], take: Sequence[bool], present: datetime) -> None:
        try:
            stored = await self._dispatches.insert(dispatches, take)
        except _FAULTS:
            self._checks_due = _CHECKS_AFTER_FAULT
            raise
        for dispatch in dispatches:
            if stored.get(dispatch.key):
                self._begin(dispatch)
            elif dispatch.key in stored:
                self._due_at(asyncio.get_running_loop().time() + (dispatch.due_at - present).total_seconds())

    async def _drop(self, drops: Sequence[Drop]) -> None:
        await self._dispatches.drop([(drop.tenant_id, drop.execution_id, drop.step) for drop in drops])
        whole = {(drop.tenant_id, drop.execution_id) for drop in drops if drop.step is None}
        runs = {(drop.tenant_id, drop.execution_id, drop.step) for drop in drops if drop.step is not None}
        self._disown({key for key in self._rowless if key[:2] in whole or key[:3] in runs})
        calls = [dispatch.key for dispatch in self._calls.dispatches if dispatch.kind == "call"]
        unwanted = [key for key in calls if key[:2] in whole or key[:3] in runs]
        for task in self._calls.tasks(unwanted):
            task.cancel()
        for key in unwanted:
            self._sweeper.over(key)  # its row is still there where somebody had a hand on it in that moment
        self._sweeper.sweep()
        self._look_again([(drop.tenant_id,) for drop in drops])

    def _begin(self, dispatch: Dispatch, after: Dispatch | None = None) -> None:
        if dispatch.key not in self._calls:
            self._room.enter(dispatch.tenant_id)
            self._calls.begin(dispatch, after=after)

    async def _make(self, dispatch: Dispatch) -> None:
        try:
            await self._do(dispatch)
        except asyncio.CancelledError:
            self._asleep.discard(dispatch.key)
            if dispatch.key in self._rowless:  # not made, then: where anybody still wants it, it is made from its row
                self._unmade.add(dispatch.key)
            raise
        except Exception as fault:
            self.statistics.postponed += 1
            log.warning("an attempt is made again later", step=dispatch.step, attempt=dispatch.attempt, fault=repr(fault))
            self._asleep.discard(dispatch.key)
            if dispatch.key in self._rowless:
                self._unmade.add(dispatch.key)
            else:
                self._sweeper.failed(dispatch.key)
        self._sweeper.sweep()

    async def _do(self, dispatch: Dispatch) -> None:
        """Does what is due. The row goes, or it stays asleep until a callback, a module's worker, or a child's end."""
        match dispatch.kind:
            case "call":
                later = await self._attempts.make(dispatch)
                if later is not None:
                    if dispatch.key in self._rowless:
                        self._asleep.add(dispatch.key)  # `_see_through` may be about to store the row as well
                        await self._dispatches.insert([dispatch], [True])
                    await self._dispatches.sleep(dispatch.key, later)
                    self._rowless.discard(dispatch.key)
                    if later.kind == "pull":
                        self._offered(dispatch.tenant_id)
                    return
            case "callback" | "pull":
                await self._attempts.expire(dispatch)
            case "admission":
                await self._admissions.admit(dispatch)
            case _:
                try:
                    is_over, again_at = await self._wakes.make(dispatch), NEVER
                except LimitReached as reached:
                    is_over, again_at = False, self._clock() + timedelta(seconds=reached.again_seconds)
                if not is_over:
                    await self._dispatches.sleep(dispatch.key, Later(dispatch.kind, again_at))
                    return
        if dispatch.key in self._rowless:
            self._rowless.discard(dispatch.key)
            self._ahead.over(dispatch)
        else:
            self._sweeper.over(dispatch.key)

    def _made(self, dispatch: Dispatch) -> None:
        self._room.leave(dispatch.tenant_id)
        self._look_again([dispatch.key])

    def wake(self) -> None:
        """The time has changed by more than passing (an injected clock was set): look now."""
        self._due_at(0.0)

    def _look_again(self, over: Sequence[tuple[str, ...] | Key]) -> None:
        """Something of these tenants' is over, which may be what others of them wait for."""
        if self._room.is_awaited([key[0] for key in over]):
            self.wake()

    def _due_at(self, when: float) -> None:
        """Something is to be taken from the table at `when` on the loop's clock."""
        if when < self._next_due:
            self._next_due = when
            self._look.set()

    async def _take_due(self, stop: asyncio.Event) -> None:
        """Timers, what found no room before, and what dead workers left: looked for when due, and once a heartbeat."""
        while not stop.is_set():
            self._look.clear()
            self._next_due = asyncio.get_running_loop().time() + _HEARTBEAT_SECONDS
            taken = 0
            if self._room.free > 0:
                try:
                    taken = await self._take()
                except _FAULTS as fault:
                    log.warning("due attempts cannot be claimed; trying again", fault=repr(fault))
                    self._checks_due = _CHECKS_AFTER_FAULT
                    await first_of(_FAULT_PAUSE_SECONDS, stop)
            else:
                self._room.backlog = True
            await first_of(max(_CLAIM_PAUSE_SECONDS, self._room.seconds_for(taken)), stop)
            await self._wait_until_due(stop)

    async def _take(self) -> int:
        """Begins what is due, as far as there are places, and learns whose rows are left and when more is due. Says how many."""
        with self._room.promised() as places:
            taken = await self._dispatches.claim(places, tenant_room=self._limits.tenant_calls_max, rooms=self._room.of_tenants())
            for number, dispatch in enumerate(taken, start=1):
                self._room.promise(len(taken) - number)
                self._begin(dispatch)
                if number % _BEGUN_TOGETHER == 0:
                    await asyncio.sleep(0)  # whoever has one call waits for a few of these, not for all
        waits = await self._dispatches.waiting_tenants()
        self._room.backlog, self._room.waits = waits is None, waits or frozenset()
        if len(taken) == places:
            self._due_at(0.0)  # some places were left for what would come meanwhile
        elif waits is not None and (seconds := await self._dispatches.next_due_seconds()) is not None:
            self._due_at(asyncio.get_running_loop().time() + max(seconds, 0.0))
        return len(taken)

    async def _wait_until_due(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set() and (seconds := self._next_due - loop.time()) > 0:
            await first_of(seconds, stop, self._look)
            self._look.clear()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        alive_until, beats = loop.time() + ALIVE_SECONDS, 0
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            began = loop.time()
            self._room.tick()
            if not await self._beat_once():
                continue
            if began > alive_until:
                await self._give_up_what_others_took()
            alive_until = began + ALIVE_SECONDS
            self._disown({dispatch.key for dispatch in self._ahead.forget()})
            if self._checks_due:
                await self._give_back_what_is_not_running()
            beats += 1
            if beats % 60 == 0:
                with contextlib.suppress(*_FAULTS):
                    await self._dispatches.prune()

    async def _beat_once(self) -> bool:
        try:
            self._room.limited = await self._dispatches.beat()
            return True
        except _FAULTS as fault:
            log.warning("the saga's heartbeat failed", fault=repr(fault))
            return False

    async def _give_up_what_others_took(self) -> None:
        """After a heartbeat that came too late: calls that another worker has taken over are not ours any more."""
        with contextlib.suppress(*_FAULTS):
            held = await self._dispatches.held()
            await cancelled(self._calls.tasks([key for key in self._calls if key not in held]), ALIVE_SECONDS)

    async def _give_back_what_is_not_running(self) -> None:
        """A lease may have been stored although its answer was lost. Twice seen without a call, it is given back."""
        with contextlib.suppress(*_FAULTS):
            idle = (await self._dispatches.held()) - {*self._calls, *self._sweeper.keys}
            if lost := idle & self._not_running:
                log.warning("leases without a call are given back", count=len(lost))
                await self._dispatches.postpone(sorted(lost))
            self._not_running = idle - lost
            self._checks_due -= 1
