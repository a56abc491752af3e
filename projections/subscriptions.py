# intent_ref: projections.subscriptions
"""The read model of subscriptions; and the log of their deliveries, which the deliverer itself keeps."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from domain import subscription
from domain.documents import subscription_document, subscription_terms, timestamp
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections.documents import Document, DocumentReader, point_reads
from projections.pages import Listing, Page, bounded, storable
from projections.read_model import EventOutOfOrder, ReadModel

DDL = """
CREATE TABLE subscriptions (
    tenant_id        text COLLATE "C" NOT NULL,
    subscription_id  text COLLATE "C" NOT NULL,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    version          integer NOT NULL,
    document         bytea NOT NULL,
    PRIMARY KEY (tenant_id, subscription_id)
);
CREATE INDEX subscriptions_newest ON subscriptions (tenant_id, created_position);
"""
_LISTS = """
CREATE OR REPLACE FUNCTION quantum.list_subscriptions(tenant text, before bigint, at_most integer)
    RETURNS TABLE (created_position bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT s.created_position, s.document FROM quantum_read.subscriptions AS s
         WHERE s.tenant_id = tenant AND s.created_position < before
         ORDER BY s.created_position DESC LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.list_subscriptions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_subscriptions TO quantum_app, quantum_platform;
"""
FUNCTIONS = point_reads("subscriptions", "subscription_id") + _LISTS
_LOAD = """
SELECT s.tenant_id, s.subscription_id, s.created_position, s.document
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, subscription_id)
  JOIN subscriptions AS s ON s.tenant_id = wanted.tenant_id AND s.subscription_id = wanted.subscription_id
"""
_SAVE = """
INSERT INTO subscriptions (tenant_id, subscription_id, created_position, position, version, document)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::int[], $6::bytea[])
    ON CONFLICT (tenant_id, subscription_id) DO UPDATE
   SET position = excluded.position, version = excluded.version, document = excluded.document
"""
_REMOVE = """
DELETE FROM subscriptions AS s USING unnest($1::text[], $2::text[]) AS removed (tenant_id, subscription_id)
 WHERE s.tenant_id = removed.tenant_id AND s.subscription_id = removed.subscription_id
"""
_DELIVERIES = "SELECT * FROM quantum.list_webhook_deliveries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_Row = tuple[str, str, int, int, int, dict[str, Any]]


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    wanted = list({(recorded.tenant_id, event.subscription_id) for recorded, event in decoded})
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    rows: dict[tuple[str, str], _Row | None] = {(row[0], row[1]): (*row[:3], 0, 0, orjson.loads(row[3])) for row in found}
    for recorded, event in decoded:
        key = (recorded.tenant_id, event.subscription_id)
        before = rows.get(key)
        document = fold(before[5] if before else None, event)
        created = before[2] if before else recorded.position
        rows[key] = None if document is None else (*key, created, recorded.position, document["version"], document)
    saved = [row for row in rows.values() if row is not None]
    removed = [key for key, row in rows.items() if row is None]
    if saved:
        *columns, documents = map(list, zip(*saved, strict=True))
        await connection.execute(_SAVE, *columns, [orjson.dumps(document) for document in documents])
    if removed:
        await connection.execute(_REMOVE, [key[0] for key in removed], [key[1] for key in removed])


def fold(document: dict[str, Any] | None, event: subscription.SubscriptionEvent) -> dict[str, Any] | None:
    """The document after `event`; None once the subscription is deleted."""
    if isinstance(event, subscription.SubscriptionCreated):
        return subscription_document(subscription.created(event))
    if document is None:
        raise EventOutOfOrder(f"{type(event).__name__} of the unknown subscription {event.subscription_id}")
    match event:
        case subscription.SubscriptionDeleted():
            return None
        case subscription.SubscriptionChanged():
            document.update(subscription_terms(event.terms))
        case subscription.SubscriptionPaused():
            document["status"] = "paused"
        case subscription.SubscriptionDisabled():
            document.update(status="disabled", disabled={"reason": event.reason, "detail": event.detail})
        case subscription.SubscriptionResumed() | subscription.SubscriptionEnabled():
            document.update(status="active", disabled=None)
        case subscription.SubscriptionSecretRotated():
            document["former_secret_until"] = timestamp(event.former_until)
    document["updated_at"] = timestamp(event.at)
    document["version"] += 1
    return document


READ_MODEL = ReadModel(
    name="subscriptions",
    version=2,
    events=(
        subscription.SubscriptionCreated,
        subscription.SubscriptionChanged,
        subscription.SubscriptionSecretRotated,
        subscription.SubscriptionPaused,
        subscription.SubscriptionResumed,
        subscription.SubscriptionDisabled,
        subscription.SubscriptionEnabled,
        subscription.SubscriptionDeleted,
    ),
    tables=("subscriptions",),
    ddl=DDL,
    functions=FUNCTIONS,
    apply=apply,
)


async def get_subscription(reader: DocumentReader, tenant_id: TenantId, subscription_id: str) -> Document | None:
    """A subscription, without its secret."""
    return await reader.read("subscriptions", tenant_id, subscription_id)


async def list_subscriptions(tenant_pool: Any, tenant_id: TenantId, *, limit: int = 50, cursor: str | None = None) -> Page:
    """The tenant's subscriptions, newest first. Raises `InvalidCursor`."""
    listing, limit = Listing("subscriptions", tenant_id), bounded(limit)
    rows = await tenant_pool.fetch(
        "SELECT * FROM quantum.list_subscriptions($1, $2, $3)", tenant_id, listing.before(cursor), limit + 1
    )
    return listing.page(rows, limit)


async def list_deliveries(
    tenant_pool: Any, tenant_id: TenantId, subscription_id: str, *, status: str | None = None, type: str | None = None,
    subject: str | None = None, event_id: UUID | None = None, after: datetime | None = None, before: datetime | None = None,
    limit: int = 50, cursor: str | None = None,
) -> Page:  # fmt: skip
    """What was delivered to a subscription, or is to be, newest first; times are those of the last attempt.

    Raises `InvalidCursor`.
    """
    filters = (subscription_id, status, type, subject, event_id, after, before)
    listing, limit = Listing("deliveries", tenant_id, filters), bounded(limit)
    place = listing.before(cursor)
    if not storable(type, subject):
        return Page([], None)
    rows = await tenant_pool.fetch(
        _DELIVERIES, tenant_id, subscription_id, status, type, subject, event_id, after, before, place, limit + 1
    )
    return listing.page([(row["number"], _delivery(row)) for row in rows], limit)


def _delivery(row: Any) -> bytes:
    return orjson.dumps(
        {
            "id": str(row["delivery_id"]),
            "event_id": str(row["event_id"]),
            "type": row["event_type"],
            "subject": row["subject"],
            "status": row["status"],
            "first_attempt_at": row["first_at"],
            "last_attempt_at": row["last_at"],
            "next_attempt_at": row["next_at"] if row["status"] == "retrying" else None,
            "attempts": orjson.Fragment(row["attempts"]),
        },
        option=orjson.OPT_UTC_Z,
    )
