# intent_ref: projections.executions
"""The read model of executions, each with its steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, assert_never

import orjson

from domain import execution
from domain.documents import execution_document, timestamp
from domain.execution import ExecutionEvent
from domain.values import TenantId
from event_store.records import RecordedEvent
from projections.documents import Document, DocumentReader, point_reads
from projections.pages import Listing, Page, bounded, storable
from projections.pipelined import Pipelined, chunks
from projections.read_model import EventOutOfOrder, ReadModel, begun_before

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
    document         bytea NOT NULL,
    PRIMARY KEY (tenant_id, execution_id)
) WITH (fillfactor = 80);
CREATE INDEX executions_newest ON executions (tenant_id, created_position);
CREATE INDEX executions_by_intent ON executions (tenant_id, intent_id, created_position);
CREATE INDEX executions_by_status ON executions (tenant_id, status, created_position);
CREATE INDEX executions_by_start ON executions (tenant_id, started_at);
"""
_LISTS = """
CREATE OR REPLACE FUNCTION quantum.list_executions(
    tenant text, in_status text, of_intent text, of_name text, after_start timestamptz, before_start timestamptz,
    before bigint, at_most integer
)
    RETURNS TABLE (created_position bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT e.created_position, e.document FROM quantum_read.executions AS e
         WHERE e.tenant_id = tenant AND e.created_position < before
           AND (in_status IS NULL OR e.status = in_status)
           AND (of_intent IS NULL OR e.intent_id = of_intent)
           AND (of_name IS NULL OR e.intent_name = of_name)
           AND (after_start IS NULL OR e.started_at > after_start)
           AND (before_start IS NULL OR e.started_at < before_start)
         ORDER BY e.created_position DESC LIMIT at_most;
END
$$;
REVOKE ALL ON FUNCTION quantum.list_executions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.list_executions TO quantum_app, quantum_platform;
"""
FUNCTIONS = point_reads("executions", "execution_id") + _LISTS
_LOAD = """
SELECT e.tenant_id, e.execution_id, e.created_position, e.document
  FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, execution_id)
  JOIN executions AS e ON e.tenant_id = wanted.tenant_id AND e.execution_id = wanted.execution_id
"""
_INSERT = """
INSERT INTO executions (tenant_id, execution_id, created_position, position, version, intent_id, intent_name, status, started_at,
                        document)
SELECT tenant_id, execution_id, created_position, position, version, intent_id, intent_name, status, started_at::timestamptz,
       document
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[], $5::text::int[], $6::text::text[],
              $7::text::text[], $8::text::text[], $9::text::text[], $10::bytea[])
       AS row (tenant_id, execution_id, created_position, position, version, intent_id, intent_name, status, started_at, document)
"""
_UPDATE = """
UPDATE executions AS e SET position = row.position, version = row.version, status = row.status, document = row.document
  FROM unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::int[], $5::text::text[], $6::bytea[])
       AS row (tenant_id, execution_id, position, version, status, document)
 WHERE e.tenant_id = row.tenant_id AND e.execution_id = row.execution_id
"""


@dataclass(slots=True)
class _Row:
    tenant_id: str
    execution_id: str
    created_position: int
    document: dict[str, Any]
    position: int = 0
    version: int = 0
    stored: bool = False
    steps: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = {step["id"]: step for step in self.document["steps"]}


async def apply(connection: Any, events: Sequence[RecordedEvent]) -> None:
    """Folds events into the tables."""
    decoded: list[tuple[RecordedEvent, Any]] = [(recorded, recorded.event) for recorded in events]
    rows = await _load(connection, decoded)
    for recorded, event in decoded:
        key = (recorded.tenant_id, event.execution_id)
        row = rows.get(key)
        if isinstance(event, execution.ExecutionStarted):
            document = execution_document(TenantId(recorded.tenant_id), execution.evolve(None, event))
            row = rows[key] = _Row(*key, recorded.position, document)
        elif row is None:
            raise EventOutOfOrder(f"{type(event).__name__} of the unknown execution {event.execution_id}")
        else:
            fold(row.document, row.steps, event)
        row.position, row.version = recorded.position, recorded.version
    async with Pipelined(connection) as out:
        for chunk in chunks(list(rows.values())):
            await out.execute(_INSERT, [_new_columns(row) for row in chunk if not row.stored])
            await out.execute(_UPDATE, [_columns(row) for row in chunk if row.stored])


def fold(document: dict[str, Any], steps: dict[str, dict[str, Any]], event: ExecutionEvent) -> None:
    """Changes the document, and its steps by id, as `event` says."""
    at = timestamp(event.at)
    document["updated_at"] = at
    match event:
        case execution.ExecutionStarted():
            raise EventOutOfOrder(f"The execution {event.execution_id} starts twice")
        case execution.StepStarted():
            steps[event.step].update(status="running", attempts=event.attempt, error=None, started_at=at, completed_at=None)
        case execution.StepRetrying():
            steps[event.step].update(status="retrying", attempts=event.attempt, error=event.error)
        case execution.StepCompleted():
            steps[event.step].update(status="completed", result=event.result, error=None, completed_at=at)
        case execution.StepFailed():
            steps[event.step].update(status="failed", error=event.error, completed_at=at)
        case execution.ExecutionCompleted():
            document.update(status="completed", completed_at=at)
        case execution.ExecutionFailed():
            document.update(status="failed", error=event.error, completed_at=at)
        case execution.ExecutionCancelled():
            document.update(status="cancelled", completed_at=at)
            for step in steps.values():
                if step["status"] not in ("completed", "failed"):
                    step.update(status="cancelled", completed_at=at if step["attempts"] else None)
        case execution.ExecutionPaused():
            document["status"] = "paused"
        case execution.ExecutionResumed():
            document["status"] = "running"
        case execution.ExecutionRetried():
            document.update(status="running", error=None, completed_at=None)
            for step_id in event.steps:
                steps[step_id].update(status="pending", result=None, error=None, started_at=None, completed_at=None)
        case _:
            assert_never(event)


async def _load(connection: Any, decoded: Iterable[tuple[RecordedEvent, Any]]) -> dict[tuple[str, str], _Row]:
    wanted = begun_before(decoded, execution.ExecutionStarted, "execution_id")
    if not wanted:
        return {}
    found = await connection.fetch(_LOAD, [key[0] for key in wanted], [key[1] for key in wanted])
    return {(row[0], row[1]): _Row(row[0], row[1], row[2], orjson.loads(row[3]), stored=True) for row in found}


def _new_columns(row: _Row) -> tuple[Any, ...]:
    document = row.document
    return (
        row.tenant_id, row.execution_id, row.created_position, row.position, row.version, document["intent_id"],
        document["intent_name"], document["status"], document["started_at"], orjson.dumps(document),
    )  # fmt: skip


def _columns(row: _Row) -> tuple[Any, ...]:
    document = row.document
    return row.tenant_id, row.execution_id, row.position, row.version, document["status"], orjson.dumps(document)


READ_MODEL = ReadModel(
    name="executions",
    version=1,
    events=(
        execution.ExecutionStarted,
        execution.StepStarted,
        execution.StepRetrying,
        execution.StepCompleted,
        execution.StepFailed,
        execution.ExecutionCompleted,
        execution.ExecutionFailed,
        execution.ExecutionCancelled,
        execution.ExecutionPaused,
        execution.ExecutionResumed,
        execution.ExecutionRetried,
    ),
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
    limit: int = 50, cursor: str | None = None,
) -> Page:  # fmt: skip
    """Executions, newest first, by status, intent, and start (aware times, exclusive). Raises `InvalidCursor`."""
    filters = (status, intent_id, intent_name, started_after, started_before)
    listing, limit = Listing("executions", tenant_id, filters), bounded(limit)
    before = listing.before(cursor)
    if not storable(status, intent_id, intent_name):
        return Page([], None)
    rows = await tenant_pool.fetch(
        "SELECT * FROM quantum.list_executions($1, $2, $3, $4, $5, $6, $7, $8)",
        tenant_id, status, intent_id, intent_name, started_after, started_before, before, limit + 1,
    )  # fmt: skip
    return listing.page(rows, limit)
