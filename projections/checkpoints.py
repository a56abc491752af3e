# intent_ref: projections.checkpoints
"""How far a projection has come: read, moved, and measured against the log."""

from typing import Any

import asyncpg

from domain.immutable import immutable
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from projections.read_model import ReadModel

PROJECTION_LOCK = 20823
"""Class of the advisory lock that the active runner of a projection holds; its object is hashtext(name)."""

NO_EVENTS_FAULT: tuple[type[Exception], ...] = (
    *DATABASE_AWAY,
    StoreUnavailable,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.PostgresSystemError,
)
"""What says nothing about an event: the database is away, in a hurry, or not migrated. Begin anew after a pause."""


def is_database_fault(fault: BaseException) -> bool:
    """False for what the content of an event can cause, and that is also a value the driver cannot encode."""
    return isinstance(fault, NO_EVENTS_FAULT) and not isinstance(fault, ValueError)


class CheckpointMoved(Exception):
    """Somebody else moved the checkpoint, switched the tables or retried faults: nothing was applied; read it again."""


def blames_an_event(fault: Exception) -> bool:
    """True when the fault came of what was applied, so that applying it again would fail again."""
    return not is_database_fault(fault) and not isinstance(fault, CheckpointMoved)


class NotPrepared(Exception):
    """The database has no tables for this projection. Run `quantum migrate`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: {self.__doc__}")
        self.name = name


@immutable
class Checkpoint:
    """All events up to `position` are in the tables. `generation` grows when somebody else changed something."""

    position: int
    generation: int
    shape: str


@immutable
class Lag:
    """How far a projection is behind: positions of the log, and the age in seconds of the first event it has not seen."""

    events: int
    seconds: float


async def read_checkpoint(connection: Any, name: str) -> Checkpoint:
    """The checkpoint now; raises `NotPrepared`."""
    row = await connection.fetchrow("SELECT position, generation, shape FROM quantum.projections WHERE name = $1", name)
    if row is None:
        raise NotPrepared(name)
    return Checkpoint(*row)


async def move_checkpoint(connection: Any, name: str, known: Checkpoint, position: int) -> Checkpoint:
    """Moves the checkpoint inside the caller's transaction and locks it until its end; raises `CheckpointMoved`.

    It is a transaction's first write, so two that both believe to be the active runner meet here, before any row of theirs.
    """
    moved = await connection.execute(
        "UPDATE quantum.projections SET position = $2 WHERE name = $1 AND position = $3 AND generation = $4",
        name, position, known.position, known.generation,
    )  # fmt: skip
    if moved != "UPDATE 1":
        raise CheckpointMoved(name)
    return Checkpoint(position, known.generation, known.shape)


async def lag(store: EventStore, name: str) -> Lag:
    """The lag as the database has it, whoever runs the projection; raises `NotPrepared`."""
    checkpoint = await read_checkpoint(store.platform_pool, name)
    horizon = await store.horizon()
    if horizon <= checkpoint.position:
        return Lag(0, 0.0)
    seconds = await store.platform_pool.fetchval(
        "SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 FROM quantum.events"
        " WHERE position > $1 AND position <= $2 ORDER BY position LIMIT 1",
        checkpoint.position, horizon,
    )  # fmt: skip
    return Lag(horizon - checkpoint.position, max(0.0, seconds or 0.0))


async def connect(store: EventStore, model: ReadModel, schema: str) -> Any:
    """A connection of its own to PostgreSQL itself, on which the read model's table names mean those in `schema`.

    Its commits do not wait for the disk: rows and checkpoint are lost together, and made again from the log, which is durable.
    """
    return await asyncpg.connect(
        store.platform_dsn,
        timeout=10,
        command_timeout=60,
        server_settings={
            "application_name": f"quantum projection {model.name}"[:63],
            "search_path": schema,
            "synchronous_commit": "off",
            "client_min_messages": "error",
            "jit": "off",
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
        },
    )
