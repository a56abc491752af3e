# intent_ref: access.limits
"""Whether a tenant may start one more execution: asked by the shell before anything is written.

A tenant without limits costs one look into a dictionary. Counts of what waits come from the table of the sagas and are a moment
old; so these limits may be passed by what is started in that moment, and by no more.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Any, Final

from access.start_rate import WINDOW_SECONDS, StartRate
from access.tenant_directory import TenantDirectory
from domain.refusals import LimitReached
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import TenantId
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable

AGAIN_SECONDS: Final = 5
COUNT_GOOD_SECONDS: Final = 0.25
_TENANTS_KNOWN_MAX: Final = 10_000
_QUERY_SECONDS_MAX: Final = 5.0
# What is due and not taken, and what is offered to workers and not fetched.
_WAITING: Final = """
SELECT count(*) FROM (
    (SELECT FROM quantum.saga_dispatches AS ranked
      WHERE ranked.tenant_id = $1 AND ranked.rank IS NOT NULL AND ranked.lease_owner IS NULL
        AND ranked.kind IN ('call', 'admission') LIMIT $2)
    UNION ALL
    (SELECT FROM quantum.saga_dispatches AS due
      WHERE due.tenant_id = $1 AND due.rank IS NULL AND due.lease_owner IS NULL AND due.due_at <= now()
        AND due.kind IN ('call', 'admission') LIMIT $2)
    UNION ALL
    (SELECT FROM quantum.saga_dispatches AS offered
      WHERE offered.tenant_id = $1 AND offered.kind = 'pull' AND offered.lease_until IS NULL AND offered.lease_owner IS NULL
      LIMIT $2)) AS waiting
"""
# One that a worker has in its hands has its place already, and its row for a moment longer.
_UNDER_WAY: Final = """
SELECT quantum.saga_admitted($1) + (SELECT count(*) FROM quantum.saga_dispatches AS turn
                                     WHERE turn.tenant_id = $1 AND turn.kind = 'admission' AND turn.lease_owner IS NULL)
"""


class StartLimits:
    """Judges starts. `may_start` is what `commands.handle.Shell` asks."""

    def __init__(self, tenants: TenantDirectory, platform_pool: Any, rate: StartRate, installation: TenantLimits) -> None:
        """`installation`: what holds for tenants of which nothing else is set."""
        self._tenants, self._pool, self._rate, self._installation = tenants, platform_pool, rate, installation
        self._queues: OrderedDict[TenantId, tuple[float, int]] = OrderedDict()

    async def in_force(self, tenant_id: TenantId) -> TenantLimits:
        """The limits that hold for the tenant. Raises `StoreUnavailable`."""
        return (await self._tenants.limits(tenant_id)).over(self._installation)

    async def may_start(self, tenant_id: TenantId, is_part: bool) -> bool:
        """True where the execution has to wait for its turn. Raises `LimitReached`, `StoreUnavailable`.

        A part of another execution counts for the rate alone: it has that one's place, which would otherwise wait for its own.
        """
        limits = await self.in_force(tenant_id)
        if limits == NO_LIMITS:
            return False
        if is_part:
            if limits.executions_a_minute is not None:
                await self._check_rate(tenant_id, limits.executions_a_minute)
            return False
        if limits.queue_length is not None:
            await self._check_queue(tenant_id, limits.queue_length)
        most = limits.concurrent_executions
        if most is not None and limits.on_exceeded == "reject" and await self._count(_UNDER_WAY, tenant_id) >= most:
            sentence = f"The tenant has {most:,} executions under way, which is all it may have."
            raise LimitReached("concurrent-executions", most, sentence, again_seconds=AGAIN_SECONDS)
        if limits.executions_a_minute is not None:
            await self._check_rate(tenant_id, limits.executions_a_minute)
        return most is not None

    async def _check_queue(self, tenant_id: TenantId, most: int) -> None:
        counted_at, count = self._queues.get(tenant_id, (float("-inf"), 0))
        if time.monotonic() - counted_at > COUNT_GOOD_SECONDS:
            counted_at, count = time.monotonic(), await self._count(_WAITING, tenant_id, most)
        if count >= most:
            self._note(tenant_id, counted_at, count)
            sentence = f"The tenant has {most:,} calls and executions in its queue, which is all it may have."
            raise LimitReached("queue-length", most, sentence, again_seconds=AGAIN_SECONDS)
        self._note(tenant_id, counted_at, count + 1)

    def _note(self, tenant_id: TenantId, counted_at: float, count: int) -> None:
        self._queues[tenant_id] = (counted_at, count)
        self._queues.move_to_end(tenant_id)
        if len(self._queues) > _TENANTS_KNOWN_MAX:
            self._queues.popitem(last=False)

    async def _check_rate(self, tenant_id: TenantId, most: int) -> None:
        again_seconds = await self._rate.again_seconds(tenant_id, most)
        if again_seconds is not None:
            sentence = f"The tenant may start {most:,} executions a minute, and has."
            raise LimitReached(
                "executions-a-minute", most, sentence, again_seconds=again_seconds, window_seconds=WINDOW_SECONDS
            )  # fmt: skip

    async def _count(self, query: str, *arguments: Any) -> int:
        try:
            async with asyncio.timeout(_QUERY_SECONDS_MAX):
                count: int = await self._pool.fetchval(query, *arguments)
                return count
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
