# intent_ref: projections.freshness
"""Waiting until a read model shows a write: at once where the projection runs in this process, else by looking at its checkpoint.

Nothing is asked of the database while nobody waits; while anybody does, one small query every few milliseconds serves all.
"""

import asyncio
import contextlib
from typing import Any

import structlog

from projections.checkpoints import is_database_fault

_POLL_SECONDS = 0.006
_POLL_AFTER_SECONDS = 0.1
"""Where the projection runs here, its word comes sooner than a query's; this long it is trusted alone."""
_FAULT_PAUSE_SECONDS = 0.2
WAITERS_MAX = 20_000

log = structlog.get_logger(__name__)


class Freshness:
    """What this process knows of the positions that projections have come to. `pool` may be any that reads checkpoints."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._positions: dict[str, int] = {}
        self._followed: set[str] = set()
        self._waiters: dict[str, dict[asyncio.Future[None], int]] = {}
        self._poller: asyncio.Task[None] | None = None

    def has_seen(self, name: str, position: int) -> bool:
        """Whether it is known here already that the projection shows everything up to `position`."""
        return self._positions.get(name, -1) >= position

    async def wait(self, name: str, position: int, timeout_seconds: float) -> bool:
        """True once the projection shows everything up to `position`, False after `timeout_seconds`."""
        if self._positions.get(name, -1) >= position:
            return True
        waiters = self._waiters.setdefault(name, {})
        if len(waiters) >= WAITERS_MAX:
            return False
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        waiters[waiter] = position
        timer = loop.call_later(_POLL_AFTER_SECONDS if name in self._followed else 0, self._poll_soon)
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
            return True
        except TimeoutError:
            return False
        finally:
            timer.cancel()
            waiters.pop(waiter, None)

    def advanced(self, name: str, position: int) -> None:
        """The projection has come to `position`: its rows are committed."""
        if position <= self._positions.get(name, -1):
            return
        self._positions[name] = position
        for waiter, wanted in list(self._waiters.get(name, {}).items()):
            if wanted <= position and not waiter.done():
                waiter.set_result(None)

    def followed(self, name: str, *, here: bool) -> None:
        """Whether the active runner of the projection is in this process. What is known is forgotten when it ceases to be."""
        if here:
            self._followed.add(name)
        else:
            self._followed.discard(name)
            self._positions.pop(name, None)

    async def close(self) -> None:
        """Ends the query under way, if any."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller

    def _poll_soon(self) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="freshness")

    async def _poll(self) -> None:
        while names := [name for name, waiters in self._waiters.items() if waiters]:
            try:
                rows = await self._pool.fetch(
                    "SELECT name, position FROM quantum.projections WHERE name = ANY ($1::text[])", names
                )
                for row in rows:
                    self.advanced(row["name"], row["position"])
                await asyncio.sleep(_POLL_SECONDS)
            except Exception as fault:
                if not is_database_fault(fault):
                    raise
                log.warning("checkpoints cannot be read; reads that wait for a write go on waiting", fault=repr(fault))
                await asyncio.sleep(_FAULT_PAUSE_SECONDS)
