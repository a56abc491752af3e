# intent_ref: streaming.webhooks
"""What the API may ask of the deliverer: a test, one delivery once more, or all since a moment. It is carried out soon."""

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from event_store.faults import DATABASE_AWAY
from event_store.ids import uuid7
from event_store.records import StoreUnavailable
from streaming.webhooks.signing import webhook_id

REQUESTS_MAX: Final = 100
"""Requests of one subscription that may wait at a time."""
Asked = Literal["accepted", "unknown", "busy"]
_REQUEST: Final = "SELECT quantum.request_webhook($1, $2, $3, $4, $5, $6, $7)"


class DeliveryRequests:
    """Puts requests down, under the tenant's row-level security. Raises `StoreUnavailable`."""

    def __init__(self, tenant_pool: Any) -> None:
        self._pool = tenant_pool

    async def test(self, tenant_id: str, subscription_id: str) -> tuple[Asked, UUID]:
        """A test delivery, and the id it will have."""
        delivery_id = uuid7()
        return await self._ask(tenant_id, subscription_id, "test", delivery_id, None, None), delivery_id

    async def redeliver(self, tenant_id: str, subscription_id: str, delivery_id: UUID) -> Asked:
        """One delivery again; `unknown` where the log of deliveries does not have it."""
        return await self._ask(tenant_id, subscription_id, "redeliver", delivery_id, None, None)

    def delivery_of(self, event_id: UUID, subscription_id: str) -> UUID:
        """The id of an event's delivery to a subscription."""
        return webhook_id(event_id, subscription_id)

    async def rewind(self, tenant_id: str, subscription_id: str, position: int | None, since: datetime | None) -> Asked:
        """All events after a position, or recorded from a time on, once more and in order."""
        return await self._ask(tenant_id, subscription_id, "rewind", None, position, since)

    async def _ask(
        self, tenant_id: str, subscription_id: str, kind: str, delivery_id: UUID | None, position: int | None,
        since: datetime | None,
    ) -> Asked:  # fmt: skip
        try:
            asked: Asked = await self._pool.fetchval(
                _REQUEST, tenant_id, subscription_id, kind, delivery_id, position, since, REQUESTS_MAX
            )  # fmt: skip
            return asked
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault
