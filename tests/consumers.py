# intent_ref: tests.consumers
"""What tests of streams share: a handler that notes what it is given, and consumers and relays that end with the test."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from event_store.store import EventStore
from streaming.relay import Relay
from streaming.transport import Handler, Message, Transport
from tests.conftest import Database

STOP_SECONDS_MAX = 20.0


class Seen:
    """What a handler was given; only of its tenant, because the tests of a module share a log."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.messages: list[Message] = []
        self.batches: list[int] = []

    async def handle(self, messages: Sequence[Message]) -> None:
        self.batches.append(len(messages))
        self.messages += [message for message in messages if message.tenant_id == self.tenant]

    def versions(self) -> dict[str, list[int]]:
        """By stream, the versions in the order they came, repeats included."""
        by_stream: dict[str, list[int]] = defaultdict(list)
        for message in self.messages:
            by_stream[message.stream_id].append(message.version)
        return dict(by_stream)

    def first_time(self) -> dict[str, list[int]]:
        """By stream, the versions in the order they came for the first time."""
        return {stream: list(dict.fromkeys(versions)) for stream, versions in self.versions().items()}

    @property
    def repeats(self) -> int:
        """How many came that had come before."""
        return sum(count - 1 for count in Counter(message.event_id for message in self.messages).values())

    def has_all(self, streams: dict[str, int]) -> bool:
        """Whether of each stream every version up to the given one has come."""
        found = self.versions()
        return all(set(found.get(stream, ())) >= set(range(1, count + 1)) for stream, count in streams.items())


def assert_in_order(seen: Seen, streams: dict[str, int]) -> None:
    """Of each stream every version came, and for the first time in order. A repeat is the same event at the same place."""
    assert seen.first_time() == {stream: list(range(1, count + 1)) for stream, count in streams.items()}
    ids: dict[tuple[str, int], tuple[Any, int]] = {}
    for message in seen.messages:
        known = ids.setdefault((message.stream_id, message.version), (message.event_id, message.position))
        assert known == (message.event_id, message.position)


@asynccontextmanager
async def consuming(transport: Transport, group: str, handler: Handler, **more: Any) -> AsyncIterator[asyncio.Event]:
    """A member of a group, which is stopped at the end; yields its `stop`."""
    stop = asyncio.Event()
    task = asyncio.create_task(transport.consume(group, handler, stop=stop, **more))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await task


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[asyncio.Event]:
    """A relay that runs, which is stopped at the end; yields its `stop`."""
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await task


@asynccontextmanager
async def another_store(database: Database) -> AsyncIterator[EventStore]:
    """A second store on the same database, as another process has one."""
    store = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    try:
        yield store
    finally:
        await store.close()
