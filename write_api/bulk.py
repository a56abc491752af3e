# intent_ref: write-api.bulk
"""The route that does one thing to many executions: those that fit a filter, so many at a time, with an outcome for each."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Protocol

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.bulk_documents import BulkAnswer
from access.http.headers import POSITION, command_identity, position_header
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import KINDS, of_refusal
from access.http.queries import moment
from access.http.request_keys import OwnKeys
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EXECUTIONS_CONTROL
from commands.execution import (
    CancelExecution,
    FollowUpCommand,
    PauseExecution,
    ResumeExecution,
    RetryExecution,
    TerminateExecution,
)
from commands.handle import Envelope, Shell, handle
from domain.execution import ExecutionStatus
from domain.refusals import Refusal
from domain.values import ExecutionId, TenantId
from event_store.ids import derived_id
from event_store.records import StoreUnavailable, StreamBusy
from write_api.writing import REPLAY, WRITTEN, Clock, envelope, utc_now

ITEMS_MAX: Final = 200
ITEMS_DEFAULT: Final = 100
AT_ONCE: Final = 8
SECONDS_MAX: Final = 120.0
"""How long a request under an idempotency key may take."""
KEPT_SECONDS: Final = 7 * 86_400.0
"""How long its answer is kept."""
_TEXT_MAX: Final = 500

Action = Literal["cancel", "terminate", "pause", "resume", "retry"]


def _moment(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("It must be an RFC 3339 time with its offset, such as 2026-11-21T09:30:00Z.")
    found: datetime = moment("", "").read(value)
    return found


Text = Annotated[str, Field(min_length=1, max_length=_TEXT_MAX)]
Moment = Annotated[datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]


class ExecutionFilter(BaseModel):
    """Which executions: all that is said must hold, as with the filters of `GET /executions`. Something has to be said."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"minProperties": 1})
    status: ExecutionStatus | None = None
    intent_id: Text | None = None
    intent_name: Text | None = None
    business_key: Text | None = None
    needs_attention: bool | None = None
    started_after: Moment | None = None
    started_before: Moment | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ExecutionFilter":
        if not self.said:
            raise ValueError("A filter says something: to mean all executions, give a `started_before` that covers them.")
        return self

    @property
    def said(self) -> dict[str, Any]:
        """What is said, by name."""
        return {name: value for name, value in self if value is not None}


class Bulk(BaseModel):
    """What is to be done, and to which executions."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={
            "examples": [{"action": "cancel", "filter": {"status": "running"}, "reason": "superseded", "dry_run": True}]
        },
    )  # fmt: skip
    action: Action
    filter: ExecutionFilter
    reason: str | None = Field(None, max_length=2000, description="Why; for `cancel` and `terminate`.")
    dry_run: bool = Field(False, description="Say which ones, and do nothing.")
    limit: int = Field(ITEMS_DEFAULT, ge=1, le=ITEMS_MAX, description="How many at most, the newest first.")
    cursor: Text | None = Field(None, description="The `next_cursor` of the answer before, with the same filter.")

    @model_validator(mode="after")
    def _has_its_reason(self) -> "Bulk":
        if self.reason is not None and self.action not in ("cancel", "terminate"):
            raise ValueError("`reason` is for `cancel` and `terminate`.")
        return self


class Match(Protocol):
    """An execution that fits, as the read model has it."""

    @property
    def execution_id(self) -> str:
        """Its id."""
        ...

    @property
    def intent_name(self) -> str:
        """The name its intent had."""
        ...

    @property
    def status(self) -> str:
        """How it stood."""
        ...


class Matching(Protocol):
    """Where executions are found: the read side. Raises `Problem` and `StoreUnavailable`."""

    @property
    def count_max(self) -> int:
        """Where counting ends."""
        ...

    async def find(
        self, request: Request, tenant_id: TenantId, filters: dict[str, Any], limit: int, cursor: str | None
    ) -> tuple[Sequence[Match], str | None]:
        """Some that fit, newest first, and the cursor of those after them."""
        ...

    async def count(self, request: Request, tenant_id: TenantId, filters: dict[str, Any], cursor: str | None) -> int:
        """How many fit, `count_max` at most."""
        ...


@dataclass(slots=True)
class _Work:
    """What a request is about, and how far it has come."""

    body: Bulk
    envelope: Envelope
    at: datetime
    outcomes: dict[str, dict[str, Any]]
    position: int = 0
    fault: StoreUnavailable | None = None


def bulk_router(shell: Shell, gate: Gate, matching: Matching, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /executions/bulk`."""
    routes = GuardedRoutes(gate, "executions")

    @routes.tenant(
        "POST", "/executions/bulk", EXECUTIONS_CONTROL, summary="Steer many executions", body=Bulk, key=OwnKeys(),
        answers=(Answer(200, "What came of it, for each execution.", BulkAnswer, headers=WRITTEN, at_times=REPLAY),),
    )  # fmt: skip
    async def steer_many(request: Request, access: Access) -> Response:
        """Does one thing to the executions that fit a filter, newest first, up to `limit` of them; `next_cursor` goes on.

        Each is judged for itself, as it stands in that moment: one that is refused holds up no other. With `dry_run` nothing is
        done: `count` says how many fit, `items` which come first. Under an `Idempotency-Key` a repeat is about the same
        executions, and gets the first answer for seven days.
        """
        raw = await request.body()
        body = validated(Bulk, parse_object(raw))
        identity = command_identity(request, access.tenant_id, access.principal, raw)

        async def find() -> dict[str, Any]:
            return await _found(matching, request, access.tenant_id, body)

        async def steer(found: dict[str, Any]) -> Response:
            work = _Work(body, envelope(request, access.tenant_id, access.principal, identity), clock(), {})
            if not body.dry_run:
                await _carry_out(shell, work, [one[0] for one in found["items"]])
            headers = {POSITION: position_header(work.position or await shell.store.horizon())}
            return Response(orjson.dumps(_document(work, found)), 200, headers, "application/json")

        if identity.request_hash is None:
            return await steer(await find())
        return await gate.keys.once_about(
            access.tenant_id, identity, find, steer, seconds_max=SECONDS_MAX, kept_seconds=KEPT_SECONDS
        )  # fmt: skip

    return routes.router


async def _found(matching: Matching, request: Request, tenant_id: TenantId, body: Bulk) -> dict[str, Any]:
    """What the request is about: (id, intent's name, status) of each, and the cursor after them; in a dry run, how many fit."""
    items, next_cursor = await matching.find(request, tenant_id, body.filter.said, body.limit, body.cursor)
    count = await matching.count(request, tenant_id, body.filter.said, body.cursor) if body.dry_run else None
    return {
        "items": [[one.execution_id, one.intent_name, one.status] for one in items], "next_cursor": next_cursor, "count": count,
        "count_is_exact": count is None or count < matching.count_max,
    }  # fmt: skip


async def _carry_out(shell: Shell, work: _Work, execution_ids: list[str]) -> None:
    """Gives each execution its command. Raises `StoreUnavailable` once those under way are through."""
    queue = iter(execution_ids)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(execution_ids))):
            group.create_task(_work_off(shell, work, queue), name="bulk")
    if work.fault is not None:
        raise work.fault


async def _work_off(shell: Shell, work: _Work, queue: Iterator[str]) -> None:
    for execution_id in queue:
        if work.fault is not None:
            return
        one = work.envelope
        # The id follows from the request's and the execution's: whatever is repeated, this happens to it once.
        command_id = derived_id(one.command_id, execution_id)
        its = Envelope(one.tenant_id, command_id, one.actor, one.correlation_id, one.causation_id, one.traceparent)
        try:
            outcome = await handle(shell, _command(work, ExecutionId(execution_id)), its)
        except Refusal as refusal:
            problem = of_refusal(refusal)
            work.outcomes[execution_id] = _refused(problem.code, problem.detail)
        except StreamBusy:
            work.outcomes[execution_id] = _refused("busy", "The execution is changing too fast. Try again.")
        except StoreUnavailable as fault:
            work.fault = fault
        else:
            work.outcomes[execution_id] = {"outcome": "done", "status": outcome.state.status}
            work.position = max(work.position, outcome.position)


def _command(work: _Work, execution_id: ExecutionId) -> FollowUpCommand:
    match work.body.action:
        case "cancel":
            return CancelExecution(execution_id=execution_id, reason=work.body.reason, at=work.at)
        case "terminate":
            return TerminateExecution(execution_id=execution_id, reason=work.body.reason, at=work.at)
        case "pause":
            return PauseExecution(execution_id=execution_id, at=work.at)
        case "resume":
            return ResumeExecution(execution_id=execution_id, at=work.at)
        case "retry":
            return RetryExecution(execution_id=execution_id, at=work.at)


def _refused(code: str, detail: str) -> dict[str, Any]:
    return {"outcome": "refused", "problem": {"code": code, "title": KINDS[code].title, "detail": detail}}


def _document(work: _Work, found: dict[str, Any]) -> dict[str, Any]:
    items = [
        {
            "execution_id": execution_id, "intent_name": intent_name, "outcome": "found", "status": status, "problem": None,
            **work.outcomes.get(execution_id, {}),
        }
        for execution_id, intent_name, status in found["items"]
    ]  # fmt: skip
    told = [one["outcome"] for one in items]
    return {
        "action": work.body.action, "dry_run": work.body.dry_run, "done": told.count("done"), "refused": told.count("refused"),
        "count": found["count"], "count_is_exact": found["count_is_exact"], "items": items,
        "more": found["next_cursor"] is not None, "next_cursor": found["next_cursor"],
    }  # fmt: skip
