# intent_ref: read-api.subscriptions
"""Routes that show subscriptions and what was delivered to them."""

from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import subscription_documents as documents
from access.http.headers import entity_tag, is_unchanged
from access.http.operations import Answer
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, Parameter, choice, moment, page, parse, text
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_READ
from projections.subscriptions import get_subscription, list_deliveries, list_subscriptions
from read_api.reading import MIN_POSITION, ReadSide, found, missing, page_of

READ_MODEL: Final = "subscriptions"


def _uuid(value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError as fault:
        raise ValueError("It must be an event's id.") from fault


_FILTERS: Final = (
    choice("status", "Only deliveries in this status.", ("delivered", "failed", "retrying", "waiting")),
    text("type", "Only events of this type."),
    text("subject", "Only events of this subject."),
    Parameter("event_id", "Only deliveries of this event.", {"type": "string", "format": "uuid"}, _uuid),
    moment("after", "Only deliveries last tried after this time."),
    moment("before", "Only deliveries last tried before this time."),
    LIMIT,
    CURSOR,
)


def subscriptions_router(reads: ReadSide, gate: Gate) -> APIRouter:
    """The routes under `/subscriptions` that show something."""
    routes = GuardedRoutes(gate, "subscriptions")

    @routes.tenant(
        "GET", "/subscriptions", SUBSCRIPTIONS_READ, summary="List subscriptions", query=(LIMIT, CURSOR), headers=MIN_POSITION,
        answers=(page_of("Subscriptions, newest first.", documents.SubscriptionPage),),
    )  # fmt: skip
    async def read_subscriptions(request: Request, access: Access) -> Response:
        """All subscriptions of the tenant."""
        query = parse(request, (LIMIT, CURSOR))
        async with reads.at(request, READ_MODEL):
            listed = await list_subscriptions(
                reads.tenant_pool, access.tenant_id, limit=query["limit"] or LIMIT_DEFAULT, cursor=query["cursor"]
            )  # fmt: skip
        return page(request, listed.items, listed.next_cursor)

    @routes.tenant(
        "GET", "/subscriptions/{subscription_id}", SUBSCRIPTIONS_READ, summary="Read a subscription",
        headers=("If-None-Match", *MIN_POSITION), answers=(
            Answer(200, "The subscription.", documents.Subscription, headers=("ETag",)),
            Answer(304, "The subscription is as the client has it.", headers=("ETag",)),
        ),
    )  # fmt: skip
    async def read_subscription(request: Request, access: Access) -> Response:
        """Its terms and its status; never its secret, nor what its headers say."""
        subscription_id = request.path_params["subscription_id"]
        parse(request, ())
        async with reads.at(request, READ_MODEL):
            document = await get_subscription(reads.reader, access.tenant_id, subscription_id)
        if document is None:
            raise missing("subscription", subscription_id)
        headers = {"ETag": entity_tag(document.version), "Cache-Control": "private, no-cache"}
        if is_unchanged(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return found(document.body, headers)

    @routes.tenant(
        "GET", "/subscriptions/{subscription_id}/deliveries", SUBSCRIPTIONS_READ, summary="List deliveries", query=_FILTERS,
        headers=MIN_POSITION, answers=(page_of("Deliveries, newest first.", documents.DeliveryPage),),
    )  # fmt: skip
    async def read_deliveries(request: Request, access: Access) -> Response:
        """What was delivered, is being tried again, or waits behind such a one, with each attempt. All filters must hold."""
        subscription_id = request.path_params["subscription_id"]
        query = parse(request, _FILTERS)
        query["limit"] = query["limit"] or LIMIT_DEFAULT
        async with reads.at(request, READ_MODEL):
            if await get_subscription(reads.reader, access.tenant_id, subscription_id) is None:
                raise missing("subscription", subscription_id)
            listed = await list_deliveries(reads.tenant_pool, access.tenant_id, subscription_id, **query)
        return page(request, listed.items, listed.next_cursor)

    return routes.router
