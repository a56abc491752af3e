# intent_ref: projections.intents
"""The read model of intents and their versions: by id, and in lists. What finds them by words is in `intent_search`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from domain import intent
from domain.documents import timestamp
from domain.intent import IntentEvent
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections.documents import Document, DocumentReader, point_reads
from projections.intent_search import search_intents
from projections.pages import Listing, Page, bounded, storable
from projections.pipelined import Pipelined, chunks
from projections.read_model import EventOutOfOrder, ReadModel, begun_before

DDL = """
CREATE TABLE intents (
    tenant_id        text COLLATE "C" NOT NULL,
    intent_id        text COLLATE "C" NOT NULL,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    version          integer NOT NULL,
    status           text COLLATE "C" NOT NULL,
    document         bytea NOT NULL,
    PRIMARY KEY (tenant_id, intent_id)
);
CREATE INDEX intents_newest ON intents (tenant_id, created_position);

CREATE TABLE intent_versions (
    tenant_id text COLLATE "C" NOT NULL,
    intent_id text COLLATE "C" NOT NULL,
    version   integer NOT NULL,
    position  bigint NOT NULL,
    document  bytea NOT NULL,
    PRIMARY KEY (tenant_id, intent_id, version)
);
"""

_LISTS = """
CREATE OR REPLACE FUNCTION quantum.list_intents(tenant text, in_status text, before bigint, at_most integer)
    RETURNS TABLE (created_position bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT i.created_position, i.document FROM quantum_read.intents AS i
         WHERE i.tenant_id = tenant AND i.created_position < before
           AND (in_status IS NULL OR i.status = in_status)
         ORDER BY i.created_position DESC LIMIT at_most;
END
$$;

CREATE OR REPLACE FUNCTION quantum.list_intent_versions(tenant text, intent text, before bigint, at_most integer)
    RETURNS TABLE (version bigint, document bytea, "position" bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT v.version::bigint, v.document, v.position FROM quantum_read.intent_versions AS v
         WHERE v.tenant_id = tenant AND v.intent_id = intent AND v.version < before
         ORDER BY v.version DESC LIMIT at_most;
END
$$;

REVOKE ALL ON FUNCTION quantum.list_intents, quantum.list_intent_versions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_intents, quantum.list_intent_versions TO quantum_app, quantum_platform;
"""
FUNCTIONS = point_reads("intents", "intent_id") + _LISTS

_LOAD = """
SELECT i.tenant_id, i.intent_id, i.created_position, i.document
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, intent_id)
  JOIN intents AS i ON i.tenant_id = wanted.tenant_id AND i.intent_id = wanted.intent_id
"""
_INSERT = """
INSERT INTO intents (tenant_id, intent_id, created_position, position, version, status, document)
SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::int[],
                     $6::text::text[], $7::bytea[])
"""
_UPDATE = """
UPDATE intents AS i SET position = row.position, version = row.version, status = row.status, document = row.document
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::int[], $6::text::text[],
              $7::bytea[]) AS row (tenant_id, intent_id, created_position, position, version, status, document)
 WHERE i.tenant_id = row.tenant_id AND i.intent_id = row.intent_id
"""
_INSERT_VERSIONS = """
INSERT INTO intent_versions (tenant_id, intent_id, version, position, document)
SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::int[], $4::text::bigint[], $5::bytea[])
"""
VERSIONS = (intent.IntentCreated, intent.IntentRevised, intent.IntentRolledBack)
"""Events that add a version."""


@dataclass(slots=True)
class _Row:
    tenant_id: str
    intent_id: str
    created_position: int
    document: dict[str, Any]
    position: int = 0
    stored: bool = False


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    rows = await _load(connection, decoded)
    async with Pipelined(connection) as out:
        for chunk in chunks(decoded):
            changed: dict[tuple[str, str], _Row] = {}
            versions: list[tuple[Any, ...]] = []
            for recorded, event in chunk:
                key = (recorded.tenant_id, event.intent_id)
                row = rows.get(key)
                document = fold(TenantId(recorded.tenant_id), row.document if row else None, event)
                if row is None:
                    row = rows[key] = _Row(*key, recorded.position, document)
                row.position = recorded.position
                changed[key] = row
                if isinstance(event, VERSIONS):
                    body = orjson.dumps(version_document(document, event))
                    versions.append((*key, document["version"], recorded.position, body))
            await out.execute(_INSERT, [_columns(row) for row in changed.values() if not row.stored])
            await out.execute(_UPDATE, [_columns(row) for row in changed.values() if row.stored])
            await out.execute(_INSERT_VERSIONS, versions)
            for row in changed.values():
                row.stored = True


def fold(tenant_id: TenantId, document: dict[str, Any] | None, event: IntentEvent) -> dict[str, Any]:
    """The document after `event`."""
    if isinstance(event, intent.IntentCreated):
        return created_document(tenant_id, event)
    if document is None:
        raise EventOutOfOrder(f"{type(event).__name__} of the unknown intent {event.intent_id}")
    match event:
        case intent.IntentRevised():
            document["version"], document["definition"] = event.version, event.definition
            document["description"], document["labels"] = event.description, event.labels
        case intent.IntentRolledBack():
            document["version"], document["definition"] = event.version, event.definition
        case intent.IntentDeprecated():
            document["status"] = "deprecated"
        case intent.IntentActivated():
            document["status"] = "active"
        case intent.IntentArchived():
            document["status"] = "archived"
        case intent.IntentSchedulePaused() | intent.IntentScheduleResumed():
            return document
        case _:
            assert_never(event)
    document["updated_at"] = timestamp(event.at)
    return document


def created_document(tenant_id: TenantId, event: intent.IntentCreated) -> dict[str, Any]:
    """What `intent_document` says of an intent with this event alone. Made without a state: most events are this one."""
    at = timestamp(event.at)
    return {
        "id": event.intent_id,
        "name": event.name,
        "version": 1,
        "tenant_id": tenant_id,
        "status": "active",
        "definition": event.definition,
        "description": event.description,
        "labels": event.labels,
        "created_at": at,
        "updated_at": at,
    }


def version_document(document: dict[str, Any], event: IntentEvent) -> dict[str, Any]:
    """The document of the version that `event` has just added to the intent's."""
    return {
        "intent_id": document["id"],
        "version": document["version"],
        "definition": document["definition"],
        "created_at": document["updated_at"],
        "rolled_back_to": event.to_version if isinstance(event, intent.IntentRolledBack) else None,
    }


async def _load(connection: Any, decoded: Iterable[tuple[RecordedEvent, Any]]) -> dict[tuple[str, str], _Row]:
    wanted = begun_before(decoded, intent.IntentCreated, "intent_id")
    if not wanted:
        return {}
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    return {(row[0], row[1]): _Row(row[0], row[1], row[2], orjson.loads(row[3]), stored=True) for row in found}


def _columns(row: _Row) -> tuple[Any, ...]:
    document = row.document
    return (
        row.tenant_id, row.intent_id, row.created_position, row.position, document["version"], document["status"],
        orjson.dumps(document),
    )  # fmt: skip


READ_MODEL = ReadModel(
    name="intents",
    version=1,
    events=(
        intent.IntentCreated,
        intent.IntentRevised,
        intent.IntentRolledBack,
        intent.IntentDeprecated,
        intent.IntentActivated,
        intent.IntentArchived,
    ),
    tables=("intents", "intent_versions"),
    ddl=DDL,
    functions=FUNCTIONS,
    apply=apply,
)


async def get_intent(reader: DocumentReader, tenant_id: TenantId, intent_id: str) -> Document | None:
    """An intent; the version is that of its definition."""
    return await reader.read("intents", tenant_id, intent_id)


async def list_intents(
    tenant_pool: Any, tenant_id: TenantId, *, name: str | None = None, status: str | None = None, q: str | None = None,
    label: tuple[str, str | None] | None = None, limit: int = 50, cursor: str | None = None,
) -> Page:  # fmt: skip
    """Intents, newest first: named exactly `name`, in `status`, with the words of `q`, with the label (key, value or any).

    Raises `InvalidCursor`.
    """
    listing, limit = Listing("intents", tenant_id, (name, status, q, label)), bounded(limit)
    if not storable(name, status, *(label or ())):
        return Page([], None)
    if searched(name, q, label):
        return await search_intents(
            tenant_pool, tenant_id, listing, name=name, status=status, q=q, label=label, limit=limit, cursor=cursor
        )
    rows = await tenant_pool.fetch(
        "SELECT * FROM quantum.list_intents($1, $2, $3, $4)", tenant_id, status, listing.before(cursor), limit + 1
    )
    return listing.page(rows, limit)


def searched(name: str | None, q: str | None, label: tuple[str, str | None] | None) -> bool:
    """True when a list with these filters also waits for the projection `intent_search` to be fresh."""
    return name is not None or q is not None or label is not None


async def get_intent_version(tenant_pool: Any, tenant_id: TenantId, intent_id: str, version: int) -> Document | None:
    """One version of an intent."""
    if not storable(intent_id) or not 1 <= version < 1 << 31:
        return None
    row = await tenant_pool.fetchrow(
        "SELECT * FROM quantum.list_intent_versions($1, $2, $3, 1)", tenant_id, intent_id, version + 1
    )
    return Document(row["document"], version, row["position"]) if row is not None and row["version"] == version else None


async def list_intent_versions(
    tenant_pool: Any, tenant_id: TenantId, intent_id: str, *, limit: int = 50, cursor: str | None = None
) -> Page:  # fmt: skip
    """An intent's versions, newest first; no items where there is no such intent. Raises `InvalidCursor`."""
    listing, limit = Listing("intent_versions", tenant_id, (intent_id,)), bounded(limit)
    before = listing.before(cursor)
    if not storable(intent_id):
        return Page([], None)
    rows = await tenant_pool.fetch(
        "SELECT * FROM quantum.list_intent_versions($1, $2, $3, $4)", tenant_id, intent_id, before, limit + 1
    )
    return listing.page(rows, limit)
