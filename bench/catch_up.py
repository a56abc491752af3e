# intent_ref: bench.benchmarks
"""How fast each projection takes in a log it has never seen."""

import asyncio
import time
from datetime import UTC, datetime

import asyncpg

from bench.append import METADATA
from bench.ground import Figure, event_store, postgres
from domain.execution_events import ExecutionCompleted, ExecutionStarted, StepCompleted, StepStarted
from domain.intent import IntentCreated, IntentDeprecated, IntentRevised
from domain.module import RetryPolicy
from domain.plan import PlannedStep
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, StepId, StreamId, TenantId, Version
from event_store import codec
from event_store.ids import uuid7
from event_store.records import NO_STREAM, NewEvent, StreamAppend
from event_store.store import EventStore
from projections.catalogue import READ_MODELS
from projections.freshness import Freshness
from projections.runner import ProjectionRunner

EVENTS = 120_000
REACH = 30_000
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_DEFINITION = {"target": "production", "steps": [{"action": "build-docker-image", "image": "myapp:latest"}]}


async def measure(seconds: float) -> list[Figure]:
    """Events a second, of the events each projection takes in, from the first to the last of the log."""
    figures = []
    async with postgres() as (_, urls), event_store(urls) as store:
        await _fill(store, int(EVENTS * min(1.0, seconds / 5)))
        total = await store.horizon()
        for model in READ_MODELS:
            counted = await _count(urls.owner_dsn, sorted(model.topics))
            if counted < total / 10:
                continue
            taken = await _catch_up(store, model.name)
            rate = counted / taken
            figures.append(
                Figure(f"catch-up of {model.name}", f"{rate:,.0f}/s of {counted:,}", f"{REACH:,}/s", rate / REACH, 1.0)
            )
    return figures


async def _catch_up(store: EventStore, name: str) -> float:
    freshness = Freshness(store.tenant_pool)
    runner = ProjectionRunner(store, freshness, [model for model in READ_MODELS if model.name == name])
    horizon = await store.horizon()
    began = time.perf_counter()
    runner.start()
    try:
        if not await freshness.wait(name, horizon, 300):
            raise TimeoutError(f"{name} did not catch up")
        return time.perf_counter() - began
    finally:
        await runner.close()
        await freshness.close()


async def _count(dsn: str, topics: list[str]) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        counted: int = await connection.fetchval("SELECT count(*) FROM quantum.events WHERE topic = ANY ($1)", topics)
        return counted
    finally:
        await connection.close()


async def _fill(store: EventStore, events: int) -> None:
    appended = 0
    limit = asyncio.Semaphore(64)

    async def append(tenant: TenantId, stream: StreamId, happened: list[codec.DomainEvent]) -> None:
        async with limit:
            encoded = [NewEvent(uuid7(), *codec.encode(event)) for event in happened]
            await store.append(tenant, [StreamAppend(stream, encoded, NO_STREAM)], command_id=uuid7(), metadata=METADATA)

    async with asyncio.TaskGroup() as group:
        number = 0
        while appended < events:
            tenant = TenantId(f"tenant-{number % 8}")
            for stream, happened in (_intent(number), _execution()):
                group.create_task(append(tenant, stream, happened))
                appended += len(happened)
            number += 1


def _intent(number: int) -> tuple[StreamId, list[codec.DomainEvent]]:
    identity = IntentId(str(uuid7()))
    return StreamId(f"intent-{identity}"), [
        IntentCreated(identity, f"deploy-{number}", _DEFINITION, "Deploys the web application", {"team": "web"}, _AT),
        IntentRevised(identity, Version(2), _DEFINITION, "Deploys the web application", {"team": "web"}, _AT),
        IntentDeprecated(identity, _AT),
    ]


def _execution() -> tuple[StreamId, list[codec.DomainEvent]]:
    identity = ExecutionId(str(uuid7()))
    names = ("build", "push", "deploy")
    steps = tuple(
        PlannedStep(StepId(name), ActionName(name), ModuleName("sandbox"), (), {"image": "myapp:latest"}, 300.0, RetryPolicy())
        for name in names
    )
    happened: list[codec.DomainEvent] = [
        ExecutionStarted(identity, IntentId("i"), "deploy", Version(1), "production", {}, steps, _AT)
    ]
    for name in names:
        happened.append(StepStarted(identity, StepId(name), ActionName(name), 1, _AT))
        happened.append(StepCompleted(identity, StepId(name), 1, {"image": "myapp:latest", "digest": "sha256:0"}, _AT))
    return StreamId(f"execution-{identity}"), [*happened, ExecutionCompleted(identity, _AT)]
