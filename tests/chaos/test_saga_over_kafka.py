# intent_ref: tests.saga-over-kafka
"""The platform with its stream over a broker: the same end states as without one, whatever happens to the broker.

What every execution's end is on a quiet run is known (`tests/chaos/load.py`); here the broker is killed and started again ten
times meanwhile, and the process that leads the relay and runs half of the sagas is killed too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.chaos.load import Load, promises_hold
from tests.event_hubs.process import event_hubs_process
from tests.kafka_broker import kafka_broker
from tests.platforms import Postgres, Served, external, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.endurance]
BLOWS, EACH = 10, 10
BETWEEN = 5
"""Requests that are accepted between two blows."""


@dataclass(frozen=True)
class Broker:
    """A broker under a platform: the settings to reach it, and what breaks it and brings it back."""

    settings: dict[str, str]
    strike: Callable[[], Awaitable[None]]


@asynccontextmanager
async def broker(engine: str) -> AsyncIterator[Broker]:
    if engine == "kafka":
        async with kafka_broker() as one:

            async def strike() -> None:
                if one.is_ours:
                    one.kill()
                    await one.start()

            yield Broker(
                {"kafka_bootstrap": one.bootstrap, "kafka_topic": one.topic("saga"), "kafka_topic_partitions": "4"}, strike
            )
        return
    async with event_hubs_process(partitions=4) as hub:

        async def restart() -> None:
            assert await hub.tell("restart") == "ok"

        yield Broker({"event_hubs_connection": hub.connection_string}, restart)


@pytest.mark.parametrize("engine", ["kafka", "event-hubs"])
async def test_executions_end_right_while_the_broker_is_killed_and_a_platform_too(engine: str) -> None:
    with temporary_directory() as directory:
        postgres = Postgres(directory / "database")
        try:
            urls = await postgres.start()
            async with broker(engine) as beneath:
                settings = external(urls, log_level="warning", stream=engine, **beneath.settings)
                (directory / "platform").mkdir()
                first, second = (Served(directory / "platform", settings=settings) for _ in range(2))
                try:
                    await first.start()
                    await second.start()
                    load = Load([first, second], intents=16, executions=BLOWS * EACH + 28)
                    await load.register()
                    task = asyncio.create_task(load.run())
                    for _ in range(BLOWS):
                        load.release(EACH)
                        seen = len(load.accepted)
                        await wait_until(lambda seen=seen: len(load.accepted) >= seen + BETWEEN, 30, what="requests under way")
                        await beneath.strike()
                    first.kill()
                    load.release(28)
                    async with asyncio.timeout(60):
                        await task
                    await promises_hold(load, second, urls, timeout_seconds=120)
                finally:
                    print(first.log_tail(), second.log_tail(), sep="\n----\n")
                    first.kill()
                    second.kill()
        finally:
            await postgres.kill()
