# intent_ref: projections.log-reader
"""Pages of the log with the events that one read model needs, the next page being read while one is applied."""

import asyncio
import contextlib

from domain.immutable import immutable
from event_store import codec
from event_store.records import RecordedEvent
from event_store.store import EventStore

_READ = """
SELECT position, recorded_at, event_id, command_id, version, tenant_id, stream_id, topic, metadata, payload
  FROM quantum.events
 WHERE position > $1 AND position <= $2 AND topic = ANY ($3::text[]) ORDER BY position LIMIT $4
"""
_WINDOW_MAX = 1 << 18
"""Positions one query may walk over: where a projection's events are rare, a page is bounded in work, not only in events."""


@immutable
class Page:
    """Events in log order, where the reader has come to, and how far the log was complete when it was read."""

    events: list[RecordedEvent]
    next: int
    horizon: int


class LogReader:
    """Reads forward, never past the horizon. Use as an async context manager: it owns the read under way."""

    def __init__(self, store: EventStore, topics: frozenset[str], batch_size: int) -> None:
        self._store, self._topics, self._batch_size = store, topics, batch_size
        self._window = batch_size
        self._horizon = 0
        self._ahead: tuple[int, asyncio.Task[Page]] | None = None

    async def __aenter__(self) -> "LogReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop()

    async def page(self, after: int) -> Page:
        """The page after a position; no events and `next == after` where the log has nothing more."""
        if self._ahead is not None and self._ahead[0] == after:
            page = await self._ahead[1]
            self._ahead = None
        else:
            await self._drop()
            page = await self._read(after)
        if page.next > after and page.next < page.horizon:
            self._ahead = (page.next, asyncio.create_task(self._read(page.next), name="log-read-ahead"))
        return page

    async def _read(self, after: int) -> Page:
        if self._horizon <= after:
            newest = await self._store.newest(after, limit=self._batch_size, topics=self._topics)
            self._horizon = max(self._horizon, self._store.known_horizon)
            if newest is not None:
                return Page([_decoded(event) for event in newest.events], newest.next, max(self._horizon, newest.next))
        horizon = self._horizon
        if horizon <= after:
            return Page([], after, horizon)
        until = min(horizon, after + self._window)
        rows = await self._store.platform_pool.fetch(_READ, after, until, sorted(self._topics), self._batch_size)
        events = [_decoded(RecordedEvent(*row)) for row in rows]
        if len(events) < self._batch_size // 4:
            self._window = min(self._window * 2, _WINDOW_MAX)
        elif len(events) == self._batch_size:
            self._window = max(self._window // 2, self._batch_size)
        return Page(events, events[-1].position if len(events) == self._batch_size else until, horizon)

    async def _drop(self) -> None:
        if self._ahead is not None:
            _, task = self._ahead
            self._ahead = None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _decoded(recorded: RecordedEvent) -> RecordedEvent:
    """Decodes while PostgreSQL is busy with the page before. Bytes that cannot be decoded are for the one who applies to find."""
    with contextlib.suppress(codec.UnknownTopic, codec.UndecodableEvent):
        _ = recorded.event
    return recorded
