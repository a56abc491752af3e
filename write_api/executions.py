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
from access.http.request_keys import MAY_CHANGE_NOTHING, STORES_AN_EVENT, CommandsInLog
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_CONTROL, EXECUTIONS_START
from commands.execution import (
    CancelExecution,
    ExecutionCommand,
    PauseExecution,
    RerunExecution,
    ResumeExecution,
    RetryExecution,
    StartExecution,
    TerminateExecution,
)
from commands.execution_start import BUSINESS_KEY_CHARS_MAX
from commands.handle import Outcome, Shell, handle
from domain.execution import Execution, evolve
from domain.refusals import ExecutionExists
from domain.values import ExecutionId, IntentId, StepId, execution_stream
from write_api.writing import REPLAY, WRITTEN, Clock, Nothing, envelope, no_body, utc_now, written


class Start(BaseModel):
    """What to execute with. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"inputs": {"replicas": 3}}, {}]})
    inputs: dict[str, Any] = Field(default_factory=dict, description="Values the steps may refer to.")
    version: int | None = Field(None, ge=1, lt=1 << 31, description="The version to execute; the current one unless said.")
    priority: int | None = Field(None, ge=1, le=5, description="From 1 (first) to 5 (last); what the definition says, else 3.")
    business_key: str | None = Field(
        None, min_length=1, max_length=BUSINESS_KEY_CHARS_MAX, examples=["order-4711"],
        description="While an execution of this intent runs for the key, none other is started for it.",
    )  # fmt: skip


class Ending(BaseModel):
    """Why an execution is to end. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "superseded"}]})
    reason: str | None = Field(None, max_length=2000)


class Rerun(BaseModel):
    """Where to begin again."""

    model_config = ConfigDict(extra="forbid", strict=True)
    step: str = Field(min_length=1, max_length=100, examples=["build-docker-image"], description="The id of a step.")


_ACCEPTED: Final = Answer(
    202, "The execution, as it stands right after.", documents.ExecutionReceipt, headers=(*WRITTEN, "Location"), at_times=REPLAY
)
STEERED: Final[dict[str, Any]] = {
    "body": Nothing,
    "body_required": False,
    "key": STORES_AN_EVENT,
    "answers": (_ACCEPTED,),
    "refusals": (409,),
}
_UNLESS_IT_IS: Final[dict[str, Any]] = {**STEERED, "key": MAY_CHANGE_NOTHING}


def _may_be_deduplicated(body: bytes) -> bool:
    """Only for a business key may something else run already; an escape could spell one."""
    return b"business_key" in body or b"\\u" in body


def executions_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /intents/{intent_id}/execute` and the routes under `/executions` that change something."""
    routes = GuardedRoutes(gate, "executions")

    async def steer(request: Request, access: Access, command: ExecutionCommand, raw: bytes) -> Response:
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        return answer(await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity)))

    @routes.tenant(
        "POST", "/intents/{intent_id}/execute", EXECUTIONS_START, summary="Execute an intent", body=Start,
        body_required=False, key=CommandsInLog(_may_be_deduplicated), answers=(_ACCEPTED,), refusals=(409, 429),
    )  # fmt: skip
    async def execute_intent(request: Request, access: Access) -> Response:
        """Starts an execution of a version, the current one unless said, with the steps as that version has them.

        With a `business_key` for which an execution of this intent still runs, that one is answered, and none is started.
        """
        raw = await request.body()
        body = validated(Start, parse_object(raw) if raw else {})
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        command = StartExecution(
            execution_id=ExecutionId(str(identity.command_id)), intent_id=IntentId(request.path_params["intent_id"]),
            version=body.version, inputs=body.inputs, tenant_id=access.tenant_id, priority=body.priority,
            business_key=body.business_key, started_by=access.principal.subject, at=clock(),
        )  # fmt: skip
        try:
            return answer(await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity)))
        except ExecutionExists as refusal:
            return await _deduplicated(shell, access, refusal)

    @routes.tenant(
        "POST", "/executions/{execution_id}/cancel", EXECUTIONS_CONTROL, summary="Cancel an execution",
        **{**_UNLESS_IT_IS, "body": Ending},
    )  # fmt: skip
    async def cancel_execution(request: Request, access: Access) -> Response:
        """No further step starts, and what completed is undone where it can be; then running steps are waited for."""
        raw, reason = await _reason(request)
        return await steer(request, access, CancelExecution(execution_id=_id(request), reason=reason, at=clock()), raw)

    @routes.tenant(
        "POST", "/executions/{execution_id}/terminate", EXECUTIONS_CONTROL, summary="Terminate an execution",
        **{**STEERED, "body": Ending},
    )  # fmt: skip
    async def terminate_execution(request: Request, access: Access) -> Response:
        """It ends at once: nothing is waited for, nothing undone, and what a running step answers no longer counts."""
        raw, reason = await _reason(request)
        return await steer(request, access, TerminateExecution(execution_id=_id(request), reason=reason, at=clock()), raw)

    @routes.tenant("POST", "/executions/{execution_id}/pause", EXECUTIONS_CONTROL, summary="Pause an execution", **_UNLESS_IT_IS)
    async def pause_execution(request: Request, access: Access) -> Response:
        """Running steps end; no further one starts until it is resumed."""
        raw = await no_body(request)
        return await steer(request, access, PauseExecution(execution_id=_id(request), at=clock()), raw)

    @routes.tenant("POST", "/executions/{execution_id}/resume", EXECUTIONS_CONTROL, summary="Resume an execution", **STEERED)
    async def resume_execution(request: Request, access: Access) -> Response:
        """A paused execution goes on."""
        raw = await no_body(request)
        return await steer(request, access, ResumeExecution(execution_id=_id(request), at=clock()), raw)

    @routes.tenant("POST", "/executions/{execution_id}/retry", EXECUTIONS_CONTROL, summary="Retry an execution", **STEERED)
    async def retry_execution(request: Request, access: Access) -> Response:
        """A failed execution goes on from the steps that failed; completed ones keep their results."""
        raw = await no_body(request)
        return await steer(request, access, RetryExecution(execution_id=_id(request), at=clock()), raw)

    @routes.tenant(
        "POST", "/executions/{execution_id}/rerun", EXECUTIONS_CONTROL, summary="Run an execution again from a step",
        **{**STEERED, "body": Rerun, "body_required": True},
    )  # fmt: skip
    async def rerun_execution(request: Request, access: Access) -> Response:
        """An ended execution goes on from a step: this and all that depend on it begin anew, the others keep their results."""
        raw = await request.body()
        body = validated(Rerun, parse_object(raw))
        command = RerunExecution(execution_id=_id(request), step=StepId(body.step), at=clock())
        return await steer(request, access, command, raw)

    return routes.router


def _id(request: Request) -> ExecutionId:
    return ExecutionId(request.path_params["execution_id"])


async def _reason(request: Request) -> tuple[bytes, str | None]:
    raw = await request.body()
    return raw, validated(Ending, parse_object(raw) if raw else {}).reason


def answer(outcome: Outcome[Execution], **more: Any) -> Response:
    """The receipt of an execution."""
    execution = outcome.state
    receipt = {
        "execution_id": execution.execution_id,
        "intent_id": execution.intent_id,
        "version": execution.version,
        "status": execution.status,
        **({"queued": True} if execution.is_queued else {}),
        **more,
    }
    return written(202, receipt, outcome, location=f"{API_PREFIX}/executions/{execution.execution_id}")


async def _deduplicated(shell: Shell, access: Access, refusal: ExecutionExists) -> Response:
    """The receipt of the execution that runs for the key already."""
    stream = execution_stream(ExecutionId(refusal.execution_id))
    loaded = await shell.store.load(access.tenant_id, stream, evolve)
    if loaded.state is None:
        raise refusal
    return answer(Outcome(loaded.state, loaded.version, await shell.store.horizon(), replayed=False), deduplicated=True)
