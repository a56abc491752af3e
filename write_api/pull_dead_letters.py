# intent_ref: write-api.pull-subscriptions
"""Routes that settle the dead letters of a pull subscription."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http import pull_documents as documents
from access.http.json_body import read
from access.http.operations import Answer
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import SUBSCRIPTIONS_WRITE
from commands.handle import Shell
from write_api.pull_subscriptions import PATH, known_pull_subscription
from write_api.pulling import EXAMPLE_ID, Ids, read_leases


class Letters(BaseModel):
    """Which dead letters, by the ids of their events; all of them where that is left out."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"ids": [EXAMPLE_ID]}]})
    ids: Ids | None = None


class Keeper(Protocol):
    """Of `streaming.pull_subscriptions.PullSubscriptionReader`, what settles dead letters."""

    async def redrive(self, tenant_id: str, id: str, event_ids: Sequence[UUID] | None) -> int:
        """Lets them be given out again."""
        ...

    async def forget(self, tenant_id: str, id: str, event_ids: Sequence[UUID] | None) -> int:
        """Drops them."""
        ...


Settle = Callable[[str, str, Sequence[UUID] | None], Awaitable[int]]


def pull_dead_letters_router(shell: Shell, gate: Gate, keeper: Keeper) -> APIRouter:
    """The routes under `/pull-subscriptions/{subscription_id}/dead-letters` that change something."""
    routes = GuardedRoutes(gate, "pull subscriptions")

    async def settled(request: Request, access: Access, settle: Settle) -> Response:
        body = await read(request, Letters)
        ids = None if body.ids is None else [lease.event_id for _, lease in read_leases(body.ids)]
        subscription = await known_pull_subscription(shell, request, access)
        count = await settle(access.tenant_id, subscription.subscription_id, ids)
        return Response(orjson.dumps({"count": count}), media_type="application/json")

    @routes.tenant(
        "POST", f"{PATH}/dead-letters/redrive", SUBSCRIPTIONS_WRITE, summary="Redrive dead letters", body=Letters,
        body_required=False, answers=(Answer(200, "So many are given out again.", documents.Counted),),
    )  # fmt: skip
    async def redrive(request: Request, access: Access) -> Response:
        """They are given out again as if for the first time, out of turn, each as soon as its subject is free."""
        return await settled(request, access, keeper.redrive)

    @routes.tenant(
        "POST", f"{PATH}/dead-letters/discard", SUBSCRIPTIONS_WRITE, summary="Discard dead letters", body=Letters,
        body_required=False, answers=(Answer(200, "So many are gone.", documents.Counted),),
    )  # fmt: skip
    async def discard(request: Request, access: Access) -> Response:
        """The subscription forgets them; the events stay in the log."""
        return await settled(request, access, keeper.forget)

    return routes.router
