# intent_ref: projections.schema
"""Makes the tables of the read models, as the owner, when the database is migrated.

A read model's tables are disposable and belong to its file, so they are not in the numbered migrations, which are for ever:
`prepare` makes each table twice from the same text, in the schema that serves and in the one a rebuild fills. Where a release
brings another shape, the former tables go on serving; the new ones are made beside them, and the runner rebuilds into them and
switches.
"""

from collections.abc import Sequence
from typing import Any

import asyncpg

from projections.catalogue import READ_MODELS
from projections.read_model import ReadModel

SERVING, REBUILD = "quantum_read", "quantum_rebuild"
REBUILD_LOCK = 20824
"""Class of the advisory lock that a rebuild holds; its object is hashtext(name)."""
_MIGRATION_LOCK = "SELECT pg_advisory_lock(20820, 0)"
_PROTECTION = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON {table} FOR SELECT TO quantum_app USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON {table} TO quantum_platform USING (true) WITH CHECK (true);
GRANT SELECT ON {table} TO quantum_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO quantum_platform;
"""


class RebuildUnderWay(Exception):
    """A rebuild of this projection is under way: wait until it has ended, or stop it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: {self.__doc__}")
        self.name = name


async def prepare(owner_dsn: str, read_models: Sequence[ReadModel] = READ_MODELS) -> list[str]:
    """Makes what is missing, as `event_store.migrate` does for the log, and after it. Returns the names of projections whose
    tables were made or made anew. Concurrent calls wait for each other. Raises `RebuildUnderWay`.
    """
    connection = await asyncpg.connect(owner_dsn)
    try:
        await connection.execute(_MIGRATION_LOCK)
        await connection.execute("SET ROLE quantum_owner")
        return [model.name for model in read_models if await _prepare(connection, model)]
    finally:
        await connection.close()


async def _prepare(connection: Any, model: ReadModel) -> bool:
    async with connection.transaction():
        known = await connection.fetchrow("SELECT tables, rebuild_shape FROM quantum.projections WHERE name = $1", model.name)
        made = known is None or known["rebuild_shape"] != model.shape
        if known is None:
            await _make(connection, model, SERVING)
            await _make(connection, model, REBUILD)
            await connection.execute(
                "INSERT INTO quantum.projections (name, tables, shape, rebuild_shape) VALUES ($1, $2, $3, $3)",
                model.name, list(model.tables), model.shape,
            )  # fmt: skip
        elif made:
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1, hashtext($2))", REBUILD_LOCK, model.name):
                raise RebuildUnderWay(model.name)
            for table in {*known["tables"], *model.tables}:
                await connection.execute(f'DROP TABLE IF EXISTS {REBUILD}."{table}"')
            await _make(connection, model, REBUILD)
            await connection.execute(
                "UPDATE quantum.projections SET tables = $2, rebuild_shape = $3, rebuild_position = NULL WHERE name = $1",
                model.name, list(model.tables), model.shape,
            )  # fmt: skip
        await connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        await connection.execute(model.functions)
    return made


async def _make(connection: Any, model: ReadModel, schema: str) -> None:
    await connection.execute(f"SET LOCAL search_path = {schema}")
    await connection.execute(model.ddl)
    for table in model.tables:
        await connection.execute(_PROTECTION.format(table=table))
