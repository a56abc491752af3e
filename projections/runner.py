# intent_ref: projections.runner
"""Keeps the read models up to date: one task a projection, one active runner a projection over all processes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from event_store.records import RecordedEvent
from event_store.store import EventStore
from projections.catalogue import READ_MODELS
from projections.checkpoints import (
    PROJECTION_LOCK,
    Checkpoint,
    CheckpointMoved,
    NotPrepared,
    connect,
    is_database_fault,
    move_checkpoint,
    read_checkpoint,
)
from projections.faults import StreamKey, apply_page, held_streams
from projections.freshness import Freshness
from projections.log_reader import LogReader, Page
from projections.read_model import ReadModel
from projections.rebuild import ShapeNotPrepared, rebuild
from projections.schema import SERVING, RebuildUnderWay

BATCH_SIZE = 1_000
STANDBY_SECONDS = 0.5
"""How often a stand-by asks for the lock. Waiting for it inside PostgreSQL would hold a snapshot, and vacuum with it."""
_POLL_SECONDS = 1.0
_SAVE_AFTER_SECONDS = 0.1
_PACE_SECONDS, _PACE_WITHOUT_EVENTS_SECONDS = 0.003, 0.03
_PACE_SECONDS_AN_EVENT, _PACE_SECONDS_MAX = 0.001, 0.05
"""Where events come without a break, pages are read at this pace: a few larger ones cost less than many small ones. A page of one
event is followed by the next after 4 ms; only under a thousand events a second does it come to 50."""
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.1, 2.0

State = Literal["starting", "standby", "rebuilding", "catching-up", "live", "waiting", "stopped"]
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads of a projection in this process. `observe_batch` is called with the events applied and the seconds."""

    state: State = "starting"
    position: int = 0
    horizon: int = 0
    events: int = 0
    batches: int = 0
    set_aside: int = 0
    last_recorded_at: datetime | None = None
    observe_batch: Callable[[Sequence[RecordedEvent], float], None] = field(default=lambda events, seconds: None)

    @property
    def lag_events(self) -> int:
        """Positions of the log not yet looked at, as far as this process knows."""
        return max(0, self.horizon - self.position)

    @property
    def lag_seconds(self) -> float:
        """Age of the last event applied while there are more to come; 0 when there are none."""
        if not self.lag_events or self.last_recorded_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self.last_recorded_at).total_seconds())


class ProjectionRunner:
    """Runs the projections in this process, or stands by for those that run in another. `start`, then `close`."""

    def __init__(
        self, store: EventStore, freshness: Freshness, read_models: Sequence[ReadModel] = READ_MODELS, *,
        batch_size: int = BATCH_SIZE,
    ) -> None:  # fmt: skip
        self.statistics = {model.name: Statistics() for model in read_models}
        self._followers = [_Follower(store, freshness, model, self.statistics[model.name], batch_size) for model in read_models]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins; takes over each projection as soon as nobody else runs it."""
        self._tasks = [asyncio.create_task(follower.run(), name=f"projection-{follower.name}") for follower in self._followers]

    async def close(self) -> None:
        """Stops and lets go of the locks. A batch under way is undone, and done again by whoever comes next."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for statistics in self.statistics.values():
            statistics.state = "stopped"


class _Follower:
    def __init__(
        self, store: EventStore, freshness: Freshness, model: ReadModel, statistics: Statistics, batch_size: int
    ) -> None:  # fmt: skip
        self.name = model.name
        self._store, self._freshness, self._model = store, freshness, model
        self._statistics, self._batch_size = statistics, batch_size
        self._pause = _PAUSE_SECONDS

    async def run(self) -> None:
        """For ever: whatever goes wrong with the database, it is tried again."""
        while True:
            try:
                await self._session()
            except (NotPrepared, ShapeNotPrepared, RebuildUnderWay) as fault:
                log.warning("a projection cannot run yet", projection=self.name, reason=str(fault))
            except Exception as fault:
                level = log.warning if is_database_fault(fault) else log.exception
                level("a projection begins anew", projection=self.name, fault=type(fault).__name__)
            self._statistics.state = "waiting"
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _PAUSE_SECONDS_MAX)

    async def _session(self) -> None:
        """One connection: it holds the lock and does the writing, so whoever loses the lock can no longer write."""
        connection = await connect(self._store, self._model, SERVING)
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", PROJECTION_LOCK, self.name):
                self._statistics.state = "standby"
                await asyncio.sleep(STANDBY_SECONDS)
            self._freshness.followed(self.name, here=True)
            while True:
                try:
                    await self._follow(connection)
                except CheckpointMoved:
                    log.info("a checkpoint was moved by somebody else; it is read again", projection=self.name)
        finally:
            self._freshness.followed(self.name, here=False)
            connection.terminate()

    async def _follow(self, connection: Any) -> None:
        checkpoint = await read_checkpoint(connection, self.name)
        if checkpoint.shape != self._model.shape:
            await self._rebuild()
            checkpoint = await read_checkpoint(connection, self.name)
        held = await held_streams(connection, self.name, in_rebuild=False)
        self._pause = _PAUSE_SECONDS
        self._statistics.state = "catching-up"
        position = checkpoint.position
        self._seen(position, position)
        loop = asyncio.get_running_loop()
        async with LogReader(self._store, self._model.topics, self._batch_size) as pages:
            while True:
                generation, began = self._store.wakeups.generation, loop.time()
                page = await pages.page(position)
                if page.next == position:
                    self._statistics.state = "live"
                    checkpoint = await self._idle(connection, checkpoint, position, generation)
                    continue
                if page.events:
                    checkpoint = await self._apply(connection, checkpoint, page, held)
                position = page.next
                self._seen(position, page.horizon)
                if position == page.horizon:
                    pace = (
                        _PACE_SECONDS + len(page.events) * _PACE_SECONDS_AN_EVENT if page.events else _PACE_WITHOUT_EVENTS_SECONDS
                    )
                    pace = min(pace, _PACE_SECONDS_MAX)
                    await asyncio.sleep(began + pace - loop.time())

    async def _apply(self, connection: Any, checkpoint: Checkpoint, page: Page, held: set[StreamKey]) -> Checkpoint:
        moved = checkpoint

        async def advance() -> None:
            nonlocal moved
            moved = await move_checkpoint(connection, self.name, checkpoint, page.next)

        loop = asyncio.get_running_loop()
        began = loop.time()
        statistics = self._statistics
        statistics.set_aside += await apply_page(connection, self._model, page.events, held, advance)
        statistics.batches += 1
        statistics.events += len(page.events)
        statistics.last_recorded_at = page.events[-1].recorded_at
        statistics.observe_batch(page.events, loop.time() - began)
        return moved

    async def _idle(self, connection: Any, checkpoint: Checkpoint, position: int, generation: int) -> Checkpoint:
        """Waits for the log to grow. Where it grew by others' events alone, the checkpoint is written when things are quiet."""
        unsaved = position > checkpoint.position
        woken = await self._store.wakeups.wait(_SAVE_AFTER_SECONDS if unsaved else _POLL_SECONDS, since=generation)
        if connection.is_closed():
            raise ConnectionError("the connection that held the lock is gone")
        if unsaved and not woken:
            return await move_checkpoint(connection, self.name, checkpoint, position)
        return checkpoint

    async def _rebuild(self) -> None:
        self._statistics.state = "rebuilding"
        log.info("a projection has a new shape and is rebuilt", projection=self.name)
        await rebuild(self._store, self._model, self._seen_in_rebuild, batch_size=self._batch_size)

    def _seen(self, position: int, horizon: int) -> None:
        self._statistics.position, self._statistics.horizon = position, horizon
        self._freshness.advanced(self.name, position)

    def _seen_in_rebuild(self, done: int, total: int) -> None:
        self._statistics.position, self._statistics.horizon = done, total
