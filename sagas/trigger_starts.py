# intent_ref: sagas.refused-starts
"""Starts that events have fired and that were refused: tried again with growing pauses, then dead letters, until somebody asks.

What an event said is in the log, at its position; a row says which intent it was to start, and why that was refused.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from domain.immutable import immutable

TRIES_MAX = 20
"""How often a start is tried that a limit refuses: over an hour or so."""
TRY_SECONDS_APART_MAX = 300.0
TENANT_STARTS_MAX = 10_000
"""How many refused starts of a tenant are kept, dead letters included."""
TRYING_SECONDS = 30.0
"""What a try may take; then another process tries."""
_QUERY_SECONDS_MAX = 10.0

# What is kept already stays as it is: an event that comes again is refused again.
_KEEP = """
WITH room AS MATERIALIZED (
    SELECT kept.tenant_id, count(*) AS count FROM quantum.saga_trigger_starts AS kept
     WHERE kept.tenant_id = ANY ($1::text[]) GROUP BY kept.tenant_id
), fresh AS (
    SELECT n.*, row_number() OVER (PARTITION BY n.tenant_id ORDER BY n.position) AS number
      FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::text[])
           AS n (tenant_id, intent_id, event_id, position, at, due_at, error)
)
INSERT INTO quantum.saga_trigger_starts AS kept
       (tenant_id, intent_id, event_id, position, tries, first_at, last_at, due_at, error)
SELECT fresh.tenant_id, fresh.intent_id, fresh.event_id, fresh.position, 1, fresh.at, fresh.at, fresh.due_at, fresh.error::json
  FROM fresh LEFT JOIN room USING (tenant_id) WHERE coalesce(room.count, 0) + fresh.number <= $8
    ON CONFLICT (tenant_id, intent_id, event_id) DO UPDATE SET last_at = excluded.last_at
RETURNING kept.tenant_id, kept.intent_id, kept.event_id
"""
_CLAIM = """
UPDATE quantum.saga_trigger_starts AS one SET due_at = $1::timestamptz + make_interval(secs => $2)
  FROM (SELECT tenant_id, intent_id, event_id FROM quantum.saga_trigger_starts
         WHERE due_at <= $1 ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS due
 WHERE one.tenant_id = due.tenant_id AND one.intent_id = due.intent_id AND one.event_id = due.event_id
RETURNING one.tenant_id, one.intent_id, one.event_id, one.position, one.tries
"""
_REFUSED = """
UPDATE quantum.saga_trigger_starts SET tries = tries + 1, last_at = $4, due_at = $5, error = $6::json
 WHERE tenant_id = $1 AND intent_id = $2 AND event_id = $3
"""
_DONE = "DELETE FROM quantum.saga_trigger_starts WHERE tenant_id = $1 AND intent_id = $2 AND event_id = $3"
_NEXT = "SELECT min(due_at) FROM quantum.saga_trigger_starts WHERE due_at IS NOT NULL"

Key = tuple[str, str, UUID]
"""(tenant, intent, event)"""


@immutable
class Refused:
    """A start that was refused at a time, for what `error` (JSON) says; `again_at` is None where it is a dead letter."""

    tenant_id: str
    intent_id: str
    event_id: UUID
    position: int
    at: datetime
    again_at: datetime | None
    error: str

    @property
    def key(self) -> Key:
        """What there is one of."""
        return (self.tenant_id, self.intent_id, self.event_id)


@immutable
class Owed:
    """A start to be tried again, after so many tries."""

    tenant_id: str
    intent_id: str
    event_id: UUID
    position: int
    tries: int


def again_at(event_id: UUID, tries: int, present: datetime, again_seconds: float) -> datetime | None:
    """When a start that was tried so often is tried again; None where that was often enough.

    Pauses double, and differ by up to a half from event to event, so that those refused together do not come back together.
    """
    if tries >= TRIES_MAX:
        return None
    pause_seconds = min(TRY_SECONDS_APART_MAX, max(again_seconds, 2.0 ** min(tries - 1, 10)))
    return present + timedelta(seconds=pause_seconds * (1 + (event_id.int % 1_000) / 2_000))


class TriggerStarts:
    """The table. Raises the driver's errors; every call ends within ten seconds."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def keep(self, refused: Sequence[Refused]) -> set[Key]:
        """Keeps them; which ones are kept now. The others are too many for their tenant."""
        columns = [
            [getattr(one, name) for one in refused]
            for name in ("tenant_id", "intent_id", "event_id", "position", "at", "again_at", "error")
        ]
        return {(row[0], row[1], row[2]) for row in await self._fetch(_KEEP, *columns, TENANT_STARTS_MAX)}

    async def claim(self, present: datetime, limit: int) -> list[Owed]:
        """Up to `limit` that are to be tried now, the most overdue first; nobody else gets them for `TRYING_SECONDS`."""
        return [Owed(*row) for row in await self._fetch(_CLAIM, present, TRYING_SECONDS, limit)]

    async def refused_again(self, refused: Refused) -> None:
        """One was refused once more."""
        await self._fetch(_REFUSED, *refused.key, refused.at, refused.again_at, refused.error)

    async def done(self, owed: Owed) -> None:
        """One is started, or nobody wants it any more."""
        await self._fetch(_DONE, owed.tenant_id, owed.intent_id, owed.event_id)

    async def next_try(self) -> datetime | None:
        """When the next one is to be tried; None where none is."""
        found: datetime | None = (await self._fetch(_NEXT))[0][0]
        return found

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            rows: list[Any] = await self._pool.fetch(query, *arguments)
            return rows
