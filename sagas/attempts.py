# intent_ref: sagas.execution
"""One attempt of a step: find the module, call it in time, record what came back, once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from commands.execution import CompleteStep, FailStep
from commands.handle import Envelope, Shell, actions_of, handle
from domain import execution
from domain.execution import ENDED, Execution, PlannedStep
from domain.module import Module
from domain.refusals import ExecutionHasEnded, NotFound, StepNotRunning
from domain.values import ExecutionId, StepId, TenantId, execution_stream
from event_store.records import StoreUnavailable, StreamBusy
from modules.contract import Invocation, ModuleError
from modules.results import storable_error
from sagas.dispatches import Dispatch

ACTOR = "saga:execution"
_BACK_OFF_SECONDS = 0.1
_BACK_OFF_SECONDS_MAX = 2.0

Call = Callable[[Module, Invocation], Awaitable[Any]]
"""How a module is called: `modules.catalogue.Caller.call`. Raises `ModuleError`."""

Trace = Callable[[str, str | None, Mapping[str, str]], AbstractContextManager[str | None]]
"""(name, traceparent of the cause, attributes) -> a span around what follows, whose traceparent is handed on."""

log = structlog.get_logger(__name__)


def untraced(_name: str, traceparent: str | None, _attributes: Mapping[str, str]) -> AbstractContextManager[str | None]:
    """No span of our own: what comes in is handed on."""
    return nullcontext(traceparent)


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

    def __init__(self, shell: Shell, call: Call, statistics: Statistics, trace: Trace = untraced) -> None:
        self._shell, self._call, self._trace = shell, call, trace
        self._statistics = statistics

    async def make(self, dispatch: Dispatch) -> None:
        """Calls the module and records the outcome. Returns when the attempt is over, also when its answer came too late.

        Raises whatever keeps the outcome from being recorded for good; then the attempt can be made again.
        """
        state = await self._execution(dispatch)
        step = state.step(dispatch.step) if state is not None else None
        if state is None or step is None or _is_over(state, dispatch):
            self._statistics.too_late += 1
            return
        attributes = {
            "quantum.tenant": dispatch.tenant_id, "quantum.execution": dispatch.execution_id, "quantum.step": dispatch.step,
            "quantum.module": step.module, "quantum.action": step.action, "quantum.attempt": str(dispatch.attempt),
            "quantum.correlation_id": dispatch.correlation_id,
        }  # fmt: skip
        with self._trace(f"module {step.action}", dispatch.traceparent, attributes) as traceparent:
            command = await self._outcome(dispatch, state, step, traceparent)
            await self._record(dispatch, command, traceparent)

    async def _execution(self, dispatch: Dispatch) -> Execution | None:
        """The execution with its plan; a cached one is good enough, because the plan never changes."""
        tenant, stream = TenantId(dispatch.tenant_id), execution_stream(ExecutionId(dispatch.execution_id))
        known = self._shell.store.states.cached(tenant, stream)
        if known is None or known.state is None:
            known = await self._shell.store.load(tenant, stream, execution.evolve)
        return known.state

    async def _outcome(
        self, dispatch: Dispatch, state: Execution, step: PlannedStep, traceparent: str | None
    ) -> CompleteStep | FailStep:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._statistics.calls += 1
        execution_id, step_id, attempt = ExecutionId(dispatch.execution_id), step.id, dispatch.attempt
        command: CompleteStep | FailStep
        try:
            invocation = _invocation(dispatch, state, step, traceparent)
            result = await self._called(step, invocation, TenantId(dispatch.tenant_id))
            outcome = "completed"
            command = CompleteStep(
                execution_id=execution_id, step=step_id, attempt=attempt, result=result, at=datetime.now(UTC)
            )  # fmt: skip
        except ModuleError as error:
            outcome = error.code
            command = FailStep(
                execution_id=execution_id, step=step_id, attempt=attempt, error=storable_error(error),
                retryable=error.retryable, at=datetime.now(UTC),
            )  # fmt: skip
        self._statistics.observe_call(step.module, outcome, loop.time() - began)
        return command

    async def _called(self, step: PlannedStep, invocation: Invocation, tenant_id: TenantId) -> Any:
        module = self._shell.builtin.by_name.get(step.module)
        if module is None:
            module = (await actions_of(self._shell, tenant_id)).by_name.get(step.module)
        if module is None:
            message = f"The module {step.module!r} is not registered any more. Register it again, then retry the execution."
            raise ModuleError("module-unavailable", message)
        try:
            async with asyncio.timeout(step.timeout_seconds) as limit:
                return await self._call(module, invocation)
        except TimeoutError as fault:
            if not limit.expired():
                raise ModuleError("module-crashed", f"The module {step.module!r} gave up waiting for something.") from fault
            message = f"The module {step.module!r} did not answer within {step.timeout_seconds:g} seconds."
            raise ModuleError("timeout", message) from fault

    async def _record(self, dispatch: Dispatch, command: CompleteStep | FailStep, traceparent: str | None) -> None:
        envelope = Envelope(
            TenantId(dispatch.tenant_id), dispatch.command_id, ACTOR, dispatch.correlation_id,
            causation_id=str(dispatch.event_id), traceparent=traceparent,
        )  # fmt: skip
        back_off = _BACK_OFF_SECONDS
        while True:
            try:
                outcome = await handle(self._shell, command, envelope)
            except (StepNotRunning, ExecutionHasEnded, NotFound):
                self._statistics.too_late += 1
                return
            except (StreamBusy, StoreUnavailable) as fault:
                log.warning("an outcome could not be recorded yet", step=dispatch.step, fault=str(fault), seconds=back_off)
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, _BACK_OFF_SECONDS_MAX)
                continue
            if outcome.replayed:
                self._statistics.repeated += 1
            else:
                self._statistics.recorded += 1
            return


def _is_over(state: Execution, dispatch: Dispatch) -> bool:
    """True when the log says that nobody waits for this attempt. A state from the cache may be older, never wrong in this."""
    run = state.runs[StepId(dispatch.step)]
    if run.attempts != dispatch.attempt:
        return run.attempts > dispatch.attempt
    return state.status in ENDED or run.status not in ("running", "retrying")


def _invocation(dispatch: Dispatch, state: Execution, step: PlannedStep, traceparent: str | None) -> Invocation:
    return Invocation(
        tenant_id=dispatch.tenant_id, execution_id=dispatch.execution_id, step=step.id, action=step.action,
        attempt=dispatch.attempt, parameters=step.parameters, inputs=state.inputs, target=state.target,
        idempotency_key=str(dispatch.command_id), deadline=datetime.now(UTC) + timedelta(seconds=step.timeout_seconds),
        traceparent=traceparent,
    )  # fmt: skip
