# intent_ref: ground.schema
"""Brings a database to this release: the log's migrations, then the tables of the read models."""

from collections.abc import Callable

from event_store.migrate import migrate
from projections.schema import prepare


async def upgrade(owner_dsn: str, report: Callable[[str], None] = lambda name: None) -> list[str]:
    """Makes what is missing and answers with its names, each also told to `report` as it is done.

    Raises `event_store.migrate.MigrationError`, `projections.schema.RebuildUnderWay`.
    """
    done = await migrate(owner_dsn, report)
    for projection in await prepare(owner_dsn):
        name = f"read model {projection}"
        report(name)
        done.append(name)
    return done
