# intent_ref: write-api.subscriptions
"""Routes that ask for deliveries: a test, one delivery once more, everything since a moment."""

from datetime import datetime
from typing import Final, Literal, Protocol, TypedDict
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import subscription_documents as documents
from access.http.headers import REPLAYED, command_identity
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.request_keys import OwnKeys
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_WRITE
from commands.handle import IdempotencyKeyReused, Shell
from domain.refusals import Fault, Invalid, NotFound
from write_api.subscriptions import known_subscription, read_start, subscription_of
from write_api.writing import REPLAY, Nothing, no_body

Asked = Literal["accepted", "repeated", "reused", "unknown", "busy"]


class Requests(Protocol):
    """What may be asked of the deliverer (`streaming.webhooks.requests`), once for each command id where there is a hash."""

    async def test(
        self, tenant_id: str, subscription_id: str, *, command_id: UUID, request_hash: str | None
    ) -> tuple[Asked, UUID | None]:
        """A test delivery, and its id."""
        ...

    async def redeliver(
        self, tenant_id: str, subscription_id: str, delivery_id: UUID, *, command_id: UUID, request_hash: str | None
    ) -> tuple[Asked, UUID | None]:
        """One delivery again, and its id."""
        ...

    async def rewind(
        self, tenant_id: str, subscription_id: str, position: int | None, since: datetime | None, *,
        command_id: UUID, request_hash: str | None,
    ) -> tuple[Asked, UUID | None]:  # fmt: skip
        """All since a position or a time again."""
        ...

    def delivery_of(self, event_id: UUID, subscription_id: str) -> UUID:
        """The id of an event's delivery."""
        ...


class Redelivery(BaseModel):
    """What to deliver once more: exactly one of these. `since` and `position` mean all from there on, in order."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"since": "2026-11-21T09:30:00Z"}]})
    event_id: str | None = None
    delivery_id: str | None = None
    since: str | None = None
    position: str | None = None


_ASKED: Final = Answer(202, "It will be delivered.", documents.DeliveryRequested, at_times=REPLAY)


def deliveries_router(shell: Shell, gate: Gate, requests: Requests) -> APIRouter:
    """`POST /subscriptions/{subscription_id}/test` and `…/redeliver`."""
    routes = GuardedRoutes(gate, "subscriptions")

    @routes.tenant(
        "POST", "/subscriptions/{subscription_id}/test", SUBSCRIPTIONS_WRITE, summary="Send a test", body=Nothing,
        body_required=False, key=OwnKeys(), answers=(_ASKED,), refusals=(409,),
    )  # fmt: skip
    async def send_test(request: Request, access: Access) -> Response:
        """POSTs an event of the type `quantum.subscription.test.v1` once, also while paused or disabled."""
        which = _identity(request, access, await no_body(request))
        id = subscription_of(request)
        await known_subscription(shell, access, id)
        return _accepted(await requests.test(access.tenant_id, id, **which), id)

    @routes.tenant(
        "POST", "/subscriptions/{subscription_id}/redeliver", SUBSCRIPTIONS_WRITE, summary="Deliver again", body=Redelivery,
        key=OwnKeys(), answers=(_ASKED,), refusals=(409,),
    )  # fmt: skip
    async def redeliver(request: Request, access: Access) -> Response:
        """One delivery of the log of deliveries, out of turn; or everything since a time or position, in order."""
        raw = await request.body()
        body = validated(Redelivery, parse_object(raw))
        which = _identity(request, access, raw)
        id = subscription_of(request)
        await known_subscription(shell, access, id)
        if len(body.model_fields_set) != 1:
            raise Invalid([Fault("", "Say exactly one of event_id, delivery_id, since and position.", "one-of")])
        if body.since is not None or body.position is not None:
            start = read_start(body.since, "/since") if body.since is not None else read_start(str(body.position), "/position")
            return _accepted(await requests.rewind(access.tenant_id, id, start.position, start.time, **which), id)
        delivery_id = _uuid(body.delivery_id, "/delivery_id") if body.event_id is None else (
            requests.delivery_of(_uuid(body.event_id, "/event_id"), id)
        )  # fmt: skip
        return _accepted(await requests.redeliver(access.tenant_id, id, delivery_id, **which), id)

    return routes.router


class _Which(TypedDict):
    command_id: UUID
    request_hash: str | None


def _identity(request: Request, access: Access, raw: bytes) -> _Which:
    identity = command_identity(request, access.tenant_id, access.principal, raw)
    return {"command_id": identity.command_id, "request_hash": identity.request_hash}


def _accepted(answer: tuple[Asked, UUID | None], id: str) -> Response:
    asked, delivery_id = answer
    if asked == "reused":
        raise IdempotencyKeyReused
    if asked == "busy":
        raise Problem("too-many-requests", f"The subscription {id} has as many requests waiting as it may have. Try again later.")
    if asked == "unknown":
        raise NotFound("delivery", str(delivery_id), "in the log of deliveries")
    document = {"delivery_id": None if delivery_id is None else str(delivery_id)}
    headers = {REPLAYED: "true"} if asked == "repeated" else {}
    return Response(orjson.dumps(document), 202, headers, "application/json")


def _uuid(text: str | None, place: str) -> UUID:
    try:
        return UUID(text or "")
    except ValueError as fault:
        raise Invalid([Fault(place, "This is no id.", "invalid-id")]) from fault
