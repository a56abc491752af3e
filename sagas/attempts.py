# intent_ref: sagas.execution
"""One attempt of a step: find the module, call it in time, record what came back, once."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any

import structlog

from commands.beginnings import work_of
from commands.execution import CompleteStep, FailStep
from commands.expressions import ExpressionFailed, evaluate, has_expressions
from commands.handle import Shell, actions_of
from commands.scope import scope_of
from domain import execution
from domain.execution import Execution
from domain.module import Module
from domain.plan import Work
from domain.values import ExecutionId, StepId, TenantId, execution_stream
from modules.contract import Deferred, Invocation, ModuleError
from modules.results import storable_error
from sagas.clock import Clock, now
from sagas.dispatches import Dispatch, Later, Offer
from sagas.outcomes import Outcomes, Recorded
from sagas.signs_of_life import silent_until

ACTOR = "saga:execution"
_AGAIN_SECONDS_MAX = 3_600.0
LEASE_SECONDS_DEFAULT = 30.0
FETCH_SECONDS_MAX = 86_400.0
"""How long work is offered to a module's workers where the step does not say: nothing waits for ever for nobody."""

Call = Callable[[Module, Invocation], Coroutine[Any, Any, Any]]
"""How a module is called: `modules.catalogue.Caller.call`. A result, or `Deferred`; raises `ModuleError`."""

Prepare = Callable[[Module, Invocation], Awaitable[Invocation]]
"""What goes to a module that fetches its work: `modules.catalogue.Caller.prepared`. Raises `ModuleError`."""

Trace = Callable[[Dispatch, Work], AbstractContextManager[str | None]]
"""(the attempt, what it does) -> a span around what follows, whose traceparent is handed on."""

log = structlog.get_logger(__name__)


def untraced(dispatch: Dispatch, _work: Work) -> AbstractContextManager[str | None]:
    """No span of our own: what comes in is handed on."""
    return nullcontext(dispatch.traceparent)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads. `observe_call` gets the module, the outcome (`completed` or an error's code) and seconds."""

    reactions: int = 0
    calls: int = 0
    recorded: int = 0
    repeated: int = 0
    too_late: int = 0
    postponed: int = 0
    undecodable: int = 0
    observe_reactions: Callable[[int], None] = field(default=lambda count: None)
    observe_call: Callable[[str, str, float], None] = field(default=lambda module, outcome, seconds: None)


class Attempts:
    """Makes attempts. Whoever calls `make` twice for one dispatch calls the module twice, and records once."""

    def __init__(
        self, shell: Shell, call: Call, statistics: Statistics, trace: Trace = untraced, clock: Clock = now,
        recorded: Recorded | None = None, took: Callable[[Dispatch, float], None] = lambda dispatch, seconds: None,
    ) -> None:  # fmt: skip
        """`recorded` hears of each answer in the log, `took` of the seconds that a module took for its answer."""
        self._shell, self._call, self._trace, self._clock = shell, call, trace, clock
        self._statistics, self._took = statistics, took
        self._outcomes = Outcomes(shell, recorded)

    async def make(self, dispatch: Dispatch) -> Later | None:
        """Calls the module and records the outcome. None when the attempt is over, also when its answer came too late; else how
        it goes on: the module answers by callback, or its workers fetch the work.

        Raises whatever keeps the outcome from being recorded for good; then the attempt can be made again.
        """
        state = await self._execution(dispatch)
        if state is None or state.step(dispatch.step) is None or is_over(state, dispatch.step, dispatch.attempt):
            self._statistics.too_late += 1
            return None
        work = work_of(state, dispatch.step)
        with self._trace(dispatch, work) as traceparent:
            outcome = await self._outcome(dispatch, state, work, traceparent)
            if isinstance(outcome, Later):
                return outcome
            self._count(await self._outcomes.record(dispatch, outcome, traceparent))
        return None

    async def expire(self, dispatch: Dispatch) -> None:
        """What was to come later has not come in time: a callback, a worker's answer, or a worker that fetches the work."""
        if dispatch.kind == "pull" and dispatch.queue_by is not None:
            error = {"code": "queue-timeout", "message": "No worker fetched the attempt in time."}
            self._count(
                await self._outcomes.record(dispatch, self._failed(dispatch, error, retryable=False), dispatch.traceparent)
            )
            return
        error = {"code": "timeout", "message": "The module took the work on and did not say in time what came of it."}
        self._count(await self._outcomes.record(dispatch, self._failed(dispatch, error, retryable=True), dispatch.traceparent))

    async def handed_out(self, dispatch: Dispatch, prepare: Prepare) -> Invocation | None:
        """What a worker gets that has fetched the attempt, until `dispatch.due_at`; None where nobody wants it any more, or
        where it cannot be made: then that is recorded. Raises as `make`.
        """
        state = await self._execution(dispatch, is_fresh=True)
        if state is None or state.step(dispatch.step) is None or is_over(state, dispatch.step, dispatch.attempt):
            self._statistics.too_late += 1
            return None
        work = work_of(state, dispatch.step)
        try:
            invocation = _invocation(dispatch, state, work, dispatch.traceparent, self._clock())
            module = await self._own_module(work, TenantId(dispatch.tenant_id))  # no other is fetched by workers
            return await prepare(module, replace(invocation, deadline=dispatch.due_at))
        except ModuleError as error:
            self._count(await self._outcomes.record(dispatch, self._failed_with(dispatch, error), dispatch.traceparent))
            return None

    async def _execution(self, dispatch: Dispatch, *, is_fresh: bool = False) -> Execution | None:
        """The execution; a cached one is good enough once it knows of this attempt, for then it knows all the attempt needs."""
        tenant, stream = TenantId(dispatch.tenant_id), execution_stream(ExecutionId(dispatch.execution_id))
        known = None if is_fresh else self._shell.store.states.cached(tenant, stream)
        if known is None or known.state is None or _is_behind(known.state, dispatch):
            known = await self._shell.store.load(tenant, stream, execution.evolve)
        return known.state

    async def _outcome(
        self, dispatch: Dispatch, state: Execution, work: Work, traceparent: str | None
    ) -> CompleteStep | FailStep | Later:
        began = perf_counter()
        self._statistics.calls += 1
        result: CompleteStep | FailStep | Later
        try:
            module = self._shell.builtin.by_name.get(work.module) or await self._own_module(work, TenantId(dispatch.tenant_id))
            if module.transport.kind == "pull":
                return _offered(dispatch, state, work, self._clock())
            invocation = _invocation(dispatch, state, work, traceparent, self._clock())
            answer = await self._called(module, work, invocation)
            if isinstance(answer, Deferred):
                due_at = silent_until(state, dispatch.step, self._clock(), invocation.deadline)
                outcome, result = "deferred", Later("callback", due_at)
            else:
                outcome = "completed"
                result = CompleteStep(
                    execution_id=ExecutionId(dispatch.execution_id), step=StepId(dispatch.step), attempt=dispatch.attempt,
                    result=answer, at=self._clock(),
                )  # fmt: skip
        except ModuleError as error:
            outcome = error.code
            result = self._failed_with(dispatch, error)
        seconds = perf_counter() - began
        self._took(dispatch, seconds)
        self._statistics.observe_call(work.module, outcome, seconds)
        return result

    def _failed_with(self, dispatch: Dispatch, error: ModuleError) -> FailStep:
        return self._failed(
            dispatch, storable_error(error), retryable=error.retryable, counts=error.counts, again_seconds=_again_seconds(error)
        )  # fmt: skip

    def _failed(
        self, dispatch: Dispatch, error: dict[str, Any], *, retryable: bool, counts: bool = True, again_seconds: float = 1.0
    ) -> FailStep:
        return FailStep(
            execution_id=ExecutionId(dispatch.execution_id), step=StepId(dispatch.step), attempt=dispatch.attempt, error=error,
            retryable=retryable, counts=counts, again_seconds=again_seconds, at=self._clock(),
        )  # fmt: skip

    async def _own_module(self, work: Work, tenant_id: TenantId) -> Module:
        module = (await actions_of(self._shell, tenant_id)).by_name.get(work.module)
        if module is None:
            message = f"The module {work.module!r} is not registered any more. Register it again, then retry the execution."
            raise ModuleError("module-unavailable", message)
        return module

    async def _called(self, module: Module, work: Work, invocation: Invocation) -> Any:
        """The answer in time. A call that waits for nothing, as those of most plug-ins, costs no timer."""
        call = self._call(module, invocation)
        try:
            try:
                awaited = call.send(None)
            except StopIteration as done:
                return done.value
            return await _within(work.timeout_seconds, call, awaited)
        except _OutOfTime as fault:
            message = f"The module {work.module!r} did not answer within {work.timeout_seconds:g} seconds."
            raise ModuleError("timeout", message) from fault
        except TimeoutError as fault:
            raise ModuleError("module-crashed", f"The module {work.module!r} gave up waiting for something.") from fault

    def _count(self, recorded: bool | None) -> None:
        """Takes note of what recording an outcome came to."""
        match recorded:
            case True:
                self._statistics.recorded += 1
            case False:
                self._statistics.repeated += 1
            case None:
                self._statistics.too_late += 1


class _OutOfTime(Exception):
    """The time that an attempt has is up."""


async def _within(seconds: float, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Any:
    """What comes in time of `coroutine`, which waits for `awaited`; raises `_OutOfTime`."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await _resumed(coroutine, awaited)
    except TimeoutError as fault:
        if limit.expired():
            raise _OutOfTime from fault
        raise


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that waits for `awaited`."""
    while True:
        try:
            sent = yield awaited
        except BaseException as fault:
            resume: Callable[[], Any] = partial(coroutine.throw, fault)
        else:
            resume = partial(coroutine.send, sent)
        try:
            awaited = resume()
        except StopIteration as done:
            return done.value


def _is_behind(state: Execution, dispatch: Dispatch) -> bool:
    """True where a state from the cache has not heard of the attempt yet."""
    run = state.runs.get(StepId(dispatch.step))
    return run is None or run.attempts < dispatch.attempt


def is_over(state: Execution, step: str, attempt: int) -> bool:
    """True when the log says that nobody waits for this attempt."""
    run = state.runs.get(StepId(step))
    if run is None or run.attempts != attempt:
        return True
    return state.is_over or run.status not in ("running", "retrying")


def _offered(dispatch: Dispatch, state: Execution, work: Work, present: datetime) -> Later:
    """How an attempt is offered to a module's workers. Its own time begins when one of them fetches it."""
    planned = state.step(dispatch.step)
    said = None if planned is None else planned.flow.heartbeat_seconds
    latest = present + timedelta(seconds=FETCH_SECONDS_MAX)
    until = latest if dispatch.queue_by is None else dispatch.queue_by
    return Later("pull", until, Offer(work.action, work.timeout_seconds, said or LEASE_SECONDS_DEFAULT, present))


def _invocation(
    dispatch: Dispatch, state: Execution, work: Work, traceparent: str | None, present: datetime
) -> Invocation:  # fmt: skip
    if dispatch.queue_by is not None and present > dispatch.queue_by:
        message = "The attempt was not begun in the time that the step allows for queueing."
        raise ModuleError("queue-timeout", message, retryable=False)
    try:
        parameters = work.parameters
        if parameters and has_expressions(parameters):
            parameters = evaluate(parameters, scope_of(state, dispatch.step))
    except ExpressionFailed as fault:
        raise ModuleError(
            "expression-failed", fault.message, retryable=False, details={"pointer": fault.pointer}
        ) from fault  # fmt: skip
    return Invocation(
        tenant_id=dispatch.tenant_id, execution_id=dispatch.execution_id, step=dispatch.step, action=work.action,
        attempt=dispatch.attempt, parameters=parameters, inputs=state.inputs, target=state.target,
        idempotency_key=str(dispatch.command_id), deadline=present + timedelta(seconds=work.timeout_seconds),
        traceparent=traceparent, authored=work.parameters,
    )  # fmt: skip


def _again_seconds(error: ModuleError) -> float:
    said = error.details.get("retry_after_seconds")
    return min(float(said), _AGAIN_SECONDS_MAX) if isinstance(said, int | float) and said > 0 else 1.0
