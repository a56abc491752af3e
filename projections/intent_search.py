# intent_ref: projections.intent-search
"""The read model behind the search for intents: by words, exact name and label.

It is apart from the read model of intents because indexing words costs more than all the rest: a rush of intents never makes
reading one by its id late.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from domain import intent
from domain.intent import IntentEvent
from domain.values import TenantId
from event_store.records import RecordedEvent
from event_store.tenancy import tenant_connection
from projections.pages import Listing, Page
from projections.pipelined import Pipelined, chunks
from projections.read_model import EventOutOfOrder, ReadModel, begun_before
from projections.search_text import label_term, name_term, tenant_term, tsquery, words_of

# `search` holds the words, and beside them as terms of their own the tenant (`=tenant-123`), the name (`@name`) and the labels
# (`#key`, `#key=value`): so one GIN index answers a tenant's search without walking over what others have under the same word.
DDL = """
CREATE TABLE intent_search (
    tenant_id        text COLLATE "C" NOT NULL,
    intent_id        text COLLATE "C" NOT NULL,
    created_position bigint NOT NULL,
    position         bigint NOT NULL,
    name             text COLLATE "C" NOT NULL,
    status           text COLLATE "C" NOT NULL,
    about            text NOT NULL,
    search           tsvector NOT NULL,
    PRIMARY KEY (tenant_id, intent_id)
);
CREATE INDEX intent_search_newest ON intent_search (tenant_id, created_position);
CREATE INDEX intent_search_terms ON intent_search USING gin (search) WITH (fastupdate = on, gin_pending_list_limit = 4096);
CREATE POLICY search_rows ON intent_search FOR SELECT TO quantum_search USING (true);
GRANT SELECT ON intent_search TO quantum_search;
"""

# The operators of full-text search are not leakproof, so under row-level security they get no index. This function therefore runs
# as quantum_search, which may see every row of this one table and do nothing else. It gives ids alone, of the tenant that is set
# and of none where none is; the documents are read with the caller's rights. It is VOLATILE, like all functions that read tables
# which a rebuild may exchange: its statements then look at the tables as they are once the exchange lets them in.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION quantum.search_intents(
    query text, terms text[], of_name text, in_status text, before bigint, at_most integer
)
    RETURNS TABLE (created_position bigint, intent_id text)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    tenant text := quantum.current_tenant();
    wanted tsquery := query::tsquery;
    term text;
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    FOREACH term IN ARRAY ('=' || tenant) || terms LOOP
        term := '''' || replace(replace(term, '\\', '\\\\'), '''', '''''') || '''';
        wanted := CASE WHEN wanted IS NULL THEN term::tsquery ELSE wanted && term::tsquery END;
    END LOOP;
    RETURN QUERY
        SELECT s.created_position, s.intent_id FROM quantum_read.intent_search AS s
         WHERE s.tenant_id = tenant AND s.search @@ wanted AND s.created_position < before
           AND (of_name IS NULL OR s.name = of_name) AND (in_status IS NULL OR s.status = in_status)
         ORDER BY s.created_position DESC LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.search_intents FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.search_intents TO quantum_app, quantum_platform;
GRANT CREATE ON SCHEMA quantum TO quantum_search;
ALTER FUNCTION quantum.search_intents OWNER TO quantum_search;
REVOKE CREATE ON SCHEMA quantum FROM quantum_search;
"""
_LOAD = """
SELECT s.tenant_id, s.intent_id, s.created_position, s.name, s.status, s.about
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, intent_id)
  JOIN intent_search AS s ON s.tenant_id = wanted.tenant_id AND s.intent_id = wanted.intent_id
"""
_INSERT = """
INSERT INTO intent_search (tenant_id, intent_id, created_position, position, name, status, about, search)
SELECT tenant_id, intent_id, created_position, position, name, status, about, array_to_tsvector(string_to_array(terms, E'\\n'))
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::text[], $6::text::text[],
              $7::text::text[], $8::text::text[])
       AS row (tenant_id, intent_id, created_position, position, name, status, about, terms)
"""
_UPDATE = """
UPDATE intent_search AS s
   SET position = row.position, status = row.status, about = row.about,
       search = array_to_tsvector(string_to_array(terms, E'\\n'))
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::text[], $6::text::text[],
              $7::text::text[], $8::text::text[])
       AS row (tenant_id, intent_id, created_position, position, name, status, about, terms)
 WHERE s.tenant_id = row.tenant_id AND s.intent_id = row.intent_id
"""
_UPDATE_STATUS = """
UPDATE intent_search AS s SET position = row.position, status = row.status
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::text[])
       AS row (tenant_id, intent_id, position, status)
 WHERE s.tenant_id = row.tenant_id AND s.intent_id = row.intent_id
"""
# Search may be ahead of the documents; it is asked only for what they have come to.
_FIND = """
SELECT found.created_position, i.document
  FROM quantum.search_intents(
           $2, $3, $4, $5, least($6, (SELECT p.position + 1 FROM quantum.projections AS p WHERE p.name = 'intents')), $7
       ) AS found
  LEFT JOIN quantum_read.intents AS i ON i.tenant_id = $1 AND i.intent_id = found.intent_id
 ORDER BY found.created_position DESC
"""


@dataclass(slots=True)
class _Row:
    tenant_id: str
    intent_id: str
    created_position: int
    name: str
    status: str
    about: str
    """Description and labels as JSON: a rollback does not say them again."""
    position: int = 0
    stored: bool = False
    terms: str | None = None
    """None while the words are those that the table has."""


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the table."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    rows = await _load(connection, decoded)
    async with Pipelined(connection) as out:
        for chunk in chunks(decoded):
            changed = {(row.tenant_id, row.intent_id): row for row in [_fold(rows, *pair) for pair in chunk]}
            worded = [row for row in changed.values() if row.terms is not None]
            await out.execute(_INSERT, [_columns(row) for row in worded if not row.stored])
            await out.execute(_UPDATE, [_columns(row) for row in worded if row.stored])
            await out.execute(
                _UPDATE_STATUS,
                [(row.tenant_id, row.intent_id, row.position, row.status) for row in changed.values() if row.terms is None],
            )
            for row in changed.values():
                row.terms, row.stored = None, True


def _fold(rows: dict[tuple[str, str], _Row], recorded: RecordedEvent, event: IntentEvent) -> _Row:
    key = (recorded.tenant_id, event.intent_id)
    if isinstance(event, intent.IntentCreated):
        row = rows[key] = _Row(*key, recorded.position, event.name, "active", "")
    elif key in rows:
        row = rows[key]
    else:
        raise EventOutOfOrder(f"{type(event).__name__} of the unknown intent {event.intent_id}")
    row.position = recorded.position
    match event:
        case intent.IntentCreated() | intent.IntentRevised():
            row.about = orjson.dumps((event.description, event.labels)).decode()
            row.terms = _terms(row, event.description, event.labels, event.definition)
        case intent.IntentRolledBack():
            description, labels = orjson.loads(row.about)
            row.terms = _terms(row, description, labels, event.definition)
        case intent.IntentDeprecated():
            row.status = "deprecated"
        case intent.IntentActivated():
            row.status = "active"
        case intent.IntentArchived():
            row.status = "archived"
        case intent.IntentSchedulePaused() | intent.IntentScheduleResumed():
            pass  # whether its schedule rests is no matter of what it says
        case _:
            assert_never(event)
    return row


def _terms(row: _Row, description: str | None, labels: dict[str, str], definition: dict[str, Any]) -> str:
    terms = words_of(row.name, description, labels, definition)
    terms |= {tenant_term(row.tenant_id), name_term(row.name)}
    for key, value in labels.items():
        terms |= {label_term(key, None), label_term(key, value)}
    return "\n".join(terms)


async def _load(connection: Any, decoded: Iterable[tuple[RecordedEvent, Any]]) -> dict[tuple[str, str], _Row]:
    wanted = begun_before(decoded, intent.IntentCreated, "intent_id")
    if not wanted:
        return {}
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    return {(row[0], row[1]): _Row(row[0], row[1], row[2], row[3], row[4], row[5], stored=True) for row in found}


def _columns(row: _Row) -> tuple[Any, ...]:
    return (
        row.tenant_id, row.intent_id, row.created_position, row.position, row.name, row.status, row.about, row.terms
    )  # fmt: skip


READ_MODEL = ReadModel(
    name="intent_search",
    version=1,
    events=(
        intent.IntentCreated,
        intent.IntentRevised,
        intent.IntentRolledBack,
        intent.IntentDeprecated,
        intent.IntentActivated,
        intent.IntentArchived,
    ),
    tables=("intent_search",),
    ddl=DDL,
    functions=FUNCTIONS,
    apply=apply,
)


async def search_intents(
    tenant_pool: Any, tenant_id: TenantId, listing: Listing, *, name: str | None, status: str | None, q: str | None,
    label: tuple[str, str | None] | None, limit: int, cursor: str | None,
) -> Page:  # fmt: skip
    """The page of `intents.list_intents` where words, a name or a label are asked for. Raises `InvalidCursor`."""
    before = listing.before(cursor)
    query = None if q is None else tsquery(q)
    if q is not None and query is None:
        return Page([], None)
    terms = [] if name is None else [name_term(name)]
    if label is not None:
        terms.append(label_term(*label))
    async with tenant_connection(tenant_pool, tenant_id) as connection:
        rows = await connection.fetch(_FIND, tenant_id, query, terms, name, status, before, limit + 1)
    return listing.page(rows, limit)
