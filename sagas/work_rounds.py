# intent_ref: sagas.pull-work
"""Who waits for work in this process. However many wait, a tenant asks the database one question at a time, and only when the
answer can have changed: a ring, the end of a lease, or now and then, should a ring have been lost.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from domain.values import TenantId
from event_store.records import StoreUnavailable
from sagas.work_leases import Leased, WorkLeases

LOOK_SECONDS: Final = 10.0
_LEASE_END_SECONDS_MIN: Final = 0.05
Actions = frozenset[str]


class Seat:
    """Where those of one tenant wait."""

    def __init__(self, tenant_id: TenantId, leases: WorkLeases) -> None:
        self.generation = 0
        self.count = 0
        self._tenant_id, self._leases = tenant_id, leases
        self._turn = asyncio.Lock()
        self._rung = asyncio.Event()
        self._empty: dict[Actions, tuple[int, float]] = {}

    def ring(self) -> None:
        """There is new work, or may be."""
        self.generation += 1
        self._empty.clear()
        self._rung.set()
        self._rung = asyncio.Event()

    async def take(
        self, actions: Actions, at_most: int, leased: list[Leased], *, is_asked_once: bool, holder: str = ""
    ) -> None:  # fmt: skip
        """Puts leases of `holder` into `leased`, if there are any units to be had.

        Who waits does not ask what another has asked since the last ring; who does not wait (`is_asked_once`) always asks.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            generation, until = self._empty.get(actions, (-1, 0.0))
            if not is_asked_once and generation == self.generation and loop.time() < until:
                return
            generation = self.generation
            # Whoever is cancelled in the middle of it still learns what was leased, to give it back.
            asking = asyncio.ensure_future(self._leases.fetch(self._tenant_id, actions, at_most, holder))
            try:
                leased += await asyncio.shield(asking)
            except asyncio.CancelledError:
                with contextlib.suppress(StoreUnavailable):
                    leased += await asking
                raise
            if len(leased) < at_most:
                ends = await self._leases.next_look_seconds(self._tenant_id, actions)
                seconds = LOOK_SECONDS if ends is None else min(LOOK_SECONDS, max(ends, _LEASE_END_SECONDS_MIN))
                self._empty[actions] = (generation, loop.time() + seconds)

    async def wait(self, actions: Actions, seconds: float, *, since: int) -> None:
        """Until a ring later than `since`, or something else that makes another look worth while; `seconds` at most."""
        if since != self.generation:
            return
        rung, loop = self._rung, asyncio.get_running_loop()
        _, until = self._empty.get(actions, (0, loop.time() + LOOK_SECONDS))
        waiting = asyncio.ensure_future(rung.wait())
        try:
            await asyncio.wait((waiting,), timeout=max(0.0, min(seconds, until - loop.time())))
        finally:
            waiting.cancel()


class Rounds:
    """The seats of all tenants with somebody in them."""

    def __init__(self, leases: WorkLeases) -> None:
        self._leases = leases
        self._seats: dict[str, Seat] = {}

    def ring(self, tenant_id: str | None) -> None:
        """New work for a tenant; None: for any."""
        for seat in list(self._seats.values()) if tenant_id is None else filter(None, [self._seats.get(tenant_id)]):
            seat.ring()

    @asynccontextmanager
    async def seat(self, tenant_id: TenantId) -> AsyncIterator[Seat]:
        """A place to wait in."""
        seat = self._seats.setdefault(tenant_id, Seat(tenant_id, self._leases))
        seat.count += 1
        try:
            yield seat
        finally:
            seat.count -= 1
            if not seat.count:
                self._seats.pop(tenant_id, None)
