# intent_ref: sagas.triggers
"""Which intents want to start upon events: the table, and what a process knows of it, by tenant.

Each process follows the log's events about intents by itself, and knows all of them up to an event before it says who is fired by
that one. So whether a trigger counts for an event depends on their order in the log alone, whichever process has which part of
the stream. The table saves a process that starts from reading the whole log again.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from commands.expressions import ExpressionFailed
from commands.triggers import read_trigger, trigger_faults
from domain.immutable import immutable
from domain.intent import IntentArchived, IntentCreated, IntentRevised, IntentRolledBack
from domain.refusals import Refusal
from domain.schedule import Trigger
from event_store import codec
from event_store.records import RecordedEvent
from event_store.store import EventStore

TOPICS = frozenset(codec.topic_of(event) for event in (IntentCreated, IntentRevised, IntentRolledBack, IntentArchived))
_QUERY_SECONDS_MAX = 10.0
_PAGE_EVENTS = 1_000
_SAVED_EVERY_POSITIONS = 100_000

_ROWS = "SELECT tenant_id, intent_id, intent_version, trigger::text, since_position FROM quantum.saga_triggers"
_ALL = f"{_ROWS} WHERE trigger IS NOT NULL AND NOT archived"
_SOME = f"""
{_ROWS} AS kept JOIN unnest($1::text[], $2::text[]) AS c (tenant_id, intent_id) USING (tenant_id, intent_id)
 WHERE kept.trigger IS NOT NULL AND NOT kept.archived
"""
_MAKE = """
INSERT INTO quantum.saga_triggers (tenant_id, intent_id, stream_version, intent_version, since_position)
SELECT c.tenant_id, c.intent_id, 0, 0, c.position
  FROM unnest($1::text[], $2::text[], $3::bigint[]) AS c (tenant_id, intent_id, position)
    ON CONFLICT (tenant_id, intent_id) DO NOTHING
"""
_CHANGE = """
UPDATE quantum.saga_triggers AS kept
   SET stream_version = c.stream_version,
       intent_version = coalesce(c.intent_version, kept.intent_version),
       since_position = CASE WHEN c.since_position IS NOT NULL AND kept.trigger IS NULL THEN c.since_position
                             ELSE kept.since_position END,
       trigger = CASE WHEN c.intent_version IS NULL THEN kept.trigger ELSE c.trigger::json END,
       archived = kept.archived OR c.archived,
       last_error = CASE WHEN c.intent_version IS NULL THEN kept.last_error END
  FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::text[], $6::bool[], $7::bigint[])
       AS c (tenant_id, intent_id, stream_version, intent_version, trigger, archived, since_position)
 WHERE kept.tenant_id = c.tenant_id AND kept.intent_id = c.intent_id AND kept.stream_version < c.stream_version
"""
_FIRED = """
UPDATE quantum.saga_triggers AS kept
   SET runs = kept.runs + f.runs, last_event_id = f.event_id, last_at = f.at,
       last_execution_id = coalesce(f.execution_id, kept.last_execution_id),
       last_error = CASE WHEN f.error IS NOT NULL THEN f.error::json WHEN f.runs > 0 THEN NULL ELSE kept.last_error END
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::timestamptz[], $6::text[], $7::text[])
       AS f (tenant_id, intent_id, runs, event_id, at, execution_id, error)
 WHERE kept.tenant_id = f.tenant_id AND kept.intent_id = f.intent_id
"""
_SAVE = "UPDATE quantum.saga_trigger_log SET position = $1 WHERE position < $1"


@immutable
class Row:
    """An intent's trigger. `inputs` are templates. Events up to `since_position` do not fire it."""

    tenant_id: str
    intent_id: str
    intent_version: int
    trigger: Trigger
    raw: dict[str, Any]
    since_position: int


@immutable
class Change:
    """What an event says of an intent's trigger; `trigger` is JSON, None for none, and counts where `intent_version` is given."""

    tenant_id: str
    intent_id: str
    stream_version: int
    intent_version: int | None = None
    trigger: str | None = None
    is_archived: bool = False
    since_position: int | None = None


@dataclass(slots=True)
class Firing:
    """What became of the events that fired a trigger. `error` is JSON; `refusal`: why a start was refused that was wanted."""

    event_id: UUID
    at: datetime
    runs: int = 0
    execution_id: str | None = None
    error: str | None = None
    refusal: Refusal | ExpressionFailed | None = None


def react(tenant_id: str, stream_version: int, position: int, event: Any) -> Change | None:
    """What `event` changes about the trigger of its intent."""
    match event:
        case IntentCreated(intent_id=intent_id, definition=definition):
            version = 1
        case IntentRevised(intent_id=intent_id, version=version, definition=definition):
            pass
        case IntentRolledBack(intent_id=intent_id, version=version, definition=definition):
            pass
        case IntentArchived(intent_id=intent_id):
            return Change(tenant_id, intent_id, stream_version, is_archived=True)
        case _:
            return None
    raw = definition.get("on")
    if raw is None:
        return Change(tenant_id, intent_id, stream_version, version)
    return Change(tenant_id, intent_id, stream_version, version, orjson.dumps(raw).decode(), False, position)


def merged(changes: Iterable[Change]) -> list[Change]:
    """One change for each intent, which does what all of them do in their order."""
    found: dict[tuple[str, str], Change] = {}
    for change in changes:
        key = (change.tenant_id, change.intent_id)
        before = found.get(key)
        found[key] = change if before is None else _after(before, change)
    return list(found.values())


def _after(before: Change, change: Change) -> Change:
    if change.intent_version is None:
        return replace(before, stream_version=change.stream_version, is_archived=before.is_archived or change.is_archived)
    # It has had a trigger since the earlier one, unless there was a version without in between.
    since = before.since_position if before.since_position is not None and change.trigger is not None else change.since_position
    return replace(change, since_position=since, is_archived=before.is_archived or change.is_archived)


class Triggers:
    """What this process knows of the table. Raises the driver's errors and `StoreUnavailable`."""

    def __init__(self, store: EventStore) -> None:
        self._store, self._pool = store, store.platform_pool
        self._of_tenant: dict[str, dict[str, Row]] = {}
        self._position = self._saved = -1
        self._lock = asyncio.Lock()

    @property
    def are_none(self) -> bool:
        """True where no intent of any tenant has a trigger, as far as is known."""
        return not self._of_tenant

    def of(self, tenant_id: str) -> Iterable[Row]:
        """The tenant's triggers."""
        rows = self._of_tenant.get(tenant_id)
        return () if rows is None else rows.values()

    def of_intent(self, tenant_id: str, intent_id: str) -> Row | None:
        """The trigger of an intent, where it has one."""
        return self._of_tenant.get(tenant_id, {}).get(intent_id)

    async def follow(self, position: int) -> None:
        """Knows all that the log says up to `position` and perhaps further."""
        if position <= self._position:
            return
        async with self._lock:
            if self._position < 0:
                await self._begin()
            while self._position < position:
                page = await self._store.read_log(self._position, limit=_PAGE_EVENTS, topics=TOPICS)
                if page.events:
                    await self._take_in(page.events)
                if page.next == self._position:
                    return
                self._position = page.next
                if page.events or self._position - self._saved >= _SAVED_EVERY_POSITIONS:
                    await self._execute(_SAVE, self._position)
                    self._saved = self._position

    async def record(self, firings: dict[tuple[str, str], Firing]) -> None:
        """What became of triggers that were fired, by (tenant, intent)."""
        ordered = sorted(firings.items())
        await self._execute(
            _FIRED, [key[0] for key, _ in ordered], [key[1] for key, _ in ordered], [one.runs for _, one in ordered],
            [one.event_id for _, one in ordered], [one.at for _, one in ordered], [one.execution_id for _, one in ordered],
            [one.error for _, one in ordered],
        )  # fmt: skip

    async def _begin(self) -> None:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            # The position before the rows: rows may be ahead of it, and are not changed by what they know already.
            self._saved = await self._pool.fetchval("SELECT position FROM quantum.saga_trigger_log")
            rows = await self._pool.fetch(_ALL)
        self._of_tenant = {}
        for row in rows:
            self._keep(row)
        self._position = self._saved

    async def _take_in(self, events: Sequence[RecordedEvent]) -> None:
        changes = merged(change for event in events if (change := _change(event)) is not None)
        changes = [one for one in changes if one.trigger is not None or self._may_know(one)]
        if not changes:
            return
        tenants, intents = [one.tenant_id for one in changes], [one.intent_id for one in changes]
        new = [one for one in changes if one.since_position is not None]
        async with asyncio.timeout(_QUERY_SECONDS_MAX), self._pool.acquire() as connection, connection.transaction():
            if new:
                await connection.execute(
                    _MAKE, [one.tenant_id for one in new], [one.intent_id for one in new], [one.since_position for one in new]
                )
            await connection.execute(
                _CHANGE, tenants, intents, [one.stream_version for one in changes], [one.intent_version for one in changes],
                [one.trigger for one in changes], [one.is_archived for one in changes],
                [one.since_position for one in changes],
            )  # fmt: skip
            rows = await connection.fetch(_SOME, tenants, intents)
        for tenant_id, intent_id in zip(tenants, intents, strict=True):
            known = self._of_tenant.get(tenant_id)
            if known is not None:
                known.pop(intent_id, None)
                if not known:
                    del self._of_tenant[tenant_id]
        for row in rows:
            self._keep(row)

    def _may_know(self, change: Change) -> bool:
        """False for the first event of an intent without a trigger, as most are: no row of it can be there."""
        return change.stream_version > 1

    def _keep(self, row: Any) -> None:
        raw = orjson.loads(row[3])
        if trigger_faults(raw, ""):
            return  # it was written when other rules held
        self._of_tenant.setdefault(row[0], {})[row[1]] = Row(row[0], row[1], row[2], read_trigger(raw), raw, row[4])

    async def _execute(self, query: str, *arguments: Any) -> None:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            await self._pool.execute(query, *arguments)


def _change(event: RecordedEvent) -> Change | None:
    try:
        return react(event.tenant_id, event.version, event.position, event.event)
    except (codec.UnknownTopic, codec.UndecodableEvent):
        return None
