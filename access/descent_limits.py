# intent_ref: access.descent-limits
"""How many executions one execution may start, with all that these start in turn: asked by the shell before one starts.

Exact, over all processes: each descendant has a row with its number behind its root (migration 0054), which is written before it
starts. An execution that starts no other costs nothing, and only starts behind the same root wait for each other.
"""

import asyncio
from typing import Any, Final

from domain.refusals import TooManyDescendants
from domain.values import ExecutionId, TenantId
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable

KEPT_DAYS: Final = 1.0
"""How long a descendant is counted once neither it nor its root is under way: as long as something may still be made again."""
_QUERY_SECONDS_MAX: Final = 10.0
_SWEPT_AT_ONCE: Final = 1_000
_SWEEP: Final = """
DELETE FROM quantum.saga_descendants WHERE ctid = ANY (ARRAY(
    SELECT one.ctid FROM quantum.saga_descendants AS one
     WHERE one.counted_at < now() - make_interval(secs => $1)
       AND NOT EXISTS (SELECT FROM quantum.saga_executions AS root
                        WHERE root.tenant_id = one.tenant_id AND root.execution_id = one.root_id)
       AND NOT EXISTS (SELECT FROM quantum.saga_executions AS descendant
                        WHERE descendant.tenant_id = one.tenant_id AND descendant.execution_id = one.execution_id)
     LIMIT $2)) RETURNING 1
"""


class DescentLimits:
    """Counts descendants. `may_descend` is what `commands.handle.Shell` asks. Every call raises `StoreUnavailable`."""

    def __init__(self, platform_pool: Any, descendants_max: int) -> None:
        self._pool, self._descendants_max = platform_pool, descendants_max

    async def may_descend(self, tenant_id: TenantId, root: ExecutionId, descendant: ExecutionId) -> None:
        """Counts one more; the same one again is not counted again. Raises `TooManyDescendants`."""
        query = "SELECT quantum.saga_descend($1, $2, $3, $4)"
        (row,) = await self._fetch(query, tenant_id, root, descendant, self._descendants_max)
        if not row[0]:
            raise TooManyDescendants(root, self._descendants_max)

    async def sweep(self, days: float = KEPT_DAYS) -> int:
        """Forgets descendants of what is over, at most a thousand at once; how many those were."""
        return len(await self._fetch(_SWEEP, days * 86_400, _SWEPT_AT_ONCE))

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        try:
            async with asyncio.timeout(_QUERY_SECONDS_MAX):
                rows: list[Any] = await self._pool.fetch(query, *arguments)
                return rows
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
