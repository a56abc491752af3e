# intent_ref: access.presence
"""Whether whoever asked is still there: what takes its time is not done for nobody."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from starlette.types import Receive

from access.http.problems import Problem, unavailable

AGAIN_SECONDS: Final = 5
"""After which one who was refused may ask again."""
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
    """Counts those who wait in a process, and refuses those who would be too many: a tenant that has its share gets 429, and
    everybody 503 while the process is full.
    """

    def __init__(self, open_max: int, of_tenant_max: int) -> None:
        self._open_max, self._of_tenant_max = open_max, of_tenant_max
        self._of_tenant: dict[str, int] = {}
        self.open = 0
        """How many places are taken."""

    @contextlib.contextmanager
    def taken(self, tenant_id: str) -> Iterator[None]:
        """One place, for as long as it is entered. Raises `Problem`."""
        done = self.take(tenant_id)
        try:
            yield
        finally:
            done()

    def take(self, tenant_id: str) -> Callable[[], None]:
        """One place, until what is returned is called; calling it again does nothing. Raises `Problem`."""
        of_tenant = self._of_tenant.get(tenant_id, 0)
        if of_tenant >= self._of_tenant_max:
            sentence = f"{of_tenant:,} requests of the tenant wait here already, which is all it may have."
            headers = {
                "Retry-After": str(AGAIN_SECONDS), "RateLimit-Policy": f'"open-requests";q={self._of_tenant_max}',
                "RateLimit": f'"open-requests";r=0;t={AGAIN_SECONDS}',
            }  # fmt: skip
            raise Problem("limit-reached", sentence, headers=headers)
        if self.open >= self._open_max:
            raise unavailable("busy", "Too many requests wait here already.", retry_after_seconds=AGAIN_SECONDS)
        self.open += 1
        self._of_tenant[tenant_id] = of_tenant + 1
        is_done = False

        def done() -> None:
            nonlocal is_done
            if is_done:
                return
            is_done = True
            self.open -= 1
            left = self._of_tenant.pop(tenant_id) - 1
            if left:
                self._of_tenant[tenant_id] = left

        return done
