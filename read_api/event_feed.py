# intent_ref: read-api.events
"""The live end of every tenant's feed: one reader of the log a process, shared by all who follow.

Whoever follows reads history alone (`read_api/feed_pages.py`) and joins when it has caught up. From then on the one reader
hands it what comes, rendered once for all who want the same. A follower's queue is bounded: one that does not keep up is
dropped from the live end, its queue with it, and reads the log by itself again from where it stands. So memory does not grow
with the slow, and a thousand idle followers cost one query a second.

The shared reader works with the platform's role and sees every tenant; `_handed_out` is the one place that says whose is
what, by the tenant id that the row carries.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from domain.values import TenantId
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore
from read_api.feed_pages import Filter

TICK_SECONDS: Final = 5.0
"""How often a follower is woken though nothing came, to look at its own clocks."""
QUEUED_BATCHES_MAX: Final = 256
QUEUED_BYTES_MAX: Final = 1 << 20
_PAGE_EVENTS: Final = 500
_POLL_SECONDS: Final = 1.0
# After handing out, the reader lets pass as much time as its followers took to send it, twice over, within these bounds: then
# a crowd gets fewer and larger pieces and the process has time for its requests; a single follower gets each event at once.
_PAUSE_SECONDS_MIN: Final = 0.002
_PAUSE_SECONDS_MAX: Final = 0.1

log = structlog.get_logger(__name__)
Render = Callable[[RecordedEvent], bytes]


class Batch:
    """What passed one filter in one piece of the log, the positions `(after, next]`: shared by all who follow with it."""

    __slots__ = ("_whole", "after", "next", "parts")

    def __init__(self, after: int, following: int, parts: list[tuple[int, bytes]]) -> None:
        self.after, self.next, self.parts = after, following, parts
        self._whole = b"".join(part for _, part in parts)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._whole)

    def behind(self, position: int) -> bytes:
        """The events after a position."""
        if position <= self.after:
            return self._whole
        return b"".join(part for at, part in self.parts if at > position)


class Follower:
    """One who follows live. `start` is the position after which everything that passes its filter will come to it."""

    __slots__ = ("_batches", "_bytes", "_waiting", "is_behind", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.is_behind = False
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._waiting: asyncio.Future[None] | None = None

    async def take(self) -> list[Batch]:
        """All that has come since the last call, as soon as there is something; nothing at a tick, or when it `is_behind`."""
        if not self._batches and not self.is_behind:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        taken = list(self._batches)
        self._batches.clear()
        self._bytes = 0
        return taken

    def hand(self, batch: Batch) -> bool:
        """Queues a batch; False when it is one too many, and the follower is behind from now on."""
        self._bytes += batch.size
        if len(self._batches) >= QUEUED_BATCHES_MAX or (self._batches and self._bytes > QUEUED_BYTES_MAX):
            self.leave_behind()
            return False
        self._batches.append(batch)
        self.wake()
        return True

    def leave_behind(self) -> None:
        """Drops its queue: it has to read the log by itself."""
        self._batches.clear()
        self.is_behind = True
        self.wake()

    def wake(self) -> None:
        """Lets `take` return."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class EventFeed:
    """The live end of the feeds. `render` makes the bytes of an event, once for each filter it passes."""

    def __init__(self, store: EventStore, render: Render) -> None:
        self._store, self._render = store, render
        self._followers: dict[str, dict[Filter, set[Follower]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self.position = 0
        """Everything up to here has been handed out."""

    @property
    def followers(self) -> int:
        """How many follow live."""
        return sum(len(those) for filters in self._followers.values() for those in filters.values())

    async def join(self, tenant_id: TenantId, wanted: Filter) -> Follower:
        """Follows live from now on, until `leave`. Raises `StoreUnavailable`."""
        if self._task is None:
            position = await self._store.horizon()
            if self._task is None:  # another may have joined meanwhile
                self.position = position
                self._task = asyncio.create_task(self._run(), name="event feed")
        follower = Follower(self.position)
        live = wanted.live(datetime.now(UTC))
        self._followers.setdefault(tenant_id, {}).setdefault(live, set()).add(follower)
        follower.is_behind = self._is_closed
        return follower

    def leave(self, tenant_id: TenantId, follower: Follower) -> None:
        """Ends what `join` began; may be called again."""
        filters = self._followers.get(tenant_id, {})
        for wanted, those in list(filters.items()):
            those.discard(follower)
            if not those:
                del filters[wanted]
        if not filters:
            self._followers.pop(tenant_id, None)

    async def close(self) -> None:
        """Ends the reader; whoever still follows is told that it is behind."""
        self._is_closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._leave_all_behind()

    async def _run(self) -> None:
        ticked = time.monotonic()
        try:
            while self._followers:
                generation = self._store.wakeups.generation
                try:
                    has_more = await self._step()
                except StoreUnavailable:
                    await self._store.wakeups.wait(_POLL_SECONDS)
                    has_more = True
                if not has_more:
                    await self._store.wakeups.wait(_POLL_SECONDS, since=generation)
                if time.monotonic() - ticked >= TICK_SECONDS:
                    ticked = time.monotonic()
                    for follower in self._all():
                        follower.wake()
        except Exception as fault:
            # Nobody may be left waiting for a reader that is gone: they read the log by themselves, and join a new one.
            log.error("the shared reader of the feeds failed", exc_info=fault)
            await asyncio.sleep(_POLL_SECONDS)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
            self._leave_all_behind()

    async def _step(self) -> bool:
        """Reads on and hands out; False where there was nothing new."""
        page = await self._store.read_log(self.position, limit=_PAGE_EVENTS)
        if page.next <= self.position:
            return False
        began = time.perf_counter()
        after, self.position = self.position, page.next
        if self._handed_out(page.events, after):
            await asyncio.sleep(0)  # those who were woken send now, each until its connection is full
            await asyncio.sleep(0)
        took = time.perf_counter() - began
        await asyncio.sleep(min(max(2 * took, _PAUSE_SECONDS_MIN), _PAUSE_SECONDS_MAX))
        return True

    def _handed_out(self, events: list[RecordedEvent], after: int) -> bool:
        by_tenant: dict[str, list[RecordedEvent]] = {}
        for event in events:
            if event.tenant_id in self._followers:
                by_tenant.setdefault(event.tenant_id, []).append(event)
        for tenant_id, those in by_tenant.items():
            rendered: dict[int, bytes] = {}
            for wanted, followers in self._followers[tenant_id].items():
                parts = []
                for event in those:
                    if wanted.passes(event):
                        part = rendered.get(event.position)
                        if part is None:
                            part = rendered[event.position] = self._render(event)
                        parts.append((event.position, part))
                if parts:
                    batch = Batch(after, self.position, parts)
                    followers.difference_update([one for one in followers if not one.hand(batch)])
        return bool(by_tenant)

    def _all(self) -> list[Follower]:
        return [one for filters in self._followers.values() for those in filters.values() for one in those]

    def _leave_all_behind(self) -> None:
        for follower in self._all():
            follower.leave_behind()
        self._followers.clear()
