# intent_ref: sagas.schedules
"""The table of schedules: what the log says of each, how far it has been dealt with, and when somebody looks at it next."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from domain.immutable import immutable
from domain.intent import (
    IntentActivated,
    IntentArchived,
    IntentCreated,
    IntentDeprecated,
    IntentRevised,
    IntentRolledBack,
    IntentSchedulePaused,
    IntentScheduleResumed,
)
from event_store import codec

_EVENTS = (
    IntentCreated, IntentRevised, IntentRolledBack, IntentDeprecated, IntentActivated, IntentArchived, IntentSchedulePaused,
    IntentScheduleResumed,
)  # fmt: skip
TOPICS = frozenset(codec.topic_of(event) for event in _EVENTS)
LOOKING_SECONDS = 30.0
"""What a look at a schedule may take; then another process looks."""
_QUERY_SECONDS_MAX = 10.0

_MAKE = """
INSERT INTO quantum.saga_schedules (tenant_id, intent_id, stream_version, intent_version, dealt_until)
SELECT c.tenant_id, c.intent_id, 0, c.intent_version, c.at
  FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[]) AS c (tenant_id, intent_id, intent_version, at)
    ON CONFLICT (tenant_id, intent_id) DO NOTHING
"""
# A time that is owed belongs to the schedule as it was: after a pause, an end or another schedule nobody starts it any more.
_GIVES_UP = """(coalesce(c.paused, false) OR c.resumed_at IS NOT NULL OR c.archived
           OR (c.intent_version IS NOT NULL AND c.schedule IS DISTINCT FROM kept.schedule::text))"""
_CHANGE = f"""
UPDATE quantum.saga_schedules AS kept
   SET stream_version = c.stream_version,
       intent_version = coalesce(c.intent_version, kept.intent_version),
       schedule = CASE WHEN c.intent_version IS NULL THEN kept.schedule ELSE c.schedule::json END,
       paused = coalesce(c.paused, kept.paused),
       archived = kept.archived OR c.archived,
       dealt_until = CASE WHEN c.resumed_at IS NOT NULL THEN c.resumed_at
                          WHEN c.intent_version IS NOT NULL AND c.schedule IS DISTINCT FROM kept.schedule::text THEN c.at
                          ELSE kept.dealt_until END,
       look_at = CASE WHEN coalesce(c.paused, kept.paused) OR kept.archived OR c.archived THEN NULL
                      WHEN c.intent_version IS NOT NULL THEN CASE WHEN c.schedule IS NOT NULL THEN c.at END
                      WHEN c.paused IS NOT NULL THEN CASE WHEN kept.schedule IS NOT NULL THEN c.at END
                      ELSE kept.look_at END,
       last_error = CASE WHEN c.intent_version IS NULL OR (kept.owed_time IS NOT NULL AND NOT {_GIVES_UP})
                         THEN kept.last_error END,
       missed = kept.missed + CASE WHEN kept.owed_time IS NOT NULL AND {_GIVES_UP} THEN 1 ELSE 0 END,
       last_missed = CASE WHEN kept.owed_time IS NOT NULL AND {_GIVES_UP} THEN kept.last_error ELSE kept.last_missed END,
       owed_time = CASE WHEN NOT {_GIVES_UP} THEN kept.owed_time END,
       owed_since = CASE WHEN NOT {_GIVES_UP} THEN kept.owed_since END,
       tries = CASE WHEN {_GIVES_UP} THEN 0 ELSE kept.tries END
  FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::int[], $6::text[], $7::bool[], $8::timestamptz[],
              $9::bool[])
       AS c (tenant_id, intent_id, stream_version, at, intent_version, schedule, paused, resumed_at, archived)
 WHERE kept.tenant_id = c.tenant_id AND kept.intent_id = c.intent_id AND kept.stream_version < c.stream_version
"""  # noqa: S608 - constants only
_CLAIM = """
UPDATE quantum.saga_schedules AS one SET look_at = $1::timestamptz + make_interval(secs => $2)
  FROM (SELECT tenant_id, intent_id FROM quantum.saga_schedules
         WHERE look_at <= $1 ORDER BY look_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS due
 WHERE one.tenant_id = due.tenant_id AND one.intent_id = due.intent_id
RETURNING one.tenant_id, one.intent_id, one.stream_version, one.intent_version, one.schedule::text, one.dealt_until,
          one.last_execution_id, one.owed_time, one.owed_since, one.tries, one.last_error::text
"""
_SETTLE = """
UPDATE quantum.saga_schedules AS one
   SET look_at = CASE WHEN one.stream_version = $3 THEN $5 ELSE one.look_at END,
       dealt_until = CASE WHEN one.stream_version = $3 THEN greatest(one.dealt_until, $4) ELSE one.dealt_until END,
       runs = one.runs + $6, passed_over = one.passed_over + $7,
       last_time = coalesce($8, one.last_time), last_execution_id = coalesce($9, one.last_execution_id),
       last_error = CASE WHEN $10::text IS NOT NULL THEN $10::json WHEN $6 > 0 THEN NULL ELSE one.last_error END,
       owed_time = CASE WHEN one.stream_version = $3 THEN $11::timestamptz END,
       owed_since = CASE WHEN one.stream_version = $3 THEN $12::timestamptz END,
       tries = CASE WHEN one.stream_version = $3 THEN $13 ELSE 0 END,
       missed = one.missed + $14 + CASE WHEN one.stream_version <> $3 AND $11 IS NOT NULL THEN 1 ELSE 0 END,
       last_missed = CASE WHEN one.stream_version <> $3 AND $11 IS NOT NULL THEN $10::json
                          ELSE coalesce($15::json, one.last_missed) END
 WHERE one.tenant_id = $1 AND one.intent_id = $2
"""
_LOOK_AT = """
UPDATE quantum.saga_schedules SET look_at = $4 WHERE tenant_id = $1 AND intent_id = $2 AND stream_version = $3
"""
_NEXT = "SELECT min(look_at) FROM quantum.saga_schedules WHERE look_at IS NOT NULL"


@immutable
class Change:
    """What an event says of an intent's schedule; None where it says nothing of that. `schedule` is JSON, None for none.

    It is part of a definition, so it counts where `intent_version` is given.
    """

    tenant_id: str
    intent_id: str
    stream_version: int
    at: datetime
    intent_version: int | None = None
    schedule: str | None = None
    paused: bool | None = None
    resumed_at: datetime | None = None
    is_archived: bool = False


@immutable
class Row:
    """A schedule that somebody has to look at. `schedule` and `last_error` are JSON.

    `owed_time` was refused and is to be tried again: `tries` times since `owed_since`, the last time for `last_error`.
    """

    tenant_id: str
    intent_id: str
    stream_version: int
    intent_version: int
    schedule: str | None
    dealt_until: datetime
    last_execution_id: str | None
    owed_time: datetime | None = None
    owed_since: datetime | None = None
    tries: int = 0
    last_error: str | None = None

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.tenant_id}\n{self.intent_id}"


@immutable
class Settled:
    """What came of a look: what was dealt with, when to look again, and what became of the runs. What says why is JSON.

    `missed` times were refused for good, the last one for `last_missed`; `owed_time` is to be tried again.
    """

    dealt_until: datetime
    look_at: datetime | None
    runs: int = 0
    passed_over: int = 0
    last_time: datetime | None = None
    last_execution_id: str | None = None
    error: str | None = None
    missed: int = 0
    last_missed: str | None = None
    owed_time: datetime | None = None
    owed_since: datetime | None = None
    tries: int = 0


def react(tenant_id: str, stream_version: int, event: Any) -> Change | None:
    """What `event`, at this version of its intent's stream, changes about the schedule; None where it is about no intent."""
    if not isinstance(event, _EVENTS):
        return None
    change = Change(tenant_id, event.intent_id, stream_version, event.at)
    match event:
        case IntentCreated(definition=definition):
            return replace(change, intent_version=1, schedule=_schedule(definition))
        case IntentRevised(version=version, definition=definition) | IntentRolledBack(version=version, definition=definition):
            return replace(change, intent_version=version, schedule=_schedule(definition))
        case IntentSchedulePaused():
            return replace(change, paused=True)
        case IntentScheduleResumed():
            return replace(change, paused=False, resumed_at=event.at)
        case IntentArchived():
            return replace(change, is_archived=True)
        case _:
            return change


def merged(changes: Iterable[Change]) -> list[Change]:
    """One change for each intent, which does what all of them do in their order."""
    found: dict[tuple[str, str], Change] = {}
    for change in changes:
        key = (change.tenant_id, change.intent_id)
        before = found.get(key)
        found[key] = change if before is None else _after(before, change)
    return list(found.values())


def _after(before: Change, change: Change) -> Change:
    is_definition = change.intent_version is not None
    return replace(
        change,
        intent_version=change.intent_version if is_definition else before.intent_version,
        schedule=change.schedule if is_definition else before.schedule,
        paused=before.paused if change.paused is None else change.paused,
        resumed_at=change.resumed_at or before.resumed_at,
        is_archived=before.is_archived or change.is_archived,
    )


def _schedule(definition: dict[str, Any]) -> str | None:
    raw = definition.get("schedule")
    return None if raw is None else orjson.dumps(raw).decode()


class ScheduleRows:
    """The table. Raises the driver's errors; every call ends within ten seconds."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def apply(self, changes: Sequence[Change]) -> None:
        """Takes changes in, one for each intent at most; those that came before change nothing."""
        new = [one for one in changes if one.schedule is not None]
        async with asyncio.timeout(_QUERY_SECONDS_MAX), self._pool.acquire() as connection, connection.transaction():
            if new:
                await connection.execute(
                    _MAKE, [one.tenant_id for one in new], [one.intent_id for one in new],
                    [one.intent_version for one in new], [one.at for one in new],
                )  # fmt: skip
            await connection.execute(
                _CHANGE, [one.tenant_id for one in changes], [one.intent_id for one in changes],
                [one.stream_version for one in changes], [one.at for one in changes], [one.intent_version for one in changes],
                [one.schedule for one in changes], [one.paused for one in changes], [one.resumed_at for one in changes],
                [one.is_archived for one in changes],
            )  # fmt: skip

    async def claim(self, present: datetime, limit: int) -> list[Row]:
        """Up to `limit` schedules to look at now, the most overdue first; nobody else gets them for `LOOKING_SECONDS`."""
        return [Row(*row) for row in await self._fetch(_CLAIM, present, LOOKING_SECONDS, limit)]

    async def settle(self, row: Row, done: Settled) -> None:
        """Says what came of a look. What the log has said in the meantime is left as it is."""
        await self._fetch(
            _SETTLE, row.tenant_id, row.intent_id, row.stream_version, done.dealt_until, done.look_at, done.runs,
            done.passed_over, done.last_time, done.last_execution_id, done.error,
            done.owed_time, done.owed_since, done.tries, done.missed, done.last_missed,
        )  # fmt: skip

    async def look_at(self, row: Row, at: datetime) -> None:
        """Nothing was done; somebody looks again at this time."""
        await self._fetch(_LOOK_AT, row.tenant_id, row.intent_id, row.stream_version, at)

    async def next_look(self) -> datetime | None:
        """When the next schedule is to be looked at; None where there is none."""
        found: datetime | None = (await self._fetch(_NEXT))[0][0]
        return found

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            rows: list[Any] = await self._pool.fetch(query, *arguments)
            return rows
