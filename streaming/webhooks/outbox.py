# intent_ref: streaming.webhooks-ledger
"""What has happened and is not yet in the database, stored a batch at a time: deliveries and the cursors that pass them."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import structlog

from event_store.faults import DATABASE_FAULTS
from streaming.webhooks.deliveries import Delivery
from streaming.webhooks.lane import Lane
from streaming.webhooks.ledger import Ledger, Stored

FULL_AT: Final = 4_000
BATCH_MAX: Final = 1_000
_GATHER_SECONDS: Final = 0.02
_RETRY_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class Outbox:
    """One a process. Nothing leaves it before it is stored; where the database is away it fills up, and sending waits."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], datetime], tail: Callable[[], int], stored: Callable[[], None]
    ) -> None:  # fmt: skip
        self._ledger, self._clock, self._tail, self._stored = ledger, clock, tail, stored
        self._deliveries: dict[tuple[object, ...], tuple[Lane, Delivery]] = {}
        self._lanes: dict[Lane, None] = {}
        self._filled = asyncio.Event()
        self._storing = asyncio.Lock()

    @property
    def is_full(self) -> bool:
        """True where nothing more should be sent before something has been stored."""
        return len(self._deliveries) >= FULL_AT

    def put(self, lane: Lane, deliveries: Iterable[Delivery]) -> None:
        """These have changed, and with them perhaps the lane's cursor."""
        for delivery in deliveries:
            self._deliveries[(*lane.key, delivery.delivery_id)] = (lane, delivery)
        self._lanes[lane] = None
        self._filled.set()

    def touch(self, lane: Lane) -> None:
        """The lane's cursor may have moved."""
        self._lanes[lane] = None
        self._filled.set()

    async def keep_storing(self) -> None:
        """For ever: stores what is put, soon."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            await self.store()

    async def store(self) -> None:
        """Returns when everything that was put before is stored; tries until the database takes it."""
        async with self._storing:
            while self._deliveries or self._lanes:
                self._filled.clear()
                await self._store_batch()
                self._stored()

    async def _store_batch(self) -> None:
        # Cursors may go only as far as what is stored with them, or was before: all lanes wait for the last batch.
        now = self._clock()
        taken = [self._deliveries.pop(key) for key in list(self._deliveries)[:BATCH_MAX]]
        rows = [(lane.key, Stored.of(delivery, now)) for lane, delivery in taken]
        cursors = []
        if not self._deliveries:
            tail = self._tail()
            for lane in self._lanes:
                if not lane.is_dropped:
                    lane.stored_cursor = lane.cursor(tail)
                    cursors.append(
                        (*lane.key, lane.stored_cursor, lane.generation, lane.last_success_at, lane.failing_since)
                    )  # fmt: skip
            self._lanes.clear()
        while True:
            try:
                await self._ledger.store(rows, cursors)
                return
            except DATABASE_FAULTS as fault:
                log.warning("deliveries cannot be stored; trying again", count=len(rows), fault=repr(fault))
                await asyncio.sleep(_RETRY_SECONDS)
