# intent_ref: sagas.execution
"""The table of attempts that still have to be made or recorded, and who of the workers is making which.

A worker owns its rows as long as its heartbeat lasts, so a running call costs no writes. A row whose outcome is in the log
already (its worker died before deleting it) is never handed out again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

Key = tuple[str, str, str, int]
"""(tenant, execution, step, attempt)"""

ALIVE_SECONDS = 5.0
"""A worker is taken for dead when its last heartbeat is this old; then its calls are made again."""

_RECORDED = """
EXISTS (SELECT FROM quantum.events AS e
         WHERE e.tenant_id = d.tenant_id AND e.command_id = d.command_id AND e.command_index = 0)
"""
_INSERT = f"""
INSERT INTO quantum.saga_dispatches
       (tenant_id, execution_id, step, attempt, due_at, command_id, event_id, correlation_id, traceparent, lease_owner, claims)
SELECT d.tenant_id, d.execution_id, d.step, d.attempt, d.due_at, d.command_id, d.event_id, d.correlation_id, d.traceparent,
       CASE WHEN d.taken THEN $11 END, d.taken::int
  FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::uuid[], $7::uuid[], $8::text[],
              $9::text[], $10::bool[])
       AS d (tenant_id, execution_id, step, attempt, due_at, command_id, event_id, correlation_id, traceparent, taken)
 WHERE NOT {_RECORDED}
    ON CONFLICT (tenant_id, execution_id, step, attempt) DO NOTHING
RETURNING tenant_id, execution_id, step, attempt, lease_owner IS NOT NULL AS taken
"""  # noqa: S608 - constants only
_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT d.tenant_id, d.execution_id, d.step, d.attempt, {_RECORDED} AS recorded
      FROM quantum.saga_dispatches AS d
     WHERE d.due_at <= now()
       AND (d.lease_owner IS NULL OR NOT EXISTS (
            SELECT FROM quantum.saga_workers AS w WHERE w.worker = d.lease_owner AND w.alive_until > now()))
     ORDER BY d.due_at
     LIMIT $2
       FOR UPDATE OF d SKIP LOCKED
), over AS (
    DELETE FROM quantum.saga_dispatches AS d USING due
     WHERE due.recorded AND d.tenant_id = due.tenant_id AND d.execution_id = due.execution_id
       AND d.step = due.step AND d.attempt = due.attempt
)
UPDATE quantum.saga_dispatches AS d SET lease_owner = $1, claims = d.claims + 1
  FROM due
 WHERE NOT due.recorded AND d.tenant_id = due.tenant_id AND d.execution_id = due.execution_id
   AND d.step = due.step AND d.attempt = due.attempt
RETURNING d.tenant_id, d.execution_id, d.step, d.attempt, d.due_at, d.command_id, d.event_id, d.correlation_id, d.traceparent
"""  # noqa: S608
_NEXT_DUE = """
SELECT extract(epoch FROM min(due_at) - now())::float8 FROM quantum.saga_dispatches WHERE due_at > now()
"""
_OF_KEYS = """
       unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS k (tenant_id, execution_id, step, attempt)
 WHERE d.tenant_id = k.tenant_id AND d.execution_id = k.execution_id AND d.step = k.step AND d.attempt = k.attempt
"""
_DELETE = f"DELETE FROM quantum.saga_dispatches AS d USING {_OF_KEYS}"  # noqa: S608
_POSTPONE = f"""
UPDATE quantum.saga_dispatches AS d
   SET lease_owner = NULL, due_at = now() + make_interval(secs => least(60, power(2, least(d.claims, 10)) / 2))
  FROM {_OF_KEYS}
   AND d.lease_owner = $5
"""  # noqa: S608
_DROP = """
DELETE FROM quantum.saga_dispatches AS d
 USING unnest($1::text[], $2::text[]) AS k (tenant_id, execution_id)
 WHERE d.tenant_id = k.tenant_id AND d.execution_id = k.execution_id
"""
_BEAT = """
INSERT INTO quantum.saga_workers (worker, alive_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
    ON CONFLICT (worker) DO UPDATE SET alive_until = excluded.alive_until
"""
_PRUNE = "DELETE FROM quantum.saga_workers WHERE alive_until < now() - interval '1 minute'"
_LEAVE = "DELETE FROM quantum.saga_workers WHERE worker = $1"
_HELD = "SELECT tenant_id, execution_id, step, attempt FROM quantum.saga_dispatches WHERE lease_owner = $1"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """An attempt to be made at `due_at`, and where it comes from. Its outcome is recorded under `command_id`."""

    tenant_id: str
    execution_id: str
    step: str
    attempt: int
    due_at: datetime
    command_id: UUID
    event_id: UUID
    correlation_id: str
    traceparent: str | None

    @property
    def key(self) -> Key:
        """What there is one of."""
        return (self.tenant_id, self.execution_id, self.step, self.attempt)


class Dispatches:
    """The table, seen by one worker. Raises the driver's errors; every call ends within `ALIVE_SECONDS`."""

    def __init__(self, pool: Any, worker: str) -> None:
        self._pool, self._worker = pool, worker

    async def insert(self, dispatches: Sequence[Dispatch], take: Sequence[bool]) -> dict[Key, bool]:
        """Stores what is neither there nor over; of what was stored, whether it is leased to this worker already."""
        columns = [
            [getattr(dispatch, name) for dispatch in dispatches]
            for name in ("tenant_id", "execution_id", "step", "attempt", "due_at", "command_id", "event_id", "correlation_id",
                         "traceparent")
        ]  # fmt: skip
        rows = await self._fetch(_INSERT, *columns, list(take), self._worker)
        return {(row[0], row[1], row[2], row[3]): row[4] for row in rows}

    async def claim(self, limit: int) -> list[Dispatch]:
        """Leases up to `limit` attempts that are due and nobody's, or a dead worker's; the longest due first."""
        rows = await self._fetch(_CLAIM, self._worker, limit)
        return sorted((Dispatch(*row) for row in rows), key=lambda dispatch: dispatch.due_at)

    async def next_due_seconds(self) -> float | None:
        """Seconds until the next timer, or None where there is none."""
        rows = await self._fetch(_NEXT_DUE)
        seconds: float | None = rows[0][0]
        return seconds

    async def delete(self, keys: Sequence[Key]) -> None:
        """These attempts are over."""
        await self._fetch(_DELETE, *_columns(keys))

    async def postpone(self, keys: Sequence[Key]) -> None:
        """Gives attempts back, to be made again a little later: later each time, a minute at most."""
        await self._fetch(_POSTPONE, *_columns(keys), self._worker)

    async def drop(self, executions: Sequence[tuple[str, str]]) -> None:
        """No attempt of these (tenant, execution) is to be made any more."""
        await self._fetch(_DROP, [tenant for tenant, _ in executions], [execution for _, execution in executions])

    async def beat(self) -> None:
        """This worker is alive, for `ALIVE_SECONDS`."""
        await self._fetch(_BEAT, self._worker, ALIVE_SECONDS)

    async def prune(self) -> None:
        """Forgets workers that died long ago."""
        await self._fetch(_PRUNE)

    async def held(self) -> set[Key]:
        """What is leased to this worker."""
        return {(row[0], row[1], row[2], row[3]) for row in await self._fetch(_HELD, self._worker)}

    async def leave(self) -> None:
        """Ends the worker: whatever it still holds can be taken at once."""
        await self._fetch(_LEAVE, self._worker)

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        async with asyncio.timeout(ALIVE_SECONDS):
            rows: list[Any] = await self._pool.fetch(query, *arguments)
            return rows


def _columns(keys: Sequence[Key]) -> list[list[Any]]:
    return [list(column) for column in zip(*keys, strict=True)]
