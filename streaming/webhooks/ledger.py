# intent_ref: streaming.webhooks-ledger
"""What the deliverer keeps in the database: subscriptions with their cursors, deliveries with their attempts, requests.

Deliveries and the cursor that passes them are stored in one transaction, so that after a crash at any moment whatever is not
stored is read from the log again.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from domain.immutable import immutable
from domain.subscription import Subscription
from event_store.records import RecordedEvent
from event_store.store import EventStore
from streaming.webhooks.deliveries import Delivery
from streaming.webhooks.lane import Lane, history_pattern

STRETCH_POSITIONS_MAX: Final = 100_000
_PURGED_MAX: Final = 5_000
_EVENT: Final = "position, recorded_at, event_id, command_id, version, tenant_id, stream_id, topic, metadata, payload"
_CONFIG: Final = TypeAdapter(Subscription)

_ROW: Final = "tenant_id, subscription_id, shard, is_deleted, config, cursor, generation, last_success_at, failing_since"
_OF_SHARDS = f"SELECT {_ROW} FROM quantum.webhook_subscriptions WHERE shard = ANY ($1)"  # noqa: S608 - constants only
_OF_IDS = f"SELECT {_ROW} FROM quantum.webhook_subscriptions WHERE tenant_id = $1 AND subscription_id = ANY ($2)"  # noqa: S608
_OPEN = """
SELECT d.tenant_id, d.subscription_id, d.delivery_id, d.event_id, d.position, d.event_type, d.subject, d.status, d.out_of_turn,
       d.tries, d.first_at, d.last_at, d.next_at
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, subscription_id)
  JOIN quantum.webhook_deliveries AS d
    ON d.tenant_id = wanted.tenant_id AND d.subscription_id = wanted.subscription_id AND d.status IN ('retrying', 'waiting')
 ORDER BY d.position
"""
_ONE = """
SELECT tenant_id, subscription_id, delivery_id, event_id, position, event_type, subject, status, out_of_turn, tries, first_at,
       last_at, next_at
  FROM quantum.webhook_deliveries WHERE tenant_id = $1 AND subscription_id = $2 AND delivery_id = $3
"""
_REGISTER = """
INSERT INTO quantum.webhook_subscriptions AS s (tenant_id, subscription_id, shard, version, config, cursor)
VALUES ($1, $2, $3, $4, $5, coalesce($6::bigint, quantum.position_before_time($7::timestamptz)))
    ON CONFLICT (tenant_id, subscription_id) DO UPDATE SET version = excluded.version, config = excluded.config
 WHERE s.version < excluded.version
"""
_CHANGE = """
UPDATE quantum.webhook_subscriptions SET version = $3, config = $4
 WHERE tenant_id = $1 AND subscription_id = $2 AND version < $3
"""
_DELETE = """
UPDATE quantum.webhook_subscriptions SET version = $3, is_deleted = true
 WHERE tenant_id = $1 AND subscription_id = $2 AND version < $3
"""
_PROGRESS = "SELECT position FROM quantum.webhook_progress"
_PROGRESSED = "UPDATE quantum.webhook_progress SET position = $1 WHERE position < $1"
_HISTORY = f"SELECT {_EVENT} FROM quantum.read_webhook_history($1, $2, $3, $4, $5)"  # noqa: S608
_EVENT_AT = f"SELECT {_EVENT} FROM quantum.events WHERE position = $1 AND tenant_id = $2"  # noqa: S608
_STORE = """
INSERT INTO quantum.webhook_deliveries AS d
       (tenant_id, subscription_id, delivery_id, event_id, position, event_type, subject, status, out_of_turn, tries, first_at,
        last_at, next_at, attempts)
SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                     $9::bool[], $10::int[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::json[])
    ON CONFLICT (tenant_id, subscription_id, delivery_id) DO UPDATE
   SET status = excluded.status, out_of_turn = excluded.out_of_turn, tries = excluded.tries, first_at = excluded.first_at,
       last_at = excluded.last_at, next_at = excluded.next_at, attempts = quantum.webhook_attempts(d.attempts, excluded.attempts)
"""
_MOVE = """
UPDATE quantum.webhook_subscriptions AS s
   SET cursor = greatest(s.cursor, moved.cursor), last_success_at = moved.last_success_at, failing_since = moved.failing_since
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::timestamptz[])
       AS moved (tenant_id, subscription_id, cursor, generation, last_success_at, failing_since)
 WHERE s.tenant_id = moved.tenant_id AND s.subscription_id = moved.subscription_id AND s.generation = moved.generation
"""
_DONE = "DELETE FROM quantum.webhook_requests WHERE number = ANY ($1)"
_REQUESTS = """
SELECT r.tenant_id, r.subscription_id, r.number, r.kind, r.delivery_id, r.position, r.since, s.shard
  FROM quantum.webhook_requests AS r
  JOIN quantum.webhook_subscriptions AS s ON s.tenant_id = r.tenant_id AND s.subscription_id = r.subscription_id
 WHERE s.shard = ANY ($1) AND NOT r.number = ANY ($2) ORDER BY r.number LIMIT 200
"""
_REWIND = """
UPDATE quantum.webhook_subscriptions
   SET generation = generation + 1, cursor = least(cursor, coalesce($3::bigint, quantum.position_before_time($4::timestamptz)))
 WHERE tenant_id = $1 AND subscription_id = $2
"""
_OLD = """
DELETE FROM quantum.webhook_deliveries
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM quantum.webhook_deliveries
                          WHERE last_at < $1 AND status IN ('delivered', 'failed') LIMIT $2))
"""
_UNUSED_SECRETS = """
DELETE FROM quantum.subscription_secrets AS s
 WHERE s.created_at < now() - interval '1 day' AND NOT EXISTS (
       SELECT FROM quantum.webhook_subscriptions AS w
        WHERE w.tenant_id = s.tenant_id AND w.subscription_id = s.subscription_id AND NOT w.is_deleted
          AND s.secret_id IN (
              w.config ->> 'secret_id', w.config ->> 'former_secret_id', w.config #>> '{terms,headers_id}'))
"""
_HEADERS_OF_EVENT = "SELECT quantum.webhook_headers_of_event($1, $2)"
_OLD_KEYS = """
DELETE FROM quantum.webhook_request_keys
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM quantum.webhook_request_keys WHERE asked_at < $1 LIMIT $2))
"""
_PURGE = (
    "DELETE FROM quantum.subscription_secrets WHERE tenant_id = $1 AND subscription_id = $2",
    "DELETE FROM quantum.webhook_requests WHERE tenant_id = $1 AND subscription_id = $2",
    "DELETE FROM quantum.webhook_request_keys WHERE tenant_id = $1 AND subscription_id = $2",
    "DELETE FROM quantum.webhook_subscriptions WHERE tenant_id = $1 AND subscription_id = $2",
)
_PURGE_DELIVERIES = """
DELETE FROM quantum.webhook_deliveries
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM quantum.webhook_deliveries WHERE tenant_id = $1 AND subscription_id = $2 LIMIT $3))
"""


@immutable
class Registered:
    """A subscription as the deliverer keeps it."""

    tenant_id: str
    subscription_id: str
    shard: int
    is_deleted: bool
    config: Subscription
    cursor: int
    generation: int
    last_success_at: datetime | None
    failing_since: datetime | None


@immutable
class Request:
    """What the API has asked for."""

    tenant_id: str
    subscription_id: str
    number: int
    kind: str
    delivery_id: UUID | None
    position: int | None
    since: datetime | None
    shard: int


class Ledger:
    """The tables, through the store's pools. Raises the driver's errors (`event_store.faults`)."""

    def __init__(self, store: EventStore) -> None:
        self._store, self._pool = store, store.platform_pool

    async def of_shards(self, shards: Collection[int]) -> list[Registered]:
        """Every subscription of these shards."""
        return [_registered(row) for row in await self._pool.fetch(_OF_SHARDS, list(shards))]

    async def of_ids(self, tenant_id: str, ids: Collection[str]) -> list[Registered]:
        """These subscriptions of a tenant, where they are known."""
        return [_registered(row) for row in await self._pool.fetch(_OF_IDS, tenant_id, list(ids))]

    async def open_deliveries(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Delivery]]:
        """What of these (tenant, subscription) is still to be delivered and no longer read from the log."""
        found: dict[tuple[str, str], list[Delivery]] = {}
        for row in await self._pool.fetch(_OPEN, [key[0] for key in keys], [key[1] for key in keys]):
            found.setdefault((row[0], row[1]), []).append(_delivery(row))
        return found

    async def delivery(self, tenant_id: str, subscription_id: str, delivery_id: UUID) -> Delivery | None:
        """One delivery of the log of deliveries."""
        row = await self._pool.fetchrow(_ONE, tenant_id, subscription_id, delivery_id)
        return _delivery(row) if row is not None else None

    async def register(
        self, tenant_id: str, config: Subscription, shard: int, version: int, position: int | None, since: datetime | None
    ) -> None:
        """A new subscription, which begins after `position`, or with what was recorded from `since` on."""
        document = _CONFIG.dump_json(config).decode()
        await self._pool.execute(_REGISTER, tenant_id, config.subscription_id, shard, version, document, position, since)

    async def change(self, tenant_id: str, config: Subscription, version: int) -> None:
        """A subscription that is another now."""
        await self._pool.execute(_CHANGE, tenant_id, config.subscription_id, version, _CONFIG.dump_json(config).decode())

    async def delete(self, tenant_id: str, subscription_id: str, version: int) -> None:
        """A subscription that is no more; `purge` takes away what it leaves."""
        await self._pool.execute(_DELETE, tenant_id, subscription_id, version)

    async def progress(self) -> int:
        """How far the log has been searched for what happened to subscriptions."""
        position: int = await self._pool.fetchval(_PROGRESS)
        return position

    async def progressed(self, position: int) -> None:
        """It has been searched up to here."""
        await self._pool.execute(_PROGRESSED, position)

    async def history(self, lane: Lane, limit: int) -> tuple[list[RecordedEvent], int]:
        """Events a lane may want after its position, and how far that has come: a stretch of the log at a time."""
        after = lane.read_position
        horizon = self._store.known_horizon
        if horizon < after + STRETCH_POSITIONS_MAX:
            horizon = await self._store.horizon()
        up_to = min(horizon, after + STRETCH_POSITIONS_MAX)
        if up_to <= after:
            return [], after
        rows = await self._store.tenant_pool.fetch(
            _HISTORY, lane.tenant_id, after, up_to, history_pattern(lane.config), limit
        )  # fmt: skip
        events = [RecordedEvent(*row) for row in rows]
        return events, events[-1].position if len(events) == limit else up_to

    async def event(self, tenant_id: str, position: int) -> RecordedEvent | None:
        """The event at a position."""
        row = await self._pool.fetchrow(_EVENT_AT, position, tenant_id)
        return RecordedEvent(*row) if row is not None else None

    async def headers_of_event(self, tenant_id: str, subscription_id: str) -> dict[str, str]:
        """The headers of a subscription whose newest terms are of a time when events held their values."""
        found = await self._pool.fetchval(_HEADERS_OF_EVENT, tenant_id, subscription_id)
        return {} if found is None else dict(orjson.loads(found))

    async def store(self, deliveries: Sequence[tuple[tuple[str, str], "Stored"]], cursors: Sequence[tuple[Any, ...]]) -> None:
        """Deliveries, cursors (tenant, subscription, cursor, generation, last success, failing since) and done requests."""
        async with self._pool.acquire() as connection, connection.transaction():
            if deliveries:
                rows = [(*key, *stored.columns) for key, stored in deliveries]
                await connection.execute(_STORE, *map(list, zip(*rows, strict=True)))
                done = [stored.request for _, stored in deliveries if stored.request is not None]
                if done:
                    await connection.execute(_DONE, done)
            if cursors:
                await connection.execute(_MOVE, *map(list, zip(*cursors, strict=True)))

    async def requests(self, shards: Collection[int], known: Collection[int]) -> list[Request]:
        """What is asked of these shards' subscriptions, without the numbers that are known."""
        return [Request(*row) for row in await self._pool.fetch(_REQUESTS, list(shards), list(known))]

    async def done(self, numbers: Sequence[int]) -> None:
        """These requests need nothing more."""
        await self._pool.execute(_DONE, list(numbers))

    async def rewind(self, request: Request) -> None:
        """Sets a cursor back, and is done with the request."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                _REWIND, request.tenant_id, request.subscription_id, request.position, request.since
            )  # fmt: skip
            await connection.execute(_DONE, [request.number])

    async def forget_before(self, at: datetime) -> int:
        """Takes deliveries that ended before `at` out of the log of deliveries; how many, of so many at a time.

        Idempotency keys of what was asked for before go with them.
        """
        await self._pool.execute(_OLD_KEYS, at, _PURGED_MAX)
        return _count(await self._pool.execute(_OLD, at, _PURGED_MAX))

    async def forget_unused_secrets(self) -> None:
        """Takes away secrets that no subscription names any more, or ever did."""
        await self._pool.execute(_UNUSED_SECRETS)

    async def purge(self, tenant_id: str, subscription_id: str) -> bool:
        """Takes away what a deleted subscription leaves, so much at a time; True when nothing is left."""
        if _count(await self._pool.execute(_PURGE_DELIVERIES, tenant_id, subscription_id, _PURGED_MAX)) == _PURGED_MAX:
            return False
        async with self._pool.acquire() as connection, connection.transaction():
            for statement in _PURGE:
                await connection.execute(statement, tenant_id, subscription_id)
        return True


@immutable
class Stored:
    """A delivery as it was when it was put down to be stored: it may change again before that is done."""

    columns: tuple[Any, ...]
    request: int | None

    @classmethod
    def of(cls, delivery: Delivery, now: datetime) -> "Stored":
        """Takes the attempts that are new with it."""
        made = orjson.dumps([attempt.document() for attempt in delivery.made], option=orjson.OPT_UTC_Z).decode()
        delivery.made.clear()
        request, delivery.request = delivery.request, None
        return cls(
            (delivery.delivery_id, delivery.event_id, delivery.position, delivery.event_type, delivery.subject, delivery.status,
             delivery.out_of_turn, delivery.tries, delivery.first_at, delivery.last_at or now, delivery.next_at, made),
            request,
        )  # fmt: skip


def _registered(row: Any) -> Registered:
    tenant_id, subscription_id, shard, is_deleted, config, *rest = row
    return Registered(tenant_id, subscription_id, shard, is_deleted, _CONFIG.validate_json(config), *rest)


def _delivery(row: Any) -> Delivery:
    return Delivery(
        delivery_id=row[2], event_id=row[3], position=row[4], event_type=row[5], subject=row[6], status=row[7],
        out_of_turn=row[8], tries=row[9], first_at=row[10], last_at=row[11], next_at=row[12],
    )  # fmt: skip


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
