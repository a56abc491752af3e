# intent_ref: read-api.events
"""A tenant's feed from any point of its history: pages of events that pass a filter, read under the tenant's own security."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from domain.immutable import immutable
from domain.values import TenantId
from event_store.faults import DATABASE_AWAY
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore

SCANNED_MAX: Final = 10_000
"""Events one query looks at, at most, whatever its filter lets through."""
OVERLAP: Final = timedelta(seconds=10)
"""How much later than an event with a higher position one with a lower may have been recorded: an append's transaction is
over long before that. A time filter looks this much further, and then at each event's own time."""
_COLUMNS = "position, recorded_at, event_id, command_id, version, tenant_id, stream_id, topic, metadata, payload"
_READ_STREAM = f"SELECT {_COLUMNS} FROM quantum.read_tenant_stream($1, $2, $3, $4, $5, $6)"  # noqa: S608 - constants only
_READ_TENANT = f"SELECT {_COLUMNS} FROM quantum.read_tenant_log($1, $2, $3, $4, $5)"  # noqa: S608
_WINDOW = "SELECT quantum.tenant_log_window($1, $2, $3, $4)"
_BEFORE = "SELECT quantum.tenant_position_before($1, $2, $3)"

Envelope = Callable[[RecordedEvent], bytes]
"""An event as the outside sees it, in JSON."""


@immutable
class Filter:
    """Which of a tenant's events are wanted; all that is said must hold. `since` is included, `until` is not."""

    topics: frozenset[str] | None = None
    stream_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def passes(self, event: RecordedEvent) -> bool:
        """True for an event that is wanted."""
        return (
            (self.topics is None or event.topic in self.topics)
            and (self.stream_id is None or event.stream_id == self.stream_id)
            and (self.since is None or event.recorded_at >= self.since)
            and (self.until is None or event.recorded_at < self.until)
        )

    def live(self, now: datetime) -> "Filter":
        """The same for events from now on, so that readers who differ only in where they began share one."""
        is_past = self.since is not None and self.since + OVERLAP < now
        return replace(self, since=None) if is_past else self


@immutable
class FeedPage:
    """Events in order, the position the reader has come to, and whether that is the end for now.

    A page may be empty and not the end: then the filter let nothing through of what was looked at.
    """

    events: list[RecordedEvent]
    next: int
    is_end: bool


class FeedPages:
    """Reads feeds from the log. What it raises when the database is away is `StoreUnavailable`."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def start(self, tenant_id: TenantId, after: int, wanted: Filter) -> int:
        """The position to begin at: `after`, or where `since` begins if that is later."""
        if wanted.since is None:
            return after
        try:
            moment = wanted.since - OVERLAP
        except OverflowError:
            return after
        horizon = await self._store.horizon()
        return max(after, await self._value(_BEFORE, tenant_id, moment, horizon))

    async def end(self, tenant_id: TenantId, wanted: Filter) -> int:
        """The position up to which `until` can let events through now."""
        horizon = await self._store.horizon()
        if wanted.until is None:
            return horizon
        try:
            moment = wanted.until + OVERLAP
        except OverflowError:
            return horizon
        return min(horizon, await self._value(_BEFORE, tenant_id, moment, horizon))

    async def page(self, tenant_id: TenantId, after: int, wanted: Filter, *, limit: int, up_to: int | None = None) -> FeedPage:
        """Up to `limit` events after a position, to the log's end as it is now or to `up_to`, a position that `end` gave."""
        end = up_to
        if end is None:
            end = self._store.known_horizon
            if end <= after + limit:
                end = await self._store.horizon()
        if end <= after:
            return FeedPage([], after, is_end=True)
        topics = None if wanted.topics is None else sorted(wanted.topics)
        window = end
        if wanted.stream_id is not None:
            rows = await self._rows(_READ_STREAM, tenant_id, wanted.stream_id, after, end, topics, limit)
        else:
            if topics is not None:
                window = await self._value(_WINDOW, tenant_id, after, end, SCANNED_MAX)
            rows = await self._rows(_READ_TENANT, tenant_id, after, window, topics, limit)
        reached = rows[-1].position if len(rows) == limit else window
        return FeedPage([event for event in rows if wanted.passes(event)], reached, is_end=reached >= end)

    async def _rows(self, query: str, *arguments: Any) -> list[RecordedEvent]:
        try:
            return [RecordedEvent(*row) for row in await self._store.tenant_pool.fetch(query, *arguments)]
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault

    async def _value(self, query: str, *arguments: Any) -> int:
        try:
            value: int = await self._store.tenant_pool.fetchval(query, *arguments)
            return value
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault
