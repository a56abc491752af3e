# intent_ref: write-api.schedules
"""Routes that pause and resume an intent's schedule, and start it out of turn."""

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents, schedule_documents
from access.http.headers import command_identity
from access.http.operations import Answer
from access.http.request_keys import MAY_CHANGE_NOTHING
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_CONTROL, EXECUTIONS_START
from commands.execution import StartExecution
from commands.expressions import ExpressionFailed
from commands.handle import Shell, handle
from commands.intent import PauseSchedule, ResumeSchedule
from commands.start_inputs import start_inputs
from domain.documents import timestamp
from domain.intent import evolve
from domain.refusals import Fault, IntentHasNoSchedule, Invalid, NotFound
from domain.values import ExecutionId, IntentId, intent_stream
from write_api.writing import REPLAY, WRITTEN, Clock, Nothing, envelope, no_body, utc_now, written

_STEERED: Final[dict[str, Any]] = {
    "body": Nothing, "body_required": False, "key": MAY_CHANGE_NOTHING, "refusals": (409,),
    "answers": (Answer(200, "The schedule.", schedule_documents.ScheduleReceipt, headers=WRITTEN, at_times=REPLAY),),
}  # fmt: skip
_ACCEPTED: Final = Answer(
    202, "The execution, as it stands right after.", documents.ExecutionReceipt, headers=(*WRITTEN, "Location"), at_times=REPLAY
)


def schedules_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """The routes under `/intents/{intent_id}/schedule` that change something."""
    routes = GuardedRoutes(gate, "intents")

    async def steer(request: Request, access: Access, command: PauseSchedule | ResumeSchedule) -> Response:
        identity = command_identity(request, access.tenant_id, access.principal, await no_body(request))
        outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        intent = outcome.state
        status = "paused" if intent.schedule_paused else "active"
        return written(200, {"intent_id": intent.intent_id, "version": intent.current.version, "status": status}, outcome)

    @routes.tenant(
        "POST", "/intents/{intent_id}/schedule/pause", EXECUTIONS_CONTROL, summary="Pause an intent's schedule", **_STEERED
    )
    async def pause_schedule(request: Request, access: Access) -> Response:
        """It starts nothing until it is resumed; what runs goes on."""
        return await steer(request, access, PauseSchedule(intent_id=_id(request), at=clock()))

    @routes.tenant(
        "POST", "/intents/{intent_id}/schedule/resume", EXECUTIONS_CONTROL, summary="Resume an intent's schedule", **_STEERED
    )
    async def resume_schedule(request: Request, access: Access) -> Response:
        """It goes on with its next time; times that passed meanwhile are not made up for."""
        return await steer(request, access, ResumeSchedule(intent_id=_id(request), at=clock()))

    @routes.tenant(
        "POST", "/intents/{intent_id}/schedule/run-now", EXECUTIONS_START, summary="Run a schedule now", body=Nothing,
        body_required=False, answers=(_ACCEPTED,), refusals=(409, 429),
    )  # fmt: skip
    async def run_now(request: Request, access: Access) -> Response:
        """Starts an execution with the schedule's own inputs, as if this were one of its times; also while it is paused."""
        identity = command_identity(request, access.tenant_id, access.principal, await no_body(request))
        intent_id, at = _id(request), clock()
        loaded = await shell.store.load(access.tenant_id, intent_stream(intent_id), evolve)
        if loaded.state is None:
            raise NotFound("intent", intent_id)
        raw = loaded.state.current.definition.get("schedule")
        if raw is None:
            raise IntentHasNoSchedule(intent_id)
        try:
            inputs = start_inputs(raw, {"schedule": {"time": timestamp(at)}, "tenant": {"id": access.tenant_id}})
        except ExpressionFailed as fault:
            raise Invalid([Fault(f"/definition/schedule/inputs{fault.pointer}", fault.message, "expression-failed")]) from fault
        command = StartExecution(
            execution_id=ExecutionId(str(identity.command_id)), intent_id=intent_id, version=loaded.state.current.version,
            inputs=inputs, tenant_id=access.tenant_id, started_by=access.principal.subject, at=at,
        )  # fmt: skip
        outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        execution = outcome.state
        receipt = {
            "execution_id": execution.execution_id, "intent_id": execution.intent_id, "version": execution.version,
            "status": execution.status, "deduplicated": False,
        }  # fmt: skip
        return written(202, receipt, outcome, location=f"{API_PREFIX}/executions/{execution.execution_id}")

    return routes.router


def _id(request: Request) -> IntentId:
    return IntentId(request.path_params["intent_id"])
