# intent_ref: bench.benchmarks
"""The same figures with a small and a large log: nothing may grow slower with what is stored."""

import time

import asyncpg

from bench.append import single_appends
from bench.ground import Figure, event_store, median_turn, postgres
from domain.values import StreamId, TenantId
from event_store.store import EventStore

SMALL, LARGE = 10_000, 5_000_000
_CHUNK = 250_000
_TURNS = 3
_FILL = """
INSERT INTO quantum.events (event_id, command_id, command_index, version, tenant_id, stream_id, topic, metadata, payload)
SELECT gen_random_uuid(), gen_random_uuid(), 0, 1 + n % 10, 'tenant-' || (n / 10) % 64, 'filler-' || n / 10,
       'intent.deprecated.v1',
       '{"correlation_id":"c","causation_id":null,"actor":"bench","traceparent":null,"request_hash":null}',
       convert_to('{"intent_id":"' || n / 10 || '","at":"2026-01-01T00:00:00Z"}', 'UTF8')
  FROM generate_series($1::int, $2::int) AS n
"""


async def measure(seconds: float) -> list[Figure]:
    """Rates with 10 thousand and with 5 million events in the log; short runs fill in a tenth of the large one.

    Both are measured in turns, and of each rate the turn with the median ratio counts.
    """
    most = LARGE if seconds >= 5 else LARGE // 10
    turns = []
    async with (
        postgres() as (_, few_urls), postgres() as (_, many_urls), event_store(few_urls) as few, event_store(many_urls) as many,
    ):  # fmt: skip
        await _fill(few_urls.owner_dsn, 0, SMALL)
        await _fill(many_urls.owner_dsn, 0, most)
        for _ in range(_TURNS):
            turns.append((await _figures(few, seconds / 2, SMALL), await _figures(many, seconds / 2, most)))
    figures = []
    for name in turns[0][0]:
        pairs = [(few[name], many[name]) for few, many in turns]
        small, large = median_turn(pairs, lambda pair: pair[0] / pair[1])
        what = f"{name}: {SMALL:,} against {most:,} events"
        figures.append(Figure(what, f"{large:,.0f}/s", f"{small:,.0f}/s", small / large, 1.3, at_most=True))
    return figures


async def _figures(store: EventStore, seconds: float, events: int) -> dict[str, float]:
    await single_appends(store, 8, 1.0)
    return {
        "64 single appends at once": await single_appends(store, 8, seconds),
        "streams of 10 read": await _reads(store, seconds / 2, events),
        "log read in pages of 1,000": await _pages(store, seconds / 2),
        "a tenant's log, 100 from the middle": await _tenant_pages(store, seconds / 2, events),
    }


async def _reads(store: EventStore, seconds: float, events: int) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        stream = (count * 7919) % (events // 10)
        found = await store.read_stream(TenantId(f"tenant-{stream % 64}"), StreamId(f"filler-{stream}"))
        if not found:
            raise RuntimeError(f"The stream filler-{stream} is empty.")
        count += 1
    return count / (time.perf_counter() - began)


async def _pages(store: EventStore, seconds: float) -> float:
    count, after, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        page = await store.read_log(after, limit=1_000)
        count, after = count + len(page.events), page.next if len(page.events) == 1_000 else 0
    return count / (time.perf_counter() - began)


async def _tenant_pages(store: EventStore, seconds: float, events: int) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        page = await store.read_log(events // 2, limit=100, tenant_id=TenantId(f"tenant-{count % 64}"))
        count += bool(page.events)
    return count / (time.perf_counter() - began)


async def _fill(owner_dsn: str, first: int, last: int) -> None:
    connection = await asyncpg.connect(owner_dsn)
    try:
        for start in range(first, last, _CHUNK):
            await connection.execute(_FILL, start, min(start + _CHUNK, last) - 1)
        await connection.execute("VACUUM ANALYZE quantum.events")
    finally:
        await connection.close()
