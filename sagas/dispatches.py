# intent_ref: sagas.execution
"""The table of what executions wait for, and who of the workers is doing what of it.

A worker owns its rows as long as its heartbeat lasts, so a running call costs no writes. A row whose outcome is in the log
already (its worker died before deleting it) is never handed out again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from domain.immutable import immutable
from domain.tenant_limits import NO_LIMITS, TenantLimits
from sagas.clock import Clock

Key = tuple[str, str, str, int]
"""(tenant, execution, step, attempt)"""

ALIVE_SECONDS = 5.0
"""A worker is taken for dead when its last heartbeat is this old; then its calls are made again."""

# `OFFSET 0` keeps it a look into the index for each row: a plan made for a small log would else hash the whole of it each time.
_RECORDED = """
EXISTS (SELECT FROM quantum.events AS e
         WHERE e.tenant_id = d.tenant_id AND e.command_id = d.command_id AND e.command_index = 0 OFFSET 0)
"""
_INSERT = f"""
INSERT INTO quantum.saga_dispatches
       (tenant_id, execution_id, step, attempt, due_at, command_id, event_id, correlation_id, traceparent, lease_owner, claims,
        kind, priority, slot_key, slot_max, queue_by, detail, metered)
SELECT d.tenant_id, d.execution_id, d.step, d.attempt, d.due_at, d.command_id, d.event_id, d.correlation_id, d.traceparent,
       CASE WHEN d.taken THEN $11 END, d.taken::int, d.kind, d.priority, d.slot_key, d.slot_max, d.queue_by, d.detail::json,
       d.metered
  FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::uuid[], $7::uuid[], $8::text[],
              $9::text[], $10::bool[], $12::text[], $13::smallint[], $14::text[], $15::int[], $16::timestamptz[], $17::text[],
              $18::text[])
       AS d (tenant_id, execution_id, step, attempt, due_at, command_id, event_id, correlation_id, traceparent, taken,
             kind, priority, slot_key, slot_max, queue_by, detail, metered)
 WHERE d.kind = 'child' OR NOT {_RECORDED}
    ON CONFLICT (tenant_id, execution_id, step, attempt) DO NOTHING
RETURNING tenant_id, execution_id, step, attempt, lease_owner IS NOT NULL AS taken
"""  # noqa: S608 - constants only
_COLUMNS = (
    "tenant_id", "execution_id", "step", "attempt", "due_at", "command_id", "event_id", "correlation_id", "traceparent",
    "kind", "priority", "slot_key", "slot_max", "queue_by", "detail", "metered",
)  # fmt: skip
_CLAIM = f"SELECT {', '.join(_COLUMNS)} FROM quantum.saga_claim($1, $2, $3, $4, $5, $6, $7, $8)"  # noqa: S608
_NEXT_DUE = """
SELECT extract(epoch FROM least(
           (SELECT min(due_at) FROM quantum.saga_dispatches WHERE rank IS NULL AND lease_owner IS NULL),
           (SELECT min(empty_until) FROM quantum.saga_action_limits WHERE empty_until > coalesce($1, now()))
       ) - coalesce($1, now()))::float8
"""
_SLEEP = """
UPDATE quantum.saga_dispatches AS d
   SET lease_owner = NULL, rank = NULL, kind = $5, due_at = $6, action = $7, work_seconds = $8, lease_seconds = $9,
       queue_by = coalesce($10, d.queue_by), offered_at = $11
 WHERE d.tenant_id = $1 AND d.execution_id = $2 AND d.step = $3 AND d.attempt = $4
"""
_WAITS = "SELECT tenant_id FROM quantum.saga_lanes('', '', $1)"
_OF_KEYS = """
       unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS k (tenant_id, execution_id, step, attempt)
 WHERE d.tenant_id = k.tenant_id AND d.execution_id = k.execution_id AND d.step = k.step AND d.attempt = k.attempt
"""
_DELETE = f"DELETE FROM quantum.saga_dispatches AS d USING {_OF_KEYS}"  # noqa: S608
_POSTPONE = f"""
UPDATE quantum.saga_dispatches AS d
   SET lease_owner = NULL, rank = NULL,
       due_at = coalesce($6, now()) + make_interval(secs => least(60, power(2, least(d.claims, 10)) / 2))
  FROM {_OF_KEYS}
   AND d.lease_owner = $5
"""  # noqa: S608
_DROP = """
WITH named AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS k (tenant_id, execution_id, step)
), ended AS (
    DELETE FROM quantum.saga_admissions AS held USING named AS k
     WHERE k.step IS NULL AND held.tenant_id = k.tenant_id AND held.execution_id = k.execution_id
), gone AS (
    DELETE FROM quantum.saga_dispatches AS gone WHERE gone.ctid = ANY (ARRAY(
        SELECT d.ctid FROM quantum.saga_dispatches AS d
          JOIN named AS k ON d.tenant_id = k.tenant_id AND d.execution_id = k.execution_id AND (k.step IS NULL OR d.step = k.step)
         WHERE d.kind NOT IN ('child_end', 'stop_child')
           FOR UPDATE OF d SKIP LOCKED))
    RETURNING gone.tenant_id, gone.execution_id, gone.kind
)
SELECT EXISTS (SELECT FROM quantum.saga_dispatches AS d
                 JOIN named AS k ON k.step IS NULL AND d.tenant_id = k.tenant_id AND d.execution_id = k.execution_id
                WHERE d.kind = 'admission'
                  AND NOT EXISTS (SELECT FROM gone WHERE gone.tenant_id = d.tenant_id AND gone.execution_id = d.execution_id
                                                     AND gone.kind = 'admission'))
"""
# A call that a claim has in its hands is found to be over when it is made; a turn might never be. Nobody claims meanwhile.
_DROP_TURNS = """
WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(20830, 0))
DELETE FROM quantum.saga_dispatches AS gone
 USING alone, unnest($1::text[], $2::text[], $3::text[]) AS k (tenant_id, execution_id, step)
 WHERE k.step IS NULL AND gone.tenant_id = k.tenant_id AND gone.execution_id = k.execution_id AND gone.kind = 'admission'
"""
_BEAT = """
INSERT INTO quantum.saga_workers (worker, alive_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
    ON CONFLICT (worker) DO UPDATE SET alive_until = excluded.alive_until
RETURNING (SELECT array_agg(tenant_id) FROM quantum.saga_tenants WHERE steps_max IS NOT NULL)
"""
_LANES_MAX = 256
_PRUNE = "DELETE FROM quantum.saga_workers WHERE alive_until < now() - interval '1 minute'"
_LEAVE = "DELETE FROM quantum.saga_workers WHERE worker = $1"
_HELD = "SELECT tenant_id, execution_id, step, attempt FROM quantum.saga_dispatches WHERE lease_owner = $1"


Kind = Literal["call", "callback", "pull", "gate", "expiry", "deadline", "child", "child_end", "stop_child", "admission"]
FIRST = 0
"""The priority of what costs nearly nothing: timers and children never wait behind calls."""


@immutable
class Dispatch:
    """Something to be done at `due_at` for a run of an execution, and where it comes from.

    Of a call, `attempt` is the number of the attempt and the outcome is recorded under `command_id`; for the other kinds see
    migration 0016. `detail` is JSON.
    """

    tenant_id: str
    execution_id: str
    step: str
    attempt: int
    due_at: datetime
    command_id: UUID
    event_id: UUID
    correlation_id: str
    traceparent: str | None
    kind: Kind = "call"
    priority: int = 3
    slot_key: str | None = None
    slot_max: int | None = None
    queue_by: datetime | None = None
    detail: str | None = None
    metered: str | None = None
    action: str = ""

    @property
    def is_unlimited(self) -> bool:
        """True where no limit over all workers is on the row itself."""
        return self.slot_key is None and self.metered is None and self.kind != "admission"

    @property
    def key(self) -> Key:
        """What there is one of."""
        return (self.tenant_id, self.execution_id, self.step, self.attempt)


@immutable
class Offer:
    """A call that the module's workers fetch: under which action, for how long once fetched, and how long they may be silent."""

    action: str
    work_seconds: float
    lease_seconds: float
    at: datetime


@immutable
class Later:
    """A call that is not over: its row stays asleep as `kind`, and at `due_at` it has taken too long."""

    kind: Kind
    due_at: datetime
    offer: Offer | None = None


class Dispatches:
    """The table, seen by one worker. Raises the driver's errors; every call ends within `ALIVE_SECONDS`."""

    def __init__(
        self, pool: Any, worker: str, clock: Clock | None = None, *, installation: TenantLimits = NO_LIMITS
    ) -> None:  # fmt: skip
        """`installation`: the limits of tenants for which nothing else is set."""
        self._pool, self._worker, self._clock, self._installation = pool, worker, clock, installation

    def _present(self) -> datetime | None:
        """The time for the database to go by; None for its own, which all workers share."""
        return None if self._clock is None else self._clock()

    async def insert(self, dispatches: Sequence[Dispatch], take: Sequence[bool]) -> dict[Key, bool]:
        """Stores what is neither there nor over; of what was stored, whether it is leased to this worker already."""
        columns = [[getattr(dispatch, name) for dispatch in dispatches] for name in _COLUMNS]
        rows = await self._fetch(_INSERT, *columns[:9], list(take), self._worker, *columns[9:])
        return {(row[0], row[1], row[2], row[3]): row[4] for row in rows}

    async def claim(self, limit: int, *, tenant_room: int, rooms: Mapping[str, int]) -> list[Dispatch]:
        """Leases up to `limit` rows that are due and nobody's, or a dead worker's, in the order that is fair.

        Of each tenant at most `tenant_room`, or what `rooms` says of it; of each limit no more than it leaves.
        """
        rows = await self._fetch(
            _CLAIM, self._worker, limit, tenant_room, list(rooms), list(rooms.values()), self._present(),
            self._installation.concurrent_steps, self._installation.concurrent_executions,
        )  # fmt: skip
        return [Dispatch(*row) for row in rows]

    async def sleep(self, key: Key, later: Later) -> None:
        """The row stays as the reason to wait until somebody else comes or the time has."""
        offer = later.offer
        if offer is None:
            await self._fetch(_SLEEP, *key, later.kind, later.due_at, None, None, None, None, None)
        else:
            terms = (offer.action, offer.work_seconds, offer.lease_seconds, later.due_at, offer.at)
            await self._fetch(_SLEEP, *key, later.kind, later.due_at, *terms)

    async def waiting_tenants(self) -> frozenset[str] | None:
        """The tenants of which rows are due that nobody has taken; None where they are too many to say."""
        rows = await self._fetch(_WAITS, _LANES_MAX + 1)
        return None if len(rows) > _LANES_MAX else frozenset([row[0] for row in rows])

    async def next_due_seconds(self) -> float | None:
        """Seconds until the next timer, or None where there is none; none or less where a claim has left some that were due."""
        rows = await self._fetch(_NEXT_DUE, self._present())
        seconds: float | None = rows[0][0]
        return seconds

    async def delete(self, keys: Sequence[Key]) -> None:
        """These attempts are over."""
        await self._fetch(_DELETE, *_columns(keys))

    async def postpone(self, keys: Sequence[Key]) -> None:
        """Gives attempts back, to be made again a little later: later each time, a minute at most."""
        await self._fetch(_POSTPONE, *_columns(keys), self._worker, self._present())

    async def drop(self, runs: Sequence[tuple[str, str, str | None]]) -> None:
        """Nothing of these (tenant, execution, run; None for every run) is to be done any more."""
        columns = [list(column) for column in zip(*runs, strict=True)]
        if (await self._fetch(_DROP, *columns))[0][0]:
            await self._fetch(_DROP_TURNS, *columns)

    async def beat(self) -> frozenset[str]:
        """This worker is alive, for `ALIVE_SECONDS`. The tenants whose calls are counted over all workers."""
        return frozenset((await self._fetch(_BEAT, self._worker, ALIVE_SECONDS))[0][0] or ())

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
