# intent_ref: write-api.work
"""Routes by which a module's workers fetch their work, stay in touch, and answer for it."""

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Protocol

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from access.gate import Gate
from access.http.headers import POSITION, REPLAYED, position_header, traceparent
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.presence import unless_gone
from access.http.problems import unavailable
from access.http.request_keys import KeptAnswers, Leased
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import WORK_CARRY_OUT
from domain.documents import timestamp
from domain.refusals import NotFound
from domain.values import TenantId
from domain.work import Lease, LeaseState, Settlement, WorkAnswer, WorkUnit
from write_api.writing import REPLAY, WRITTEN, Nothing, no_body

POLLS_MAX: Final = 2_000
"""Polls a process serves at a time."""
TENANT_POLLS_MAX: Final = 500
UNITS_MAX: Final = 100
ACTIONS_MAX: Final = 100
WAIT_SECONDS_MAX: Final = 30
NOTHING_KEPT_SECONDS: Final = 30.0
"""How long it is kept for an idempotency key that there was no work."""
_ActionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]


class WorkRequest(BaseModel):
    """Which work: of these `actions`, or of a `module`. `max` units at most, after waiting up to `wait` seconds."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={"examples": [{"actions": ["resize-image"], "max": 4, "wait": 0}],
                           "oneOf": [{"required": ["actions"]}, {"required": ["module"]}]},
    )  # fmt: skip
    actions: list[_ActionName] | None = Field(
        None, json_schema_extra={"minItems": 1, "maxItems": ACTIONS_MAX}, min_length=1, max_length=ACTIONS_MAX
    )
    module: str | None = Field(None, min_length=1, max_length=100)
    max: int = Field(1, ge=1, le=UNITS_MAX)
    wait: int = Field(0, ge=0, le=WAIT_SECONDS_MAX)

    @model_validator(mode="after")
    def _one_of_both(self) -> "WorkRequest":
        if (self.actions is None) == (self.module is None):
            raise ValueError("Give either `actions` or `module`.")
        return self


class Work(BaseModel):
    """An attempt to make. `parameters` are the step's own keys; `idempotency_key` is the same whoever gets this attempt.

    `timeout_seconds` and `lease_seconds` say how far off `deadline` and `lease_until` are, whatever the worker's clock says.
    """

    lease_token: str
    execution_id: str = Field(examples=["01936b0e-5c00-7000-8000-000000000002"])
    step: str = Field(examples=["resize-image"])
    action: str = Field(examples=["resize-image"])
    attempt: int = Field(ge=1)
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    target: str
    idempotency_key: str
    deadline: datetime
    timeout_seconds: float
    lease_until: datetime
    lease_seconds: float
    claims: int = Field(ge=1, description="How often it was taken so far; more than twice says that workers fall silent on it.")
    traceparent: str | None


class WorkPage(BaseModel):
    """What there was; nothing where nothing came in time."""

    items: list[Work]


class LeaseReceipt(BaseModel):
    """How the lease stands. Where it is `cancelled` nobody wants the work any more: stop, and say so with `fail`."""

    cancelled: bool
    lease_until: datetime | None
    lease_seconds: float


class Completion(BaseModel):
    """What came of it: any JSON value."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"result": {"width": 640}}]})
    result: Any = None


class WorkError(BaseModel):
    """Why the work failed: a code that stays, and a sentence for people."""

    model_config = ConfigDict(extra="forbid", strict=True)
    code: str = Field(min_length=1, max_length=100, examples=["no-such-image"])
    message: str = Field(min_length=1, max_length=2_000, examples=["There is no image 17."])
    details: dict[str, Any] | None = None


class WorkFailure(BaseModel):
    """What went wrong. Not `retryable` where another attempt could not help."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={"examples": [{"error": {"code": "no-image", "message": "There is no image 17."}, "retryable": False}]},
    )  # fmt: skip
    error: WorkError
    retryable: bool = True


class WorkReceipt(BaseModel):
    """What was recorded: `result`, or `error` where the work failed, or its result cannot be taken as it is."""

    execution_id: str = Field(examples=["01936b0e-5c00-7000-8000-000000000002"])
    step: str = Field(examples=["resize-image"])
    attempt: int = Field(ge=1)
    recorded: str = Field(examples=["result"])
    error: dict[str, Any] | None


class PullWork(Protocol):
    """`sagas.pull_work.PullWork`."""

    async def actions(self, tenant_id: TenantId, name: str) -> list[str]:
        """The actions of a module."""
        ...

    async def fetch(
        self, tenant_id: TenantId, actions: Sequence[str], at_most: int, wait_seconds: float, holder: str
    ) -> list[WorkUnit]:  # fmt: skip
        """Units of work, for `holder`."""
        ...

    async def beat(self, tenant_id: TenantId, lease: Lease) -> LeaseState:
        """Extends a lease."""
        ...

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        """Gives work back."""
        ...

    async def settle(self, tenant_id: TenantId, lease: Lease, answer: WorkAnswer) -> Settlement:
        """Records what came of the work."""
        ...


_WAITED_FOR: Final = KeptAnswers(WAIT_SECONDS_MAX + 30.0)
_NO_STORE: Final = {"Cache-Control": "no-store"}
_LEASED: Final[dict[str, Any]] = {"refusals": (409,)}
_RECORDED: Final = Answer(200, "It is recorded.", WorkReceipt, headers=WRITTEN, at_times=REPLAY)


def work_router(gate: Gate, work: PullWork) -> APIRouter:
    """The routes under `/work`."""
    routes = GuardedRoutes(gate, "work")
    polls = _Polls()

    @routes.tenant(
        "POST", "/work/poll", WORK_CARRY_OUT, summary="Fetch work", body=WorkRequest, key=_WAITED_FOR,
        answers=(Answer(200, "Work, each unit under a lease.", WorkPage),),
    )  # fmt: skip
    async def fetch_work(request: Request, access: Access) -> Response:
        """For workers of modules whose transport is `pull`. Answers as soon as there is any, the most urgent and oldest first.

        Each unit is the caller's for `lease_seconds`, and longer with each heartbeat; then somebody else gets it. Under an
        `Idempotency-Key` a repeat gets the same work, for as long as it was leased at first.
        """
        body = validated(WorkRequest, parse_object(await request.body()))
        actions = body.actions if body.module is None else await work.actions(access.tenant_id, body.module)
        request.scope["quantum.is_stream"] = True  # nothing is lost when a server that stops cuts it
        wanted = list(dict.fromkeys(actions or ()))
        fetching = work.fetch(access.tenant_id, wanted, body.max, body.wait, access.principal.subject)
        done = polls.counted(access.tenant_id, fetching)
        try:
            units = await unless_gone(request.receive, fetching)
        finally:
            done()
        if units is None:
            raise ClientDisconnect
        seconds = min((unit.lease_seconds for unit in units), default=NOTHING_KEPT_SECONDS)
        return Leased(orjson.dumps({"items": [_document(unit) for unit in units]}), seconds, _NO_STORE)

    @routes.tenant(
        "POST", "/work/{lease_token}/heartbeat", WORK_CARRY_OUT, summary="Keep work", body=Nothing, body_required=False,
        answers=(Answer(200, "How the lease stands.", LeaseReceipt),), **_LEASED,
    )  # fmt: skip
    async def keep_work(request: Request, access: Access) -> Response:
        """The work goes on: the lease is extended. The answer says whether it is still wanted."""
        await no_body(request)
        state = await work.beat(access.tenant_id, _lease(request))
        return _json(
            {"cancelled": state.is_cancelled, "lease_until": _time(state.lease_until), "lease_seconds": state.lease_seconds}
        )

    @routes.tenant(
        "POST", "/work/{lease_token}/release", WORK_CARRY_OUT, summary="Give work back", body=Nothing, body_required=False,
        answers=(Answer(204, "Somebody else can have it."),), **_LEASED,
    )  # fmt: skip
    async def release_work(request: Request, access: Access) -> Response:
        """The same attempt goes to another worker, at once."""
        await no_body(request)
        await work.release(access.tenant_id, _lease(request))
        return Response(status_code=204)

    @routes.tenant(
        "POST", "/work/{lease_token}/complete", WORK_CARRY_OUT, summary="Complete work", body=Completion, answers=(_RECORDED,),
        **_LEASED,
    )  # fmt: skip
    async def complete_work(request: Request, access: Access) -> Response:
        """The work is done. The same answer again has no second effect; one that comes after the lease was lost is refused."""
        raw = await request.body()
        body = validated(Completion, parse_object(raw))
        return await settled(request, access, raw, body.result, None)

    @routes.tenant(
        "POST", "/work/{lease_token}/fail", WORK_CARRY_OUT, summary="Fail work", body=WorkFailure, answers=(_RECORDED,),
        **_LEASED,
    )  # fmt: skip
    async def fail_work(request: Request, access: Access) -> Response:
        """The work could not be done. Whether there is another attempt is for the step's policy to say."""
        raw = await request.body()
        body = validated(WorkFailure, parse_object(raw))
        return await settled(request, access, raw, None, {**body.error.model_dump(), "retryable": body.retryable})

    async def settled(request: Request, access: Access, raw: bytes, result: Any, error: dict[str, Any] | None) -> Response:
        lease = _lease(request)
        kind = b"complete" if error is None else b"fail"
        digest = hashlib.sha256(b"\0".join((b"work", kind, lease.token.bytes, raw))).hexdigest()
        answer = WorkAnswer(result, error, digest, access.principal.subject, traceparent(request))
        settlement = await work.settle(access.tenant_id, lease, answer)
        receipt = {
            "execution_id": lease.execution_id, "step": lease.step, "attempt": lease.attempt,
            "recorded": "result" if settlement.error is None else "error", "error": settlement.error,
        }  # fmt: skip
        headers = {POSITION: position_header(settlement.position)}
        if settlement.is_repeated:
            headers[REPLAYED] = "true"
        return Response(orjson.dumps(receipt), 200, headers, "application/json")

    return routes.router


class _Polls:
    """Counts those who wait for work, and refuses those who would be too many."""

    def __init__(self) -> None:
        self._open = 0
        self._of_tenant: dict[str, int] = {}

    def counted(self, tenant_id: str, fetching: Coroutine[Any, Any, Any]) -> Callable[[], None]:
        """Counts one more; what it returns is to be called once, when that one is done. Raises `Problem`."""
        of_tenant = self._of_tenant.get(tenant_id, 0)
        if self._open >= POLLS_MAX or of_tenant >= TENANT_POLLS_MAX:
            fetching.close()
            raise unavailable("busy", "Too many workers wait for work here already.", retry_after_seconds=5)
        self._open += 1
        self._of_tenant[tenant_id] = of_tenant + 1

        def done() -> None:
            self._open -= 1
            left = self._of_tenant.pop(tenant_id) - 1
            if left:
                self._of_tenant[tenant_id] = left

        return done


def _lease(request: Request) -> Lease:
    text = request.path_params["lease_token"]
    lease = Lease.read(text)
    if lease is None:
        raise NotFound("lease", text)
    return lease


def _document(unit: WorkUnit) -> dict[str, Any]:
    return {
        "lease_token": unit.lease.written(), "execution_id": unit.lease.execution_id, "step": unit.lease.step,
        "action": unit.action, "attempt": unit.lease.attempt, "parameters": unit.parameters, "inputs": unit.inputs,
        "target": unit.target, "idempotency_key": unit.idempotency_key, "deadline": timestamp(unit.deadline),
        "timeout_seconds": unit.timeout_seconds, "lease_until": timestamp(unit.lease_until),
        "lease_seconds": unit.lease_seconds, "claims": unit.claims, "traceparent": unit.traceparent,
    }  # fmt: skip


def _time(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json", headers=_NO_STORE)
