# intent_ref: write-api.callbacks
"""Where a module answers later: the address it was given is all it needs, and settles one attempt and nothing else."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.http.headers import identity_of, traceparent
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import Problem, unavailable
from access.http.request_keys import KeyedAnswers, OwnKeys, has_key
from access.http.routing import GuardedRoutes
from commands.beginnings import work_of
from commands.execution import CompleteStep, FailStep
from commands.handle import Envelope, IdempotencyKeyReused, Shell, actions_of, handle
from domain import execution
from domain.callbacks import CallbackClaims
from domain.execution import Execution
from domain.immutable import immutable
from domain.module import Module
from domain.refusals import CallbackAnswered, CallbackTokenInvalid, Fault, StepNotRunning
from domain.values import execution_stream
from write_api.writing import REPLAY, WRITTEN, Clock, utc_now, written

_CODE_CHARS_MAX: Final = 100
_MESSAGE_CHARS_MAX: Final = 2_000


class CallbackError(BaseModel):
    """Why the work failed. `retryable` where another attempt could help."""

    model_config = ConfigDict(extra="forbid", strict=True)
    code: str = Field(min_length=1, max_length=_CODE_CHARS_MAX, examples=["image-not-found"])
    message: str = Field(min_length=1, max_length=_MESSAGE_CHARS_MAX, examples=["There is no image myapp:latest."])
    retryable: bool = True
    details: dict[str, Any] | None = None


class Callback(BaseModel):
    """One of the three: the result, the error, or a sign of life."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"result": {"digest": "sha256:0a1b"}}, {"heartbeat": True}]}
    )
    result: Any = None
    error: CallbackError | None = None
    heartbeat: Literal[True] | None = None


class CallbackReceipt(BaseModel):
    """What the platform has taken note of, and how the step stands."""

    execution_id: str = Field(examples=["01936b0e-5c00-7000-8000-000000000002"])
    step: str = Field(examples=["build-docker-image"])
    attempt: int = Field(ge=1)
    recorded: Literal["result", "error", "heartbeat"]


class Settled(Protocol):
    """What is recorded of an outcome, after secrets are taken out and the action's schema is held against it."""

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
        self, tenant_id: str, module: Module, action_name: str, authored: Any, *, result: Any = None,
        error: dict[str, Any] | None = None,
    ) -> Settled:  # fmt: skip
        """The outcome as it is recorded."""
        ...


@immutable
class CallbackParts:
    """What the routes need from rooms they may not know.

    `verify` gives the claims of a token; `command_id` names the command that records an attempt's outcome, whoever records it;
    `beat` takes note of a sign of life.
    """

    verify: Callable[[str], CallbackClaims]
    command_id: Callable[[str, str, str, int], UUID]
    settle: Settle
    beat: Callable[[CallbackClaims], Awaitable[None]]


def callbacks_router(shell: Shell, parts: CallbackParts, keys: KeyedAnswers, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /callbacks/{token}`."""
    routes = GuardedRoutes(None, "callbacks")

    async def received(request: Request, claims: CallbackClaims, raw: bytes) -> Response:
        body = validated(Callback, parse_object(raw))
        kind = _kind(body)
        state = await _waiting(shell, claims)
        if kind == "heartbeat":
            _require_running(state, claims)
            await parts.beat(claims)
            return Response(orjson.dumps(_receipt(claims, kind)), 200, media_type="application/json")
        command = await _command(shell, parts, claims, state, body, clock)
        try:
            outcome = await handle(shell, command, await _envelope(shell, parts, request, claims, raw))
        except IdempotencyKeyReused as fault:
            raise CallbackAnswered(claims.execution_id, claims.step, claims.attempt) from fault
        return written(200, _receipt(claims, kind), outcome)

    @routes.public(
        "POST", "/callbacks/{token}", summary="Answer for a step", body=Callback, key=OwnKeys(),
        answers=(Answer(200, "It is recorded.", CallbackReceipt, headers=WRITTEN, at_times=REPLAY),),
        refusals=(400, 401, 404, 409, 410, 413, 422, 503),
    )  # fmt: skip
    async def receive_callback(request: Request) -> Response:
        """For modules that answered 202: says what came of the work, or that it goes on. The token is the authority.

        The same answer again has no second effect and gets 200; another one for the same attempt gets 409.
        """
        claims = parts.verify(request.path_params["token"])
        request.scope["quantum.tenant_id"] = claims.tenant_id  # for the logs
        raw = await request.body()
        if not has_key(request):
            return await received(request, claims, raw)
        identity = identity_of(request, claims.tenant_id, f"callback:{claims.step}", raw)
        return await keys.once(claims.tenant_id, identity, lambda: received(request, claims, raw))

    return routes.router


def _kind(body: Callback) -> Literal["result", "error", "heartbeat"]:
    given = body.model_fields_set
    if given == {"result"}:
        return "result"
    if given == {"error"} and body.error is not None:
        return "error"
    if given == {"heartbeat"} and body.heartbeat is not None:
        return "heartbeat"
    fault = Fault("", "Give one of `result`, `error` and `heartbeat`.", "one-of")
    raise Problem("validation-failed", "The body has 1 fault; `errors` lists each with its place.", faults=[fault])


async def _waiting(shell: Shell, claims: CallbackClaims) -> Execution:
    """The execution a token is about. Raises `CallbackTokenInvalid` where there is none: then the database is not the token's."""
    loaded = await shell.store.load(claims.tenant_id, execution_stream(claims.execution_id), execution.evolve)
    if loaded.state is None or claims.step not in loaded.state.runs:
        raise CallbackTokenInvalid
    return loaded.state


def _require_running(state: Execution, claims: CallbackClaims) -> None:
    run = state.runs[claims.step]
    if state.is_over or run.attempts != claims.attempt or run.completed_at is not None:
        raise StepNotRunning(claims.execution_id, claims.step, claims.attempt)


async def _command(
    shell: Shell, parts: CallbackParts, claims: CallbackClaims, state: Execution, body: Callback, clock: Clock
) -> CompleteStep | FailStep:
    work = work_of(state, claims.step)
    error = None if body.error is None else body.error.model_dump()
    about: dict[str, Any] = {
        "execution_id": claims.execution_id, "step": claims.step, "attempt": claims.attempt, "at": clock(),
    }  # fmt: skip
    module = (await actions_of(shell, claims.tenant_id)).by_name.get(work.module)
    if module is None:
        gone = {"code": "module-unavailable", "message": f"The module {work.module!r} is not registered any more."}
        return FailStep(**about, error=gone)
    settled = await parts.settle(claims.tenant_id, module, work.action, work.parameters, result=body.result, error=error)
    if settled.try_again is not None:
        raise unavailable("secrets-unavailable", settled.try_again, retry_after_seconds=5)
    if settled.error is not None:
        return FailStep(**about, error=settled.error, retryable=settled.retryable)
    return CompleteStep(**about, result=settled.result)


async def _envelope(shell: Shell, parts: CallbackParts, request: Request, claims: CallbackClaims, raw: bytes) -> Envelope:
    """In the conversation of the execution. The hash tells a repeat from another answer to the same attempt."""
    tenant_id, execution_id, step, attempt = claims.tenant_id, claims.execution_id, claims.step, claims.attempt
    first = await shell.store.read_stream(tenant_id, execution_stream(execution_id), limit=1)
    return Envelope(
        tenant_id, parts.command_id(tenant_id, execution_id, step, attempt), f"callback:{step}", first[0].metadata.correlation_id,
        traceparent=traceparent(request), request_hash=hashlib.sha256(b"callback\0" + raw).hexdigest(),
    )  # fmt: skip


def _receipt(claims: CallbackClaims, kind: str) -> dict[str, Any]:
    return {"execution_id": claims.execution_id, "step": claims.step, "attempt": claims.attempt, "recorded": kind}
