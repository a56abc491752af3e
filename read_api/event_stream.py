# intent_ref: read-api.events
"""A tenant's feed as Server-Sent Events: history from any point, then live, until the client goes or its token expires."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from access.http.presence import unless_gone
from domain.values import TenantId
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore
from read_api.event_feed import EventFeed
from read_api.feed_pages import FeedPages, Filter

HEARTBEAT_SECONDS: Final = 15.0
SEND_SECONDS_MAX: Final = 60.0
"""A client that takes nothing for so long is given up; it resumes where it was."""
_PAGE_EVENTS: Final = 200
_RETRY_SECONDS: Final = 1.0


class EventStream(Response):
    """The answer that streams what passes a filter after a position, in order, each event once.

    `render` makes the frame of an event. Ends when `expires_at` (Unix seconds) is past: the client comes again with a new
    token and the id of the last event it has seen.
    """

    media_type = "text/event-stream"

    def __init__(
        self, store: EventStore, feed: EventFeed, tenant_id: TenantId, wanted: Filter, *,
        after: int, render: Callable[[RecordedEvent], bytes], expires_at: float, done: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._store, self._pages, self._feed = store, FeedPages(store), feed
        self._tenant_id, self._wanted, self._position = tenant_id, wanted, after
        self._render, self._expires_at, self._done = render, expires_at, done
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Writes until the end, or until the client has gone; then nothing of it is left."""
        scope["quantum.is_stream"] = True  # a server that stops cuts it at once
        try:
            with contextlib.suppress(OSError):
                await unless_gone(receive, self._write(send))
        finally:
            self._done()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send(send, b": events follow\n\n")
        while not self._has_expired():
            try:
                await self._catch_up(send)
                follower = await self._feed.join(self._tenant_id, self._wanted)
            except StoreUnavailable:  # the client waits, as it would for an event; the heartbeat goes on
                await self._store.wakeups.wait(_RETRY_SECONDS)
                await self._heartbeat(send)
                continue
            try:
                while self._position < follower.start:  # what was stored between the last look and now
                    await self._catch_up(send)
                while not follower.is_behind and not self._has_expired():
                    batches = await follower.take()
                    reached = max([self._position, *(batch.next for batch in batches)])
                    if not batches and not follower.is_behind:
                        reached = max(reached, self._feed.position)  # all of it was handed out, and none of it is left here
                    chunk = b"".join([batch.behind(self._position) for batch in batches])
                    self._position = reached
                    if chunk:
                        await self._send(send, chunk)
                    else:
                        await self._heartbeat(send)
            except StoreUnavailable:
                await self._store.wakeups.wait(_RETRY_SECONDS)
            finally:
                self._feed.leave(self._tenant_id, follower)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _catch_up(self, send: Send) -> None:
        """Sends what the log holds up to its end as it is now."""
        while not self._has_expired():
            page = await self._pages.page(self._tenant_id, self._position, self._wanted, limit=_PAGE_EVENTS)
            if page.events:
                await self._send(send, b"".join([self._render(event) for event in page.events]))
            self._position = page.next
            if page.is_end:
                return
            await self._heartbeat(send)

    def _has_expired(self) -> bool:
        return time.time() >= self._expires_at

    async def _heartbeat(self, send: Send) -> None:
        if time.monotonic() - self._last_sent >= HEARTBEAT_SECONDS:
            await self._send(send, b": still here\n\n")

    async def _send(self, send: Send, chunk: bytes) -> None:
        message: Message = {"type": "http.response.body", "body": chunk, "more_body": True}
        async with asyncio.timeout(SEND_SECONDS_MAX):
            await send(message)
        self._last_sent = time.monotonic()
