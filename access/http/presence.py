# intent_ref: access.presence
"""Whether whoever asked is still there: what takes its time is not done for nobody."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from starlette.types import Receive

from access.http.problems import unavailable

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None when the client has gone before: then `work` is cancelled. Raises what `work` raises.

    The request's body must have been read.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    with contextlib.suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass


class Places:
    """Counts those who wait in a process, and refuses those who would be too many."""

    def __init__(self, open_max: int, of_tenant_max: int) -> None:
        self._open_max, self._of_tenant_max = open_max, of_tenant_max
        self._open = 0
        self._of_tenant: dict[str, int] = {}

    @contextlib.contextmanager
    def taken(self, tenant_id: str) -> Iterator[None]:
        """One place, for as long as it is entered. Raises `Problem`."""
        of_tenant = self._of_tenant.get(tenant_id, 0)
        if self._open >= self._open_max or of_tenant >= self._of_tenant_max:
            raise unavailable("busy", "Too many requests wait here already.", retry_after_seconds=5)
        self._open += 1
        self._of_tenant[tenant_id] = of_tenant + 1
        try:
            yield
        finally:
            self._open -= 1
            left = self._of_tenant.pop(tenant_id) - 1
            if left:
                self._of_tenant[tenant_id] = left
