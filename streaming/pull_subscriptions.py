# intent_ref: streaming.pull-subscriptions
"""Gives a tenant's events out to those who fetch them, under leases, until they are acknowledged (docs/pull-subscriptions.md).

There is no deliverer: each request is one database function (migrations 0044 and 0045), and everything that must survive is
there. So any process can serve any request, and a crash at any moment leaves leases that end by themselves.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from domain.pull_subscription import (
    PullDeadLetter,
    Pulled,
    PullStanding,
    PullStart,
    PullSubscription,
    PullSubscriptions,
    ReadLease,
    evolve,
)
from domain.subscription import Start
from domain.values import TenantId, pull_subscriptions_stream
from event_store.faults import DATABASE_AWAY
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore
from streaming.cloud_events import SOURCE_DEFAULT, structured, subject_of, type_of
from streaming.transport import Message

DEAD_LETTERS_MAX: Final = 10_000
"""Dead letters of a subscription. At the limit nothing is given up: it comes again, however often that was."""
PULLED_BYTES_MAX: Final = 4 << 20
"""One answer ends behind the event with which its payloads have more than this."""
_LOOKED_AT_MAX: Final = 5_000
_LOOKS_MAX: Final = 20
_REPEAT_SECONDS: Final = 1.0
_OVERLAP: Final = timedelta(seconds=10)
_REASON_CHARACTERS_MAX: Final = 2_000
_PULL = """
SELECT deliveries, leased_until,
       position, recorded_at, event_id, command_id, version, tenant_id, stream_id, topic, metadata, payload
  FROM quantum.pull_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""
_STATE = "SELECT * FROM quantum.pull_state($1, $2)"
_ACKNOWLEDGE = "SELECT quantum.acknowledge_pulled($1, $2, $3, $4)"
_REFUSE = "SELECT quantum.refuse_pulled($1, $2, $3, $4, $5, $6, $7, $8)"
_EXTEND = "SELECT event_id, leased_until FROM quantum.extend_pulled($1, $2, $3, $4, $5)"
_LETTERS = """
SELECT position, event_id, topic, stream_id, deliveries, reason, first_at, dead_at, is_redriven
  FROM quantum.list_pull_dead_letters($1, $2, $3, $4)
"""
_SETTLE_LETTERS = "SELECT quantum.settle_pull_dead_letters($1, $2, $3, $4)"
_SEEK = "SELECT quantum.seek_pull($1, $2, $3, $4)"
_FORGET = "SELECT quantum.forget_pull($1, $2, $3)"
_BEFORE = "SELECT quantum.tenant_position_before($1, $2, $3)"

Following = Callable[[str, PullSubscription], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]]
"""(tenant, subscription) -> what is open while somebody waits: each call returns once there may be new events of the tenant."""


class PullSubscriptionReader:
    """What may be asked of pull subscriptions. Raises `StoreUnavailable`. `source` is that of the CloudEvents given out."""

    def __init__(self, store: EventStore, following: Following, *, source: str = SOURCE_DEFAULT) -> None:
        self._store, self._following, self._source = store, following, source
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}

    async def start(self, tenant_id: str, start: Start) -> PullStart:
        """The place in the log that `start` means now."""
        if start.position is not None:
            return PullStart(start.position)
        horizon = await self._store.horizon()
        if start.time is None:
            return PullStart(horizon)
        with contextlib.suppress(OverflowError):
            # Appends that overlap may be recorded a little earlier and yet have a higher position; each event's own time decides.
            return PullStart(await self._value(_BEFORE, tenant_id, start.time - _OVERLAP, horizon), start.time)
        return PullStart(0, start.time)

    async def pull(
        self, tenant_id: str, subscription: PullSubscription, at_most: int, lease_seconds: float, wait_seconds: float
    ) -> list[Pulled]:
        """Up to `at_most` events in order, leased; where there is none, after `wait_seconds` at the latest with nothing, and
        earlier when the subscription's terms change: then who asked asks again under the new ones.

        To be cancelled when nobody waits for the answer any more; what was leased in that moment comes again.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        pulled = await self._pull(tenant_id, subscription, at_most, lease_seconds)
        if pulled or wait_seconds <= 0:
            return pulled
        key = (tenant_id, subscription.subscription_id)
        changed = asyncio.Event()
        self._waiting.setdefault(key, set()).add(changed)
        try:
            async with self._following(tenant_id, subscription) as arrived:
                while not pulled:
                    changed.clear()
                    if not await self._still_holds(tenant_id, subscription):
                        break
                    pulled = await self._pull(tenant_id, subscription, at_most, lease_seconds)
                    left = until - loop.time()
                    if pulled or left <= 0:
                        break
                    await self._worth_another_look(tenant_id, subscription, arrived, changed, left)
        finally:
            self._waiting[key].discard(changed)
            if not self._waiting[key]:
                del self._waiting[key]
        return pulled

    async def acknowledge(self, tenant_id: str, id: str, event_ids: Sequence[UUID], up_to: int | None) -> list[UUID]:
        """These, and all that are given out up to a position, are done; which were not done before. Whoever has the lease."""
        rows = await self._rows(_ACKNOWLEDGE, tenant_id, id, list(event_ids), up_to)
        self.changed(tenant_id, id)
        return [row[0] for row in rows]

    async def refuse(
        self, tenant_id: str, subscription: PullSubscription, lease: ReadLease, delay_seconds: float, reason: str | None
    ) -> str:
        """Gives an event back. `again`: it comes again; `dead`: it is a dead letter now; `lost`: the lease is over; `unknown`."""
        id = subscription.subscription_id
        why = None if reason is None else reason[:_REASON_CHARACTERS_MAX]
        came: str = await self._value(
            _REFUSE, tenant_id, id, lease.event_id, lease.delivery, delay_seconds, why, subscription.terms.deliveries_max,
            DEAD_LETTERS_MAX,
        )  # fmt: skip
        self.changed(tenant_id, id)
        return came

    async def extend(self, tenant_id: str, id: str, leases: Sequence[ReadLease], seconds: float) -> dict[UUID, datetime]:
        """Lets leases last so long from now on; those that are still held, and until when."""
        ids, deliveries = [lease.event_id for lease in leases], [lease.delivery for lease in leases]
        return {row[0]: row[1] for row in await self._rows(_EXTEND, tenant_id, id, ids, deliveries, seconds)}

    async def state(self, tenant_id: str, id: str) -> PullStanding:
        """How it stands now."""
        return PullStanding(*(await self._rows(_STATE, tenant_id, id))[0])

    async def dead_letters(self, tenant_id: str, id: str, after: int, limit: int) -> list[PullDeadLetter]:
        """Those behind a position, oldest first."""
        rows = await self._rows(_LETTERS, tenant_id, id, after, limit)
        return [PullDeadLetter(row[0], row[1], type_of(row[2]), subject_of(row[3]), *row[4:]) for row in rows]

    async def redrive(self, tenant_id: str, id: str, event_ids: Sequence[UUID] | None) -> int:
        """Lets dead letters, or all of them, be given out again as if for the first time; how many."""
        return await self._settled(tenant_id, id, event_ids, is_forgotten=False)

    async def forget(self, tenant_id: str, id: str, event_ids: Sequence[UUID] | None) -> int:
        """Drops dead letters, or all of them; how many."""
        return await self._settled(tenant_id, id, event_ids, is_forgotten=True)

    async def seek(self, tenant_id: str, id: str, start: PullStart) -> None:
        """Goes on from another place; what is given out at present is nobody's any more."""
        await self._rows(_SEEK, tenant_id, id, start.position, start.time)
        self.changed(tenant_id, id)

    async def purge(self, tenant_id: str, id: str, left: PullSubscriptions) -> None:
        """Takes away what a deleted subscription leaves, and what an earlier one left when its process died over it."""
        await self._rows(_FORGET, tenant_id, id, list(left.by_id))

    async def _settled(self, tenant_id: str, id: str, event_ids: Sequence[UUID] | None, *, is_forgotten: bool) -> int:
        ids = None if event_ids is None else list(event_ids)
        number: int = await self._value(_SETTLE_LETTERS, tenant_id, id, ids, is_forgotten)
        self.changed(tenant_id, id)
        return number

    async def _pull(self, tenant_id: str, subscription: PullSubscription, at_most: int, lease_seconds: float) -> list[Pulled]:
        """What there is now. Looks on where one query has looked at as much as it may and found nothing."""
        terms, start = subscription.terms, subscription.start
        id = subscription.subscription_id
        for _ in range(_LOOKS_MAX):
            up_to = await self._store.horizon()
            rows = await self._rows(
                _PULL, tenant_id, id, start.position, start.time, up_to, types_pattern(terms.types),
                subjects_pattern(terms.subjects), terms.order == "per-subject", at_most, lease_seconds, terms.unacknowledged_max,
                terms.deliveries_max, DEAD_LETTERS_MAX, _LOOKED_AT_MAX, PULLED_BYTES_MAX,
            )  # fmt: skip
            if rows:
                return [self._pulled(*row) for row in sorted(rows, key=itemgetter("position"))]
            state = await self.state(tenant_id, id)
            is_due = state.due_seconds is not None and state.due_seconds <= 0
            is_behind = (state.cursor or 0) < up_to and state.unacknowledged < terms.unacknowledged_max
            if not is_due and not is_behind:
                break
        return []

    def _pulled(self, delivery: int, leased_until: datetime, *row: Any) -> Pulled:
        event = RecordedEvent(*row)
        envelope = structured(Message.of(event), self._source)
        return Pulled(ReadLease(event.event_id, delivery), leased_until, event.position, envelope)

    async def _worth_another_look(
        self, tenant_id: str, subscription: PullSubscription, arrived: Callable[[], Awaitable[None]], changed: asyncio.Event,
        seconds: float,
    ) -> None:  # fmt: skip
        """Returns when something may be there: an event of the tenant, an answer of another reader, the end of a lease.

        Of answers that other processes take nobody tells: while something is given out, a look a second finds them.
        """
        state = await self.state(tenant_id, subscription.subscription_id)
        if state.due_seconds is not None:
            seconds = min(seconds, _REPEAT_SECONDS, max(0.01, state.due_seconds))
        elif state.redriven:
            seconds = min(seconds, _REPEAT_SECONDS)
        waiting = [asyncio.ensure_future(arrived()), asyncio.ensure_future(changed.wait())]
        try:
            done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _still_holds(self, tenant_id: str, subscription: PullSubscription) -> bool:
        loaded = await self._store.load(TenantId(tenant_id), pull_subscriptions_stream(), evolve)
        found = loaded.state.by_id.get(subscription.subscription_id) if loaded.state is not None else None
        return found is None or found.version == subscription.version

    def changed(self, tenant_id: str, id: str) -> None:
        """Wakes those of this process who wait: something is to be given out again, or under other terms."""
        for changed in self._waiting.get((tenant_id, id), ()):
            changed.set()

    async def _rows(self, query: str, *arguments: Any) -> list[Any]:
        try:
            rows: list[Any] = await self._store.tenant_pool.fetch(query, *arguments)
            return rows
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault

    async def _value(self, query: str, *arguments: Any) -> Any:
        return (await self._rows(query, *arguments))[0][0]


def types_pattern(patterns: Sequence[str]) -> str | None:
    """A PostgreSQL regular expression that matches a type where one of `patterns` does, with or without its version."""
    return None if "*" in patterns else rf"^({_alternatives(patterns)})(\.v[0-9]+)?$"


def subjects_pattern(patterns: Sequence[str]) -> str | None:
    """The same for subjects."""
    return None if not patterns or "*" in patterns else f"^({_alternatives(patterns)})$"


def _alternatives(patterns: Sequence[str]) -> str:
    return "|".join(".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)


@contextlib.asynccontextmanager
async def polling(tenant_id: str, subscription: PullSubscription) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A `Following` for where no reader of the log is shared: a look a second."""

    async def arrived() -> None:
        await asyncio.sleep(_REPEAT_SECONDS)

    yield arrived
