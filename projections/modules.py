# intent_ref: projections.modules
"""The read model of the modules that tenants have registered. Those that come with the platform are not in it."""

from collections.abc import Sequence
from typing import Any, assert_never

import orjson

from domain import module
from domain.documents import action_document, module_document, timestamp, transport_document
from domain.module import Module, ModuleEvent
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections.documents import Document, DocumentReader, point_reads
from projections.pages import Listing, Page, bounded
from projections.read_model import EventOutOfOrder, ReadModel

DDL = """
CREATE TABLE modules (
    tenant_id        text COLLATE "C" NOT NULL,
    name             text COLLATE "C" NOT NULL,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    version          integer NOT NULL,
    document         bytea NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
CREATE INDEX modules_newest ON modules (tenant_id, created_position);
"""
_LISTS = """
CREATE OR REPLACE FUNCTION quantum.list_modules(tenant text, before bigint, at_most integer)
    RETURNS TABLE (created_position bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT m.created_position, m.document FROM quantum_read.modules AS m
         WHERE m.tenant_id = tenant AND m.created_position < before
         ORDER BY m.created_position DESC LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.list_modules FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_modules TO quantum_app, quantum_platform;
"""
FUNCTIONS = point_reads("modules", "name") + _LISTS
_LOAD = """
SELECT m.tenant_id, m.name, m.created_position, m.document
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, name)
  JOIN modules AS m ON m.tenant_id = wanted.tenant_id AND m.name = wanted.name
"""
_SAVE = """
INSERT INTO modules (tenant_id, name, created_position, position, version, document)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::int[], $6::bytea[])
    ON CONFLICT (tenant_id, name) DO UPDATE
   SET created_position = excluded.created_position, position = excluded.position, version = excluded.version,
       document = excluded.document
"""
_REMOVE = """
DELETE FROM modules AS m USING unnest($1::text[], $2::text[]) AS removed (tenant_id, name)
 WHERE m.tenant_id = removed.tenant_id AND m.name = removed.name
"""
_Row = tuple[str, str, int, int, int, dict[str, Any]]


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    wanted = list({(recorded.tenant_id, event.name) for recorded, event in decoded})
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    rows: dict[tuple[str, str], _Row | None] = {(row[0], row[1]): (*row[:3], 0, 0, orjson.loads(row[3])) for row in found}
    for recorded, event in decoded:
        key = (recorded.tenant_id, event.name)
        before = rows.get(key)
        document = fold(before[5] if before else None, event)
        if document is None:
            rows[key] = None
            continue
        created = before[2] if before and not isinstance(event, module.ModuleRegistered) else recorded.position
        rows[key] = (*key, created, recorded.position, recorded.version, document)
    saved = [row for row in rows.values() if row is not None]
    removed = [key for key, row in rows.items() if row is None]
    if saved:
        *columns, documents = map(list, zip(*saved, strict=True))
        await connection.execute(_SAVE, *columns, [orjson.dumps(document) for document in documents])
    if removed:
        await connection.execute(_REMOVE, [key[0] for key in removed], [key[1] for key in removed])


def fold(document: dict[str, Any] | None, event: ModuleEvent) -> dict[str, Any] | None:
    """The document after `event`; None once the module is removed."""
    if isinstance(event, module.ModuleRegistered):
        return module_document(Module(event.name, event.actions, event.transport, event.at, event.at))
    if document is None:
        raise EventOutOfOrder(f"{type(event).__name__} of the unknown module {event.name}")
    match event:
        case module.ModuleChanged():
            document["actions"] = [action_document(action) for action in event.actions]
            document["transport"] = transport_document(event.transport)
            document["updated_at"] = timestamp(event.at)
            return document
        case module.ModuleRemoved():
            return None
        case _:
            assert_never(event)


READ_MODEL = ReadModel(
    name="modules",
    version=2,
    events=(module.ModuleRegistered, module.ModuleChanged, module.ModuleRemoved),
    tables=("modules",),
    ddl=DDL,
    functions=FUNCTIONS,
    apply=apply,
)


async def get_module(reader: DocumentReader, tenant_id: TenantId, name: str) -> Document | None:
    """A module the tenant registered. The version is that of the tenant's modules when it last changed."""
    return await reader.read("modules", tenant_id, name)


async def list_modules(tenant_pool: Any, tenant_id: TenantId, *, limit: int = 50, cursor: str | None = None) -> Page:
    """The modules the tenant registered, newest first. Raises `InvalidCursor`."""
    listing, limit = Listing("modules", tenant_id), bounded(limit)
    rows = await tenant_pool.fetch("SELECT * FROM quantum.list_modules($1, $2, $3)", tenant_id, listing.before(cursor), limit + 1)
    return listing.page(rows, limit)
