# intent_ref: write-api.executions
"""Routes that start executions and steer them."""

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import documents
from access.http.headers import command_identity
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_CONTROL, EXECUTIONS_START
from commands.execution import CancelExecution, ExecutionCommand, PauseExecution, ResumeExecution, RetryExecution, StartExecution
from commands.handle import Outcome, Shell, handle
from domain.execution import Execution
from domain.values import ExecutionId, IntentId
from write_api.writing import KEY_HEADERS, REPLAY, WRITTEN, Clock, Nothing, envelope, no_body, utc_now, written


class Start(BaseModel):
    """What to execute with. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"inputs": {"replicas": 3}}, {}]})
    inputs: dict[str, Any] = Field(default_factory=dict, description="Values the steps may refer to.")
    version: int | None = Field(None, ge=1, lt=1 << 31, description="The version to execute; the current one unless said.")


class Cancellation(BaseModel):
    """Why an execution is cancelled. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "superseded"}]})
    reason: str | None = Field(None, max_length=2000)


_ACCEPTED: Final = Answer(
    202, "The execution, as it stands right after.", documents.ExecutionReceipt, headers=(*WRITTEN, "Location"), at_times=REPLAY
)
_STEERED: Final[dict[str, Any]] = {
    "body": Nothing,
    "body_required": False,
    "headers": KEY_HEADERS,
    "answers": (_ACCEPTED,),
    "refusals": (409,),
}


def executions_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /intents/{intent_id}/execute` and the routes under `/executions` that change something."""
    routes = GuardedRoutes(gate, "executions")

    async def steer(request: Request, access: Access, command: ExecutionCommand, raw: bytes) -> Response:
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        return _answer(await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity)))

    @routes.tenant(
        "POST", "/intents/{intent_id}/execute", EXECUTIONS_START, summary="Execute an intent", body=Start,
        body_required=False, headers=KEY_HEADERS, answers=(_ACCEPTED,), refusals=(409,),
    )  # fmt: skip
    async def execute_intent(request: Request, access: Access) -> Response:
        """Starts an execution of a version, the current one unless said, with the steps as that version has them."""
        raw = await request.body()
        body = validated(Start, parse_object(raw) if raw else {})
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        command = StartExecution(
            execution_id=ExecutionId(str(identity.command_id)), intent_id=IntentId(request.path_params["intent_id"]),
            version=body.version, inputs=body.inputs, at=clock(),
        )  # fmt: skip
        return _answer(await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity)))

    @routes.tenant(
        "POST", "/executions/{execution_id}/cancel", EXECUTIONS_CONTROL, summary="Cancel an execution",
        **{**_STEERED, "body": Cancellation},
    )  # fmt: skip
    async def cancel_execution(request: Request, access: Access) -> Response:
        """No further step starts; what a running step answers no longer counts."""
        raw = await request.body()
        body = validated(Cancellation, parse_object(raw) if raw else {})
        return await steer(request, access, CancelExecution(execution_id=_id(request), reason=body.reason, at=clock()), raw)

    @routes.tenant("POST", "/executions/{execution_id}/pause", EXECUTIONS_CONTROL, summary="Pause an execution", **_STEERED)
    async def pause_execution(request: Request, access: Access) -> Response:
        """Running steps end; no further one starts until it is resumed."""
        raw = await no_body(request)
        return await steer(request, access, PauseExecution(execution_id=_id(request), at=clock()), raw)

    @routes.tenant("POST", "/executions/{execution_id}/resume", EXECUTIONS_CONTROL, summary="Resume an execution", **_STEERED)
    async def resume_execution(request: Request, access: Access) -> Response:
        """A paused execution goes on."""
        raw = await no_body(request)
        return await steer(request, access, ResumeExecution(execution_id=_id(request), at=clock()), raw)

    @routes.tenant("POST", "/executions/{execution_id}/retry", EXECUTIONS_CONTROL, summary="Retry an execution", **_STEERED)
    async def retry_execution(request: Request, access: Access) -> Response:
        """A failed execution goes on from the steps that failed; completed ones keep their results."""
        raw = await no_body(request)
        return await steer(request, access, RetryExecution(execution_id=_id(request), at=clock()), raw)

    return routes.router


def _id(request: Request) -> ExecutionId:
    return ExecutionId(request.path_params["execution_id"])


def _answer(outcome: Outcome[Execution]) -> Response:
    execution = outcome.state
    receipt = {
        "execution_id": execution.execution_id,
        "intent_id": execution.intent_id,
        "version": execution.version,
        "status": execution.status,
    }
    return written(202, receipt, outcome, location=f"{API_PREFIX}/executions/{execution.execution_id}")
