# intent_ref: sagas.pull-work
"""Leases on work that workers fetch: the table of what executions wait for, seen by one tenant (migration 0017)."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from domain.immutable import immutable
from domain.values import ExecutionId, StepId, TenantId
from domain.work import Lease
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable
from sagas.clock import Clock
from sagas.dispatches import Dispatch

_SECONDS_MAX = 10.0
_COLUMNS = """execution_id, step, attempt, due_at, command_id, event_id, correlation_id, traceparent, priority, slot_key,
              queue_by, lease_token, lease_until, lease_seconds, claims, action"""
_FETCH = f"SELECT {_COLUMNS}, was_silent FROM quantum.fetch_work($1, $2, $3, $4, $5, $6)"  # noqa: S608 - constants only
_NEXT = "SELECT quantum.next_work_seconds($1, $2, $3, $4)"
_HOLD = f"SELECT {_COLUMNS}, false AS was_silent FROM quantum.hold_work($1, $2, $3, $4, $5, $6, $7)"  # noqa: S608
_RELEASE = "SELECT quantum.release_work($1, $2, $3, $4, $5)"
_DROP = "SELECT quantum.drop_work($1, $2, $3, $4, $5)"


@immutable
class Leased:
    """A dispatch that somebody has until `until`. `claims` counts how often it was taken, by sagas and workers; `was_silent`:
    whoever had it before let the lease end.
    """

    dispatch: Dispatch
    lease: Lease
    until: datetime
    seconds: float
    claims: int
    was_silent: bool = False


class WorkLeases:
    """The leases. Whoever asks is a tenant, under row-level security. Raises `StoreUnavailable`."""

    def __init__(self, tenant_pool: Any, clock: Clock | None = None, *, steps_default: int | None = None) -> None:
        """`steps_default`: how many steps a tenant may have under way for which nothing else is set."""
        self._pool, self._clock, self._steps_default = tenant_pool, clock, steps_default

    async def fetch(self, tenant_id: TenantId, actions: Collection[str], at_most: int, holder: str = "") -> list[Leased]:
        """Leases up to `at_most` units of these actions to `holder`: by priority, the oldest first, within limits."""
        arguments = (list(actions), at_most, holder, self._present(), self._steps_default)
        return [_leased(tenant_id, row) for row in await self._rows(_FETCH, tenant_id, *arguments)]

    async def next_look_seconds(self, tenant_id: TenantId, actions: Collection[str]) -> float | None:
        """Seconds until a unit's lease ends, or until there may be room within a limit; None where nothing is to be expected."""
        rows = await self._rows(_NEXT, tenant_id, list(actions), self._present(), self._steps_default)
        seconds: float | None = rows[0][0]
        return seconds

    async def hold(self, tenant_id: TenantId, lease: Lease, seconds: float | None = None) -> Leased | None:
        """Extends a lease, by `seconds` or by its own length; None where it is lost, or the attempt's time is over.

        A lease whose time was over is as good as ever while nobody else has the unit.
        """
        rows = await self._rows(_HOLD, *_key(tenant_id, lease), seconds, self._present())
        return _leased(tenant_id, rows[0]) if rows else None

    async def release(self, tenant_id: TenantId, lease: Lease) -> bool:
        """Lets others have the unit at once; False where the lease is lost."""
        return bool((await self._rows(_RELEASE, *_key(tenant_id, lease)))[0][0])

    async def drop(self, tenant_id: TenantId, lease: Lease) -> None:
        """The attempt is over; nothing where the lease is lost."""
        await self._rows(_DROP, *_key(tenant_id, lease))

    def _present(self) -> datetime | None:
        return None if self._clock is None else self._clock()

    async def _rows(self, query: str, *arguments: Any) -> Sequence[Any]:
        try:
            async with asyncio.timeout(_SECONDS_MAX):
                rows: Sequence[Any] = await self._pool.fetch(query, *arguments)
                return rows
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault


def _key(tenant_id: TenantId, lease: Lease) -> tuple[Any, ...]:
    return (tenant_id, lease.execution_id, lease.step, lease.attempt, lease.token)


def _leased(tenant_id: TenantId, row: Any) -> Leased:
    dispatch = Dispatch(
        tenant_id, row["execution_id"], row["step"], row["attempt"], row["due_at"], row["command_id"], row["event_id"],
        row["correlation_id"], row["traceparent"], "pull", row["priority"], row["slot_key"],
        queue_by=row["queue_by"], action=row["action"],
    )  # fmt: skip
    lease = Lease(ExecutionId(row["execution_id"]), StepId(row["step"]), row["attempt"], row["lease_token"])
    return Leased(dispatch, lease, row["lease_until"], row["lease_seconds"], row["claims"], row["was_silent"])
