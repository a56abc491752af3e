# intent_ref: streaming.webhooks
"""Delivers events to the subscriptions this process has leases for: one reader of the log for all of them, fair between them.

A lane that keeps up is given what the shared reader finds (`_follow`); one that is behind reads its own history at its own
pace (`_catch_up`) until it meets the reader. Sending goes round the lanes that have something to send; lanes whose receivers are
slow get at most half of the places, so that the others always find one.
"""

import asyncio
import contextlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from domain.immutable import immutable
from event_store.faults import DATABASE_FAULTS
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore
from event_store.subscription_secrets import SubscriptionSecrets
from streaming.cloud_events import SOURCE_DEFAULT
from streaming.partitions import Partitions
from streaming.webhooks.deliveries import Attempt, Delivery
from streaming.webhooks.lane import Lane
from streaming.webhooks.ledger import Ledger
from streaming.webhooks.outbox import Outbox
from streaming.webhooks.posting import Posting
from streaming.webhooks.registry import SHARDS, TOPICS, Registry
from streaming.webhooks.sending import Sender
from streaming.webhooks.tending import Disable, Tending

GROUP: Final = "webhooks"
_AWAY: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)
_PAUSE_SECONDS: Final = 0.5
_SLOW_SECONDS: Final = 1.0
_CATCH_UPS_AT_ONCE: Final = 4

log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]


@immutable
class Limits:
    """How much one process does at a time, and how long things are kept."""

    in_flight_max: int = 256
    poll_seconds: float = 1.0
    tend_seconds: float = 0.25
    grace_seconds: float = 3.0
    keep_days: float = 7.0


_LIMITS = Limits()


@dataclass(slots=True)
class Statistics:
    """What telemetry reads; no number is about one tenant."""

    delivered: int = 0
    failed_attempts: int = 0
    given_up: int = 0
    disabled: int = 0
    lanes: int = 0
    behind: int = 0
    observe_attempt: Callable[[str, float], None] = field(default=lambda outcome, seconds: None)


@dataclass(slots=True, eq=False)
class _Place:
    lane: Lane
    began: float
    is_slow: bool


class Dispatcher:
    """One a process. `run` until `stop` is set; `clock` is what every due time is held against."""

    def __init__(
        self, store: EventStore, secrets: SubscriptionSecrets, sender: Sender, disable: Disable, *, clock: Clock,
        source: str = SOURCE_DEFAULT, limits: Limits = _LIMITS, chance: random.Random | None = None,
    ) -> None:  # fmt: skip
        self._store, self._sender, self._clock, self._limits = store, sender, clock, limits
        self._ledger = Ledger(store)
        self._registry = Registry(store, self._ledger)
        self.statistics = Statistics()
        self._tail = 0
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._of_tenant: dict[str, dict[str, Lane]] = {}
        self._fast: deque[Lane] = deque()
        self._slow: deque[Lane] = deque()
        self._behind: deque[Lane] = deque()
        self._alarms: list[tuple[datetime, int, Lane]] = []
        self._alarms_set = 0
        self._turn = False
        self._places: set[_Place] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake, self._behind_wake = asyncio.Event(), asyncio.Event()
        self._outbox = Outbox(self._ledger, clock, lambda: self._tail, self._wake.set)
        self._posting = Posting(self._ledger, secrets, sender, clock, source)
        self._tending = Tending(
            self._ledger, self._outbox, sender, disable, self, clock, chance or random.Random(),  # noqa: S311
            keep_days=limits.keep_days,
        )  # fmt: skip

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until `stop` is set, then lets what is in flight end for a moment, stores, and gives the leases back."""
        partitions = Partitions(self._store.platform_pool, GROUP, SHARDS, 0)
        self._tail = await self._registry.catch_up()
        await partitions.beat()
        loops = [
            asyncio.create_task(partitions.keep(), name="webhooks-heartbeat"),
            asyncio.create_task(self._follow(), name="webhooks-reader"),
            asyncio.create_task(self._catch_up(), name="webhooks-catch-up"),
            asyncio.create_task(self._pump(), name="webhooks-pump"),
            asyncio.create_task(self._outbox.keep_storing(), name="webhooks-outbox"),
            asyncio.create_task(self._tending.keep(partitions, self._limits.tend_seconds), name="webhooks-tending"),
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([*loops, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
            await self._finish(loops)
        finally:
            for task in (*loops, stopped, *self._tasks):
                task.cancel()
            await asyncio.gather(*loops, stopped, *self._tasks, return_exceptions=True)
            for key in list(self._lanes):
                self.drop(key)
            await partitions.release(list(partitions.held), leaving=True)
            await self._sender.close()

    async def _finish(self, loops: list[asyncio.Task[None]]) -> None:
        for task in loops[1:]:
            task.cancel()
        await asyncio.gather(*loops[1:], return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._limits.grace_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.grace_seconds):
                await self._outbox.store()

    # -- lanes: taken up and let go by `Tending`

    @property
    def lanes(self) -> dict[tuple[str, str], Lane]:
        """The lanes of this process."""
        return self._lanes

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return len(self._places)

    def take_up(self, lane: Lane) -> None:
        """A lane is this process's from now on."""
        self._lanes[lane.key] = lane
        self._of_tenant.setdefault(lane.tenant_id, {})[lane.key[1]] = lane
        self.statistics.lanes = len(self._lanes)
        self._fall_behind(lane)
        self.notify(lane)

    def drop(self, key: tuple[str, str]) -> None:
        """A lane is no more this process's: what is in flight ends, and is stored if it succeeds."""
        lane = self._lanes.pop(key, None)
        if lane is None:
            return
        lane.is_dropped = True
        of_tenant = self._of_tenant[lane.tenant_id]
        del of_tenant[key[1]]
        if not of_tenant:
            del self._of_tenant[lane.tenant_id]
        self.statistics.lanes = len(self._lanes)

    def notify(self, lane: Lane) -> None:
        """The lane may have something to send, now or later."""
        if lane.is_dropped:
            return
        now = self._clock()
        if lane.can_send(now):
            if not lane.is_queued:
                lane.is_queued = True
                (self._slow if lane.is_slow else self._fast).append(lane)
                self._wake.set()
        elif (at := lane.next_time(now)) is not None and (lane.alarm_at is None or at < lane.alarm_at):
            lane.alarm_at = at
            self._alarms_set += 1
            heapq.heappush(self._alarms, (at, self._alarms_set, lane))
            self._wake.set()
        if not lane.is_live and not lane.is_behind_queued and lane.room:
            self._fall_behind(lane)

    def wake(self) -> None:
        """Looks at the clock again: whoever sets it forward says so."""
        self._wake.set()

    def _fall_behind(self, lane: Lane) -> None:
        lane.is_live = False
        if not lane.is_behind_queued:
            lane.is_behind_queued = True
            self._behind.append(lane)
            self._behind_wake.set()

    # -- reading

    async def _follow(self) -> None:
        position = self._tail
        async for page in self._store.subscribe(after=position):
            has_news = False
            for event in page.events:
                if event.topic in TOPICS:
                    await self._tending.follow(self._registry, event)
                    has_news = True
                self._tail = event.position
                if (lanes := self._of_tenant.get(event.tenant_id)) is not None:
                    self._give(lanes, event)
            self._tail = page.next
            if has_news:
                self._tending.progressed = page.next

    def _give(self, lanes: dict[str, Lane], event: RecordedEvent) -> None:
        for lane in lanes.values():
            if lane.is_live and event.position > lane.read_position and lane.wants(event):
                if lane.room:
                    self._offer(lane, event)
                else:
                    lane.read_position = event.position - 1
                    lane.is_live = False

    def _offer(self, lane: Lane, event: RecordedEvent) -> None:
        filed = lane.offer(event)
        if filed is not None:
            self._outbox.put(lane, [filed])
        self.notify(lane)

    async def _catch_up(self) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._behind_wake.clear()
                self.statistics.behind = len(self._behind) + len(running)
                while self._behind and len(running) < _CATCH_UPS_AT_ONCE:
                    task = asyncio.create_task(self._read_history(self._behind.popleft()))
                    running.add(task)
                    task.add_done_callback(lambda _task: self._behind_wake.set())
                await self._behind_wake.wait()
                done = {task for task in running if task.done()}
                running -= done
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _read_history(self, lane: Lane) -> None:
        if lane.is_dropped or not lane.room:
            lane.is_behind_queued = False  # `notify` brings it back when there is room
            return
        position = lane.read_position
        try:
            events, reached = await self._ledger.history(lane, lane.room)
        except _AWAY as fault:
            log.warning("a subscription's history cannot be read; trying again", fault=repr(fault))
            await asyncio.sleep(_PAUSE_SECONDS)
            reached, events = position, []
        lane.is_behind_queued = False
        if self._lanes.get(lane.key) is not lane:
            return
        if lane.read_position == position:
            for event in events:
                if lane.wants(event):
                    self._offer(lane, event)
            lane.read_position = max(lane.read_position, reached)
            self._outbox.touch(lane)
        if lane.read_position >= self._tail:
            lane.is_live = True
        elif lane.room:
            self._fall_behind(lane)

    # -- sending

    async def _pump(self) -> None:
        while True:
            self._wake.clear()
            self._ring()
            while (lane := self._next_lane()) is not None:
                lane.is_queued = False
                delivery = lane.take(self._clock()) if not lane.is_dropped else None
                if delivery is not None:
                    self._start(lane, delivery)
                self.notify(lane)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_wait()):
                    await self._wake.wait()

    def _next_lane(self) -> Lane | None:
        if len(self._places) >= self._limits.in_flight_max or self._outbox.is_full:
            return None
        has_slow = bool(self._slow) and sum(place.is_slow for place in self._places) < self._limits.in_flight_max // 2
        self._turn = not self._turn
        if self._fast and (self._turn or not has_slow):
            return self._fast.popleft()
        return self._slow.popleft() if has_slow else None

    def _start(self, lane: Lane, delivery: Delivery) -> None:
        place = _Place(lane, asyncio.get_running_loop().time(), lane.is_slow)
        self._places.add(place)
        task = asyncio.create_task(self._deliver(lane, delivery, place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, lane: Lane, delivery: Delivery, place: _Place) -> None:
        try:
            attempt = await self._posting.post(lane, delivery)
        finally:
            self._places.discard(place)
            self._wake.set()
        if attempt is None:
            await asyncio.sleep(_PAUSE_SECONDS)
            lane.put_back(delivery)
            self.notify(lane)
            return
        self._finished(lane, delivery, attempt)

    def _finished(self, lane: Lane, delivery: Delivery, attempt: Attempt) -> None:
        stored, reason = lane.finished(delivery, attempt, self._clock())
        self.statistics.observe_attempt("delivered" if attempt.is_success else "failed", attempt.seconds)
        self.statistics.delivered += attempt.is_success
        self.statistics.failed_attempts += not attempt.is_success
        self.statistics.given_up += delivery.status == "failed" and not delivery.is_test
        if attempt.is_success or not lane.is_dropped:
            self._outbox.put(lane, stored)
        if reason is not None and not lane.is_dropped:
            self.statistics.disabled += 1
            detail = f"The receiver's last answer to {delivery.delivery_id}: {attempt.error}."
            self._tending.disable(lane, reason, detail)
        self.notify(lane)

    def mark_slow(self) -> None:
        """Whoever has kept a place for long counts as slow, before there is an answer."""
        now = asyncio.get_running_loop().time()
        for place in self._places:
            if not place.is_slow and now - place.began > _SLOW_SECONDS:
                place.is_slow = True
                place.lane.answer_seconds = max(place.lane.answer_seconds, 2 * _SLOW_SECONDS)

    def _ring(self) -> None:
        now = self._clock()
        while self._alarms and self._alarms[0][0] <= now:
            lane = heapq.heappop(self._alarms)[2]
            lane.alarm_at = None
            self.notify(lane)

    def _seconds_to_wait(self) -> float:
        if not self._alarms:
            return self._limits.poll_seconds
        until = (self._alarms[0][0] - self._clock()) / timedelta(seconds=1)
        return min(self._limits.poll_seconds, max(0.001, until))
