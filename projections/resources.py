# intent_ref: projections.resources
"""The read model of resources: what steps have made, which execution and step made it, and whether it is there still."""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from domain.documents import timestamp
from domain.execution_events import ResourceProvisioned, ResourceReleased
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections.pages import Listing, Page, bounded, storable
from projections.read_model import ReadModel

KEY_CHARS_MAX = 500
DDL = """
CREATE TABLE resources (
    tenant_id        text COLLATE "C" NOT NULL,
    key              text COLLATE "C" NOT NULL,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    type             text COLLATE "C" NOT NULL,
    status           text COLLATE "C" NOT NULL,
    execution_id     text COLLATE "C" NOT NULL,
    document         bytea NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX resources_newest ON resources (tenant_id, created_position);
CREATE INDEX resources_by_type ON resources (tenant_id, type, created_position);
CREATE INDEX resources_by_execution ON resources (tenant_id, execution_id, created_position);
"""
FUNCTIONS = """
CREATE OR REPLACE FUNCTION quantum.list_resources(
    tenant text, of_type text, of_execution text, in_status text, before bigint, at_most integer
)
    RETURNS TABLE (created_position bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT r.created_position, r.document FROM quantum_read.resources AS r
         WHERE r.tenant_id = tenant AND r.created_position < before
           AND (of_type IS NULL OR r.type = of_type)
           AND (of_execution IS NULL OR r.execution_id = of_execution)
           AND (in_status IS NULL OR r.status = in_status)
         ORDER BY r.created_position DESC LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.list_resources FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_resources TO quantum_app, quantum_platform;
"""
_LOAD = """
SELECT r.tenant_id, r.key, r.created_position, r.document
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, key)
  JOIN resources AS r ON r.tenant_id = wanted.tenant_id AND r.key = wanted.key
"""
_SAVE = """
INSERT INTO resources (tenant_id, key, created_position, position, type, status, execution_id, document)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bytea[])
    ON CONFLICT (tenant_id, key) DO UPDATE
   SET created_position = excluded.created_position, position = excluded.position, status = excluded.status,
       execution_id = excluded.execution_id, document = excluded.document
"""
_Row = tuple[str, str, int, int, str, str, str, dict[str, Any]]


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    wanted = list({(recorded.tenant_id, key_of(event.type, event.resource_id)) for recorded, event in decoded})
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    known: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {
        (row[0], row[1]): (row[2], orjson.loads(row[3])) for row in found
    }  # fmt: skip
    rows: dict[tuple[str, str], _Row] = {}
    for recorded, event in decoded:
        key = (recorded.tenant_id, key_of(event.type, event.resource_id))
        created, before = known.get(key, (recorded.position, None))
        document = fold(before, event)
        created = created if isinstance(event, ResourceReleased) else recorded.position
        known[key] = (created, document)
        rows[key] = (
            *key, created, recorded.position, _indexed(event.type), document["status"], document["execution_id"], document
        )  # fmt: skip
    *columns, documents = map(list, zip(*rows.values(), strict=True))
    await connection.execute(_SAVE, *columns, [orjson.dumps(document) for document in documents])


def fold(document: dict[str, Any] | None, event: ResourceProvisioned | ResourceReleased) -> dict[str, Any]:
    """The document after `event`. Who provisions a resource of the same type and id again is who has made it from then on."""
    at = timestamp(event.at)
    if isinstance(event, ResourceProvisioned) or document is None:
        document = {
            "type": event.type,
            "id": event.resource_id,
            "status": "provisioned",
            "attributes": event.attributes if isinstance(event, ResourceProvisioned) else {},
            "execution_id": event.execution_id,
            "step": event.step,
            "provisioned_at": at if isinstance(event, ResourceProvisioned) else None,
            "released_at": None,
            "released_by": None,
        }
    if isinstance(event, ResourceReleased):
        document["status"], document["released_at"] = "released", at
        document["released_by"] = {"execution_id": event.execution_id, "step": event.step}
    return document


def key_of(kind: str, identity: str) -> str:
    """What there is one row of. Both texts come from a module and may be of any length; an index takes so much."""
    key = f"{len(kind)}/{kind}/{identity}"
    return key if len(key) <= KEY_CHARS_MAX else hashlib.sha256(key.encode()).hexdigest()


def _indexed(kind: str) -> str:
    return kind if len(kind) <= KEY_CHARS_MAX else hashlib.sha256(kind.encode()).hexdigest()


READ_MODEL = ReadModel(
    name="resources",
    version=1,
    events=(ResourceProvisioned, ResourceReleased),
    tables=("resources",),
    ddl=DDL,
    functions=FUNCTIONS,
    apply=apply,
)


async def list_resources(
    tenant_pool: Any, tenant_id: TenantId, *, type: str | None = None, execution_id: str | None = None,
    status: str | None = None, limit: int = 50, cursor: str | None = None,
) -> Page:  # fmt: skip
    """Resources, those made last first, by type, by the execution that made them, and status. Raises `InvalidCursor`."""
    listing, limit = Listing("resources", tenant_id, (type, execution_id, status)), bounded(limit)
    before = listing.before(cursor)
    if not storable(type, execution_id, status):
        return Page([], None)
    rows = await tenant_pool.fetch(
        "SELECT * FROM quantum.list_resources($1, $2, $3, $4, $5, $6)",
        tenant_id, None if type is None else _indexed(type), execution_id, status, before, limit + 1,
    )  # fmt: skip
    return listing.page(rows, limit)
