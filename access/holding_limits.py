# intent_ref: access.limits
"""How many intents, triggers and schedules a tenant may have: asked by the shell before an intent is changed.

Counts come from tables that follow the log, or are part of an append, and are a moment old; so a limit may be passed by what is
written in that moment. Counting a tenant's intents costs milliseconds, so a process that has counted takes an eighth of the room
that is left for itself, for a minute, and counts again when that is used up: far from the limit nearly nobody counts.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

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
_SHARE: Final = 8
_ROOM_SECONDS: Final = 60.0
_FULL_SECONDS: Final = 1.0
_ROOMS_MAX: Final = 10_000
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


@dataclass(slots=True)
class _Room:
    """How many more this process lets through until `until` (on the loop's clock). `is_full`: the limit is reached."""

    left: int
    until: float
    is_full: bool

    @property
    def has_place(self) -> bool:
        """True while nobody has to count again."""
        return (self.left > 0 or self.is_full) and asyncio.get_running_loop().time() <= self.until


class HoldingLimits:
    """Judges changes. `may_hold` is what `commands.handle.Shell` asks."""

    def __init__(self, platform_pool: Any) -> None:
        self._pool = platform_pool
        self._rooms: dict[str, _Room] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def may_hold(self, tenant_id: TenantId, more: Collection[Holding]) -> None:
        """Raises `TooManyIntents`, `TooManyTriggers`, `TooManySchedules` where one more is too many; `StoreUnavailable`."""
        for holding in sorted(more):
            if holding == "intents":
                room = await self._room(tenant_id)
            else:
                async with _in_time():
                    room = await self._counted(tenant_id, holding)
            if room.is_full:
                _, most, refusal = _COUNTS[holding]
                raise refusal(most)
            room.left -= 1

    async def _room(self, tenant_id: TenantId) -> _Room:
        """The tenant's room for intents. Of all who find it used up, one counts."""
        room = self._rooms.get(tenant_id)
        if room is not None and room.has_place:
            return room
        async with _in_time(), self._turns.setdefault(tenant_id, asyncio.Lock()):
            room = self._rooms.get(tenant_id)
            if room is None or not room.has_place:
                room = await self._counted(tenant_id, "intents")
                if len(self._rooms) >= _ROOMS_MAX:
                    self._rooms.clear()
                self._rooms[tenant_id] = room
            return room

    async def _counted(self, tenant_id: TenantId, holding: Holding) -> _Room:
        query, most, _ = _COUNTS[holding]
        count: int = await self._pool.fetchval(query, tenant_id, most)
        is_full, present = count >= most, asyncio.get_running_loop().time()
        return _Room((most - count) // _SHARE, present + (_FULL_SECONDS if is_full else _ROOM_SECONDS), is_full)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            yield
    except DATABASE_AWAY as fault:
        raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
