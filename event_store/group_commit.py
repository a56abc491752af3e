# intent_ref: event-store.append
"""Group commit: concurrent appends of a process become one statement, and each gets an answer of its own.

While one batch is being committed, the next one gathers; so the batch grows with the load and a lone append waits for
nobody. Appends that touch the same stream, command or claim go into successive batches, in the order they came.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from event_store.array_literals import plain_array, text_array
from event_store.faults import DATABASE_AWAY
from event_store.records import (
    Append,
    Appended,
    AppendTooLarge,
    ClaimTaken,
    StoreUnavailable,
    StreamBusy,
    VersionConflict,
    metadata_bytes,
)

_SQL = """
SELECT * FROM quantum.append_events(
    $1::text, $2::text::int[], $3::text::text[], $4::text::text[], $5::text::int[], $6::text::uuid[], $7::text::text[],
    $8::text::int[], $9::text::int[], $10::text::int[], $11::text::uuid[], $12::text::text[], $13::bytea[],
    $14::text::int[], $15::text::text[], $16::text::text[], $17::text::text[], $18::text::text[], $19::text::bool[], $20)
"""
APPENDS_MAX = 256
SECOND_BATCH_FROM = 20
SECOND_BATCH_FROM_EVENTS = 40
SPLIT_FROM = 48
_ROUNDS_TO_JOIN_MAX = 8
EVENTS_MAX = 4096
APPEND_BYTES_MAX = 64 << 20
QUEUE_MAX = 20_000
BUSY_SECONDS_MAX = 5.0
DATABASE_AWAY_SECONDS_MAX = 10.0
STATEMENT_SECONDS_MAX = 30.0
_BUSY_PAUSE_SECONDS = 0.002
_BUSY_PAUSE_SECONDS_MAX = 0.05

Connect = Callable[[], Any]
log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Pending:
    append: Append
    resources: tuple[Hashable, ...]
    events: int
    answer: asyncio.Future[Appended]
    queued_at: float
    busy_pause: float = _BUSY_PAUSE_SECONDS


@dataclass(slots=True)
class Statistics:
    """What telemetry reads: totals since the start."""

    batches: int = 0
    appends: int = 0
    events: int = 0
    conflicts: int = 0
    busy: int = 0
    observe_batch: Callable[[int, float], None] = field(default=lambda appends, seconds: None)


class GroupCommit:
    """The only way into the log. Under heavy load `writers` connections commit side by side; else one is enough."""

    def __init__(self, connect: Connect, committed: Callable[[], None], *, writers: int = 2) -> None:
        self._connect, self._committed, self._writers = connect, committed, writers
        self._queue: deque[_Pending] = deque()
        self._in_flight: set[Hashable] = set()
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._committing: list[frozenset[str]] = []
        """The tenants of each batch that is being committed."""
        self._tasks: list[asyncio.Task[None]] = []
        self.statistics = Statistics()

    def start(self) -> None:
        """Starts the writers; they connect on first use."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._write(), name=f"append-{n}") for n in range(self._writers)]

    async def close(self) -> None:
        """Stops the writers. What is still queued is refused with `StoreUnavailable`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pending in self._queue:
            _answer_error(pending, StoreUnavailable("The event store is closing."))
        self._queue.clear()

    def append(self, append: Append) -> asyncio.Future[Appended]:
        """Stores `append` whole or not at all, whether its answer is waited for or not.

        Raises `StoreUnavailable` where 20,000 appends are waiting, and `AppendTooLarge`. Answers with `VersionConflict`,
        `ClaimTaken`, `StreamBusy` after 5 s behind somebody else's transaction, or `StoreUnavailable` when the database does not
        answer.
        """
        if len(self._queue) >= QUEUE_MAX:
            raise StoreUnavailable("20,000 appends are waiting already. Try again in a moment.")
        pending = _Pending(append, _resources(append), _events_in(append), self._loop.create_future(), self._loop.time())
        self._queue.append(pending)
        self._work.set()
        return pending.answer

    async def _write(self) -> None:
        connection: Any = None
        pause = 0.05
        try:
            while True:
                batch = await self._gather()
                tenants = frozenset([pending.append.tenant_id for pending in batch])
                self._committing.append(tenants)
                try:
                    if connection is None or connection.is_closed():
                        connection = await self._connect()
                    await self._commit(connection, batch)
                    pause = 0.05
                except DATABASE_AWAY as fault:
                    log.warning("an append batch met a database fault; it is sent again", fault=repr(fault))
                    if connection is not None:
                        connection.terminate()
                        connection = None
                    self._send_again(batch)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 1.0)
                except Exception as fault:  # a writer that ends would leave everybody waiting
                    log.exception("an append batch failed in a way nobody foresaw")
                    for pending in batch:
                        _answer_error(pending, fault)
                finally:
                    self._committing.remove(tenants)
                    for pending in batch:
                        self._in_flight.difference_update(pending.resources)
                    self._work.set()
        finally:
            if connection is not None:
                connection.terminate()

    async def _gather(self) -> list[_Pending]:
        while True:
            if self._share():
                await self._let_join()
            batch = self._take()
            if batch:
                return batch
            self._work.clear()
            await self._work.wait()

    async def _let_join(self) -> None:
        """Lets appends that are on their way join the few that wait: who has just had an answer may be about to send the next."""
        for _ in range(_ROUNDS_TO_JOIN_MAX):
            waiting = len(self._queue)
            if not 0 < waiting < SECOND_BATCH_FROM:
                return
            await asyncio.sleep(0)
            if len(self._queue) == waiting:
                return

    def _take(self) -> list[_Pending]:
        """The oldest appends that share nothing with each other, with a batch in flight, or with an older one left behind."""
        batch: list[_Pending] = []
        left: list[_Pending] = []
        held_back: set[Hashable] = set()
        events = 0
        most = self._share()
        while self._queue and len(batch) < most and len(left) < APPENDS_MAX * 4:
            pending = self._queue.popleft()
            if pending.answer.done():
                continue
            if batch and events + pending.events > EVENTS_MAX:
                left.append(pending)
                break
            if not (self._in_flight.isdisjoint(pending.resources) and held_back.isdisjoint(pending.resources)):
                held_back.update(pending.resources)
                left.append(pending)
                continue
            self._in_flight.update(pending.resources)
            batch.append(pending)
            events += pending.events
        self._queue.extendleft(reversed(left))
        return batch

    def _share(self) -> int:
        """How many appends a writer may take now.

        While a batch is being committed, what comes gathers for the next, because a large batch costs less an append than two
        small ones. But PostgreSQL and this process take turns then; so where there is plenty, two batches go side by side, each
        with half of it (measured with 64 callers: 64 instead of 61 µs of processor time an append, and 1.35 times the rate).
        From 20 on, not 32, a second one goes: 64 executions under way did 1.14 times as many steps a second in one process. So it
        does for the events of a few wide executions, which have dozens an append (1.08 times as many steps).
        And no tenant waits for a batch that is all of others': a flood of theirs would otherwise slow down each of its commands.
        """
        waiting = len(self._queue)
        if self._committing:
            is_plenty = waiting >= SECOND_BATCH_FROM or sum(one.events for one in self._queue) >= SECOND_BATCH_FROM_EVENTS
            return APPENDS_MAX if is_plenty or self._has_another_tenant() else 0
        return min(APPENDS_MAX, -(-waiting // 2)) if waiting >= SPLIT_FROM else APPENDS_MAX

    def _has_another_tenant(self) -> bool:
        """Whether somebody waits of whom nothing is being committed."""
        return any(all(one.append.tenant_id not in tenants for tenants in self._committing) for one in self._queue)

    async def _commit(self, connection: Any, batch: list[_Pending], *, careful: bool = False) -> None:
        began = self._loop.time()
        try:
            row = await connection.fetchrow(_SQL, *_arguments(batch, careful=careful), timeout=STATEMENT_SECONDS_MAX)
        except Exception as fault:
            # Where the server's table of locks is full, there may be room for those of one append after the other.
            is_crowded = isinstance(fault, asyncpg.OutOfMemoryError) and len(batch) > 1
            if isinstance(fault, DATABASE_AWAY) and not isinstance(fault, ValueError) and not is_crowded:
                raise
            if isinstance(fault, asyncpg.UniqueViolationError) and not careful:
                # A command seen before, or a new stream that is not new: now it is worth looking who that is.
                await self._commit(connection, batch, careful=True)
                return
            if len(batch) == 1:
                if isinstance(fault, asyncpg.UniqueViolationError):
                    # Another process was first with this command in this very moment: next time it is seen as stored.
                    self._try_later(batch[0])
                else:
                    _answer_error(batch[0], fault)
                return
            for pending in batch:
                await self._commit(connection, [pending], careful=True)
            return
        self.statistics.observe_batch(len(batch), self._loop.time() - began)
        self._answer(batch, row)

    def _answer(self, batch: list[_Pending], row: Any) -> None:
        busy, repeated = set(row["busy"] or ()), set(row["repeated"] or ())
        conflicted, claimed = set(row["conflicted"] or ()), set(row["claimed"] or ())
        is_plain = not (busy or repeated or conflicted or claimed)
        heads, positions, recorded_at = row["heads"], sorted(row["positions"] or ()), row["recorded_at"]
        part = first = 0
        for number, pending in enumerate(batch, start=1):
            streams = pending.append.streams
            before = heads[part : part + len(streams)]
            part += len(streams)
            if is_plain:
                first = self._stored(pending, before, positions, first, recorded_at)
            elif number in busy:
                self._try_later(pending)
            elif number in repeated:
                _answer(pending, Appended(0, (), (), recorded_at, repeated=_REPEATED))
            elif number in conflicted:
                self.statistics.conflicts += 1
                _answer_error(pending, _conflict(pending.append, before))
            elif number in claimed:
                claim = next(claim for claim in pending.append.claims if claim.takes)
                _answer_error(pending, ClaimTaken(claim.scope, claim.value))
            else:
                first = self._stored(pending, before, positions, first, recorded_at)
        self.statistics.batches += 1
        self.statistics.events += first
        if first:
            self._committed()

    def _stored(self, pending: _Pending, before: list[int], positions: list[int], first: int, recorded_at: datetime) -> int:
        """Answers an append that was stored; returns where the next one's positions begin."""
        following = first + pending.events
        own = tuple(positions[first:following])
        versions = tuple([head + len(stream.events) for head, stream in zip(before, pending.append.streams, strict=True)])
        _answer(pending, Appended(own[-1], versions, own, recorded_at))
        self.statistics.appends += 1
        return following

    def _try_later(self, pending: _Pending) -> None:
        self.statistics.busy += 1
        if (waited := self._loop.time() - pending.queued_at) > BUSY_SECONDS_MAX:
            _answer_error(pending, StreamBusy(pending.append.streams[0].stream_id, waited))
            return
        self._loop.call_later(pending.busy_pause, self._requeue, pending)
        pending.busy_pause = min(pending.busy_pause * 2, _BUSY_PAUSE_SECONDS_MAX)

    def _send_again(self, batch: list[_Pending]) -> None:
        now = self._loop.time()
        for pending in reversed(batch):
            if now - pending.queued_at > DATABASE_AWAY_SECONDS_MAX:
                _answer_error(pending, StoreUnavailable(str(StoreUnavailable.__doc__)))
            else:
                self._queue.appendleft(pending)

    def _requeue(self, pending: _Pending) -> None:
        self._queue.appendleft(pending)
        self._work.set()


_REPEATED: Any = ("repeated",)
"""Marks an `Appended` whose events the store still has to read back."""


def _resources(append: Append) -> tuple[Hashable, ...]:
    """What no two appends of a batch may share. Strings and integers, because their hashes cost little."""
    tenant = append.tenant_id
    of_streams = [f"{tenant}\0{stream.stream_id}" for stream in append.streams]
    if append.claims:
        of_streams += [f"{tenant}\0{claim.scope}\0{claim.value}" for claim in append.claims]
    return (append.command_id.int, *of_streams)


def _events_in(append: Append) -> int:
    events = size = 0
    for stream in append.streams:
        if not stream.events:
            raise ValueError("An append needs at least one event for each of its streams.")
        for event in stream.events:
            events += 1
            size += len(event.payload)
    if not events:
        raise ValueError("An append needs at least one event for each of its streams.")
    if events > EVENTS_MAX or size > APPEND_BYTES_MAX:
        raise AppendTooLarge(str(AppendTooLarge.__doc__))
    return events


def _arguments(batch: list[_Pending], *, careful: bool = False) -> tuple[str | list[bytes] | bool, ...]:
    """The parameters of `append_events`, in its order: tenants, parts, their events, claims, whether to look first."""
    parts: list[tuple[Any, ...]] = []
    events: list[tuple[Any, ...]] = []
    claims: list[tuple[Any, ...]] = []
    for number, pending in enumerate(batch, start=1):
        append = pending.append
        tenant, command, metadata = append.tenant_id, append.command_id.hex, metadata_bytes(append.metadata).decode()
        index = 0
        for stream in append.streams:
            parts.append((number, tenant, stream.stream_id, stream.expected, command, metadata))
            for place, event in enumerate(stream.events, start=1):
                events.append((len(parts), index, place, event.event_id.hex, event.topic, event.payload))
                index += 1
        for claim in append.claims:
            claims.append((number, tenant, claim.scope, claim.value, claim.stream_id, claim.takes))
    tenants = list(dict.fromkeys(pending.append.tenant_id for pending in batch))
    return (
        text_array(tenants),
        *_arrays(parts, _PART_ARRAYS),
        *_arrays(events, _EVENT_ARRAYS),
        *_arrays(claims, _CLAIM_ARRAYS),
        careful,
    )


_PART_ARRAYS = (plain_array, text_array, text_array, plain_array, plain_array, text_array)
_EVENT_ARRAYS: tuple[Callable[[Any], str | list[bytes]], ...] = (
    plain_array, plain_array, plain_array, plain_array, text_array, list,
)  # fmt: skip
_CLAIM_ARRAYS = (plain_array, text_array, text_array, text_array, text_array, plain_array)


def _arrays(rows: list[tuple[Any, ...]], columns: tuple[Callable[[Any], str | list[bytes]], ...]) -> list[str | list[bytes]]:
    """Rows as one array a column."""
    if not rows:
        return ["{}"] * len(columns)
    return [array(column) for array, column in zip(columns, zip(*rows, strict=True), strict=True)]


def _conflict(append: Append, heads: list[int]) -> VersionConflict:
    for stream, head in zip(append.streams, heads, strict=True):
        if stream.expected not in (-1, head):
            return VersionConflict(stream.stream_id, stream.expected, head)
    raise AssertionError("a conflict without a stream that conflicts")


def _answer(pending: _Pending, appended: Appended) -> None:
    if not pending.answer.done():
        pending.answer.set_result(appended)


def _answer_error(pending: _Pending, error: Exception) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
