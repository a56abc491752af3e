# intent_ref: tests.broker-away
"""A broker that is away from the start, and for long: commands and reads know nothing of it, and all is made up later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.event_hubs import EventHubsServer
from tests.kafka_broker import kafka_broker
from tests.platforms import API, Served, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow]
INTENT = {"name": "plain", "definition": {"target": "t", "steps": [{"action": "no-op"}, {"action": "no-op"}]}}
EXECUTIONS = 300
MEBIBYTES_MAX = 64
"""What hundreds of waiting events may add to a process that reads and writes for them: caches that fill once, and no queue."""
PROCESSOR_SHARE_MAX = 0.5
"""Of one processor, at rest with the broker away. One that asked in a loop would take all of it."""


class Away(Protocol):
    """A broker that is not there, until `come`."""

    settings: dict[str, str]

    async def come(self) -> None: ...


class _Kafka:
    def __init__(self, bootstrap: str, topic: str, start: object) -> None:
        self.settings = {"stream": "kafka", "kafka_bootstrap": bootstrap, "kafka_topic": topic, "kafka_topic_partitions": "4"}
        self._start = start

    async def come(self) -> None:
        await self._start()  # type: ignore[operator]


class _EventHubs:
    def __init__(self, hub: EventHubsServer) -> None:
        self.settings, self._hub = {"stream": "event-hubs", "event_hubs_connection": hub.connection_string}, hub

    async def come(self) -> None:
        await self._hub.start()


@asynccontextmanager
async def away(engine: str) -> AsyncIterator[Away]:
    async with AsyncExitStack() as stack:
        if engine == "kafka":
            broker = await stack.enter_async_context(kafka_broker())
            if not broker.is_ours:
                pytest.skip("the broker is not this test's to kill")
            broker.kill()
            yield _Kafka(broker.bootstrap, broker.topic("away"), broker.start)
            return
        hub = EventHubsServer(partitions=4)
        await hub.start()
        hub.kill()
        stack.push_async_callback(hub.stop)
        yield _EventHubs(hub)


def metric(exposition: str, name: str) -> float:
    families = text_string_to_metric_families(exposition)
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.mark.parametrize("engine", ["kafka", "event-hubs"])
async def test_commands_are_accepted_without_a_broker_and_everything_follows_when_it_comes(engine: str):
    async with away(engine) as broker:
        with temporary_directory() as directory:
            served = Served(directory / "data", settings={**broker.settings, "log_level": "warning"})
            try:
                await served.start()
                async with httpx.AsyncClient(base_url=served.address, headers=served.bearer("t"), timeout=30) as client:
                    await _without(client, served)
                    await broker.come()
                    await wait_until(lambda: _completed(client), 120, what="all executions to complete", every_seconds=0.25)
                    await wait_until(lambda: _lag(client, 0), 30, what="the lag to be made up", every_seconds=0.25)
            finally:
                print(served.log_tail())
                await served.stop()


async def _without(client: httpx.AsyncClient, served: Served) -> None:
    """Everything that the APIs do, with no broker."""
    assert served.process is not None
    process = psutil.Process(served.process.pid)
    assert (await client.post(f"{API}/tenants", json={"id": "t", "name": "T"})).status_code == 201
    created = await client.post(f"{API}/intents", json=INTENT)
    assert created.status_code == 201, created.text
    path = f"{API}/intents/{created.json()['id']}"
    await _execute(client, path, 50)  # what is loaded at first use is loaded
    before = process.memory_info().rss
    await _execute(client, path, EXECUTIONS - 50)
    shown = await client.get(path, headers={"Quantum-Min-Position": created.headers["Quantum-Position"]})
    assert shown.status_code == 200
    assert (await client.get("/health/ready")).status_code == 200
    await wait_until(lambda: _lag(client, EXECUTIONS), 30, what="the lag to be told", every_seconds=0.25)
    assert (process.memory_info().rss - before) / 2**20 < MEBIBYTES_MAX
    # How much of a processor it takes is itself measured over time; nothing else happens meanwhile.
    used = process.cpu_times()
    await asyncio.sleep(5)
    now = process.cpu_times()
    assert (now.user + now.system - used.user - used.system) / 5 < PROCESSOR_SHARE_MAX


async def _execute(client: httpx.AsyncClient, path: str, times: int) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.post(f"{path}/execute", json={})) for _ in range(times)]
    assert {task.result().status_code for task in tasks} == {202}


async def _lag(client: httpx.AsyncClient, wanted: int) -> bool:
    """Whether the lag that is told is 0, or at least what is wanted."""
    lag = metric((await client.get("/metrics")).text, "quantum_relay_lag_events")
    return lag >= wanted if wanted else lag == 0


async def _completed(client: httpx.AsyncClient) -> bool:
    found, query = 0, {"status": "completed", "limit": "200"}
    while True:
        page = (await client.get(f"{API}/executions", params=query)).json()
        found += len(page["items"])
        if page["next_cursor"] is None:
            return found == EXECUTIONS
        query["cursor"] = page["next_cursor"]
