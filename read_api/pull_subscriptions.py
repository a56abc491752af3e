# intent_ref: read-api.pull-subscriptions
"""Routes that show pull subscriptions, how they stand, and their dead letters.

There is no read model: a tenant's pull subscriptions are one short stream, folded as the write side folds it, and how far each
has come is asked of the tables that decide it. So a read sees every write that was answered before.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import pull_documents as documents
from access.http.headers import entity_tag, min_position
from access.http.operations import Answer
from access.http.problems import Problem
from access.http.queries import CURSOR, LIMIT, LIMIT_DEFAULT, page, parse
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_READ
from domain.documents import pull_subscription_document, timestamp
from domain.pull_subscription import PullDeadLetter, PullStanding, PullSubscription, PullSubscriptions, evolve
from domain.values import TenantId, pull_subscriptions_stream
from event_store.store import EventStore
from event_store.tokens import InvalidToken, decode_token, encode_token
from read_api.reading import MIN_POSITION, found, missing, page_of


class Keeper(Protocol):
    """Of `streaming.pull_subscriptions.PullSubscriptionReader`, what is shown."""

    async def state(self, tenant_id: str, id: str) -> PullStanding:
        """How it stands."""
        ...

    async def dead_letters(self, tenant_id: str, id: str, after: int, limit: int) -> Sequence[PullDeadLetter]:
        """Those behind a position."""
        ...


_LETTERS: Final = (LIMIT, CURSOR)


def pull_subscriptions_router(gate: Gate, store: EventStore, keeper: Keeper) -> APIRouter:
    """The routes under `/pull-subscriptions` that show something."""
    routes = GuardedRoutes(gate, "pull subscriptions")

    async def all_of(request: Request, access: Access) -> dict[str, PullSubscription]:
        min_position(request)  # what is asked of the log itself has seen everything; a token that is none is refused all the same
        loaded = await store.load(TenantId(access.tenant_id), pull_subscriptions_stream(), evolve)
        state: PullSubscriptions | None = loaded.state
        return state.by_id if state is not None else {}

    async def one_of(request: Request, access: Access) -> PullSubscription:
        id = request.path_params["subscription_id"]
        subscription = (await all_of(request, access)).get(id)
        if subscription is None:
            raise missing("pull subscription", id)
        return subscription

    @routes.tenant(
        "GET", "/pull-subscriptions", SUBSCRIPTIONS_READ, summary="List pull subscriptions", headers=MIN_POSITION,
        answers=(Answer(200, "Pull subscriptions, oldest first.", documents.PullSubscriptionPage),),
    )  # fmt: skip
    async def read_pull_subscriptions(request: Request, access: Access) -> Response:
        """All pull subscriptions of the tenant."""
        parse(request, ())
        known = await all_of(request, access)
        return page(request, [orjson.dumps(pull_subscription_document(one)) for one in known.values()], None)

    @routes.tenant(
        "GET", "/pull-subscriptions/{subscription_id}", SUBSCRIPTIONS_READ, summary="Read a pull subscription",
        headers=MIN_POSITION,
        answers=(Answer(200, "The pull subscription, and how it stands.", documents.PullState, headers=("ETag",)),),
    )  # fmt: skip
    async def read_pull_subscription(request: Request, access: Access) -> Response:
        """Its terms, how far it has come, what is given out, and how many dead letters it has."""
        parse(request, ())
        subscription = await one_of(request, access)
        state = await keeper.state(access.tenant_id, subscription.subscription_id)
        document = {
            **pull_subscription_document(subscription),
            "position": None if state.cursor is None else encode_token(state.cursor),
            "leased": state.leased, "waiting": state.waiting, "dead_letters": state.dead_letters,
        }  # fmt: skip
        return found(orjson.dumps(document), {"ETag": entity_tag(subscription.version)})

    @routes.tenant(
        "GET", "/pull-subscriptions/{subscription_id}/dead-letters", SUBSCRIPTIONS_READ, summary="List dead letters",
        query=_LETTERS, headers=MIN_POSITION, answers=(page_of("Dead letters, oldest first.", documents.PullDeadLetterPage),),
    )  # fmt: skip
    async def read_dead_letters(request: Request, access: Access) -> Response:
        """Events that were given out in vain as often as they may be. What they say is at `GET /events/{position}`."""
        query = parse(request, _LETTERS)
        after, limit = _after(query["cursor"]), query["limit"] or LIMIT_DEFAULT
        subscription = await one_of(request, access)
        letters = await keeper.dead_letters(access.tenant_id, subscription.subscription_id, after, limit + 1)
        shown = letters[:limit]
        following = encode_token(shown[-1].position) if len(letters) > limit else None
        return page(request, [_document(letter) for letter in shown], following)

    return routes.router


def _after(cursor: str | None) -> int:
    try:
        return 0 if cursor is None else decode_token(cursor)
    except InvalidToken as fault:
        raise Problem("cursor-invalid", str(fault)) from fault


def _document(letter: PullDeadLetter) -> bytes:
    return orjson.dumps(
        {
            "id": str(letter.event_id), "position": encode_token(letter.position), "type": letter.type,
            "subject": letter.subject, "deliveries": letter.deliveries, "reason": letter.reason,
            "first_at": timestamp(letter.first_at), "dead_at": timestamp(letter.dead_at), "redriven": letter.is_redriven,
        }
    )  # fmt: skip
