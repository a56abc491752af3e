# intent_ref: bench.benchmarks
"""Appending: 64 callers' single events, and bulk, beside `eventsourcing`'s PostgreSQL recorder and a bare batch insert."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg

from bench.ground import Figure, event_store, median_turn, postgres, tell
from domain.intent import IntentCreated
from domain.values import IntentId, StreamId, TenantId
from event_store import codec
from event_store.ids import uuid7
from event_store.records import NO_STREAM, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore

_TURNS = 5
CALLERS = 64
BULK = 1_000
DEFINITION = {"target": "production", "steps": [{"action": "build-docker-image", "image": "myapp:latest", "context": "./app"}]}
METADATA = Metadata("01a1fd23-c3ab-71fe-bbd0-5c7d084d40cb", None, "bench", None)
TOPIC, PAYLOAD = codec.encode(
    IntentCreated(IntentId(str(uuid7())), "deploy-web-app", DEFINITION, None, {}, datetime(2026, 1, 1, tzinfo=UTC))
)


async def measure(seconds: float) -> list[Figure]:
    """Rates in events a second, each beside its peer in turns."""
    turns: list[dict[str, float]] = []
    async with postgres() as (_, urls), event_store(urls) as store:
        await single_appends(store, 8, 1.0)
        threads = await best_threads(urls.owner_dsn, seconds / 4)
        for _ in range(_TURNS):
            turn = {
                "eventsourcing": await eventsourcing_recorder(urls.owner_dsn, threads, seconds / 2),
                "64 single appends at once, 8 tenants": await single_appends(store, 8, seconds / 2),
                "64 single appends at once, 64 tenants": await single_appends(store, 64, seconds / 2),
                "bare unnest of 64": await bare_inserts(urls.owner_dsn, CALLERS, seconds / 2),
                "bulk append of 1,000": await bulk_appends(store, seconds / 2),
                "bare unnest of 1,000": await bare_inserts(urls.owner_dsn, BULK, seconds / 2),
            }
            tell("; ".join(f"{what} {rate:,.0f}/s" for what, rate in turn.items()))
            turns.append(turn)

    def beside(peer: str, what: str, reach: float) -> Figure:
        turn = median_turn(turns, lambda one: one[what] / one[peer])
        return Figure(what, f"{turn[what]:,.0f}/s", f"{peer} {turn[peer]:,.0f}/s", turn[what] / turn[peer], reach)

    return [
        beside("eventsourcing", "64 single appends at once, 8 tenants", 20),
        beside("eventsourcing", "64 single appends at once, 64 tenants", 10),
        beside("bare unnest of 64", "64 single appends at once, 8 tenants", 0.35),
        beside("bare unnest of 1,000", "bulk append of 1,000", 0.7),
    ]


async def single_appends(store: EventStore, tenants: int, seconds: float) -> float:
    """Events a second of `CALLERS` callers that each append one event, wait, and append the next."""
    count, ends = 0, time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal count
        tenant = TenantId(f"tenant-{number % tenants}")
        while time.perf_counter() < ends:
            command = uuid7()
            part = StreamAppend(StreamId(f"intent-{command}"), [NewEvent(uuid7(), TOPIC, PAYLOAD)], NO_STREAM)
            await store.append(tenant, [part], command_id=command, metadata=METADATA)
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return count / (time.perf_counter() - began)


async def bulk_appends(store: EventStore, seconds: float) -> float:
    """Events a second of one caller that appends `BULK` events to a new stream at a time."""
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        events = [NewEvent(uuid7(), TOPIC, PAYLOAD) for _ in range(BULK)]
        part = StreamAppend(StreamId(f"bulk-{uuid7()}"), events, NO_STREAM)
        await store.append(TenantId("tenant-0"), [part], command_id=uuid7(), metadata=METADATA)
        count += BULK
    return count / (time.perf_counter() - began)


async def bare_inserts(dsn: str, batch: int, seconds: float) -> float:
    """The limit: `INSERT … SELECT FROM unnest` into a table like the log, with its indexes and none of its checks."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP TABLE IF EXISTS bare; CREATE TABLE bare (LIKE quantum.events INCLUDING ALL)")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        ids = [uuid7() for _ in range(batch)]
        await connection.execute(
            "INSERT INTO bare (event_id, command_id, command_index, version, tenant_id, stream_id, topic, metadata, payload)"
            " SELECT id, id, 0, 1, tenant, stream, $3, metadata::json, payload"
            " FROM unnest($1::uuid[], $2::text[], $4::text[], $5::text[], $6::bytea[])"
            " AS row (id, tenant, stream, metadata, payload)",
            ids, ["tenant-0"] * batch, TOPIC, [f"intent-{one}" for one in ids], ['{"correlation_id":"x"}'] * batch,
            [PAYLOAD] * batch,
        )  # fmt: skip
        count += batch
    rate = count / (time.perf_counter() - began)
    await connection.execute("DROP TABLE bare")
    await connection.close()
    return rate


async def best_threads(owner_dsn: str, seconds: float) -> int:
    """With how many threads `eventsourcing`'s recorder saves most."""
    rates = {threads: await eventsourcing_recorder(owner_dsn, threads, seconds) for threads in (1, 8, 32)}
    return max(rates, key=rates.__getitem__)


async def eventsourcing_recorder(owner_dsn: str, threads: int, seconds: float) -> float:
    """Events a second that `eventsourcing`'s own PostgreSQL recorder saves one by one."""
    return await asyncio.to_thread(_saves, owner_dsn, threads, seconds)


def _saves(owner_dsn: str, threads: int, seconds: float) -> float:
    from eventsourcing.persistence import StoredEvent
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

    parts = urlsplit(owner_dsn)
    datastore = PostgresDatastore(
        dbname=parts.path.lstrip("/"), host=parse_qs(parts.query)["host"][0], port="5432", user="postgres", password="",
        pool_size=threads, max_overflow=threads,
    )  # fmt: skip
    recorder: Any = PostgresApplicationRecorder(datastore, events_table_name=f"peer_{threads}")
    recorder.create_table()
    ends = time.perf_counter() + seconds

    def saver(_number: int) -> int:
        count = 0
        while time.perf_counter() < ends:
            recorder.insert_events([StoredEvent(uuid4(), 1, TOPIC, PAYLOAD)])
            count += 1
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        saved = sum(pool.map(saver, range(threads)))
    rate = saved / (time.perf_counter() - began)
    datastore.close()
    return rate
