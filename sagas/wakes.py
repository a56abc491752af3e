# intent_ref: sagas.execution
"""What is done when something other than a call is due: gates, deadlines, child executions."""

from typing import Any

import orjson

from commands.execution import (
    CancelExecution,
    ExpireExecution,
    ExpireStep,
    FailGate,
    FollowUpCommand,
    PassGate,
    StartExecution,
    TerminateExecution,
)
from commands.handle import NAME_SCOPE, Envelope, Shell, handle
from domain import execution
from domain.execution import Execution
from domain.execution_terms import Parent
from domain.refusals import (
    ExecutionExists,
    ExecutionHasEnded,
    Invalid,
    LimitReached,
    NotFound,
    Refusal,
    StepNotRunning,
    StepNotWaiting,
)
from domain.values import ExecutionId, IntentId, StepId, TenantId, execution_stream
from event_store.ids import derived_id
from sagas.clock import Clock
from sagas.dispatches import Dispatch

ACTOR = "saga:execution"
STREAM_PREFIX = "intent-"


class Wakes:
    """Does what is due. Twice is as good as once: each command has the id that follows from the event it reacts to."""

    def __init__(self, shell: Shell, clock: Clock) -> None:
        self._shell, self._clock = shell, clock

    async def make(self, dispatch: Dispatch) -> bool:
        """True when the row has had its day; false where it stays as the reason for the execution to wait.

        Raises what keeps a command from being recorded; then it is made again.
        """
        detail = orjson.loads(dispatch.detail) if dispatch.detail is not None else {}
        match dispatch.kind:
            case "gate":
                await self._tell(dispatch, ExpireStep(**self._run(dispatch), gate=detail["gate"]))
            case "expiry":
                # The database said that it is due; this machine's clock may be a little behind.
                at = max(self._clock(), dispatch.due_at)
                await self._tell(dispatch, ExpireStep(**{**self._run(dispatch), "at": at}, gate=None))
            case "deadline":
                await self._tell(dispatch, ExpireExecution(**self._execution(dispatch)))
            case "stop_child":
                stop = CancelExecution if detail["how"] == "cancel" else TerminateExecution
                reason = "The execution that this one was a part of has ended."
                await self._tell(dispatch, stop(**self._execution(dispatch), reason=reason))
            case "child":
                return await self._begin_child(dispatch, detail)
            case "child_end":
                await self._hear_of_child(dispatch, detail)
            case "call" | "callback" | "pull" | "admission":
                raise AssertionError("calls are made by `Attempts`, and executions let in by `Admissions`")
        return True

    def _execution(self, dispatch: Dispatch) -> dict[str, Any]:
        return {"execution_id": ExecutionId(dispatch.execution_id), "at": self._clock()}

    def _run(self, dispatch: Dispatch) -> dict[str, Any]:
        return {**self._execution(dispatch), "step": StepId(dispatch.step)}

    async def _tell(self, dispatch: Dispatch, command: FollowUpCommand) -> None:
        """Gives the command; a refusal says that it comes too late, which is all right."""
        try:
            await handle(self._shell, command, _envelope(dispatch))
        except (StepNotWaiting, StepNotRunning, ExecutionHasEnded, NotFound):
            return

    async def _begin_child(self, dispatch: Dispatch, detail: dict[str, Any]) -> bool:
        tenant_id = TenantId(dispatch.tenant_id)
        state = await self._state(dispatch)
        if state is None or not _waits_for_child(state, dispatch.step, detail["execution_id"]):
            return True
        holder = await self._shell.store.claim_holder(tenant_id, NAME_SCOPE, detail["intent"])
        error: dict[str, Any] | None = None
        if holder is None:
            error = {"code": "workflow-unknown", "message": f"There is no intent named {detail['intent']!r} in this tenant."}
        else:
            command = StartExecution(
                execution_id=ExecutionId(detail["execution_id"]), intent_id=IntentId(holder.removeprefix(STREAM_PREFIX)),
                version=detail["version"], inputs=detail["inputs"], tenant_id=tenant_id, priority=detail["priority"],
                parent=Parent(state.execution_id, StepId(dispatch.step)), depth=detail["depth"],
                root=state.options.root or state.execution_id,
                started_by=f"execution {state.execution_id}", at=self._clock(),
            )  # fmt: skip
            try:
                await handle(self._shell, command, _envelope(dispatch))
            except LimitReached:
                raise  # it is begun when there is room
            except ExecutionExists:
                raise AssertionError("a child has no business key") from None
            except Invalid as refusal:
                faults = [{"pointer": fault.pointer, "detail": fault.detail} for fault in refusal.faults[:10]]
                error = {"code": refusal.code, "message": str(refusal), "faults": faults}
            except Refusal as refusal:
                error = {"code": refusal.code, "message": str(refusal)}
        if error is None:
            return await self._is_orphan(dispatch, detail["execution_id"])
        await self._tell_under(dispatch, FailGate(**self._run(dispatch), gate=detail["gate"], error=error), "refused")
        return True

    async def _is_orphan(self, dispatch: Dispatch, child: str) -> bool:
        """Whether the parent gave the child up while it was being started, when the order to stop it found nothing; then it is
        stopped now."""
        state = await self._state(dispatch)
        if state is None or _waits_for_child(state, dispatch.step, child):
            return False
        stop = TerminateExecution if state.status == "terminated" else CancelExecution
        reason = "The execution that this one was a part of does not wait for it any more."
        await self._tell_under(dispatch, stop(execution_id=ExecutionId(child), reason=reason, at=self._clock()), "orphan")
        return True

    async def _hear_of_child(self, dispatch: Dispatch, detail: dict[str, Any]) -> None:
        state = await self._state(dispatch)
        if state is None or not _waits_for_child(state, dispatch.step, detail["child"]):
            return
        waiting = state.runs[StepId(dispatch.step)].waiting
        assert waiting is not None, "a run that waits for a child waits"
        if "error" in detail:
            await self._tell(dispatch, FailGate(**self._run(dispatch), gate=waiting.gate, error=detail["error"]))
        else:
            await self._tell(dispatch, PassGate(**self._run(dispatch), gate=waiting.gate, result=detail["result"]))

    async def _tell_under(self, dispatch: Dispatch, command: FollowUpCommand, name: str) -> None:
        """Like `_tell`, under an id of its own: the row's has another use."""
        envelope = _envelope(dispatch)
        try:
            await handle(
                self._shell, command,
                Envelope(
                    envelope.tenant_id, derived_id(dispatch.command_id, name), envelope.actor, envelope.correlation_id,
                    envelope.causation_id, envelope.traceparent,
                ),
            )  # fmt: skip
        except (StepNotWaiting, ExecutionHasEnded, NotFound):
            return

    async def _state(self, dispatch: Dispatch) -> Execution | None:
        stream = execution_stream(ExecutionId(dispatch.execution_id))
        return (await self._shell.store.load(TenantId(dispatch.tenant_id), stream, execution.evolve)).state


def _envelope(dispatch: Dispatch) -> Envelope:
    return Envelope(
        TenantId(dispatch.tenant_id), dispatch.command_id, ACTOR, dispatch.correlation_id,
        causation_id=str(dispatch.event_id), traceparent=dispatch.traceparent,
    )  # fmt: skip


def _waits_for_child(state: Execution, step: str, child: str) -> bool:
    run = state.runs.get(StepId(step))
    if run is None or run.waiting is None or run.status != "waiting" or state.is_over:
        return False
    return run.waiting.reason == "child" and run.waiting.detail["execution_id"] == child
