# intent_ref: access.limits
"""How many intents, triggers and schedules a tenant may have: asked by the shell before an intent is changed.

Counts come from tables that follow the log, or are part of an append, and are a moment old; so a limit may be passed by what is
written in that moment.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

from domain.refusals import Refusal, TooManyIntents, TooManySchedules, TooManyTriggers
from domain.tenant_limits import Holding
from domain.values import TenantId
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable

INTENTS_MAX: Final = 100_000
TRIGGERS_MAX: Final = 1_000
"""Each event of a tenant is held against each of its triggers."""
SCHEDULES_MAX: Final = 10_000
_QUERY_SECONDS_MAX: Final = 5.0
_COUNTS: Final[dict[Holding, tuple[str, int, type[Refusal]]]] = {
    "intents": (
        "SELECT count(*) FROM (SELECT FROM quantum.claims WHERE tenant_id = $1 AND scope = 'intent-name' LIMIT $2) AS held",
        INTENTS_MAX, TooManyIntents,
    ),
    "triggers": (
        "SELECT count(*) FROM (SELECT FROM quantum.saga_triggers"
        " WHERE tenant_id = $1 AND trigger IS NOT NULL AND NOT archived LIMIT $2) AS held",
        TRIGGERS_MAX, TooManyTriggers,
    ),
    "schedules": (
        "SELECT count(*) FROM (SELECT FROM quantum.saga_schedules"
        " WHERE tenant_id = $1 AND schedule IS NOT NULL AND NOT archived LIMIT $2) AS held",
        SCHEDULES_MAX, TooManySchedules,
    ),
}  # fmt: skip


class HoldingLimits:
    """Judges changes. `may_hold` is what `commands.handle.Shell` asks."""

    def __init__(self, platform_pool: Any) -> None:
        self._pool = platform_pool

    async def may_hold(self, tenant_id: TenantId, more: Collection[Holding]) -> None:
        """Raises `TooManyIntents`, `TooManyTriggers`, `TooManySchedules` where one more is too many; `StoreUnavailable`."""
        for holding in sorted(more):
            query, most, refusal = _COUNTS[holding]
            try:
                async with asyncio.timeout(_QUERY_SECONDS_MAX):
                    count: int = await self._pool.fetchval(query, tenant_id, most)
            except DATABASE_AWAY as fault:
                raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
            if count >= most:
                raise refusal(most)
