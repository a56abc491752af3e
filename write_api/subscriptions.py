# intent_ref: write-api.subscriptions
"""Routes that make subscriptions, change them, and ask for deliveries."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import subscription_documents as documents
from access.http.headers import command_identity, entity_tag, expected_versions
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.request_keys import MAY_CHANGE_NOTHING, STORES_AN_EVENT
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_WRITE
from commands.handle import Outcome, Shell, handle
from commands.subscription import (
    FORMER_SECRET_HOURS_MAX,
    ChangeSubscription,
    CreateSubscription,
    DeleteSubscription,
    EnableSubscription,
    PauseSubscription,
    ResumeSubscription,
    RotateSubscriptionSecret,
    SubscriptionCommand,
)
from domain.documents import subscription_document
from domain.refusals import Fault, Invalid, NotFound
from domain.subscription import Start, Subscription, Subscriptions, Terms, evolve
from domain.values import SubscriptionId, TenantId, subscriptions_stream
from event_store.subscription_secrets import SubscriptionSecrets
from event_store.tokens import InvalidToken, decode_token
from write_api.sealing import Kept
from write_api.writing import KEY_HEADERS, REPLAY, WRITTEN, Clock, Nothing, envelope, gone, no_body, utc_now, written


class TermsBody(BaseModel):
    """What a change may change; what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"types": ["quantum.execution.*"], "max_in_flight": 20}]}
    )
    url: str = Field("", description="Where events are POSTed to. It is checked again, with its address, at each delivery.")
    types: list[str] = Field(["*"], description="Patterns of event types, with or without the version; `*` is any text.")
    subjects: list[str] | None = Field(None, description="Patterns of subjects, such as `execution/*`; without: all.")
    description: str | None = None
    order: Literal["per-subject", "parallel"] = "per-subject"
    max_in_flight: int = Field(10, description="Requests under way at a time, 1 to 100.")
    headers: dict[str, str] | None = Field(
        None, description="Sent with every delivery. They may be credentials: nothing ever shows more of them than their names."
    )


class NewSubscription(TermsBody):
    """A subscription to make."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={"examples": [{"url": "https://hooks.example.com/quantum", "types": ["quantum.execution.*"]}]},
    )  # fmt: skip
    url: str = Field(description="Where events are POSTed to.")
    begins: str = Field(
        "now", alias="from",
        description="`now`, `beginning`, an RFC 3339 time, or a position (`Quantum-Position`, or an event's `position`).",
    )  # fmt: skip


class Rotation(BaseModel):
    """How long the former secret signs beside the new one. The body may be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"former_hours": 24}]})
    former_hours: float = Field(24.0, ge=0, le=FORMER_SECRET_HOURS_MAX, strict=True)


_MADE: Final = Answer(
    201, "The subscription and its secret.", documents.SubscriptionWithSecret, headers=(*WRITTEN, "Location", "ETag"),
    at_times=REPLAY,
)  # fmt: skip
_ROTATED: Final = Answer(
    200, "The subscription and its new secret.", documents.SubscriptionWithSecret, headers=(*WRITTEN, "ETag"), at_times=REPLAY
)
_CHANGED: Final = Answer(200, "The subscription.", documents.Subscription, headers=(*WRITTEN, "ETag"), at_times=REPLAY)
_STEERED: Final[dict[str, Any]] = {
    "body": Nothing, "body_required": False, "key": MAY_CHANGE_NOTHING, "answers": (_CHANGED,), "refusals": (409,),
}  # fmt: skip


Obey = Callable[[Request, Access, SubscriptionCommand, bytes], Awaitable[Outcome[Subscriptions]]]


def subscriptions_router(shell: Shell, gate: Gate, secrets: SubscriptionSecrets, *, clock: Clock = utc_now) -> APIRouter:
    """The routes under `/subscriptions` that change something."""
    routes = GuardedRoutes(gate, "subscriptions")

    async def obey(request: Request, access: Access, command: SubscriptionCommand, raw: bytes) -> Outcome[Subscriptions]:
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        return await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))

    @routes.tenant(
        "POST", "/subscriptions", SUBSCRIPTIONS_WRITE, summary="Subscribe", body=NewSubscription, key=STORES_AN_EVENT,
        answers=(_MADE,), refusals=(409,),
    )  # fmt: skip
    async def subscribe(request: Request, access: Access) -> Response:
        """From then on events are POSTed to the URL, signed by Standard Webhooks. The secret is in this answer and no other."""
        raw = await request.body()
        body = validated(NewSubscription, parse_object(raw))
        start = read_start(body.begins)
        identity = command_identity(request, access.tenant_id, access.principal, _hashed(secrets, body, raw))
        id = SubscriptionId(str(identity.command_id))
        async with Kept(secrets, access.tenant_id, id) as kept:
            secret_id, secret = await kept.secret()
            headers, headers_id = await kept.headers(body.headers)
            command = CreateSubscription(
                subscription_id=id, terms=_terms(body), start=start, secret_id=secret_id, headers=headers, headers_id=headers_id,
                at=clock(),
            )  # fmt: skip
            outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
            found = kept.become(_found(outcome, id))
        more = {"secret": secret if found.secret_id == secret_id else None}
        return _shown(outcome, id, 201, more, location=f"{API_PREFIX}/subscriptions/{id}")

    @routes.tenant(
        "PATCH", "/subscriptions/{subscription_id}", SUBSCRIPTIONS_WRITE, summary="Change a subscription", body=TermsBody,
        headers=("If-Match", *KEY_HEADERS), answers=(_CHANGED,), refusals=(412,),
    )  # fmt: skip
    async def change_subscription(request: Request, access: Access) -> Response:
        """What is left out stays. Patterns hold for events from now on; URL and headers also for what waits to be delivered.
        `If-Match` may be sent and then counts.
        """
        expected = expected_versions(request) if "if-match" in request.headers else None
        raw = await request.body()
        body = validated(TermsBody, parse_object(raw))
        id = subscription_of(request)
        given = {name: value for name, value in _as_terms(body).items() if name in body.model_fields_set}
        async with Kept(secrets, access.tenant_id, id) as kept:
            if "headers" in body.model_fields_set:
                given["headers"], given["headers_id"] = await kept.headers(body.headers)
            command = ChangeSubscription(subscription_id=id, expected=expected, at=clock(), **given)
            outcome = await obey(request, access, command, _hashed(secrets, body, raw))
            kept.become(_found(outcome, id))
        return _shown(outcome, id)

    @routes.tenant(
        "DELETE", "/subscriptions/{subscription_id}", SUBSCRIPTIONS_WRITE, summary="Delete a subscription", headers=KEY_HEADERS,
        answers=(gone("The subscription is deleted."),),
    )  # fmt: skip
    async def delete_subscription(request: Request, access: Access) -> Response:
        """Nothing more is delivered; its secrets and its log of deliveries go with it."""
        command = DeleteSubscription(subscription_id=subscription_of(request), at=clock())
        return written(204, None, await obey(request, access, command, b""))

    @routes.tenant(
        "POST", "/subscriptions/{subscription_id}/rotate-secret", SUBSCRIPTIONS_WRITE, summary="Rotate the secret", body=Rotation,
        body_required=False, key=STORES_AN_EVENT, answers=(_ROTATED,),
    )  # fmt: skip
    async def rotate_secret(request: Request, access: Access) -> Response:
        """Deliveries are signed with both secrets for a while, so that the receiver can change over in its own time."""
        raw = await request.body()
        body = validated(Rotation, parse_object(raw) if raw else {})
        id = subscription_of(request)
        async with Kept(secrets, access.tenant_id, id) as kept:
            secret_id, secret = await kept.secret()
            command = RotateSubscriptionSecret(
                subscription_id=id, secret_id=secret_id, former_hours=body.former_hours, at=clock()
            )  # fmt: skip
            outcome = await obey(request, access, command, raw)
            found = kept.become(_found(outcome, id))
        return _shown(outcome, id, 200, {"secret": secret if found.secret_id == secret_id else None})

    _steering(routes, obey, clock)
    return routes.router


def _steering(routes: GuardedRoutes, obey: Obey, clock: Clock) -> None:
    async def steer(request: Request, access: Access, command: SubscriptionCommand) -> Response:
        outcome = await obey(request, access, command, await no_body(request))
        return _shown(outcome, command.subscription_id)

    @routes.tenant(
        "POST", "/subscriptions/{subscription_id}/pause", SUBSCRIPTIONS_WRITE, summary="Pause a subscription", **_STEERED
    )
    async def pause_subscription(request: Request, access: Access) -> Response:
        """Nothing is delivered until it is resumed; nothing is lost."""
        return await steer(request, access, PauseSubscription(subscription_id=subscription_of(request), at=clock()))

    @routes.tenant(
        "POST", "/subscriptions/{subscription_id}/resume", SUBSCRIPTIONS_WRITE, summary="Resume a subscription", **_STEERED
    )
    async def resume_subscription(request: Request, access: Access) -> Response:
        """A paused subscription goes on where it stopped."""
        return await steer(request, access, ResumeSubscription(subscription_id=subscription_of(request), at=clock()))

    @routes.tenant(
        "POST", "/subscriptions/{subscription_id}/enable", SUBSCRIPTIONS_WRITE, summary="Enable a subscription", **_STEERED
    )
    async def enable_subscription(request: Request, access: Access) -> Response:
        """A subscription that the platform has disabled goes on where it stopped."""
        return await steer(request, access, EnableSubscription(subscription_id=subscription_of(request), at=clock()))


def _hashed(secrets: SubscriptionSecrets, body: TermsBody, raw: bytes) -> bytes:
    """What tells this request from others: events carry a hash of it, from which no header may be guessed."""
    return secrets.blinded(raw) if body.headers else raw


def _shown(
    outcome: Outcome[Subscriptions], id: SubscriptionId, status: int = 200, more: dict[str, Any] | None = None, *,
    location: str | None = None,
) -> Response:  # fmt: skip
    found = _found(outcome, id)
    document = {**subscription_document(found), **(more or {})}
    return written(status, document, outcome, tag=entity_tag(found.version), location=location)


def subscription_of(request: Request) -> SubscriptionId:
    """The subscription a request is about."""
    return SubscriptionId(request.path_params["subscription_id"])


async def known_subscription(shell: Shell, access: Access, id: str) -> Subscription:
    """A subscription of the tenant as the log has it now; raises `NotFound`."""
    loaded = await shell.store.load(TenantId(access.tenant_id), subscriptions_stream(), evolve)
    found = loaded.state.by_id.get(id) if loaded.state is not None else None
    if found is None:
        raise NotFound("subscription", id)
    return found


def _found(outcome: Outcome[Subscriptions], id: str) -> Subscription:
    return outcome.state.by_id[id]


def _as_terms(body: TermsBody) -> dict[str, Any]:
    return {
        "url": body.url, "types": tuple(body.types), "subjects": tuple(body.subjects or ()), "description": body.description,
        "order": body.order, "max_in_flight": body.max_in_flight,
    }  # fmt: skip


def _terms(body: TermsBody) -> Terms:
    return Terms(**_as_terms(body))


def read_start(text: str, place: str = "/from") -> Start:
    """Where to begin; raises `Invalid`."""
    if text in ("now", "beginning") and place == "/from":
        return Start() if text == "now" else Start(position=0)
    try:
        return Start(position=decode_token(text))
    except InvalidToken:
        pass
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return Start(time=at.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    said = "`now`, `beginning`, an RFC 3339 time with its offset, or a position" if place == "/from" else (
        "an RFC 3339 time with its offset, or a position"
    )  # fmt: skip
    raise Invalid([Fault(place, f"This must be {said}.", "invalid")])
