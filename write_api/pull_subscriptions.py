# intent_ref: write-api.pull-subscriptions
"""Routes that make pull subscriptions, change them and take them away."""

from typing import Any, Final, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import pull_documents as documents
from access.http.headers import command_identity, entity_tag, expected_versions
from access.http.json_body import parse_object, validated
from access.http.operations import Answer
from access.http.request_keys import STORES_AN_EVENT
from access.http.routing import API_PREFIX, GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_WRITE
from commands.handle import Shell, handle
from commands.pull_subscription import ChangePullSubscription, CreatePullSubscription, DeletePullSubscription
from domain.documents import pull_subscription_document
from domain.pull_subscription import (
    DELIVERIES_MAX,
    LEASE_SECONDS_MAX,
    UNACKNOWLEDGED_MAX,
    PullStart,
    PullSubscription,
    PullSubscriptions,
    PullTerms,
    evolve,
)
from domain.refusals import NotFound
from domain.subscription import Order, Start
from domain.values import SubscriptionId, TenantId, pull_subscriptions_stream
from write_api.subscriptions import read_start
from write_api.writing import KEY_HEADERS, REPLAY, WRITTEN, Clock, envelope, gone, utc_now, written

PATH: Final = "/pull-subscriptions/{subscription_id}"
_TERMS: Final = {"lease": "lease_seconds", "max_deliveries": "deliveries_max", "max_unacknowledged": "unacknowledged_max"}
FROM_MEANING: Final = "`now`, `beginning`, an RFC 3339 time, or a position (`Quantum-Position`, or an event's `position`)."


class NewPullSubscription(BaseModel):
    """A pull subscription to make. Patterns are event types and subjects with `*` for any text."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"types": ["quantum.execution.*"]}]})
    types: list[str] = Field(["*"], description="Patterns of event types, with their version or without.")
    subjects: list[str] = Field([], description="Patterns of subjects; none: all.")
    begins: str = Field("now", alias="from", description=FROM_MEANING)
    description: str | None = None
    order: Order = Field(
        "per-subject", description="`per-subject`: an event waits until the one before it in its subject is acknowledged."
    )
    lease: float = Field(
        30, ge=1, le=LEASE_SECONDS_MAX, description="Seconds an event is the reader's, unless a pull says otherwise."
    )
    max_deliveries: int = Field(5, ge=1, le=DELIVERIES_MAX, description="Deliveries in vain that make an event a dead letter.")
    max_unacknowledged: int = Field(1_000, ge=1, le=UNACKNOWLEDGED_MAX, description="Events that may be given out at a time.")


class PullTermsBody(BaseModel):
    """What a change may change; what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"lease": 120, "max_deliveries": 20}]}
    )  # fmt: skip
    types: list[str] = Field(["*"], description="Patterns of event types, with their version or without.")
    subjects: list[str] = Field([], description="Patterns of subjects; none: all.")
    description: str | None = None
    lease: float = Field(30, ge=1, le=LEASE_SECONDS_MAX, description="Seconds an event is the reader's.")
    max_deliveries: int = Field(5, ge=1, le=DELIVERIES_MAX, description="Deliveries in vain that make a dead letter.")
    max_unacknowledged: int = Field(1_000, ge=1, le=UNACKNOWLEDGED_MAX, description="Events that may be given out at a time.")

    def changes(self) -> dict[str, Any]:
        """What is said, as the terms name it."""
        terms = {
            "types": tuple(self.types), "subjects": tuple(self.subjects), "description": self.description,
            "lease": self.lease, "max_deliveries": self.max_deliveries, "max_unacknowledged": self.max_unacknowledged,
        }  # fmt: skip
        return {_TERMS.get(name, name): value for name, value in terms.items() if name in self.model_fields_set}


class Place(BaseModel):
    """Where to go on."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"from": "2026-11-21T09:30:00Z"}]}, populate_by_name=True
    )
    begins: str = Field(alias="from", description=FROM_MEANING)


class Keeping(Protocol):
    """Of `streaming.pull_subscriptions.PullSubscriptionReader`, what making and deleting needs."""

    async def start(self, tenant_id: str, start: Start) -> PullStart:
        """The place in the log that `start` means now."""
        ...

    async def seek(self, tenant_id: str, id: str, start: PullStart) -> None:
        """Goes on from another place."""
        ...

    def changed(self, tenant_id: str, id: str) -> None:
        """Lets those who wait for events look again, under the terms that hold now."""
        ...

    async def purge(self, tenant_id: str, id: str, left: PullSubscriptions) -> None:
        """Takes away what a deleted subscription leaves."""
        ...


_MADE: Final = Answer(
    201, "The pull subscription.", documents.PullSubscription, headers=(*WRITTEN, "Location", "ETag"), at_times=REPLAY
)
_CHANGED: Final = Answer(200, "The pull subscription.", documents.PullSubscription, headers=(*WRITTEN, "ETag"), at_times=REPLAY)


def pull_subscriptions_router(shell: Shell, gate: Gate, keeping: Keeping, *, clock: Clock = utc_now) -> APIRouter:
    """`POST /pull-subscriptions`, and `PATCH`, `DELETE` and `…/seek` of one."""
    routes = GuardedRoutes(gate, "pull subscriptions")

    @routes.tenant(
        "POST", "/pull-subscriptions", SUBSCRIPTIONS_WRITE, summary="Subscribe to pull", body=NewPullSubscription,
        key=STORES_AN_EVENT, answers=(_MADE,), refusals=(409,),
    )  # fmt: skip
    async def make_pull_subscription(request: Request, access: Access) -> Response:
        """From then on its events wait to be fetched with `…/pull`. The order holds for good; everything else can be changed."""
        raw = await request.body()
        body = validated(NewPullSubscription, parse_object(raw))
        start = await keeping.start(access.tenant_id, read_start(body.begins))
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        id = SubscriptionId(str(identity.command_id))
        terms = PullTerms(
            tuple(body.types), tuple(body.subjects), body.description, body.order, body.lease, body.max_deliveries,
            body.max_unacknowledged,
        )  # fmt: skip
        command = CreatePullSubscription(subscription_id=id, terms=terms, start=start, at=clock())
        outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        found = outcome.state.by_id[id]
        location = f"{API_PREFIX}/pull-subscriptions/{id}"
        return written(201, pull_subscription_document(found), outcome, tag=entity_tag(found.version), location=location)

    @routes.tenant(
        "PATCH", PATH, SUBSCRIPTIONS_WRITE, summary="Change a pull subscription", body=PullTermsBody,
        headers=("If-Match", *KEY_HEADERS), answers=(_CHANGED,), refusals=(412,),
    )  # fmt: skip
    async def change_pull_subscription(request: Request, access: Access) -> Response:
        """What is left out stays. It holds for pulls from now on: what is given out stays so, for as long as it was to.
        `If-Match` may be sent and then counts.
        """
        expected = expected_versions(request) if "if-match" in request.headers else None
        raw = await request.body()
        body = validated(PullTermsBody, parse_object(raw))
        id = SubscriptionId(request.path_params["subscription_id"])
        identity = command_identity(request, access.tenant_id, access.principal, raw)
        command = ChangePullSubscription(subscription_id=id, expected=expected, at=clock(), **body.changes())
        outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        found = outcome.state.by_id[id]
        keeping.changed(access.tenant_id, id)
        return written(200, pull_subscription_document(found), outcome, tag=entity_tag(found.version))

    @routes.tenant(
        "DELETE", PATH, SUBSCRIPTIONS_WRITE, summary="Delete a pull subscription",
        headers=KEY_HEADERS, answers=(gone("The pull subscription is deleted."),),
    )  # fmt: skip
    async def delete_pull_subscription(request: Request, access: Access) -> Response:
        """What is given out cannot be acknowledged any more; its dead letters go with it."""
        id = SubscriptionId(request.path_params["subscription_id"])
        identity = command_identity(request, access.tenant_id, access.principal, b"")
        command = DeletePullSubscription(subscription_id=id, at=clock())
        outcome = await handle(shell, command, envelope(request, access.tenant_id, access.principal, identity))
        await keeping.purge(access.tenant_id, id, outcome.state)
        return written(204, None, outcome)

    @routes.tenant(
        "POST", f"{PATH}/seek", SUBSCRIPTIONS_WRITE, summary="Go on from another place", body=Place,
        answers=(Answer(204, "The next pull begins there."),),
    )  # fmt: skip
    async def seek(request: Request, access: Access) -> Response:
        """Back in history, or on to `now`. What is given out at present is nobody's any more; dead letters stay."""
        body = validated(Place, parse_object(await request.body()))
        wanted = read_start(body.begins)
        subscription = await known_pull_subscription(shell, request, access)
        start = await keeping.start(access.tenant_id, wanted)
        await keeping.seek(access.tenant_id, subscription.subscription_id, start)
        return Response(status_code=204)

    return routes.router


async def known_pull_subscription(shell: Shell, request: Request, access: Access) -> PullSubscription:
    """The pull subscription a request is about, as the log has it now; raises `NotFound`."""
    id = request.path_params["subscription_id"]
    loaded = await shell.store.load(TenantId(access.tenant_id), pull_subscriptions_stream(), evolve)
    found = loaded.state.by_id.get(id) if loaded.state is not None else None
    if found is None:
        raise NotFound("pull subscription", id)
    return found
