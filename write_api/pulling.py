# intent_ref: write-api.pull-subscriptions
"""Routes by which readers fetch a pull subscription's events, and say what became of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Protocol
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from access.gate import Gate
from access.http import pull_documents as documents
from access.http.json_body import parse_object, read, validated
from access.http.operations import Answer
from access.http.presence import Places, unless_gone
from access.http.problems import Problem
from access.http.request_keys import KeptAnswers, Leased
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_WRITE
from commands.handle import Shell
from domain.documents import timestamp
from domain.pull_subscription import (
    LEASE_SECONDS_MAX,
    Pulled,
    PullStanding,
    PullSubscription,
    ReadLease,
)
from domain.refusals import Fault, Invalid, NotFound
from event_store.tokens import InvalidToken, decode_token
from write_api.pull_subscriptions import PATH, known_pull_subscription

PULLED_TOGETHER_MAX: Final = 1_000
WAIT_SECONDS_MAX: Final = 60
DELAY_SECONDS_MAX: Final = 86_400.0
PULLS_MAX: Final = 2_000
"""Pulls a process serves at a time."""
TENANT_PULLS_MAX: Final = 500
Id = Annotated[str, Field(max_length=60, description="An event's `id`; or its `lease`, where only that giving-out is meant.")]
Ids = Annotated[list[Id], Field(min_length=1, max_length=PULLED_TOGETHER_MAX)]
WAITED_FOR: Final = KeptAnswers(WAIT_SECONDS_MAX + 30.0)
_NO_STORE: Final = {"Cache-Control": "no-store"}
EXAMPLE_ID: Final = "01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c12"


class Pull(BaseModel):
    """How much to fetch: `max` events at most, after waiting up to `wait` seconds, each for `lease` seconds."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"max": 10, "wait": 0, "lease": 60}]})
    max: int = Field(100, ge=1, le=PULLED_TOGETHER_MAX)
    wait: int = Field(0, ge=0, le=WAIT_SECONDS_MAX)
    lease: float | None = Field(None, ge=1, le=LEASE_SECONDS_MAX, description="The subscription's own unless said.")


class Acknowledgement(BaseModel):
    """What is done: these events, or everything that is given out up to a position, whoever holds it."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"ids": [EXAMPLE_ID]}]})
    ids: Ids | None = None
    up_to: str | None = Field(None, max_length=60, description="The `position` of an event.")


class GiveBack(BaseModel):
    """An event that could not be dealt with, why, and after how many seconds it may come again."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={"examples": [{"id": EXAMPLE_ID, "reason": "The ledger is locked.", "delay": 5}]},
    )  # fmt: skip
    id: Id
    reason: str | None = Field(None, max_length=2_000)
    delay: float = Field(0, ge=0, le=DELAY_SECONDS_MAX)


class Extension(BaseModel):
    """Leases that shall last `lease` seconds from now on; the subscription's own unless said."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"ids": [EXAMPLE_ID], "lease": 60}]})
    ids: Ids
    lease: float | None = Field(None, ge=1, le=LEASE_SECONDS_MAX)


class Reader(Protocol):
    """`streaming.pull_subscriptions.PullSubscriptionReader`."""

    async def pull(
        self, tenant_id: str, subscription: PullSubscription, at_most: int, lease_seconds: float, wait_seconds: float
    ) -> Sequence[Pulled]:
        """Events, leased."""
        ...

    async def state(self, tenant_id: str, id: str) -> PullStanding:
        """How it stands now."""
        ...

    async def acknowledge(self, tenant_id: str, id: str, event_ids: Sequence[UUID], up_to: int | None) -> list[UUID]:
        """These are done."""
        ...

    async def refuse(
        self, tenant_id: str, subscription: PullSubscription, lease: ReadLease, delay_seconds: float, reason: str | None
    ) -> str:
        """Gives an event back."""
        ...

    async def extend(self, tenant_id: str, id: str, leases: Sequence[ReadLease], seconds: float) -> dict[UUID, datetime]:
        """Lets leases last longer."""
        ...


def pulling_router(shell: Shell, gate: Gate, reader: Reader) -> APIRouter:
    """The routes under `/pull-subscriptions/{subscription_id}` that give events out and take answers."""
    routes = GuardedRoutes(gate, "pull subscriptions")
    places = Places(PULLS_MAX, TENANT_PULLS_MAX)

    @routes.tenant(
        "POST", f"{PATH}/pull", SUBSCRIPTIONS_WRITE, summary="Fetch events", body=Pull, body_required=False, key=WAITED_FOR,
        answers=(Answer(200, "Events, each under a lease.", documents.PulledPage),), refusals=(429,),
    )  # fmt: skip
    async def pull(request: Request, access: Access) -> Response:
        """Answers as soon as there is any. An event that is not acknowledged before its lease ends is given out again.

        Under an `Idempotency-Key` a repeat gets the same events, for as long as they are leased.
        """
        body = await read(request, Pull)
        subscription = await known_pull_subscription(shell, request, access)
        seconds = subscription.terms.lease_seconds if body.lease is None else body.lease
        request.scope["quantum.is_stream"] = True  # nothing is lost when a server that stops cuts it
        with places.taken(access.tenant_id):
            pulling = reader.pull(access.tenant_id, subscription, body.max, seconds, body.wait)
            pulled = await unless_gone(request.receive, pulling)
        if pulled is None:
            raise ClientDisconnect
        count = (await reader.state(access.tenant_id, subscription.subscription_id)).unacknowledged
        most = subscription.terms.unacknowledged_max
        document = {"items": [_document(one) for one in pulled], "unacknowledged": count, "max_unacknowledged": most}
        return Leased(orjson.dumps(document), seconds, _NO_STORE)

    @routes.tenant(
        "POST", f"{PATH}/ack", SUBSCRIPTIONS_WRITE, summary="Acknowledge events", body=Acknowledgement,
        answers=(Answer(200, "They are done.", documents.Acknowledged),),
    )  # fmt: skip
    async def acknowledge(request: Request, access: Access) -> Response:
        """The events do not come again. What somebody else holds meanwhile is done as well; what is unknown changes nothing."""
        body = validated(Acknowledgement, parse_object(await request.body()))
        if (body.ids is None) == (body.up_to is None):
            raise Invalid([Fault("", "Say either ids or up_to.", "one-of")])
        up_to = None if body.up_to is None else _position(body.up_to)
        wanted = read_leases(body.ids or ())
        subscription = await known_pull_subscription(shell, request, access)
        ids = [lease.event_id for _, lease in wanted]
        done = await reader.acknowledge(access.tenant_id, subscription.subscription_id, ids, up_to)
        unknown = [text for text, lease in wanted if lease.event_id not in set(done)]
        return _json({"acknowledged": [str(id) for id in done], "unknown": unknown})

    @routes.tenant(
        "POST", f"{PATH}/nack", SUBSCRIPTIONS_WRITE, summary="Give an event back", body=GiveBack,
        answers=(Answer(200, "It comes again, or is a dead letter.", documents.GivenBack),), refusals=(409,),
    )  # fmt: skip
    async def give_back(request: Request, access: Access) -> Response:
        """It is given out again after `delay` seconds; where that was the last time it may be, it is a dead letter."""
        body = validated(GiveBack, parse_object(await request.body()))
        lease = _lease(body.id, "/id")
        subscription = await known_pull_subscription(shell, request, access)
        came = await reader.refuse(access.tenant_id, subscription, lease, body.delay, body.reason)
        if came == "unknown":
            raise NotFound("event", body.id, "among those this subscription has given out")
        if came == "lost":
            sentence = f"The lease of {body.id} is over: the event waits to be given out again, or somebody else has it."
            raise Problem("lease-lost", sentence)
        return _json({"id": str(lease.event_id), "dead_letter": came == "dead"})

    @routes.tenant(
        "POST", f"{PATH}/extend", SUBSCRIPTIONS_WRITE, summary="Extend leases", body=Extension,
        answers=(Answer(200, "Which last longer.", documents.Extended),),
    )  # fmt: skip
    async def extend(request: Request, access: Access) -> Response:
        """For work that takes longer than a lease. What is not held any more is among `unknown`."""
        body = validated(Extension, parse_object(await request.body()))
        wanted = read_leases(body.ids)
        subscription = await known_pull_subscription(shell, request, access)
        seconds = subscription.terms.lease_seconds if body.lease is None else body.lease
        held = await reader.extend(access.tenant_id, subscription.subscription_id, [lease for _, lease in wanted], seconds)
        items = [{"id": str(id), "leased_until": timestamp(until)} for id, until in held.items()]
        return _json({"items": items, "unknown": [text for text, lease in wanted if lease.event_id not in held]})

    return routes.router


def read_leases(ids: Sequence[str]) -> list[tuple[str, ReadLease]]:
    """What a list of ids means, each beside its text; raises `Invalid`."""
    return [(text, _lease(text, f"/ids/{number}")) for number, text in enumerate(ids)]


def _lease(text: str, place: str) -> ReadLease:
    lease = ReadLease.read(text)
    if lease is None:
        raise Invalid([Fault(place, "This is neither an event's id nor a lease.", "invalid-id")])
    return lease


def _document(one: Pulled) -> dict[str, Any]:
    return {
        "id": str(one.lease.event_id), "lease": one.lease.written(), "delivery": one.lease.delivery,
        "leased_until": timestamp(one.leased_until), "event": orjson.Fragment(one.envelope),
    }  # fmt: skip


def _position(text: str) -> int:
    try:
        return decode_token(text)
    except InvalidToken as fault:
        raise Invalid([Fault("/up_to", "This is no position.", "invalid")]) from fault


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json", headers=_NO_STORE)
