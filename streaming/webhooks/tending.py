# intent_ref: streaming.webhooks
"""What has to be looked after beside the deliveries: leases, changed subscriptions, requests of the API, old rows."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from domain.refusals import Refusal
from event_store.faults import DATABASE_FAULTS
from event_store.records import RecordedEvent, StoreUnavailable
from streaming.partitions import Partitions
from streaming.webhooks.lane import OPEN_MAX, Lane
from streaming.webhooks.ledger import Ledger, Registered, Request
from streaming.webhooks.outbox import Outbox
from streaming.webhooks.posting import new_test
from streaming.webhooks.registry import Registry, shard_of
from streaming.webhooks.sending import Sender

_AWAY: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)
_PAUSE_SECONDS: Final = 0.5
_CURSORS_EVERY_SECONDS: Final = 10.0
_TIDY_EVERY_SECONDS: Final = 5.0
_FORGET_EVERY_SECONDS: Final = 60.0
_DRAIN_SECONDS_MAX: Final = 30.0
_KNOWN_MAX: Final = 20_000

log = structlog.get_logger(__name__)


class Disable(Protocol):
    """Disables a subscription by a command; raises where that should be tried again."""

    def __call__(self, tenant_id: str, subscription_id: str, reason: str, detail: str, at: datetime) -> Awaitable[None]:
        """Returns when it is disabled; raises `Refusal` where that cannot be."""
        ...


class Host(Protocol):
    """Where lanes live: the dispatcher."""

    @property
    def lanes(self) -> Mapping[tuple[str, str], Lane]:
        """The lanes of this process, by (tenant, subscription)."""
        ...

    def take_up(self, lane: Lane) -> None:
        """Begins to deliver."""
        ...

    def drop(self, key: tuple[str, str]) -> None:
        """Ends delivering."""
        ...

    def notify(self, lane: Lane) -> None:
        """The lane has changed."""
        ...

    def mark_slow(self) -> None:
        """Looks for receivers that take long."""
        ...


class Tending:
    """Looks after the lanes of `host`. Everything here may fail and is tried again at the next turn."""

    def __init__(
        self, ledger: Ledger, outbox: Outbox, sender: Sender, disable: Disable, host: Host, clock: Callable[[], datetime],
        chance: random.Random, *, keep_days: float,
    ) -> None:  # fmt: skip
        self._ledger, self._outbox, self._sender, self._disable, self._host = ledger, outbox, sender, disable, host
        self._clock, self._chance, self._keep = clock, chance, timedelta(days=keep_days)
        self.progressed = 0
        self._stored_progress = 0
        self._shards: set[int] = set()
        self._changing = asyncio.Lock()
        self._known: set[int] = set()
        self._rewinds: dict[tuple[str, str], Request] = {}
        self._to_disable: dict[tuple[str, str], tuple[str, str, datetime]] = {}
        self._to_purge: set[tuple[str, str]] = set()
        self._draining: dict[int, float] = {}
        self._last: dict[str, float] = {}

    async def keep(self, partitions: Partitions, every_seconds: float) -> None:
        """For ever: one turn after the other. A turn that fails because the database is away is followed by another."""
        while True:
            try:
                await self._turn(partitions)
            except _AWAY as fault:
                log.warning("webhooks cannot be looked after; trying again", fault=repr(fault))
                await asyncio.sleep(_PAUSE_SECONDS)
            await asyncio.sleep(every_seconds)

    async def _turn(self, partitions: Partitions) -> None:
        self._host.mark_slow()
        await self._sync_shards(partitions)
        await self._let_go(partitions)
        await self._take_requests()
        await self._rewind()
        await self._disable_some()
        if self._is_time("tidy", _TIDY_EVERY_SECONDS):
            await self._sender.tidy()
        if self._is_time("cursors", _CURSORS_EVERY_SECONDS):
            for lane in self._host.lanes.values():
                self._outbox.touch(lane)
            if self.progressed > self._stored_progress:
                await self._ledger.progressed(self.progressed)
                self._stored_progress = self.progressed
        for key in list(self._to_purge)[:5]:
            if await self._ledger.purge(*key):
                self._to_purge.discard(key)
        if 0 in self._shards and self._is_time("forget", _FORGET_EVERY_SECONDS):
            await self._ledger.forget_before(self._clock() - self._keep)
            await self._ledger.forget_unused_secrets()

    def _is_time(self, what: str, every_seconds: float) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._last.get(what, -every_seconds) < every_seconds:
            return False
        self._last[what] = now
        return True

    # -- leases

    async def _sync_shards(self, partitions: Partitions) -> None:
        held = set(partitions.held) if partitions.are_ours else set()
        for key, lane in list(self._host.lanes.items()):
            if lane.shard not in held:
                self._host.drop(key)
        self._shards &= held
        gained = held - self._shards
        if not gained:
            return
        async with self._changing:
            found = await self._ledger.of_shards(gained)
            await self._take_up([one for one in found if not one.is_deleted])
            self._to_purge |= {(one.tenant_id, one.subscription_id) for one in found if one.is_deleted}
            self._shards |= gained

    async def _let_go(self, partitions: Partitions) -> None:
        """Lets surplus shards go once nothing of theirs is in flight, so that order is kept across the change of owner."""
        now = asyncio.get_running_loop().time()
        surplus = [number for number in partitions.surplus if number in self._shards]
        self._draining = {number: self._draining.get(number, now) for number in surplus}
        if not surplus:
            return
        busy: set[int] = set()
        for lane in self._host.lanes.values():
            if lane.shard in self._draining:
                lane.is_held = True
                if lane.in_flight and now - self._draining[lane.shard] < _DRAIN_SECONDS_MAX:
                    busy.add(lane.shard)
        free = [number for number in surplus if number not in busy]
        if not free:
            return
        for lane in self._host.lanes.values():
            if lane.shard in free:
                self._outbox.touch(lane)
        await self._outbox.store()
        for key, lane in list(self._host.lanes.items()):
            if lane.shard in free:
                self._host.drop(key)
        self._shards -= set(free)
        await partitions.release(free)

    async def _take_up(self, found: list[Registered]) -> None:
        fresh = [one for one in found if (one.tenant_id, one.subscription_id) not in self._host.lanes]
        opened = await self._ledger.open_deliveries([(one.tenant_id, one.subscription_id) for one in fresh])
        for one in fresh:
            lane = Lane(
                one.tenant_id, one.config, cursor=one.cursor, generation=one.generation, shard=one.shard,
                chance=self._chance,
            )  # fmt: skip
            lane.last_success_at, lane.failing_since = one.last_success_at, one.failing_since
            lane.load(opened.get(lane.key, ()), self._clock())
            self._host.take_up(lane)

    # -- what happens to subscriptions

    async def follow(self, registry: Registry, event: RecordedEvent) -> None:
        """Takes over what the log says of a subscription; returns when that is done."""
        while True:
            try:
                subscription_id = await registry.follow(event)
                # Within the lock: a shard that is being taken up either sees what was just stored, or is seen here.
                async with self._changing:
                    if shard_of(event.tenant_id, subscription_id) in self._shards:
                        await self._refresh(event.tenant_id, subscription_id)
                return
            except _AWAY as fault:
                log.warning("a change of a subscription cannot be taken over; trying again", fault=repr(fault))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _refresh(self, tenant_id: str, subscription_id: str) -> None:
        for one in await self._ledger.of_ids(tenant_id, [subscription_id]):
            key = (tenant_id, subscription_id)
            lane = self._host.lanes.get(key)
            if one.is_deleted:
                self._host.drop(key)
                self._to_purge.add(key)
            elif lane is None:
                await self._take_up([one])
            else:
                if one.config.status != lane.config.status:
                    self._to_disable.pop(key, None)
                self._outbox.put(lane, lane.change(one.config, self._clock(), is_disabling=key in self._to_disable))
                self._host.notify(lane)

    def disable(self, lane: Lane, reason: str, detail: str) -> None:
        """Lets the subscription be disabled, sooner or later."""
        self._to_disable.setdefault(lane.key, (reason, detail, self._clock()))

    async def _disable_some(self) -> None:
        for key, (reason, detail, at) in list(self._to_disable.items()):
            try:
                await self._disable(*key, reason, detail, at)
            except Refusal as refusal:
                log.info("a subscription is not disabled", reason=str(refusal))
            except Exception as fault:
                log.warning("a subscription cannot be disabled now; trying again", fault=repr(fault))
                continue
            self._to_disable.pop(key, None)

    # -- what the API asks for

    async def _take_requests(self) -> None:
        if not self._shards:
            return
        if len(self._known) > _KNOWN_MAX:
            self._known = set(sorted(self._known)[_KNOWN_MAX // 2 :])
        for request in await self._ledger.requests(self._shards, self._known):
            lane = self._host.lanes.get((request.tenant_id, request.subscription_id))
            if lane is None:
                continue
            if request.kind == "rewind":
                lane.is_held = True
                self._rewinds[lane.key] = request
            elif request.kind == "test" and request.delivery_id is not None:
                lane.test(new_test(request.delivery_id, request.number))
            elif not await self._redeliver(lane, request):
                continue
            self._known.add(request.number)
            self._host.notify(lane)

    async def _redeliver(self, lane: Lane, request: Request) -> bool:
        """False where the lane has so much to try again already that this has to wait."""
        if lane.open_count >= OPEN_MAX:
            return False
        found = await self._ledger.delivery(*lane.key, request.delivery_id) if request.delivery_id is not None else None
        if found is None:
            await self._ledger.done([request.number])
            return True
        found.request = request.number
        self._outbox.put(lane, [lane.again(found, self._clock())])
        return True

    async def _rewind(self) -> None:
        for key, request in list(self._rewinds.items()):
            lane = self._host.lanes.get(key)
            if lane is not None and lane.in_flight:
                continue
            del self._rewinds[key]
            if lane is None:
                self._known.discard(request.number)
                continue
            await self._outbox.store()
            async with self._changing:
                await self._ledger.rewind(request)
                self._host.drop(key)
                await self._take_up([one for one in await self._ledger.of_ids(key[0], [key[1]]) if not one.is_deleted])
