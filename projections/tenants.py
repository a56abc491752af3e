# intent_ref: projections.tenants
"""The read model of tenants. A tenant sees itself; the list of all is for the platform's administrators."""

from collections.abc import Sequence
from typing import Any, assert_never

import orjson

from domain import tenant
from domain.documents import tenant_document, timestamp
from domain.tenant import TenantEvent
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections.documents import Document, DocumentReader, point_reads
from projections.pages import Listing, Page, bounded
from projections.read_model import EventOutOfOrder, ReadModel

DDL = """
CREATE TABLE tenants (
    tenant_id        text COLLATE "C" NOT NULL PRIMARY KEY,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    version          integer NOT NULL,
    status           text COLLATE "C" NOT NULL,
    document         bytea NOT NULL
);
CREATE UNIQUE INDEX tenants_newest ON tenants (created_position);
"""
_LOAD = "SELECT tenant_id, created_position, document FROM tenants WHERE tenant_id = ANY ($1::text[])"
_SAVE = """
INSERT INTO tenants (tenant_id, created_position, position, version, status, document)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::bytea[])
    ON CONFLICT (tenant_id) DO UPDATE
   SET position = excluded.position, version = excluded.version, status = excluded.status, document = excluded.document
"""
_LIST = """
SELECT created_position, document FROM quantum_read.tenants
 WHERE created_position < $1 AND ($2::text IS NULL OR status = $2) ORDER BY created_position DESC LIMIT $3
"""


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    rows = {
        row["tenant_id"]: (row["created_position"], 0, 0, orjson.loads(row["document"]))
        for row in await connection.fetch(_LOAD, list({event.tenant_id for event in events}))
    }
    changed: dict[str, tuple[int, int, int, dict[str, Any]]] = {}
    for recorded in events:
        before = changed.get(recorded.tenant_id) or rows.get(recorded.tenant_id)
        event: Any = recorded.event
        document = fold(before[3] if before else None, event)
        created = before[0] if before else recorded.position
        changed[recorded.tenant_id] = (created, recorded.position, recorded.version, document)
    await connection.execute(
        _SAVE,
        list(changed),
        [row[0] for row in changed.values()],
        [row[1] for row in changed.values()],
        [row[2] for row in changed.values()],
        [row[3]["status"] for row in changed.values()],
        [orjson.dumps(row[3]) for row in changed.values()],
    )


def fold(document: dict[str, Any] | None, event: TenantEvent) -> dict[str, Any]:
    """The document after `event`."""
    if isinstance(event, tenant.TenantRegistered):
        return tenant_document(tenant.evolve(None, event))
    if document is None:
        raise EventOutOfOrder(f"{type(event).__name__} of the unknown tenant {event.tenant_id}")
    match event:
        case tenant.TenantSuspended():
            document["status"] = "suspended"
        case tenant.TenantReactivated():
            document["status"] = "active"
        case tenant.TenantLimitsSet():
            pass
        case _:
            assert_never(event)
    document["updated_at"] = timestamp(event.at)
    return document


READ_MODEL = ReadModel(
    name="tenants",
    version=1,
    events=(tenant.TenantRegistered, tenant.TenantSuspended, tenant.TenantReactivated, tenant.TenantLimitsSet),
    tables=("tenants",),
    ddl=DDL,
    functions=point_reads("tenants", "tenant_id"),
    apply=apply,
)


async def get_tenant(reader: DocumentReader, tenant_id: TenantId) -> Document | None:
    """A tenant, as itself sees it. The version is that of its stream."""
    return await reader.read("tenants", tenant_id, tenant_id)


async def list_tenants(
    platform_pool: Any, *, status: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page:  # fmt: skip
    """All tenants, newest first: for the platform's administrators alone. Raises `InvalidCursor`."""
    listing, limit = Listing("tenants", "", (status,)), bounded(limit)
    rows = await platform_pool.fetch(_LIST, listing.before(cursor), status, limit + 1)
    return listing.page(rows, limit)
