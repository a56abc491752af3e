# intent_ref: projections.faults
"""Poison events: one that cannot be applied is set aside with its error, and with it whatever follows in its stream.

The others go on. Once the cause is mended, `retry_faults` applies what was set aside, in order.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from domain.immutable import immutable
from event_store.records import RecordedEvent
from event_store.store import EventStore
from projections.checkpoints import blames_an_event, connect
from projections.read_model import ReadModel
from projections.schema import SERVING

RETRIED_TOGETHER = 500
ERROR_CHARACTERS_MAX = 2_000

log = structlog.get_logger(__name__)
StreamKey = tuple[str, str]

_SET_ASIDE = """
INSERT INTO quantum.projection_faults
       (projection, in_rebuild, position, tenant_id, stream_id, event_id, topic, error, attempts)
SELECT $1, $2, * FROM unnest($3::bigint[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::int[])
"""
_FAULTS = """
SELECT projection, position, tenant_id, stream_id, event_id, topic, error, attempts, failed_at
  FROM quantum.projection_faults
 WHERE ($1::text IS NULL OR projection = $1) AND NOT in_rebuild ORDER BY projection, position LIMIT $2
"""
_TO_RETRY = """
SELECT event.position, event.recorded_at, event.event_id, event.command_id, event.version, event.tenant_id, event.stream_id,
       event.topic, event.metadata, event.payload
  FROM (SELECT position FROM quantum.projection_faults
         WHERE projection = $1 AND NOT in_rebuild AND position > $2 ORDER BY position LIMIT $3) AS fault
  JOIN quantum.events AS event USING (position) ORDER BY event.position
"""


@immutable
class ProjectionFault:
    """An event that was set aside. Without an `error` it waits behind an earlier one of its stream."""

    projection: str
    position: int
    tenant_id: str
    stream_id: str
    event_id: UUID
    topic: str
    error: str | None
    attempts: int
    failed_at: datetime


@immutable
class Retried:
    """What a retry came to: events applied, and events that are set aside still."""

    applied: int
    left: int


async def held_streams(connection: Any, name: str, *, in_rebuild: bool) -> set[StreamKey]:
    """Streams of which events are set aside."""
    rows = await connection.fetch(
        "SELECT DISTINCT tenant_id, stream_id FROM quantum.projection_faults WHERE projection = $1 AND in_rebuild = $2",
        name, in_rebuild,
    )  # fmt: skip
    return {(row[0], row[1]) for row in rows}


async def apply_page(
    connection: Any, model: ReadModel, events: Sequence[RecordedEvent], held: set[StreamKey],
    advance: Callable[[], Awaitable[None]], *, in_rebuild: bool = False,
) -> int:  # fmt: skip
    """Applies events and moves the checkpoint by `advance`, in one transaction. Returns how many were set aside.

    Where the batch fails for what is in it, it is halved until the culprits are found; `held` grows by their streams.
    """
    if not held:
        try:
            async with connection.transaction():
                await advance()
                if events:
                    await model.apply(connection, events)
            return 0
        except Exception as fault:
            if not blames_an_event(fault):
                raise
    aside: list[tuple[RecordedEvent, str | None]] = []
    async with connection.transaction():
        await advance()
        await _apply_carefully(connection, model, events, held, aside)
        await _set_aside(connection, model.name, aside, in_rebuild=in_rebuild)
    return len(aside)


async def _apply_carefully(
    connection: Any, model: ReadModel, events: Sequence[RecordedEvent], held: set[StreamKey],
    aside: list[tuple[RecordedEvent, str | None]],
) -> None:  # fmt: skip
    free = [event for event in events if (event.tenant_id, event.stream_id) not in held]
    if len(free) < len(events):
        aside.extend((event, None) for event in events if (event.tenant_id, event.stream_id) in held)
    if not free:
        return
    try:
        async with connection.transaction():
            await model.apply(connection, free)
        return
    except Exception as fault:
        if not blames_an_event(fault):
            raise
        if len(free) == 1:
            held.add((free[0].tenant_id, free[0].stream_id))
            aside.append((free[0], error_text(fault)))
            log.error(
                "an event cannot be applied; it and what follows in its stream are set aside",
                projection=model.name, position=free[0].position, stream=free[0].stream_id, error=type(fault).__name__,
            )  # fmt: skip
            return
    middle = len(free) // 2
    await _apply_carefully(connection, model, free[:middle], held, aside)
    await _apply_carefully(connection, model, free[middle:], held, aside)


def error_text(fault: BaseException) -> str:
    """A fault as a row keeps it."""
    return f"{type(fault).__name__}: {fault}".replace("\0", "").encode(errors="replace").decode()[:ERROR_CHARACTERS_MAX]


async def _set_aside(
    connection: Any, name: str, aside: Sequence[tuple[RecordedEvent, str | None]], *, in_rebuild: bool
) -> None:  # fmt: skip
    if not aside:
        return
    await connection.execute(
        _SET_ASIDE, name, in_rebuild,
        [event.position for event, _ in aside], [event.tenant_id for event, _ in aside],
        [event.stream_id for event, _ in aside], [event.event_id for event, _ in aside],
        [event.topic for event, _ in aside], [error for _, error in aside],
        [0 if error is None else 1 for _, error in aside],
    )  # fmt: skip


async def list_faults(platform_pool: Any, projection: str | None = None, *, limit: int = 1_000) -> list[ProjectionFault]:
    """Events set aside, of one projection or all, in log order."""
    return [ProjectionFault(*row) for row in await platform_pool.fetch(_FAULTS, projection, limit)]


async def retry_faults(store: EventStore, model: ReadModel) -> Retried:
    """Applies what was set aside, in order; a stream whose event fails again stays aside from there on.

    May run in any process: the active runner is fenced off while it does, and reads its checkpoint anew afterwards.
    """
    applied, after = 0, 0
    held: set[StreamKey] = set()
    connection = await connect(store, model, SERVING)
    try:
        while True:
            async with connection.transaction():
                await connection.execute("UPDATE quantum.projections SET generation = generation + 1 WHERE name = $1", model.name)
                rows = await connection.fetch(_TO_RETRY, model.name, after, RETRIED_TOGETHER)
                events = [RecordedEvent(*row) for row in rows]
                applied += await _retry(connection, model, events, held)
            if len(events) < RETRIED_TOGETHER:
                break
            after = events[-1].position
        left = await connection.fetchval(
            "SELECT count(*) FROM quantum.projection_faults WHERE projection = $1 AND NOT in_rebuild", model.name
        )
        return Retried(applied, left)
    finally:
        connection.terminate()


async def _retry(connection: Any, model: ReadModel, events: Sequence[RecordedEvent], held: set[StreamKey]) -> int:
    done: list[int] = []
    for event in events:
        stream = (event.tenant_id, event.stream_id)
        if stream in held:
            continue
        try:
            async with connection.transaction():
                await model.apply(connection, [event])
            done.append(event.position)
        except Exception as fault:
            if not blames_an_event(fault):
                raise
            held.add(stream)
            await connection.execute(
                "UPDATE quantum.projection_faults SET error = $3, attempts = attempts + 1, failed_at = now()"
                " WHERE projection = $1 AND NOT in_rebuild AND position = $2",
                model.name, event.position, error_text(fault),
            )  # fmt: skip
    await connection.execute(
        "DELETE FROM quantum.projection_faults WHERE projection = $1 AND NOT in_rebuild AND position = ANY ($2::bigint[])",
        model.name, done,
    )  # fmt: skip
    return len(done)
