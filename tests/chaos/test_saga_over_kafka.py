# intent_ref: tests.saga-over-kafka
"""The platform with its stream over a real Kafka broker: the same end states as without one, whatever happens to the broker."""

import asyncio

import pytest

from tests.chaos.load import Load, promises_hold
from tests.kafka_broker import kafka_broker
from tests.platforms import Postgres, Served, external, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


async def test_executions_end_right_while_the_broker_is_killed_and_a_platform_too() -> None:
    with temporary_directory() as directory:
        postgres = Postgres(directory / "database")
        try:
            urls = await postgres.start()
            async with kafka_broker() as broker:
                settings = external(
                    urls, log_level="warning", stream="kafka", kafka_bootstrap=broker.bootstrap,
                    kafka_topic=broker.topic("saga"), kafka_topic_partitions="4",
                )  # fmt: skip
                (directory / "platform").mkdir()
                first, second = (Served(directory / "platform", settings=settings) for _ in range(2))
                try:
                    await first.start()
                    await second.start()
                    load = Load([first, second], intents=16, executions=96)
                    await load.register()
                    task = asyncio.create_task(load.run())
                    for _ in range(3):
                        load.release(24)
                        seen = len(load.accepted)
                        await wait_until(lambda seen=seen: len(load.accepted) >= seen + 12, 30, what="requests to be under way")
                        if broker.is_ours:
                            broker.kill()
                            await broker.start()
                    first.kill()
                    load.release(24)
                    async with asyncio.timeout(60):
                        await task
                    await promises_hold(load, second, urls, timeout_seconds=90)
                finally:
                    print(first.log_tail(), second.log_tail(), sep="\n----\n")
                    first.kill()
                    second.kill()
        finally:
            await postgres.kill()
