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
Asked = Literal["accepted", "repeated", "reused", "unknown", "busy"]
"""`accepted` now, or `repeated`: it was accepted before. `reused`: the command id belongs to another request. `unknown`: the log
of deliveries has no such one. `busy`: too much waits already."""
_ASK: Final = "SELECT asked, told FROM quantum.ask_webhook($1, $2, $3, $4, $5, $6, $7, $8, $9)"


class DeliveryRequests:
    """Puts requests down, under the tenant's row-level security. Raises `StoreUnavailable`.

    With a `request_hash` the same `command_id` again asks for nothing more. Each answers with the id of the delivery that was
    asked for the first time, where it is one.
    """

    def __init__(self, tenant_pool: Any) -> None:
        self._pool = tenant_pool

    async def test(
        self, tenant_id: str, subscription_id: str, *, command_id: UUID | None = None, request_hash: str | None = None
    ) -> tuple[Asked, UUID | None]:
        """A test delivery."""
        return await self._ask(tenant_id, subscription_id, "test", uuid7(), None, None, command_id, request_hash)

    async def redeliver(
        self, tenant_id: str, subscription_id: str, delivery_id: UUID, *,
        command_id: UUID | None = None, request_hash: str | None = None,
    ) -> tuple[Asked, UUID | None]:  # fmt: skip
        """One delivery again."""
        return await self._ask(tenant_id, subscription_id, "redeliver", delivery_id, None, None, command_id, request_hash)

    def delivery_of(self, event_id: UUID, subscription_id: str) -> UUID:
        """The id of an event's delivery to a subscription."""
        return webhook_id(event_id, subscription_id)

    async def rewind(
        self, tenant_id: str, subscription_id: str, position: int | None, since: datetime | None, *,
        command_id: UUID | None = None, request_hash: str | None = None,
    ) -> tuple[Asked, UUID | None]:  # fmt: skip
        """All events after a position, or recorded from a time on, once more and in order."""
        return await self._ask(tenant_id, subscription_id, "rewind", None, position, since, command_id, request_hash)

    async def _ask(
        self, tenant_id: str, subscription_id: str, kind: str, delivery_id: UUID | None, position: int | None,
        since: datetime | None, command_id: UUID | None, request_hash: str | None,
    ) -> tuple[Asked, UUID | None]:  # fmt: skip
        which = (command_id or uuid7(), request_hash)
        try:
            row = await self._pool.fetchrow(
                _ASK, tenant_id, subscription_id, kind, delivery_id, position, since, REQUESTS_MAX, *which
            )  # fmt: skip
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault
        return row["asked"], row["told"]
