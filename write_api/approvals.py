# intent_ref: write-api.approvals
"""Routes by which people and systems outside answer what executions wait for: approvals and signals."""

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.headers import command_identity
from access.http.json_body import parse_object, parse_value, validated
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_APPROVE, EXECUTIONS_CONTROL
from commands.execution import REASON_CHARS_MAX, ApproveStep, ExecutionCommand, RejectStep, SignalExecution
from commands.handle import Shell, handle
from domain.refusals import Fault, Invalid
from domain.step_policies import NAME_RULE, is_name
from domain.values import ExecutionId, StepId
from write_api.executions import STEERED, answer
from write_api.writing import Clock, envelope, utc_now


class Judgement(BaseModel):
    """What there is to say about it. The body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"comment": "Go ahead."}]})
    comment: str | None = Field(None, max_length=REASON_CHARS_MAX)


class Payload(RootModel[Any]):
    """Any JSON: what the step that waits for the signal has as its result. Left out, it is null."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": 12.5}]})


_JUDGED: Final[dict[str, Any]] = {**STEERED, "body": Judgement}


def approvals_router(shell: Shell, gate: Gate, *, clock: Clock = utc_now) -> APIRouter:
    """The routes that approve and reject steps, and send signals."""
    routes = GuardedRoutes(gate, "executions")

    async def obey(request: Request, access: Access, command: ExecutionCommand, raw: bytes) -> Response:
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        return answer(await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity)))

    @routes.tenant(
        "POST", "/executions/{execution_id}/steps/{step}/approve", EXECUTIONS_APPROVE, summary="Approve a step", **_JUDGED
    )
    async def approve_step(request: Request, access: Access) -> Response:
        """The step goes on. Where its definition names roles, the caller must have one of them: 403 `not-your-approval`."""
        raw, said = await _judgement(request, access)
        return await obey(request, access, ApproveStep(**said, at=clock()), raw)

    @routes.tenant(
        "POST", "/executions/{execution_id}/steps/{step}/reject", EXECUTIONS_APPROVE, summary="Reject a step", **_JUDGED
    )
    async def reject_step(request: Request, access: Access) -> Response:
        """The step fails. The same roles may reject that may approve."""
        raw, said = await _judgement(request, access)
        return await obey(request, access, RejectStep(**said, at=clock()), raw)

    @routes.tenant(
        "POST", "/executions/{execution_id}/signals/{signal}", EXECUTIONS_CONTROL, summary="Send a signal to an execution",
        **{**STEERED, "body": Payload},
    )  # fmt: skip
    async def signal_execution(request: Request, access: Access) -> Response:
        """The step that waits for this signal goes on with the body as its result; sent before, the signal is kept for it."""
        name = request.path_params["signal"]
        if not is_name(name):
            raise Invalid([Fault("/signal", f"A signal's name is {NAME_RULE}: no step can wait for another.", "invalid")])
        raw = await request.body()
        command = SignalExecution(
            execution_id=ExecutionId(request.path_params["execution_id"]), name=name,
            payload=parse_value(raw), at=clock(),
        )  # fmt: skip
        return await obey(request, access, command, raw)

    return routes.router


async def _judgement(request: Request, access: Access) -> tuple[bytes, dict[str, Any]]:
    raw = await request.body()
    body = validated(Judgement, parse_object(raw) if raw else {})
    return raw, {
        "execution_id": ExecutionId(request.path_params["execution_id"]), "step": StepId(request.path_params["step"]),
        "by": access.principal.subject, "roles": frozenset(map(str, access.principal.roles)), "comment": body.comment,
    }  # fmt: skip
