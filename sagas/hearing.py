# intent_ref: sagas.stalls
"""Whether the execution saga has been told of what the log says: if not, the stream is what will wake an execution.

A relay that is down, a broker that is away and consumers that are behind delay executions; they make none of them stall. What
is asked is durable and nobody's memory: how far the relay has published, and the group's own checkpoints.
"""

from collections import OrderedDict
from typing import Any

import structlog

from domain.values import StreamId, TenantId
from event_store.faults import DATABASE_FAULTS
from event_store.store import EventStore
from sagas.execution import GROUP
from streaming.progress import Ask, Place, Progress, log_progress
from streaming.transport import TransportAway

_PLACES_MAX = 20_000
_AWAY: tuple[type[Exception], ...] = (*DATABASE_FAULTS, TransportAway)
_PUBLISHED = "SELECT position FROM quantum.relay_checkpoints WHERE relay = $1"

log = structlog.get_logger(__name__)


class Hearing:
    """What the saga has heard. The answers of a round are of one moment: `begin` the next one for newer ones.

    `relay`: by whose checkpoint the log gets to a broker; None where consumers read the log itself.
    """

    def __init__(self, store: EventStore, ask: Ask | None = None, relay: str | None = None) -> None:
        self._store, self._relay = store, relay
        self._ask: Ask = ask if ask is not None else self._of_the_log
        self._places: OrderedDict[tuple[str, str], tuple[int, Place]] = OrderedDict()
        self._progress: Progress | None = None
        self._published = 0
        self._is_away = False

    def begin(self) -> None:
        """A new round."""
        self._progress, self._is_away = None, False

    async def of_newest(self, tenant_id: TenantId, stream_id: StreamId) -> bool:
        """True where the saga has had the newest event of a stream; False also where nobody can say so now.

        Raises `StoreUnavailable`.
        """
        newest = await self._store.read_stream(tenant_id, stream_id, backward=True, limit=1)
        if not newest:
            return True
        progress = await self._present()
        position = newest[0].position
        if progress is None or (self._relay is not None and self._published < position):
            return False
        where = (tenant_id, stream_id)
        known = self._places.get(where)
        if known is None or known[0] != position:
            # At a broker this is a place behind the event. A later one would do as well, but where the stream never rests,
            # the group would never be seen to have come to its very end.
            known = (position, progress.place_of(f"{tenant_id}/{stream_id}", position))
        if progress.is_past(known[1]):
            self._places.pop(where, None)
            return True
        self._places[where] = known
        if len(self._places) > _PLACES_MAX:
            self._places.popitem(last=False)
        return False

    async def _present(self) -> Progress | None:
        """How far the group has come; None where it cannot be asked in this round."""
        if self._progress is None and not self._is_away:
            try:
                if self._relay is not None:  # first: what was published by now is on the stream when its ends are asked for
                    self._published = await self._pool.fetchval(_PUBLISHED, self._relay) or 0
                self._progress = await self._ask(GROUP)
            except _AWAY as fault:
                self._is_away = True
                log.warning("nobody can say how far the saga has come with the stream", fault=repr(fault))
        return self._progress

    async def _of_the_log(self, group: str) -> Progress:
        return await log_progress(self._pool, group)

    @property
    def _pool(self) -> Any:
        return self._store.platform_pool
