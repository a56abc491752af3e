# intent_ref: streaming.embedded
"""Which partitions this process reads, agreed with the others of its group through PostgreSQL.

The rules are in `quantum.stream_heartbeat`: a member that is alive keeps what it has, a free partition goes to whoever has
fewer than its share, and whoever has more lets go after the batch in hand.
"""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

import structlog

from event_store.faults import DATABASE_FAULTS

HEARTBEAT_SECONDS = 1.0
ALIVE_SECONDS = 4.0
"""A member is taken for dead when its last heartbeat is this old; then its partitions move."""

_HEARTBEAT = "SELECT * FROM quantum.stream_heartbeat($1, $2, $3, $4, $5, $6, $7, $8)"
_RELEASE = "SELECT quantum.stream_release($1, $2, $3, $4, $5, $6, $7)"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Lease:
    """A partition of ours: the fencing epoch, and the position up to which the handler is done with it."""

    epoch: int
    done: int


class Partitions:
    """One member's part of a group: keeps the leases alive in the background and stores checkpoints with each heartbeat."""

    def __init__(self, pool: Any, group: str, partitions: int, start: int) -> None:
        self._pool, self._group, self.count, self._start = pool, group, partitions, start
        self.member = secrets.token_hex(8)
        self.held: dict[int, Lease] = {}
        self.changed = asyncio.Event()
        self._share = partitions
        self._alive_until = 0.0
        self._beating = asyncio.Lock()

    @property
    def are_ours(self) -> bool:
        """False once our last heartbeat is so old that others may have taken the partitions."""
        return asyncio.get_running_loop().time() < self._alive_until

    @property
    def surplus(self) -> list[int]:
        """Partitions beyond our share, which a new member waits for."""
        return sorted(self.held)[self._share :]

    async def keep(self) -> None:
        """Heartbeats for ever. Where the database is away, the leases run out and reading stops until it is back."""
        while True:
            await self.beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def beat(self) -> None:
        """One heartbeat: checkpoints out, leases in."""
        async with self._beating:
            loop = asyncio.get_running_loop()
            began = loop.time()
            numbers, epochs, done = self._columns(list(self.held))
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    rows = await self._pool.fetch(
                        _HEARTBEAT, self._group, self.member, self.count, ALIVE_SECONDS, self._start, numbers, epochs, done
                    )  # fmt: skip
            except DATABASE_FAULTS as fault:
                log.warning("a consumer's heartbeat failed", group=self._group, fault=repr(fault))
                return
            self._alive_until = began + ALIVE_SECONDS * 0.75
            self._take_over(rows)

    def _take_over(self, rows: list[Any]) -> None:
        before = set(self.held)
        self._share = rows[0]["share"]
        held: dict[int, Lease] = {}
        for row in rows:
            if row["partition"] is None:
                continue
            ours = self.held.get(row["partition"])
            same = ours is not None and ours.epoch == row["epoch"]
            held[row["partition"]] = ours if ours is not None and same else Lease(row["epoch"], row["checkpoint"])
        self.held = held
        if set(held) != before or self.surplus:
            self.changed.set()

    async def release(self, numbers: list[int], *, leaving: bool = False) -> None:
        """Stores the checkpoints of partitions and lets them go; others take them at their next heartbeat."""
        async with self._beating:
            columns = self._columns(numbers)
            for number in numbers:
                self.held.pop(number, None)
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    await self._pool.execute(_RELEASE, self._group, self.member, self.count, leaving, *columns)
            except DATABASE_FAULTS as fault:
                log.warning("partitions were not released; they move when the lease runs out", fault=repr(fault))

    def _columns(self, numbers: list[int]) -> tuple[list[int], list[int], list[int]]:
        known = [number for number in numbers if number in self.held]
        leases = [self.held[number] for number in known]
        return known, [lease.epoch for lease in leases], [lease.done for lease in leases]
