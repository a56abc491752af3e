# intent_ref: streaming.relay
"""Publishes the log to a transport's broker: in order, nothing skipped, at least once.

One relay of a name is at work at a time; others stand by, waiting for its lock, and take over when its connection ends. The
checkpoint is stored on the connection that holds the lock, so one that has lost the lock cannot move it. What was published
and not yet checkpointed is published again: the same event ids and positions.

The embedded transport reads the log itself. Then the relay leads, publishes nothing and has no lag.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import structlog

from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from event_store.store import EventStore, LogPage
from streaming.transport import Message, Transport

_LOCK = "SELECT pg_advisory_lock(20826, hashtext($1))"
_CHECKPOINT = "SELECT position FROM quantum.relay_checkpoints WHERE relay = $1"
_FIRST_CHECKPOINT = "INSERT INTO quantum.relay_checkpoints (relay, position) VALUES ($1, 0) ON CONFLICT DO NOTHING"
_MOVE = "UPDATE quantum.relay_checkpoints SET position = $3, published_at = now() WHERE relay = $1 AND position = $2"
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)
_STATEMENT_SECONDS_MAX = 10.0
_IDLE_SECONDS_MAX = 1.0
_BACK_OFF_SECONDS = 0.1
_BACK_OFF_SECONDS_MAX = 5.0
_CHECKPOINT_SECONDS = 0.25
_KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads. `horizon` is the log's end as the relay saw it last; 0 where nothing is published."""

    leads: bool = False
    published: int = 0
    failures: int = 0
    position: int = 0
    horizon: int = 0
    observe_publish: Callable[[int, float], None] = field(default=lambda messages, seconds: None)

    @property
    def lag(self) -> int:
        """How many positions the broker has not got yet; 0 for a relay that stands by."""
        return max(0, self.horizon - self.position) if self.leads else 0


class _LostLead(ConnectionError):
    """Another relay has moved the checkpoint."""


class _Reading:
    """Pages of the log. While there is more, the next one is read while the one before is published: one, and never more."""

    def __init__(self, store: EventStore, limit: int) -> None:
        self._store, self._limit = store, limit
        self._after = -1
        self._ahead: asyncio.Task[LogPage] | None = None

    async def page(self, after: int) -> LogPage:
        """The events behind a position; raises `StoreUnavailable`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and self._after == after:
            page = await ahead
        else:
            page = await self._store.read_log(after, limit=self._limit)
        if len(page.events) == self._limit:
            self._after = page.next
            self._ahead = asyncio.create_task(self._store.read_log(page.next, limit=self._limit), name="relay reads ahead")
        return page

    async def close(self) -> None:
        """Gives up what is being read."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)


class Relay:
    """The way out of the log. `name` is the checkpoint's: another broker is another name."""

    def __init__(self, store: EventStore, transport: Transport, *, name: str = "relay", batch_max: int = 500) -> None:
        self._store, self._transport, self._name, self._batch_max = store, transport, name, batch_max
        self.statistics = Statistics()

    async def lag(self) -> int:
        """How many positions the log's complete part is ahead of what was published, by any process; 0 is up to date.

        Raises `StoreUnavailable`.
        """
        if self._transport.reads_the_log:
            return 0
        horizon = await self._store.horizon()
        try:
            position = await self._store.platform_pool.fetchval(_CHECKPOINT, self._name)
        except _FAULTS as fault:
            raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
        return max(0, horizon - (position or 0))

    async def run(self, stop: asyncio.Event) -> None:
        """Leads, or stands by to lead, until `stop` is set."""
        pause = _BACK_OFF_SECONDS
        while not stop.is_set():
            try:
                async with self._leadership(stop) as connection:
                    if connection is not None:
                        pause = _BACK_OFF_SECONDS
                        await self._lead(connection, stop)
            except _FAULTS as fault:
                log.warning("the relay lost its lead or its database", relay=self._name, fault=repr(fault))
                await _wait(stop, pause)
                pause = min(pause * 2, _BACK_OFF_SECONDS_MAX)

    @contextlib.asynccontextmanager
    async def _leadership(self, stop: asyncio.Event) -> AsyncIterator[Any]:
        """The connection that holds the lock, as soon as nobody else does; None when stopped before."""
        connection = await asyncpg.connect(self._store.platform_dsn, timeout=10, server_settings=_KEEPALIVES)
        locking = asyncio.ensure_future(connection.fetchval(_LOCK, self._name))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((locking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if locking.done():
                locking.result()
                self.statistics.leads = True
                yield connection
            else:
                yield None
        finally:
            self.statistics.leads = False
            for task in (locking, stopping):
                task.cancel()
            connection.terminate()
            await asyncio.gather(locking, stopping, return_exceptions=True)

    async def _lead(self, connection: Any, stop: asyncio.Event) -> None:
        await connection.execute(_FIRST_CHECKPOINT, self._name, timeout=_STATEMENT_SECONDS_MAX)
        stored: int = await connection.fetchval(_CHECKPOINT, self._name, timeout=_STATEMENT_SECONDS_MAX)
        loop = asyncio.get_running_loop()
        position, stored_at = stored, loop.time()
        self.statistics.position = position
        log.info("the relay leads", relay=self._name, position=position)
        reading = _Reading(self._store, self._batch_max)
        try:
            while not stop.is_set():
                generation = self._store.wakeups.generation
                moved = False
                if not self._transport.reads_the_log:
                    page = await reading.page(position)
                    moved = page.next > position
                    self.statistics.horizon = max(page.next, self._store.known_horizon)
                    if page.events and not await self._publish([Message.of(event) for event in page.events], connection, stop):
                        break
                    position = self.statistics.position = page.next
                if position > stored and (not moved or loop.time() - stored_at > _CHECKPOINT_SECONDS):
                    await self._move(connection, stored, position)
                    stored, stored_at = position, loop.time()
                if not moved:
                    await self._idle(connection, generation, stop)
        finally:
            await reading.close()
        if position > stored:
            await self._move(connection, stored, position)

    async def _publish(self, messages: list[Message], connection: Any, stop: asyncio.Event) -> bool:
        """Until the transport has all of them; False when stopped before. A broker that is away costs nothing but lag."""
        loop = asyncio.get_running_loop()
        back_off = _BACK_OFF_SECONDS
        while not stop.is_set():
            began = loop.time()
            try:
                await self._transport.publish(messages)
            except Exception as fault:  # also what an engine forgot to translate: going on without the batch would skip it
                self.statistics.failures += 1
                log.warning("the broker is away; publishing waits", relay=self._name, fault=repr(fault), seconds=back_off)
                await _wait(stop, back_off)
                back_off = min(back_off * 2, _BACK_OFF_SECONDS_MAX)
                await connection.execute("SELECT 1", timeout=_STATEMENT_SECONDS_MAX)
                self.statistics.horizon = await self._store.horizon()  # the log goes on growing, and somebody should see it
                continue
            self.statistics.published += len(messages)
            self.statistics.observe_publish(len(messages), loop.time() - began)
            return True
        return False

    async def _move(self, connection: Any, stored: int, position: int) -> None:
        if await connection.execute(_MOVE, self._name, stored, position, timeout=_STATEMENT_SECONDS_MAX) != "UPDATE 1":
            raise _LostLead(f"the checkpoint is no longer at {stored}")

    async def _idle(self, connection: Any, generation: int, stop: asyncio.Event) -> None:
        """Waits for the log to grow, and finds out whether the lock's connection still lives."""
        waking = asyncio.ensure_future(self._store.wakeups.wait(_IDLE_SECONDS_MAX, since=generation))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait((waking, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            stopping.cancel()
        if waking in done and not waking.result():
            await connection.execute("SELECT 1", timeout=_STATEMENT_SECONDS_MAX)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
