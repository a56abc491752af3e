# intent_ref: sagas.execution
"""The rows of calls that are over go, and those of calls that could not be made are given back: many in one statement."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from event_store.faults import DATABASE_FAULTS
from sagas.dispatches import Dispatches, Key

_TOGETHER_MAX = 1_000
_FAULT_PAUSE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Sweeper:
    """One worker's rows to be settled. `settled` hears of those that are."""

    def __init__(self, dispatches: Dispatches, settled: Callable[[Sequence[Key]], None]) -> None:
        self._dispatches, self._settled = dispatches, settled
        self._over: deque[Key] = deque()
        self._failed: deque[Key] = deque()
        self._clean = asyncio.Event()

    @property
    def keys(self) -> set[Key]:
        """What is still to be settled."""
        return {*self._over, *self._failed}

    def over(self, key: Key) -> None:
        """The call is over: its row goes, at the next `sweep`."""
        self._over.append(key)

    def failed(self, key: Key) -> None:
        """The call could not be made: its row is anybody's again, a little later."""
        self._failed.append(key)

    def sweep(self) -> None:
        """Something may be there to settle."""
        if self._over or self._failed:
            self._clean.set()

    async def run(self) -> None:
        """Settles what there is, as much at once as possible, until cancelled."""
        while True:
            await self._clean.wait()
            self._clean.clear()
            try:
                await self.flush()
            except DATABASE_FAULTS as fault:
                log.warning("finished attempts are deleted later", fault=repr(fault))
                await asyncio.sleep(_FAULT_PAUSE_SECONDS)
                self._clean.set()

    async def flush(self) -> None:
        """Settles everything now; raises the driver's errors."""
        for queue, settle in ((self._over, self._dispatches.delete), (self._failed, self._dispatches.postpone)):
            while keys := list(queue)[:_TOGETHER_MAX]:
                await settle(keys)
                for _ in keys:
                    queue.popleft()
                self._settled(keys)
