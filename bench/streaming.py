# intent_ref: bench.benchmarks
"""The stream over each engine: how fast a log that is there goes out, and how late a new event reaches a saga-like consumer.

The brokers are those of the tests: a real Kafka where Java and Maven are, and the stand-in for Event Hubs as a process.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from bench.append import METADATA
from bench.ground import TENANT, Figure, event_store, postgres
from domain.values import StreamId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, NewEvent, StreamAppend
from event_store.store import EventStore
from streaming.embedded import EmbeddedTransport
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub
from streaming.event_hubs_publisher import Publisher
from streaming.kafka import KafkaSettings, KafkaTransport
from streaming.kafka_producer import KafkaPublisher
from streaming.kafka_records import record_of
from streaming.relay import Relay
from streaming.transport import Message, Transport
from tests.event_hubs.process import event_hubs_process
from tests.kafka_broker import kafka_broker, why_not

EVENTS = 100_000
REACH_A_SECOND = {"embedded": 50_000, "kafka": 20_000, "event-hubs": 5_000}
REACH_MS = {"embedded": 20.0, "kafka": 60.0}
EVENTS_A_SECOND = 200
PAGE = 1_000
"""As the platform's own relay reads (`quantum.app.RELAYED_TOGETHER`)."""
_STREAMS = 2_000
_PAYLOAD = (
    b'{"execution_id":"01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11","step":"build-docker-image","attempt":1,'
    b'"result":{"image":"myapp:latest","digest":"sha256:6f0d7c113f9a"},"at":"2026-11-21T08:00:00Z"}'
)
_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine: its transport, one whose groups begin at the end, and how many ready events a second its own client takes."""

    name: str
    transport: Transport
    following: Transport
    limit: Callable[[Sequence[Message]], Awaitable[float]]


async def measure(seconds: float) -> list[Figure]:
    """Events a second out of the log, each beside the engine's own client with ready records; and p99 in ms to a consumer."""
    figures = []
    events = int(EVENTS * min(1.0, seconds / 5))
    async with postgres() as (_, urls), event_store(urls) as store:
        await _fill(store, events)
        page = await store.read_log(0, limit=20_000)
        ready = [Message.of(event) for event in page.events]
        bare = await _bare_read(store)
        for engine in (_embedded, _kafka, _event_hubs):
            async with engine(store, bare) as running:
                if running is not None:
                    figures.append(await _rate(store, running, ready, bare))
                    figures += await _late(store, running, max(seconds, 4.0))
    return figures


async def _rate(store: EventStore, engine: Engine, ready: Sequence[Message], bare: float) -> Figure:
    """The whole log, by the relay; embedded, where consumers read the log, by a consumer."""
    limit = await engine.limit(ready)
    await engine.transport.publish(ready[:1])  # connected, and the topic is there: that is not what is measured
    horizon = await store.horizon()
    stop = asyncio.Event()
    began = time.perf_counter()
    if engine.transport.reads_the_log:
        count = 0

        async def handle(messages: Sequence[Message]) -> None:
            nonlocal count
            count += len(messages)

        task = asyncio.create_task(engine.transport.consume("rate", handle, stop=stop, batch_max=PAGE))
        total: int = await store.platform_pool.fetchval("SELECT count(*) FROM quantum.events WHERE position <= $1", horizon)
        await _until(lambda: count >= total, task)
    else:
        relay = Relay(store, engine.transport, name=f"bench-{engine.name}", batch_max=PAGE)
        task = asyncio.create_task(relay.run(stop))
        await _until(lambda: relay.statistics.position >= horizon, task)
        total = relay.statistics.published
    rate = total / (time.perf_counter() - began)
    stop.set()
    await task
    reach = REACH_A_SECOND[engine.name]
    what = "bare read of the log" if engine.transport.reads_the_log else f"its client with ready records, bare read {bare:,.0f}/s"
    return Figure(
        f"log to {engine.name} (reach {reach:,}/s)", f"{rate:,.0f}/s", f"{limit:,.0f}/s, {what}", rate / limit, reach / limit
    )


async def _until(is_done: Callable[[], bool], task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(_SECONDS_MAX):
        while not is_done():
            if task.done():
                task.result()
            await asyncio.sleep(0.002)


async def _late(store: EventStore, engine: Engine, seconds: float) -> list[Figure]:
    """From the commit's answer to the handler, at a moderate rate; a consumer that does nothing but look at the clock."""
    if engine.name not in REACH_MS:
        return []
    arrived: dict[UUID, float] = {}
    recorded: list[float] = []
    topic, came, stop = f"bench.{engine.name}.v1", asyncio.Event(), asyncio.Event()

    async def handle(messages: Sequence[Message]) -> None:
        now, wall = time.perf_counter(), time.time()
        for message in messages:
            arrived.setdefault(message.event_id, now)
            recorded.append(wall - message.recorded_at.timestamp())
        came.set()

    tasks = [asyncio.create_task(engine.following.consume("late", handle, stop=stop, topics=frozenset({topic})))]
    if not engine.transport.reads_the_log:
        tasks.append(asyncio.create_task(Relay(store, engine.transport, name=f"bench-{engine.name}").run(stop)))
    async with asyncio.timeout(_SECONDS_MAX):
        # Nobody says when a member has found the end, so events come until one has been seen.
        while not came.is_set():
            await _append_one(store, topic, 0, {})
            await asyncio.wait([asyncio.ensure_future(came.wait())], timeout=0.5)
    arrived.clear()
    recorded.clear()
    committed: dict[UUID, float] = {}
    await _write(store, topic, seconds, committed)
    async with asyncio.timeout(30):
        while not arrived.keys() >= committed.keys():
            came.clear()
            await asyncio.wait([asyncio.ensure_future(came.wait())], timeout=0.5)
    stop.set()
    await asyncio.gather(*tasks)
    late = sorted(max(0.0, arrived[id] - at) * 1e3 for id, at in committed.items())
    whole = sorted(one * 1e3 for one in recorded)
    p99, reach = _share(late, 0.99), REACH_MS[engine.name]
    ours = f"p50 {_share(late, 0.5):.1f} ms, p99 {p99:.1f} ms; with the commit itself p99 {_share(whole, 0.99):.1f} ms"
    return [Figure(f"commit to {engine.name} consumer, {EVENTS_A_SECOND}/s", ours, f"{reach:.0f} ms", p99, reach, at_most=True)]


def _share(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


async def _write(store: EventStore, topic: str, seconds: float, committed: dict[UUID, float]) -> None:
    began, written, pending = time.perf_counter(), 0, set[asyncio.Task[None]]()
    while written < seconds * EVENTS_A_SECOND:
        for _ in range(int((time.perf_counter() - began) * EVENTS_A_SECOND) - written):
            task = asyncio.create_task(_append_one(store, topic, written, committed))
            pending.add(task)
            task.add_done_callback(pending.discard)
            written += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*pending)


async def _append_one(store: EventStore, topic: str, number: int, committed: dict[UUID, float]) -> None:
    event = NewEvent(uuid7(), topic, _PAYLOAD)
    stream = StreamAppend(StreamId(f"execution-late-{number % 100}"), [event], ANY_VERSION)
    await store.append(TenantId(TENANT), [stream], command_id=uuid7(), metadata=METADATA)
    committed[event.event_id] = time.perf_counter()


async def _fill(store: EventStore, events: int) -> None:
    """A log as executions write it: events of some 200 bytes, a few at a time, on many streams."""
    limit = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        new = [NewEvent(uuid7(), "execution.step_completed.v1", _PAYLOAD) for _ in range(10)]
        stream = StreamAppend(StreamId(f"execution-{number % _STREAMS}"), new, ANY_VERSION)
        async with limit:
            await store.append(TenantId(f"{TENANT}-{number % 8}"), [stream], command_id=uuid7(), metadata=METADATA)

    await asyncio.gather(*(one(number) for number in range(events // 10)))


async def _bare_read(store: EventStore) -> float:
    """Rows a second that only reading the log gives, in the relay's pages."""
    began, after, count = time.perf_counter(), 0, 0
    while (page := await store.read_log(after, limit=PAGE)).next > after:
        after, count = page.next, count + len(page.events)
    return count / (time.perf_counter() - began)


@asynccontextmanager
async def _embedded(store: EventStore, bare: float) -> AsyncIterator[Engine]:
    async def limit(ready: Sequence[Message]) -> float:
        return bare

    yield Engine("embedded", EmbeddedTransport(store), EmbeddedTransport(store, start="end"), limit)


@asynccontextmanager
async def _kafka(store: EventStore, bare: float) -> AsyncIterator[Engine | None]:
    if reason := why_not():
        print(f"left out: {reason}")
        yield None
        return
    async with kafka_broker() as broker:
        settings = KafkaSettings(broker.bootstrap, broker.topic("bench"))

        async def limit(ready: Sequence[Message]) -> float:
            """The broker's own producer, with records that are encoded already: what is left without reading and encoding."""
            records = [record_of(one, "quantum://bench", settings.record_bytes_max) for one in ready]
            publisher = KafkaPublisher(replace(settings, topic=broker.topic("limit")), "quantum://bench")
            await publisher.publish(ready[:1])
            producer = publisher._producer
            assert producer is not None
            began = time.perf_counter()
            partitions = len(await producer.partitions_for(broker.topic("limit")))
            for start in range(0, len(records), PAGE):
                for part in publisher.parts(producer, partitions, records[start : start + PAGE]):
                    await publisher.send(producer, part)
            rate = len(records) / (time.perf_counter() - began)
            await publisher.close()
            return rate

        transport = KafkaTransport(settings, store)
        try:
            yield Engine("kafka", transport, KafkaTransport(settings, store, start="end"), limit)
        finally:
            await transport.close()


@asynccontextmanager
async def _event_hubs(store: EventStore, bare: float) -> AsyncIterator[Engine]:
    async with event_hubs_process(partitions=8) as process:
        hub = EventHub(process.connection_string)

        async def limit(ready: Sequence[Message]) -> float:
            """The SDK's producer, with batches that are encoded already."""
            publisher = Publisher(hub, source="quantum://bench", message_bytes_max=900_000, answer_seconds=20.0)
            client = await publisher._connected()
            batches = [(await _batches(client, number, ready)) for number in await publisher.partitions()]
            count = sum(len(batch) for part in batches for batch in part)
            began = time.perf_counter()
            await asyncio.gather(*(_send(client, part) for part in batches))
            rate = count / (time.perf_counter() - began)
            await publisher.close()
            return rate

        transport = EventHubsTransport(store, hub, PostgresCheckpointStore(store.platform_pool))
        try:
            yield Engine("event-hubs", transport, transport, limit)
        finally:
            with contextlib.suppress(TimeoutError):
                await transport.close()


async def _batches(client: Any, number: str, ready: Sequence[Message]) -> list[Any]:
    """Some of what is ready, as batches for one partition, as large as the relay's pages make them."""
    from streaming.event_hubs_events import put

    part = ready[int(number) :: 8]
    made = []
    for start in range(0, len(part), PAGE // 8):
        batch = await client.create_batch(partition_id=number)
        for message in part[start : start + PAGE // 8]:
            put(batch, message, "quantum://bench", 900_000)
        made.append(batch)
    return made


async def _send(client: Any, batches: Sequence[Any]) -> None:
    for batch in batches:
        await client.send_batch(batch)
