# intent_ref: quantum.pulling
"""Wires pull subscriptions: their reader, who tells it of new events, and the routes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter

import read_api.pull_subscriptions
import write_api.pull_dead_letters
import write_api.pull_subscriptions
import write_api.pulling
from access.gate import Gate
from commands.handle import Shell
from domain.pull_subscription import PullSubscription, PullSubscriptionChanged
from domain.subscription_rules import type_matches
from domain.values import TenantId
from event_store.codec import TOPICS, UPCASTERS, topic_of
from event_store.store import EventStore
from quantum.settings import Settings
from read_api.event_feed import EventFeed
from read_api.feed_pages import Filter
from streaming import cloud_events
from streaming.pull_subscriptions import Following, PullSubscriptionReader


def following(feed: EventFeed) -> Following:
    """Lets those who wait be told by the process's shared reader of the log, so that a thousand of them cost no more than one."""

    @asynccontextmanager
    async def follow(tenant_id: str, subscription: PullSubscription) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        tenant, wanted = TenantId(tenant_id), Filter(topics_of(subscription))
        follower = await feed.join(tenant, wanted)

        async def arrived() -> None:
            nonlocal follower
            if follower.is_behind:
                feed.leave(tenant, follower)
                follower = await feed.join(tenant, wanted)
            else:
                await follower.take()

        try:
            yield arrived
        finally:
            feed.leave(tenant, follower)

    return follow


def topics_of(subscription: PullSubscription) -> frozenset[str] | None:
    """The topics this release knows of that are wanted, and the one that says that others are; None for all."""
    types = subscription.terms.types
    if "*" in types:
        return None
    known = {*TOPICS, *UPCASTERS}
    wanted = {topic for topic in known if type_matches(types, cloud_events.type_of(topic))}
    return frozenset(wanted | {topic_of(PullSubscriptionChanged)})


def reader(settings: Settings, store: EventStore, feed: EventFeed) -> PullSubscriptionReader:
    """The reader of this process."""
    return PullSubscriptionReader(store, following(feed), source=settings.event_source)


def writing(shell: Shell, gate: Gate, pulls: PullSubscriptionReader) -> list[APIRouter]:
    """The routes that make pull subscriptions, and those by which they are read."""
    return [
        write_api.pull_subscriptions.pull_subscriptions_router(shell, gate, pulls),
        write_api.pulling.pulling_router(shell, gate, pulls),
        write_api.pull_dead_letters.pull_dead_letters_router(shell, gate, pulls),
    ]


def reading(gate: Gate, store: EventStore, pulls: PullSubscriptionReader) -> APIRouter:
    """The routes that show pull subscriptions."""
    return read_api.pull_subscriptions.pull_subscriptions_router(gate, store, pulls)
