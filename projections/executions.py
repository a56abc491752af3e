# intent_ref: projections.executions
"""The read model of executions, each with its steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

import orjson

from domain import execution
from domain import execution_events as events_of
from domain.documents import execution_document
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections import execution_matches
from projections.documents import Document, DocumentReader, point_reads
from projections.execution_folding import Folding, fold
from projections.pages import Listing, Page, bounded, storable
from projections.pipelined import Pipelined, chunks
from projections.read_model import EventOutOfOrder, ReadModel, begun_before

# A document of a few steps has some 2 KiB, above which PostgreSQL compresses a row unless told to aim for more: that took as long
# as all the rest of catching up.
DDL = """
CREATE TABLE executions (
    tenant_id        text COLLATE "C" NOT NULL,
    execution_id     text COLLATE "C" NOT NULL,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    version          integer NOT NULL,
    intent_id        text COLLATE "C" NOT NULL,
    intent_name      text COLLATE "C" NOT NULL,
    status           text COLLATE "C" NOT NULL,
    started_at       timestamptz NOT NULL,
    business_key     text COLLATE "C",
    needs_attention  boolean NOT NULL,
    document         bytea NOT NULL,
    hidden           bytea,
    PRIMARY KEY (tenant_id, execution_id)
) WITH (fillfactor = 80, toast_tuple_target = 8160);
CREATE INDEX executions_newest ON executions (tenant_id, created_position);
CREATE INDEX executions_by_intent ON executions (tenant_id, intent_id, created_position);
CREATE INDEX executions_by_status ON executions (tenant_id, status, created_position);
CREATE INDEX executions_by_start ON executions (tenant_id, started_at);
CREATE INDEX executions_by_key ON executions (tenant_id, business_key, created_position) WHERE business_key IS NOT NULL;
CREATE INDEX executions_to_look_at ON executions (tenant_id, created_position) WHERE needs_attention;
"""
_LISTS = f"""
DROP FUNCTION IF EXISTS quantum.list_executions(text, text, text, text, timestamptz, timestamptz, bigint, integer);
CREATE OR REPLACE FUNCTION quantum.list_executions(
    tenant text, in_status text, of_intent text, of_name text, after_start timestamptz, before_start timestamptz,
    of_key text, to_look_at boolean, before bigint, at_most integer
)
    RETURNS TABLE (created_position bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT e.created_position, e.document FROM quantum_read.executions AS e
{execution_matches.SELECTION}
END
$$;
REVOKE ALL ON FUNCTION quantum.list_executions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_executions TO quantum_app, quantum_platform;
"""  # noqa: S608 - no input in it
FUNCTIONS = point_reads("executions", "execution_id") + _LISTS + execution_matches.FUNCTIONS
_LOAD = """
SELECT e.tenant_id, e.execution_id, e.created_position, e.document, e.hidden
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, execution_id)
  JOIN executions AS e ON e.tenant_id = wanted.tenant_id AND e.execution_id = wanted.execution_id
"""
_INSERT = """
INSERT INTO executions (tenant_id, execution_id, created_position, position, version, intent_id, intent_name, status, started_at,
                        business_key, needs_attention, document, hidden)
SELECT tenant_id, execution_id, created_position, position, version, intent_id, intent_name, status, started_at::timestamptz,
       nullif(business_key, ''), needs_attention, document, hidden
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::int[], $6::text::text[],
              $7::text::text[], $8::text::text[], $9::text::text[], $10::text::text[], $11::text::bool[], $12::bytea[],
              $13::bytea[])
       AS row (tenant_id, execution_id, created_position, position, version, intent_id, intent_name, status, started_at,
               business_key, needs_attention, document, hidden)
"""
_UPDATE = """
UPDATE executions AS e
   SET position = row.position, version = row.version, status = row.status, needs_attention = row.needs_attention,
       document = row.document, hidden = row.hidden
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::int[], $5::text::text[], $6::text::bool[],
              $7::bytea[], $8::bytea[])
       AS row (tenant_id, execution_id, position, version, status, needs_attention, document, hidden)
 WHERE e.tenant_id = row.tenant_id AND e.execution_id = row.execution_id
"""


@dataclass(slots=True)
class _Row:
    tenant_id: str
    execution_id: str
    created_position: int
    folding: Folding
    position: int = 0
    version: int = 0
    stored: bool = False


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    rows = await _load(connection, decoded)
    for recorded, event in decoded:
        key = (recorded.tenant_id, event.execution_id)
        row = rows.get(key)
        if isinstance(event, events_of.ExecutionStarted):
            document = execution_document(TenantId(recorded.tenant_id), execution.evolve(None, event))
            row = rows[key] = _Row(*key, recorded.position, Folding(document))
        elif row is None:
            raise EventOutOfOrder(f"{type(event).__name__} of the unknown execution {event.execution_id}")
        else:
            fold(row.folding, event)
        row.position, row.version = recorded.position, recorded.version
    async with Pipelined(connection) as out:
        for chunk in chunks(list(rows.values())):
            await out.execute(_INSERT, [_new_columns(row) for row in chunk if not row.stored])
            await out.execute(_UPDATE, [_columns(row) for row in chunk if row.stored])


async def _load(connection: Any, decoded: Iterable[tuple[RecordedEvent, Any]]) -> dict[tuple[str, str], _Row]:
    wanted = begun_before(decoded, events_of.ExecutionStarted, "execution_id")
    if not wanted:
        return {}
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    return {
        (row[0], row[1]): _Row(row[0], row[1], row[2], Folding.stored(orjson.loads(row[3]), _loaded(row[4])), stored=True)
        for row in found
    }


def _loaded(hidden: bytes | None) -> dict[str, Any] | None:
    return None if hidden is None else orjson.loads(hidden)


def _new_columns(row: _Row) -> tuple[Any, ...]:
    document = row.folding.document
    return (
        row.tenant_id, row.execution_id, row.created_position, row.position, row.version, document["intent_id"],
        document["intent_name"], document["status"], document["started_at"], document["business_key"] or "",
        bool(document["not_undone"]), orjson.dumps(document), _hidden(row),
    )  # fmt: skip


def _columns(row: _Row) -> tuple[Any, ...]:
    document = row.folding.document
    return (
        row.tenant_id, row.execution_id, row.position, row.version, document["status"], bool(document["not_undone"]),
        orjson.dumps(document), _hidden(row),
    )  # fmt: skip


def _hidden(row: _Row) -> bytes | None:
    hidden = row.folding.hidden()
    return None if hidden is None else orjson.dumps(hidden)


READ_MODEL = ReadModel(
    name="executions",
    version=2,
    events=get_args(events_of.ExecutionEvent),
    tables=("executions",),
    ddl=DDL,
    functions=FUNCTIONS,
    apply=apply,
)


async def get_execution(reader: DocumentReader, tenant_id: TenantId, execution_id: str) -> Document | None:
    """An execution with its steps. The version is that of its stream, so it changes with every event."""
    return await reader.read("executions", tenant_id, execution_id)


async def list_executions(
    tenant_pool: Any, tenant_id: TenantId, *, status: str | None = None, intent_id: str | None = None,
    intent_name: str | None = None, started_after: datetime | None = None, started_before: datetime | None = None,
    business_key: str | None = None, needs_attention: bool | None = None, limit: int = 50, cursor: str | None = None,
) -> Page:  # fmt: skip
    """Executions, newest first, by status, intent, start (aware times, exclusive), business key, and whether something that was
    to be undone was not. Raises `InvalidCursor`."""
    filters = (status, intent_id, intent_name, started_after, started_before, business_key, needs_attention)
    listing, limit = Listing("executions", tenant_id, filters), bounded(limit)
    before = listing.before(cursor)
    if not storable(status, intent_id, intent_name, business_key):
        return Page([], None)
    rows = await tenant_pool.fetch(
        "SELECT * FROM quantum.list_executions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", tenant_id, *filters, before, limit + 1
    )
    return listing.page(rows, limit)
