# intent_ref: streaming.event-hubs
"""The stream through Azure Event Hubs (docs/streaming.md, docs/adr/0015).

A partition of the hub is read by the one member of a group that owns it (`streaming/event_hubs_ownership.py`), under an epoch
that the service enforces. Partitions are handled side by side, the messages of one in order.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

import structlog
from azure.eventhub.aio import CheckpointStore

from event_store.store import EventStore
from streaming.cloud_events import SOURCE_DEFAULT
from streaming.dead_letters import DeadLetters
from streaming.delivery import DeliveryLimits, Statistics
from streaming.event_hubs_client import ANSWER_SECONDS_MAX, EventHub
from streaming.event_hubs_consumer import Consumer, Reading
from streaming.event_hubs_ownership import ALIVE_SECONDS, HEARTBEAT_SECONDS, Ownership, Where
from streaming.event_hubs_progress import event_hubs_progress
from streaming.event_hubs_publisher import Publisher
from streaming.progress import Progress
from streaming.transport import Handler, Message
from streaming.waiting import first_of

T = TypeVar("T")
MESSAGE_BYTES_MAX = 900_000
_BACK_OFF_SECONDS = 0.2
_BACK_OFF_SECONDS_MAX = 5.0

log = structlog.get_logger(__name__)


class EventHubsTransport:
    """`Transport` over an event hub. The hub, and in it a consumer group of each group's name, have to exist.

    `checkpoints` remembers who reads what and how far it has come. A payload of more than `message_bytes_max` bytes stays in
    the log, from where consumers of this class read it. `is_ours` says whose dead letters are on this hub.
    """

    reads_the_log = False

    def __init__(
        self, store: EventStore, hub: EventHub, checkpoints: CheckpointStore, *, source: str = SOURCE_DEFAULT,
        start: Literal["beginning", "end"] = "beginning", limits: DeliveryLimits | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX, heartbeat_seconds: float = HEARTBEAT_SECONDS,
        alive_seconds: float = ALIVE_SECONDS, answer_seconds: float = ANSWER_SECONDS_MAX,
        is_ours: Callable[[str], bool] = lambda tenant_id: True,
    ) -> None:  # fmt: skip
        self._store, self._hub, self._checkpoints, self._start = store, hub, checkpoints, start
        self._limits, self._dead_letters = limits or DeliveryLimits(), DeadLetters(store, is_ours)
        self._heartbeat_seconds, self._alive_seconds = heartbeat_seconds, alive_seconds
        self._publisher = Publisher(hub, source=source, message_bytes_max=message_bytes_max, answer_seconds=answer_seconds)
        self.statistics = Statistics()

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Transport.publish`."""
        await self._publisher.publish(messages)

    async def close(self) -> None:
        """Closes the connections. The checkpoint store and the credential are the caller's."""
        await self._publisher.close()

    async def consume(
        self, group: str, handler: Handler, *, stop: asyncio.Event,
        topics: frozenset[str] | None = None, batch_max: int = 500,
    ) -> None:  # fmt: skip
        """See `Transport.consume`. A hub that cannot be reached is waited for."""
        partitions = await self._asked(self._publisher.partitions, group, stop)
        starts = {} if self._start == "beginning" else await self._asked(self._publisher.ends, group, stop)
        if partitions is None or starts is None:
            return
        ownership = Ownership(
            self._checkpoints, Where(*self._hub.address(), group), partitions,
            heartbeat_seconds=self._heartbeat_seconds, alive_seconds=self._alive_seconds,
        )  # fmt: skip
        reading = Reading(group, handler, topics, batch_max, starts, self._limits, self.statistics)
        consumer = Consumer(self._store, self._hub, ownership, self._dead_letters, reading, stop)
        await ownership.beat()
        background: list[asyncio.Task[Any]] = [
            asyncio.create_task(ownership.keep(), name=f"{group}-heartbeat"),
            asyncio.create_task(consumer.redrive(), name=f"{group}-redrive"),
        ]
        try:
            await consumer.run()
        finally:
            for task in background:
                task.cancel()
            for task in background:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await ownership.leave()
            await consumer.close()

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        return await event_hubs_progress(self._publisher, self._checkpoints, Where(*self._hub.address(), group))

    async def _asked(self, question: Callable[[], Awaitable[T]], group: str, stop: asyncio.Event) -> T | None:
        """What the hub says, as soon as it answers; None when stopped before."""
        pause = _BACK_OFF_SECONDS
        while not stop.is_set():
            try:
                return await question()
            except Exception as fault:  # whatever the SDK lets out: without partitions there is nothing to read
                log.warning("the event hub does not answer; trying again", group=group, fault=repr(fault), seconds=pause)
            await first_of(pause, stop)
            pause = min(pause * 2, _BACK_OFF_SECONDS_MAX)
        return None
