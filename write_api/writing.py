# intent_ref: write-api.writing
"""From a request to an envelope, and from an outcome to an answer: what every write has in common."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from access.http.headers import POSITION, REPLAYED, CommandIdentity, position_header, traceparent
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import correlation_id
from access.http.request_keys import Recorded
from access.principal import Principal
from commands.handle import Envelope, Outcome
from domain.values import TenantId

Clock = Callable[[], datetime]
KEY_HEADERS: Final = ("Idempotency-Key",)
WRITTEN: Final = (POSITION,)
REPLAY: Final = (REPLAYED,)


class Nothing(BaseModel):
    """An empty object; the body may be left out."""

    model_config = ConfigDict(extra="forbid")


def utc_now() -> datetime:
    """The time of a command."""
    return datetime.now(UTC)


def envelope(request: Request, tenant_id: TenantId, principal: Principal, identity: CommandIdentity) -> Envelope:
    """Who asks for the command, in which conversation and trace."""
    return Envelope(
        tenant_id=tenant_id,
        command_id=identity.command_id,
        actor=principal.subject,
        correlation_id=correlation_id(request),
        traceparent=traceparent(request),
        request_hash=identity.request_hash,
    )


def written(
    status: int,
    document: dict[str, Any] | None,
    outcome: Outcome[Any],
    *,
    tag: str | None = None,
    location: str | None = None,
) -> Response:
    """The answer of a write, with the position that a later read can wait for. `Recorded` where an event tells of the write."""
    headers = {POSITION: position_header(outcome.position)}
    if tag is not None:
        headers["ETag"] = tag
    if location is not None:
        headers["Location"] = location
    if outcome.replayed:
        headers[REPLAYED] = "true"
    answer = Recorded if outcome.replayed or outcome.stored else Response
    if document is None:
        return answer(status_code=status, headers=headers)
    return answer(orjson.dumps(document), status, headers, "application/json")


def gone(description: str) -> Answer:
    """The 204 of a deletion."""
    return Answer(204, description, headers=WRITTEN, at_times=REPLAY)


async def no_body(request: Request) -> bytes:
    """The raw body of a request that says all it has to say by its address: nothing, or an empty object."""
    raw = await request.body()
    if raw:
        validated(Nothing, parse_object(raw))
    return raw
