# intent_ref: tests.transport-engines
"""The engines that can carry the stream, each as the contract suite drives it.

A new engine is a class here and a line in `ENGINES`; then every test of the contract runs over it.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

from event_store.store import EventStore
from streaming.delivery import Statistics
from streaming.embedded import EmbeddedTransport
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub
from streaming.kafka import KafkaSettings, KafkaTransport
from streaming.progress import Progress
from streaming.transport import Transport
from tests.event_hubs import EventHubsServer
from tests.kafka_broker import KafkaBroker, kafka_broker


class MeasuredTransport(Transport, Protocol):
    """A transport, what it counts, and how far its groups have come."""

    statistics: Statistics

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        ...


class Engine(Protocol):
    """An engine of a test module. `cannot` holds what tests of the contract it has to be spared, with the reason."""

    name: str
    cannot: dict[str, str]

    async def start(self) -> None:
        """Brings up what it needs; skips, with the reason, where the machine cannot."""
        ...

    def transport(self, store: EventStore, **options: Any) -> MeasuredTransport:
        """One more transport on it, as each process has one. `options` are `limits` and `start`."""
        ...

    @property
    def address(self) -> str:
        """What another process needs for `transport_at`."""
        ...

    async def stop(self) -> None:
        """Takes everything away again."""
        ...

    def kill_broker(self) -> None:
        """The broker is gone from one moment to the next."""
        ...

    async def restart_broker(self) -> None:
        """It is back, at the same address, with what it had."""
        ...


class Embedded:
    """The log itself: nothing to start."""

    name = "embedded"

    def __init__(self) -> None:
        self.cannot = {"lose its broker": "it has no broker; tests/chaos/test_database_restarts.py takes its database away"}

    async def start(self) -> None: ...

    def transport(self, store: EventStore, **options: Any) -> MeasuredTransport:
        return transport_at(self.name, self.address, store, **options)

    @property
    def address(self) -> str:
        return ""

    async def stop(self) -> None: ...

    def kill_broker(self) -> None:
        raise NotImplementedError(self.cannot["lose its broker"])

    async def restart_broker(self) -> None:
        raise NotImplementedError(self.cannot["lose its broker"])


class Kafka:
    """One real broker."""

    name = "kafka"

    def __init__(self) -> None:
        self.cannot: dict[str, str] = {}
        self._resources = AsyncExitStack()
        self._broker: KafkaBroker | None = None

    async def start(self) -> None:
        self._broker = await self._resources.enter_async_context(kafka_broker())
        if not self._broker.is_ours:
            self.cannot = {"lose its broker": "the broker is not this test's to kill"}

    def transport(self, store: EventStore, **options: Any) -> MeasuredTransport:
        return transport_at(self.name, self.address, store, **options)

    @property
    def address(self) -> str:
        assert self._broker is not None
        return f"{self._broker.bootstrap}/{self._broker.topic('contract')}"

    async def stop(self) -> None:
        await self._resources.aclose()

    def kill_broker(self) -> None:
        assert self._broker is not None
        self._broker.kill()

    async def restart_broker(self) -> None:
        assert self._broker is not None
        await self._broker.start()


class EventHubs:
    """The unmodified SDK against a stand-in in this process."""

    name = "event-hubs"

    def __init__(self) -> None:
        self.cannot: dict[str, str] = {}
        self._server = EventHubsServer(partitions=8)

    async def start(self) -> None:
        await self._server.start()

    def transport(self, store: EventStore, **options: Any) -> MeasuredTransport:
        return transport_at(self.name, self.address, store, **options)

    @property
    def address(self) -> str:
        return self._server.connection_string

    async def stop(self) -> None:
        await self._server.stop()

    def kill_broker(self) -> None:
        self._server.kill()

    async def restart_broker(self) -> None:
        await self._server.start()


ENGINES: dict[str, Callable[[], Engine]] = {
    "embedded": Embedded,
    "event-hubs": EventHubs,
    "kafka": Kafka,
}
SLOW_ENGINES = frozenset({"event-hubs"})
"""Those with seconds of waiting in their client library: their tests run in the second phase."""


def transport_at(name: str, address: str, store: EventStore, **options: Any) -> MeasuredTransport:
    """A transport of the engine of that name, in this process or another."""
    match name:
        case "embedded":
            return EmbeddedTransport(store, **options)
        case "event-hubs":
            return EventHubsTransport(store, EventHub(address), PostgresCheckpointStore(store.platform_pool), **options)
        case "kafka":
            bootstrap, _, topic = address.partition("/")
            # Sessions as short as brokers allow by default, so that what the dead had moves soon.
            return KafkaTransport(KafkaSettings(bootstrap, topic, session_seconds=6, topic_partitions=8), store, **options)
    raise LookupError(f"there is no engine {name}")
