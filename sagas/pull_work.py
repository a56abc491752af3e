# intent_ref: sagas.pull-work
"""Work that modules' workers fetch: handed out under a lease, answered for once, handed on where a worker falls silent.

poll → lease (a row of kind `pull`) → the worker → `CompleteStep` or `FailStep` → event. Every answer takes the lease first and
holds it while the outcome is recorded, so an answer under a lease that somebody else has by now finds no row. The outcome's
command id follows from the attempt, as for every other call.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import orjson
import structlog

from commands.beginnings import work_of
from commands.execution import CompleteStep, FailStep
from commands.handle import Envelope, IdempotencyKeyReused, Shell, actions_of, handle
from domain import execution
from domain.execution import Execution
from domain.execution_events import StepCompensated, StepCompleted
from domain.plan import is_undoing
from domain.refusals import ExecutionHasEnded, Fault, Invalid, LeaseLost, NotFound, StepNotRunning
from domain.runs import StepRun
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import TenantId, execution_stream
from domain.work import Lease, LeaseState, Settlement, WorkAnswer, WorkUnit
from event_store.records import StoreUnavailable
from modules.contract import Invocation
from sagas.attempts import Attempts, Prepare, is_over
from sagas.clock import Clock, now
from sagas.reactions import outcome_command_id
from sagas.work_bell import WorkBell
from sagas.work_leases import Leased, WorkLeases
from sagas.work_rounds import Rounds

HANDED_OUT_BYTES_MAX: Final = 8 << 20
"""What one answer to a poll may come to; a single unit may be larger."""
SETTLE_SECONDS_MAX: Final = 50.0
_HAND_OUT_SECONDS_MAX: Final = 20.0
_HELD_SECONDS: Final = 60.0
"""How long a lease holds while its outcome is recorded: longer than that may take."""

log = structlog.get_logger(__name__)


class Judged(Protocol):
    """What is recorded of an answer; see `modules.callbacks.Settled`."""

    @property
    def result(self) -> Any:
        """The result, where `error` is None."""
        ...

    @property
    def error(self) -> dict[str, Any] | None:
        """The error, with `code` and `message`."""
        ...

    @property
    def retryable(self) -> bool:
        """Whether another attempt could help."""
        ...

    @property
    def try_again(self) -> str | None:
        """Why it cannot be judged now, where it cannot."""
        ...


class Settle(Protocol):
    """`modules.catalogue.Caller.settle`."""

    async def __call__(
        self, tenant_id: str, module: Any, action_name: str, authored: Any, *, result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> Judged:  # fmt: skip
        """The outcome as it is recorded."""
        ...


@dataclass(slots=True)
class Statistics:
    """What telemetry reads, of units of work: `fetched` by workers, `completed` and `failed` as they were recorded, given back
    (`released`), handed on because whoever had them fell silent (`expired`), and answers refused under a lost lease (`fenced`).
    """

    fetched: int = 0
    completed: int = 0
    failed: int = 0
    released: int = 0
    expired: int = 0
    fenced: int = 0


class PullWork:
    """What workers may ask. Raises `StoreUnavailable` where they may ask again, and refusals.

    `installation`: the limits of tenants for which nothing else is set.
    """

    def __init__(
        self, shell: Shell, attempts: Attempts, prepare: Prepare, settle: Settle, bell: WorkBell, clock: Clock | None = None,
        *, installation: TenantLimits = NO_LIMITS,
    ) -> None:  # fmt: skip
        self.statistics = Statistics()
        self._shell, self._attempts, self._prepare, self._settle = shell, attempts, prepare, settle
        self._clock = clock or now
        self._leases = WorkLeases(shell.store.tenant_pool, clock, steps_default=installation.concurrent_steps)
        self._rounds, self._bell = Rounds(self._leases), bell
        bell.listen(self._rounds.ring)

    async def actions(self, tenant_id: TenantId, name: str) -> list[str]:
        """The actions of a module. Raises `Invalid`."""
        module = (await actions_of(self._shell, tenant_id)).by_name.get(name)
        if module is None:
            raise Invalid([Fault("/module", f"There is no module {name!r} in this tenant.", "unknown-module")])
        return [action.name for action in module.actions]

    async def fetch(
        self, tenant_id: TenantId, actions: Sequence[str], at_most: int, wait_seconds: float, holder: str = ""
    ) -> list[WorkUnit]:  # fmt: skip
        """Up to `at_most` units of these actions for `holder`, as soon as there are any; none after `wait_seconds`.

        Whoever is cancelled has leased nothing.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        async with self._rounds.seat(tenant_id) as seat:
            while True:
                generation = seat.generation
                async with self._given_back_unless_handed_out(tenant_id) as leased:
                    await seat.take(frozenset(actions), at_most, leased, is_asked_once=not wait_seconds, holder=holder)
                    self.statistics.expired += sum(one.was_silent for one in leased)
                    units = await self._units(tenant_id, leased)
                    self.statistics.fetched += len(units)
                if units:
                    return units
                if leased:
                    continue  # nobody wants what was there; there may be more
                left = until - loop.time()
                if left <= 0:
                    return []
                await seat.wait(frozenset(actions), left, since=generation)

    async def _units(self, tenant_id: TenantId, leased: list[Leased]) -> list[WorkUnit]:
        """Makes of leases what is handed out, without what is over, or is too much for one answer."""
        units: list[WorkUnit] = []
        size = 0
        for one in leased:
            if size > HANDED_OUT_BYTES_MAX:
                await self._leases.release(tenant_id, one.lease)
                continue
            try:
                async with asyncio.timeout(_HAND_OUT_SECONDS_MAX):
                    invocation = await self._attempts.handed_out(one.dispatch, self._prepare)
            except TimeoutError as fault:
                raise StoreUnavailable("The work could not be made ready in time. Ask again.") from fault
            if invocation is None:
                await self._leases.drop(tenant_id, one.lease)
                continue
            units.append(self._unit(one, invocation))
            size += len(orjson.dumps([invocation.parameters, invocation.inputs]))
        return units

    def _unit(self, leased: Leased, invocation: Invocation) -> WorkUnit:
        present = self._clock()
        return WorkUnit(
            leased.lease, invocation.action, invocation.parameters, invocation.inputs, invocation.target,
            invocation.idempotency_key, invocation.deadline, leased.until,
            timeout_seconds=max(0.0, (invocation.deadline - present).total_seconds()), lease_seconds=leased.seconds,
            claims=leased.claims, traceparent=invocation.traceparent,
        )  # fmt: skip

    @asynccontextmanager
    async def _given_back_unless_handed_out(self, tenant_id: TenantId) -> AsyncIterator[list[Leased]]:
        """A list of leases; where what happens to them fails or is cancelled, others can have them at once."""
        leased: list[Leased] = []
        try:
            yield leased
        except BaseException:
            for one in leased:
                with contextlib.suppress(StoreUnavailable):
                    await self._leases.release(tenant_id, one.lease)
            if leased:
                self._bell.ring(tenant_id)
            raise

    async def beat(self, tenant_id: TenantId, lease: Lease) -> LeaseState:
        """Extends a lease, and says whether the work is still wanted. Raises `LeaseLost` or `NotFound`."""
        held = await self._leases.hold(tenant_id, lease)
        state = await self._state(tenant_id, lease)
        if _is_cancelled(state, lease):
            return LeaseState(True, None if held is None else held.until, 0.0 if held is None else held.seconds)
        if held is None:
            raise self._fenced(lease)
        return LeaseState(False, held.until, held.seconds)

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        """Gives work back undone: the same attempt goes to somebody else. Raises `LeaseLost` or `NotFound`."""
        if not await self._leases.release(tenant_id, lease):
            await self._state(tenant_id, lease)
            raise self._fenced(lease)
        self.statistics.released += 1
        self._bell.ring(tenant_id)

    async def settle(self, tenant_id: TenantId, lease: Lease, answer: WorkAnswer) -> Settlement:
        """Records what came of the work, once. Raises `LeaseLost`, `StepNotRunning` or `NotFound`.

        The same answer again under the same lease has no second effect.
        """
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                held = await self._leases.hold(tenant_id, lease, _HELD_SECONDS)
                if held is None:
                    return await self._repeated(tenant_id, lease, answer)
                state = await self._state(tenant_id, lease)
                if is_over(state, lease.step, lease.attempt):
                    await self._leases.drop(tenant_id, lease)
                    raise StepNotRunning(lease.execution_id, lease.step, lease.attempt)
                settlement = await self._record(tenant_id, held, state, answer)
        except TimeoutError as fault:
            raise StoreUnavailable("The answer could not be recorded in time. Send it again.") from fault
        with contextlib.suppress(StoreUnavailable):  # what is in the log is never handed out again
            await self._leases.drop(tenant_id, lease)
        if held.dispatch.slot_key is not None:
            self._bell.ring(tenant_id)  # there may be room now for work that waits
        return settlement

    async def _record(self, tenant_id: TenantId, held: Leased, state: Execution, answer: WorkAnswer) -> Settlement:
        lease, dispatch = held.lease, held.dispatch
        command, error = await self._command(tenant_id, lease, state, answer)
        envelope = Envelope(
            tenant_id, dispatch.command_id, answer.actor, dispatch.correlation_id, causation_id=str(dispatch.event_id),
            traceparent=answer.traceparent or dispatch.traceparent, request_hash=answer.request_hash,
        )  # fmt: skip
        try:
            outcome = await handle(self._shell, command, envelope)
        except IdempotencyKeyReused as fault:  # the attempt has an outcome already: its time was over, or it was cancelled
            raise self._fenced(lease) from fault
        except ExecutionHasEnded as fault:
            raise StepNotRunning(lease.execution_id, lease.step, lease.attempt) from fault
        if not outcome.replayed:
            self.statistics.completed += error is None
            self.statistics.failed += error is not None
        return Settlement(error, outcome.position, outcome.replayed)

    def _fenced(self, lease: Lease) -> LeaseLost:
        self.statistics.fenced += 1
        return LeaseLost(lease.execution_id, lease.step, lease.attempt)

    async def _command(
        self, tenant_id: TenantId, lease: Lease, state: Execution, answer: WorkAnswer
    ) -> tuple[CompleteStep | FailStep, dict[str, Any] | None]:
        work = work_of(state, lease.step)
        about: dict[str, Any] = {
            "execution_id": lease.execution_id, "step": lease.step, "attempt": lease.attempt, "at": self._clock(),
        }  # fmt: skip
        module = (await actions_of(self._shell, tenant_id)).by_name.get(work.module)
        if module is None:
            gone = {"code": "module-unavailable", "message": f"The module {work.module!r} is not registered any more."}
            return FailStep(**about, error=gone), gone
        judged = await self._settle(
            tenant_id, module, work.action, work.parameters, result=answer.result, error=answer.error
        )  # fmt: skip
        if judged.try_again is not None:
            raise StoreUnavailable(judged.try_again)
        if judged.error is not None:
            return FailStep(**about, error=judged.error, retryable=judged.retryable), judged.error
        return CompleteStep(**about, result=judged.result), None

    async def _repeated(self, tenant_id: TenantId, lease: Lease, answer: WorkAnswer) -> Settlement:
        """What the same answer was given before; raises `LeaseLost` where it is another one, or none was."""
        command_id: UUID = outcome_command_id(tenant_id, lease.execution_id, lease.step, lease.attempt)
        recorded = await self._shell.store.read_command(tenant_id, command_id)
        if not recorded:
            await self._state(tenant_id, lease)
        if not recorded or recorded[0].metadata.request_hash != answer.request_hash:
            raise self._fenced(lease)
        first: Any = recorded[0].event
        error = None if isinstance(first, StepCompleted | StepCompensated) else first.error
        return Settlement(error, max(event.position for event in recorded), True)

    async def _state(self, tenant_id: TenantId, lease: Lease) -> Execution:
        """The execution a lease is about. Raises `NotFound` where this tenant has none, or no such attempt in it."""
        loaded = await self._shell.store.load(tenant_id, execution_stream(lease.execution_id), execution.evolve)
        run = StepRun() if loaded.state is None else loaded.state.runs.get(lease.step, StepRun())
        if loaded.state is None or run.attempts < lease.attempt:
            raise NotFound("lease", lease.written())
        return loaded.state


def _is_cancelled(state: Execution, lease: Lease) -> bool:
    """True where the attempt's result is not wanted any more. What undoes something is never cancelled."""
    if is_undoing(lease.step):
        return state.status == "terminated"
    return state.runs[lease.step].status == "cancelled" or state.status in ("cancelling", "cancelled", "terminated")
