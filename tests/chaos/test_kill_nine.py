# intent_ref: tests.kill-nine
"""`kill -9` of the whole platform, in half of the rounds with its PostgreSQL, while it executes: nothing accepted is lost."""

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest

from tests.chaos.load import Load, promises_hold
from tests.platforms import Served, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
KILLS = 20
EXECUTIONS = 200


@pytest.fixture
async def platform() -> AsyncIterator[Served]:
    with temporary_directory() as directory:
        served = Served(directory / "data", settings={"log_level": "warning"})
        served.data_dir.mkdir()
        try:
            yield served
        finally:
            print(f"still running: {served.process is not None and served.process.poll() is None}\n{served.log_tail()}")
            await served.stop()


async def test_twenty_kills_during_200_executions_lose_nothing_and_double_nothing(platform: Served):
    seed = int(os.environ.get("QUANTUM_TEST_SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    print(f"again with: QUANTUM_TEST_SEED={seed}")
    await platform.start()
    load = Load([platform], intents=40, executions=EXECUTIONS)
    await load.register()
    task = asyncio.create_task(load.run())
    accepted_at_kill = []
    for number in range(KILLS):
        each = EXECUTIONS // KILLS
        if number % 5 == 4:
            load.release(each)
            await asyncio.sleep(chance.uniform(0.0, 2.0))  # anywhere, the start of the process included
        else:
            await platform.ready()
            for _ in range(each // 2):
                load.release(1)
                await asyncio.sleep(chance.uniform(0.0, 0.2))
            load.release(each - each // 2)
            await asyncio.sleep(chance.uniform(0.0, 0.03))  # in the midst of their requests
        if task.done():
            task.result()
        accepted_at_kill.append(len(load.accepted))
        platform.kill()
        if number % 2:
            platform.kill_database()
        platform.spawn()
    await platform.ready()
    async with asyncio.timeout(60):
        await task
    print(f"accepted at each kill: {accepted_at_kill}; sent again after: {dict(load.sent_again)}")
    assert accepted_at_kill[0] < accepted_at_kill[-1]
    await promises_hold(load, platform, platform.database())


async def test_sigterm_under_load_ends_in_order_and_loses_nothing(platform: Served):
    await platform.start()
    load = Load([platform], intents=16, executions=80)
    await load.register()
    task = asyncio.create_task(load.run())
    for _ in range(3):
        load.release(20)
        while len(load.accepted) % 20 < 10:  # noqa: ASYNC110 - the load is ours to watch
            await asyncio.sleep(0.005)
        assert await platform.terminate() == 0, platform.log_tail()
        assert "Traceback" not in platform.log_tail(400)
        await platform.start()
    load.release(20)
    async with asyncio.timeout(60):
        await task
    print(f"sent again after: {dict(load.sent_again)}")
    await promises_hold(load, platform, platform.database())


async def test_an_embedded_database_that_is_killed_comes_back_by_itself_and_has_lost_nothing(platform: Served):
    await platform.start()
    load = Load([platform], intents=16, executions=64)
    await load.register()
    task = asyncio.create_task(load.run())
    for _ in range(3):
        load.release(16)
        seen = len(load.accepted)
        await wait_until(lambda seen=seen: len(load.accepted) >= seen + 8, 30, what="requests to be under way")
        platform.kill_database()
    load.release(16)
    async with asyncio.timeout(60):
        await task
    await platform.ready()
    print(f"sent again after: {dict(load.sent_again)}")
    await promises_hold(load, platform, platform.database())
