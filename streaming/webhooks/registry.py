# intent_ref: streaming.webhooks-registry
"""Keeps the deliverer's list of subscriptions in step with the log: every process does it, and each change has one effect."""

from typing import Any, Final

from domain.subscription import SubscriptionCreated, evolve
from domain.values import TenantId, subscriptions_stream
from event_store import codec
from event_store.records import RecordedEvent
from event_store.store import EventStore
from streaming.transport import partition_of
from streaming.webhooks.ledger import Ledger

SHARDS: Final = 64
TOPICS: Final = frozenset(topic for topic in (*codec.TOPICS, *codec.UPCASTERS) if topic.startswith("subscription."))
_PAGE_EVENTS: Final = 500


def shard_of(tenant_id: str, subscription_id: str) -> int:
    """The part of the work a subscription belongs to; the same in every process and release."""
    return partition_of(f"{tenant_id}/{subscription_id}", SHARDS)


class Registry:
    """Follows what happens to subscriptions into the ledger."""

    def __init__(self, store: EventStore, ledger: Ledger) -> None:
        self._store, self._ledger = store, ledger

    async def catch_up(self) -> int:
        """Takes over everything up to the horizon; its position. Raises `StoreUnavailable` and the driver's errors."""
        position = await self._ledger.progress()
        while True:
            page = await self._store.read_log(position, limit=_PAGE_EVENTS, topics=TOPICS)
            for event in page.events:
                await self.follow(event)
            if page.next == position:
                return position
            position = page.next
            await self._ledger.progressed(position)

    async def follow(self, event: RecordedEvent) -> str:
        """Takes over what one event says; the id of the subscription it is about."""
        happened: Any = event.event
        subscription_id: str = happened.subscription_id
        tenant_id = event.tenant_id
        loaded = await self._store.load(TenantId(tenant_id), subscriptions_stream(), evolve)
        config = loaded.state.by_id.get(subscription_id) if loaded.state is not None else None
        if config is None:
            await self._ledger.delete(tenant_id, subscription_id, loaded.version)
        elif isinstance(happened, SubscriptionCreated):
            start = config.start
            position = event.position if start.time is None else None
            if start.position is not None:
                position = min(start.position, event.position)
            shard = shard_of(tenant_id, subscription_id)
            await self._ledger.register(tenant_id, config, shard, loaded.version, position, start.time)
        else:
            await self._ledger.change(tenant_id, config, loaded.version)
        return subscription_id
