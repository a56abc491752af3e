# intent_ref: projections.rebuild
"""Rebuilding a read model beside the one that serves, then switching, all in view of readers who notice nothing.

A rebuild always begins with empty tables: whoever asks for one mostly does so because the code that made the rows has changed.
One that ended early leaves nothing but rows that the next one throws away.
"""

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncpg

from event_store.store import EventStore
from projections.checkpoints import CheckpointMoved, connect
from projections.faults import StreamKey, apply_page
from projections.log_reader import LogReader
from projections.read_model import ReadModel
from projections.schema import REBUILD, REBUILD_LOCK, RebuildUnderWay

TAIL_MAX = 2_000
"""Positions that may be left for the moment of the switch, while the live runner is held off."""
_LOCK_MILLISECONDS_MAX = 100
"""Readers queue behind the switch at most this long before it is given up and tried again …"""
_PATIENT_AFTER_ATTEMPTS = 20
_PATIENT_LOCK_MILLISECONDS_MAX = 1_500
"""… but a vacuum gives way only to one that has waited for deadlock_timeout (1 s), so later attempts wait longer."""
_ROUNDS_NEAR_MAX = 20
_SHADOW_LOCK_MILLISECONDS_MAX = 5_000
_SWITCH_PAUSE_SECONDS = 0.2

Progress = Callable[[int, int], None]


class ShapeNotPrepared(Exception):
    """The tables for a rebuild have not the shape this release needs. Run `quantum migrate`, then rebuild."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: {self.__doc__}")
        self.name = name


async def rebuild(
    store: EventStore, model: ReadModel, progress: Progress = lambda done, total: None, *, batch_size: int = 1_000
) -> int:  # fmt: skip
    """Builds the read model anew from the whole log and switches to it. Returns the position it has come to.

    `progress` is told positions done and in all. Raises `RebuildUnderWay`, `ShapeNotPrepared`, and what the database raises.
    """
    connection = await connect(store, model, REBUILD)
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", REBUILD_LOCK, model.name):
            raise RebuildUnderWay(model.name)
        async with connection.transaction():
            if not await connection.fetchval("SELECT quantum.begin_projection_rebuild($1, $2)", model.name, model.shape):
                raise ShapeNotPrepared(model.name)
            await connection.execute("DELETE FROM quantum.projection_faults WHERE projection = $1 AND in_rebuild", model.name)
        return await _Rebuild(store, model, connection, progress, batch_size).run()
    finally:
        connection.terminate()


class _Rebuild:
    def __init__(self, store: EventStore, model: ReadModel, connection: Any, progress: Progress, batch_size: int) -> None:
        self._store, self._model, self._connection = store, model, connection
        self._progress, self._batch_size = progress, batch_size
        self._position = 0
        self._held: set[StreamKey] = set()

    async def run(self) -> int:
        async with LogReader(self._store, self._model.topics, self._batch_size) as pages:
            await self._catch_up(pages)
            await self._connection.execute("SELECT quantum.analyze_projection_rebuild($1)", self._model.name)
            for attempt in itertools.count():
                await self._catch_up(pages)
                patient = attempt >= _PATIENT_AFTER_ATTEMPTS
                try:
                    if await self._switch(pages, _PATIENT_LOCK_MILLISECONDS_MAX if patient else _LOCK_MILLISECONDS_MAX):
                        break
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                    await asyncio.sleep(_SWITCH_PAUSE_SECONDS)
        return self._position

    async def _catch_up(self, pages: LogReader) -> None:
        """To the end of the log, or near it: where it is written to all the time there is no end to wait for."""
        rounds_near = 0
        while rounds_near < _ROUNDS_NEAR_MAX:
            page = await pages.page(self._position)
            if page.next == self._position:
                return
            await apply_page(
                self._connection, self._model, page.events, self._held, partial(self._advance, page.next), in_rebuild=True
            )
            self._position = page.next
            self._progress(self._position, page.horizon)
            rounds_near += page.horizon - page.next < TAIL_MAX // 4

    async def _advance(self, position: int) -> None:
        moved = await self._connection.execute(
            "UPDATE quantum.projections SET rebuild_position = $2 WHERE name = $1 AND rebuild_position = $3",
            self._model.name, position, self._position,
        )  # fmt: skip
        if moved != "UPDATE 1":
            raise CheckpointMoved(self._model.name)

    async def _switch(self, pages: LogReader, lock_milliseconds_max: int) -> bool:
        """False when the live tables have run ahead too far; then catch up and try again."""
        before, held = self._position, set(self._held)
        connection, name = self._connection, self._model.name
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {_SHADOW_LOCK_MILLISECONDS_MAX}")
                await connection.execute(f"LOCK TABLE {', '.join(self._model.tables)} IN ACCESS EXCLUSIVE MODE")
                await connection.execute(f"SET LOCAL lock_timeout = {lock_milliseconds_max}")
                serving = await connection.fetchval("SELECT position FROM quantum.projections WHERE name = $1 FOR UPDATE", name)
                if serving > self._position + TAIL_MAX:
                    return False
                while self._position < serving:
                    page = await pages.page(self._position)
                    await apply_page(
                        connection, self._model, page.events, self._held, partial(self._advance, page.next), in_rebuild=True
                    )
                    self._position = page.next
                await connection.execute("SELECT quantum.switch_projection($1)", name)
                await connection.execute("DELETE FROM quantum.projection_faults WHERE projection = $1 AND NOT in_rebuild", name)
                await connection.execute("UPDATE quantum.projection_faults SET in_rebuild = false WHERE projection = $1", name)
            self._progress(self._position, self._position)
            return True
        except BaseException:
            self._position, self._held = before, held
            raise
