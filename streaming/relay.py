# intent_ref: streaming.relay
"""Publishes the log to a transport's broker: in order, nothing skipped, at least once.

One relay of a name is at work at a time; others stand by, and take over when it dies or falls silent (`streaming/relay_lead.py`).
What was published and not yet checkpointed is published again: the same event ids and positions.

The embedded transport reads the log itself. Then the relay leads, publishes nothing and has no lag.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from event_store.store import EventStore, LogPage
from streaming.relay_lead import Lead, checkpoint, leadership
from streaming.transport import Message, Transport
from streaming.waiting import first_of

_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)
_IDLE_SECONDS_MAX = 1.0
_AFTER_LEAD_SECONDS = 0.5
"""Before who has lost the lead asks for it again: those that stand by were not at fault, and are quicker."""
_BACK_OFF_SECONDS = 0.1
_BACK_OFF_SECONDS_MAX = 5.0
_CHECKPOINT_SECONDS = 0.25

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Statistics:
    """What telemetry reads. `horizon` is the log's end as the relay saw it last; 0 where nothing is published."""

    leads: bool = False
    published: int = 0
    failures: int = 0
    position: int = 0
    horizon: int = 0
    observe_publish: Callable[[int, float], None] = field(default=lambda messages, seconds: None)

    @property
    def lag(self) -> int:
        """How many positions the broker has not got yet; 0 for a relay that stands by."""
        return max(0, self.horizon - self.position) if self.leads else 0


class _Reading:
    """Pages of the log. While there is more, the next one is read while the one before is published: one, and never more."""

    def __init__(self, store: EventStore, limit: int) -> None:
        self._store, self._limit = store, limit
        self._after = -1
        self._ahead: asyncio.Task[LogPage] | None = None

    async def page(self, after: int) -> LogPage:
        """The events behind a position; raises `StoreUnavailable`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and self._after == after:
            page = await ahead
        else:
            page = await self._store.read_log(after, limit=self._limit)
        if len(page.events) == self._limit:
            self._after = page.next
            self._ahead = asyncio.create_task(self._store.read_log(page.next, limit=self._limit), name="relay reads ahead")
        return page

    async def close(self) -> None:
        """Gives up what is being read."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)


class Relay:
    """The way out of the log. `name` is the checkpoint's: another broker is another name."""

    def __init__(self, store: EventStore, transport: Transport, *, name: str = "relay", batch_max: int = 500) -> None:
        self._store, self._transport, self._name, self._batch_max = store, transport, name, batch_max
        self.statistics = Statistics()

    async def lag(self) -> int:
        """How many positions the log's complete part is ahead of what was published, by any process; 0 is up to date.

        Raises `StoreUnavailable`.
        """
        if self._transport.reads_the_log:
            return 0
        horizon = await self._store.horizon()
        try:
            position = await checkpoint(self._store.platform_pool, self._name)
        except _FAULTS as fault:
            raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
        return max(0, horizon - position)

    async def run(self, stop: asyncio.Event) -> None:
        """Leads, or stands by to lead, until `stop` is set."""
        pause = _AFTER_LEAD_SECONDS
        while not stop.is_set():
            try:
                async with leadership(self._store.platform_dsn, self._name, stop) as lead:
                    if lead is not None:
                        pause = _AFTER_LEAD_SECONDS
                        await lead.while_it_lasts(self._work(lead, stop))
            except _FAULTS as fault:
                log.warning("the relay lost its lead or its database", relay=self._name, fault=repr(fault))
                await first_of(pause, stop)
                pause = min(pause * 2, _BACK_OFF_SECONDS_MAX)

    async def _work(self, lead: Lead, stop: asyncio.Event) -> None:
        self.statistics.leads = True
        try:
            await lead.begin()
            await self._lead(lead, stop)
        finally:
            self.statistics.leads = False

    async def _lead(self, lead: Lead, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        position, stored_at = lead.position, loop.time()
        self.statistics.position = position
        log.info("the relay leads", relay=self._name, position=position)
        reading = _Reading(self._store, self._batch_max)
        try:
            while not stop.is_set():
                generation = self._store.wakeups.generation
                moved = False
                if not self._transport.reads_the_log:
                    page = await reading.page(position)
                    moved = page.next > position
                    self.statistics.horizon = max(page.next, self._store.known_horizon)
                    if page.events and not await self._publish([Message.of(event) for event in page.events], stop):
                        break
                    position = self.statistics.position = page.next
                if position > lead.position and (not moved or loop.time() - stored_at > _CHECKPOINT_SECONDS):
                    await lead.move(position)
                    stored_at = loop.time()
                if not moved:
                    await first_of(None, stop, self._store.wakeups.wait(_IDLE_SECONDS_MAX, since=generation))
        finally:
            await reading.close()
        if position > lead.position:
            await lead.move(position)

    async def _publish(self, messages: list[Message], stop: asyncio.Event) -> bool:
        """Until the transport has all of them; False when stopped before. A broker that is away costs nothing but lag."""
        loop = asyncio.get_running_loop()
        back_off = _BACK_OFF_SECONDS
        while not stop.is_set():
            began = loop.time()
            try:
                await self._transport.publish(messages)
            except Exception as fault:  # also what an engine forgot to translate: going on without the batch would skip it
                self.statistics.failures += 1
                log.warning("the broker is away; publishing waits", relay=self._name, fault=repr(fault), seconds=back_off)
                await first_of(back_off, stop)
                back_off = min(back_off * 2, _BACK_OFF_SECONDS_MAX)
                self.statistics.horizon = await self._store.horizon()  # the log goes on growing, and somebody should see it
                continue
            self.statistics.published += len(messages)
            self.statistics.observe_publish(len(messages), loop.time() - began)
            return True
        return False
