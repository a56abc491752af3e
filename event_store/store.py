# intent_ref: event-store.store
"""The event store: append, read, subscribe, load. PostgreSQL behind it, one log for every tenant."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Self, TypeVar
from uuid import UUID

import asyncpg

from domain.immutable import immutable
from domain.values import StreamId, TenantId
from event_store.faults import DATABASE_AWAY
from event_store.group_commit import GroupCommit
from event_store.records import (
    Append,
    Appended,
    Claim,
    Metadata,
    RecordedEvent,
    StoreUnavailable,
    StreamAppend,
)
from event_store.snapshots import Loaded, StateCache
from event_store.tail import GAP_MAX, Tail
from event_store.tenancy import check_role
from event_store.waiting import settled
from event_store.wakeups import Wakeups

S = TypeVar("S")
_COLUMNS = "position, recorded_at, event_id, command_id, version, tenant_id, stream_id, topic, metadata, payload"
_READ_STREAM = f"SELECT {_COLUMNS} FROM quantum.read_stream($1, $2, $3, $4, $5, $6, $7)"  # noqa: S608 - constants only
_READ_COMMAND = f"SELECT {_COLUMNS} FROM quantum.read_command($1, $2)"  # noqa: S608
_READ_LOG = f"""
SELECT {_COLUMNS} FROM quantum.events
 WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3
"""  # noqa: S608
_READ_LOG_OF_TOPICS = f"""
SELECT {_COLUMNS} FROM quantum.events
 WHERE position > $1 AND position <= $2 AND topic = ANY ($4) ORDER BY position LIMIT $3
"""  # noqa: S608
_READ_LOG_OF_PARTITIONS = f"""
SELECT {_COLUMNS} FROM quantum.events
 WHERE position > $1 AND position <= $2 AND ($4::text[] IS NULL OR topic = ANY ($4))
   AND crc32(convert_to(tenant_id || '/' || stream_id, 'UTF8')) % $5 = ANY ($6::bigint[]) ORDER BY position LIMIT $3
"""  # noqa: S608
_READ_LOG_OF_TENANT = f"SELECT {_COLUMNS} FROM quantum.read_tenant_log($1, $2, $3, $4, $5)"  # noqa: S608
_READ_NEWEST = f"SELECT {_COLUMNS}, horizon FROM quantum.read_newest($1, $2, $3, $4, $5, $6)"  # noqa: S608
_CLAIM_HOLDER = "SELECT stream_id FROM quantum.claims WHERE tenant_id = $1 AND scope = $2 AND value = $3"
Trace = Callable[[str, str | None, Mapping[str, str]], AbstractContextManager[str | None]]
"""(name, traceparent of the cause, attributes) -> a span around what follows."""

Partitions = tuple[int, Collection[int]]
"""Into how many the streams fall, and the numbers of some of them."""

_VERSION_MAX = (1 << 31) - 1
_COMMAND_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 1.0
_WRITTEN_TENANTS_MAX = 10_000


@immutable
class LogPage:
    """Events in log order, and the position the reader has come to (past the last event where filters passed some over)."""

    events: list[RecordedEvent]
    next: int


class EventStore:
    """One process's access to the log. Open with `connect`, end with `close`.

    `tenant_pool` works under row-level security and sees nothing until a tenant is set; `platform_pool` sees every tenant and
    is for projectors, relay, sagas and the sealer alone.
    """

    def __init__(self, tenant_pool: Any, platform_pool: Any, wakeups: Wakeups, group_commit: GroupCommit) -> None:
        self.tenant_pool, self.platform_pool, self.wakeups = tenant_pool, platform_pool, wakeups
        self.group_commit = group_commit
        self.states = StateCache(self)
        self.platform_dsn = ""
        self.trace: Trace | None = None
        self._horizon = 0
        self._asked: tuple[int, asyncio.Future[bool]] | None = None
        self._tail = Tail(self._read_newest, lambda: wakeups.generation)
        self._written: dict[str, int] = {}
        self._last_written = 0

    @classmethod
    async def connect(
        cls, *, app_dsn: str, platform_dsn: str, direct_dsn: str | None = None,
        statement_cache: bool = True, pool_size: int = 8, writers: int = 2,
    ) -> Self:  # fmt: skip
        """Opens pools and checks both logins.

        `direct_dsn` is for LISTEN and session locks where the others go through a pooler. Raises `UnsafeRole`.
        """
        options: dict[str, Any] = {"command_timeout": _COMMAND_TIMEOUT_SECONDS, "timeout": 10}
        pooled: dict[str, Any] = {"min_size": 1, "max_size": pool_size, "reset": _nothing_to_reset}
        if not statement_cache:
            options["statement_cache_size"] = 0
        tenant_pool = await _pool(app_dsn, "QUANTUM_DATABASE_URL", "quantum_app", {**pooled, **options})
        try:
            platform_pool = await _pool(platform_dsn, "QUANTUM_DATABASE_PLATFORM_URL", "quantum_platform", {**pooled, **options})
        except BaseException:
            tenant_pool.terminate()
            raise
        wakeups = Wakeups(direct_dsn or platform_dsn)
        group_commit = GroupCommit(lambda: asyncpg.connect(app_dsn, **options), wakeups.appended, writers=writers)
        store = cls(tenant_pool, platform_pool, wakeups, group_commit)
        store.platform_dsn = direct_dsn or platform_dsn
        wakeups.start()
        group_commit.start()
        return store

    async def close(self) -> None:
        """Stops the writers and gives the connections back."""
        await self.states.close()
        await self.group_commit.close()
        await self.wakeups.close()
        for pool in (self.tenant_pool, self.platform_pool):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await pool.close()
            pool.terminate()

    async def append(
        self, tenant_id: TenantId, streams: Sequence[StreamAppend], *,
        command_id: UUID, metadata: Metadata, claims: Sequence[Claim] = (),
    ) -> Appended:  # fmt: skip
        """Stores what one command says, whole or not at all; a command id seen before stores nothing and gives its events.

        Raises what `GroupCommit.append` raises.
        """
        append = Append(tenant_id, command_id, metadata, tuple(streams), tuple(claims))
        if self.trace is None:
            appended = await self.group_commit.append(append)
        else:
            with self.trace("append", metadata.traceparent, {"quantum.tenant": tenant_id}):
                appended = await self.group_commit.append(append)
        if not appended.repeated:
            self._remember_write(tenant_id, appended.position)
            return appended
        stored = await self.read_command(tenant_id, command_id)
        versions = {event.stream_id: event.version for event in stored}
        return appended._replace(
            repeated=tuple(stored), position=max(event.position for event in stored),
            positions=tuple(event.position for event in stored), versions=tuple(versions.values()),
        )  # fmt: skip

    async def read_stream(
        self, tenant_id: TenantId, stream_id: StreamId, *, after: int = 0, to_version: int | None = None,
        to_time: datetime | None = None, backward: bool = False, limit: int | None = None,
    ) -> list[RecordedEvent]:  # fmt: skip
        """Events of one stream with a version above `after`, up to a version or a time of recording, in either direction."""
        until = _VERSION_MAX if to_version is None else to_version
        rows = await self._fetch(self.tenant_pool, _READ_STREAM, tenant_id, stream_id, after, until, to_time, backward, limit)
        return [RecordedEvent(*row) for row in rows]

    async def read_command(self, tenant_id: TenantId, command_id: UUID) -> list[RecordedEvent]:
        """The events a command stored, in its order; empty when it stored none."""
        rows = await self._fetch(self.tenant_pool, _READ_COMMAND, tenant_id, command_id)
        return [RecordedEvent(*row) for row in rows]

    async def claim_holder(self, tenant_id: TenantId, scope: str, value: str) -> StreamId | None:
        """The stream that holds a claim now, if any does."""
        rows = await self._fetch(self.platform_pool, _CLAIM_HOLDER, tenant_id, scope, value)
        return StreamId(rows[0][0]) if rows else None

    def last_written(self, tenant_id: str | None = None) -> int:
        """The position of this process's last append for a tenant, or for any; 0 where it has not made one lately."""
        return self._last_written if tenant_id is None else self._written.get(tenant_id, 0)

    def _remember_write(self, tenant_id: str, position: int) -> None:
        if len(self._written) >= _WRITTEN_TENANTS_MAX:
            self._written.clear()
        self._written[tenant_id] = max(position, self._written.get(tenant_id, 0))
        self._last_written = max(position, self._last_written)

    @property
    def known_horizon(self) -> int:
        """The horizon as this process saw it last, without asking."""
        return self._horizon

    async def horizon(self) -> int:
        """The position up to which the log is complete now (docs/adr/0002)."""
        rows = await self._fetch(self.platform_pool, "SELECT quantum.log_horizon()")
        self._horizon = max(self._horizon, rows[0][0])
        return self._horizon

    async def _horizon_for_readers(self) -> int:
        """As `horizon`, asked once for all readers that the same wake-up has brought here."""
        generation = self.wakeups.generation
        if self._asked is not None and self._asked[0] == generation:
            asked_by_another = self._asked[1]
            if not asked_by_another.done():
                await settled(asked_by_another)
                if asked_by_another.result():
                    return self._horizon
            return await self.horizon()
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked = generation, answered
        is_known = False
        try:
            horizon = await self.horizon()
            is_known = True
            return horizon
        finally:
            answered.set_result(is_known)

    async def read_log(
        self,
        after: int,
        *,
        limit: int,
        tenant_id: TenantId | None = None,
        topics: frozenset[str] | None = None,
        partitions: Partitions | None = None,
    ) -> LogPage:
        """Up to `limit` events after a position, never past the horizon; of one tenant (under its row-level security) or all.

        `partitions`: into how many the streams of all tenants fall, and the numbers of those wanted. A stream is in the one that
        the CRC-32 of `tenant/stream` gives, modulo their count.
        A page with fewer events than `limit` has come to the horizon, and `next` says so.
        """
        if tenant_id is None and partitions is None:
            newest = await self.newest(after, limit=limit, topics=topics)
            if newest is not None:
                return newest
        horizon = self._horizon
        if horizon <= after + limit and partitions is not None:
            horizon, events = await self._read_newest(after, limit, topics, partitions)
            if horizon <= after + GAP_MAX:
                return LogPage(events, events[-1].position if len(events) == limit else max(after, horizon))
        elif horizon <= after + limit:
            horizon = await self._horizon_for_readers()
        if horizon <= after:
            return LogPage([], after)
        wanted = None if topics is None else sorted(topics)
        if tenant_id is not None:
            rows = await self._fetch(self.tenant_pool, _READ_LOG_OF_TENANT, tenant_id, after, horizon, wanted, limit)
            events = [RecordedEvent(*row) for row in rows]
        elif partitions is not None:
            count, numbers = partitions
            rows = await self._fetch(
                self.platform_pool, _READ_LOG_OF_PARTITIONS, after, horizon, limit, wanted, count, list(numbers)
            )  # fmt: skip
            events = [RecordedEvent(*row) for row in rows]
        else:
            events = await self._read_log_of_all(after, horizon, limit, topics)
        return LogPage(events, events[-1].position if len(events) == limit else horizon)

    async def _read_log_of_all(self, after: int, until: int, limit: int, topics: frozenset[str] | None) -> list[RecordedEvent]:
        if topics is None:
            rows = await self._fetch(self.platform_pool, _READ_LOG, after, until, limit)
        else:
            rows = await self._fetch(self.platform_pool, _READ_LOG_OF_TOPICS, after, until, limit, sorted(topics))
        return [RecordedEvent(*row) for row in rows]

    async def _read_newest(
        self, after: int, limit: int, topics: frozenset[str] | None, partitions: Partitions | None = None
    ) -> tuple[int, list[RecordedEvent]]:
        wanted = None if topics is None else list(topics)
        count, numbers = (1, None) if partitions is None else (partitions[0], list(partitions[1]))
        rows = await self._fetch(self.platform_pool, _READ_NEWEST, after, GAP_MAX, wanted, limit, count, numbers)
        self._horizon = max(self._horizon, rows[0][-1])
        return rows[0][-1], [RecordedEvent(*row[:-1]) for row in rows if row[0] is not None]

    async def newest(self, after: int, *, limit: int, topics: frozenset[str] | None = None) -> LogPage | None:
        """As `read_log` of all tenants, from what this process's readers share; None for a reader who is far behind."""
        found = await self._tail.page(after, limit, topics)
        return None if found is None else LogPage(*found)

    async def subscribe(
        self, *, after: int = 0, tenant_id: TenantId | None = None, topics: frozenset[str] | None = None,
        batch_size: int = 500,
    ) -> AsyncIterator[LogPage]:  # fmt: skip
        """Catches up from `after`, then follows live. No event is skipped, each comes once, in log order.

        Also yields pages without events when the position moved past events the filters leave out, so that a resume token
        moves too. The reader sets the pace: nothing is read ahead of it. Goes on by itself when the database comes back.
        """
        while True:
            generation = self.wakeups.generation
            try:
                page = await self.read_log(after, limit=batch_size, tenant_id=tenant_id, topics=topics)
            except StoreUnavailable:
                await self.wakeups.wait(_POLL_SECONDS)
                continue
            if page.next > after:
                after = page.next
                yield page
            else:
                await self.wakeups.wait(_POLL_SECONDS, since=generation)

    async def load(self, tenant_id: TenantId, stream_id: StreamId, evolve: Callable[[S | None, Any], S]) -> Loaded[S]:
        """The state of a stream now, folded from its events (from the cache or a snapshot where there is one)."""
        return await self.states.load(tenant_id, stream_id, evolve)

    async def _fetch(self, pool: Any, query: str, *arguments: Any) -> list[Any]:
        try:
            rows: list[Any] = await pool.fetch(query, *arguments)
            return rows
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault


async def _nothing_to_reset(_connection: Any) -> None:
    """Spares a round trip a query: all that this package sets on a connection ends with its transaction."""


async def _pool(dsn: str, variable: str, role: str, options: dict[str, Any]) -> Any:
    """A pool whose login is known to be safe."""
    pool = await asyncpg.create_pool(dsn, **options)
    try:
        async with pool.acquire() as connection:
            await check_role(connection, variable, role)
    except BaseException:
        pool.terminate()
        raise
    return pool
