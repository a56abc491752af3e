# intent_ref: tests.projections
"""Projections running over a test's database, and what their tables hold."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from event_store.store import EventStore
from projections.catalogue import READ_MODELS
from projections.freshness import Freshness
from projections.read_model import ReadModel
from projections.runner import ProjectionRunner
from tests.waiting import wait_until

TABLES = tuple(table for model in READ_MODELS for table in model.tables)


@dataclass
class Projected:
    """A runner and what it has come to."""

    store: EventStore
    freshness: Freshness
    runner: ProjectionRunner
    names: tuple[str, ...] = field(default=tuple(model.name for model in READ_MODELS))

    async def caught_up(self, *names: str) -> None:
        """Waits until the projections show all that is in the log."""
        horizon = await self.store.horizon()
        for name in names or self.names:
            assert await self.freshness.wait(name, horizon, 20), f"{name} has not come to {horizon}"

    async def state(self, name: str, state: str) -> None:
        """Waits until a projection of this runner is in `state`."""
        await wait_until(lambda: self.runner.statistics[name].state == state, what=f"{name} to be {state}")


@asynccontextmanager
async def projecting(
    store: EventStore, read_models: Sequence[ReadModel] = READ_MODELS, *, batch_size: int = 2_000
) -> AsyncIterator[Projected]:
    """Runs the projections until the block is left."""
    freshness = Freshness(store.platform_pool)
    runner = ProjectionRunner(store, freshness, read_models, batch_size=batch_size)
    runner.start()
    try:
        yield Projected(store, freshness, runner, tuple(model.name for model in read_models))
    finally:
        await runner.close()
        await freshness.close()


async def rows(owner_dsn: str, tenants: Sequence[str] | None = None, tables: Sequence[str] = TABLES) -> dict[str, list[Any]]:
    """Every column of every row of the serving tables, whoever's they are."""
    connection = await asyncpg.connect(owner_dsn)
    try:
        found = {}
        for table in tables:
            query = f"SELECT * FROM quantum_read.{table} WHERE $1::text[] IS NULL OR tenant_id = ANY ($1)"
            found[table] = sorted(tuple(row.items()) for row in await connection.fetch(query, tenants))
        return found
    finally:
        await connection.close()
