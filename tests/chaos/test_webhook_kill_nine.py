# intent_ref: tests.webhooks
"""Deliverers killed with SIGKILL: their leases run out, another takes over, nothing is lost and order is kept."""

import subprocess
import sys
from pathlib import Path

import pytest

from event_store.store import EventStore
from tests.conftest import Database
from tests.receivers import receiver
from tests.waiting import wait_until
from tests.webhook_process import RealClock
from tests.webhook_world import World

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[2]


def spawn(database: Database) -> "subprocess.Popen[bytes]":
    """A deliverer in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.webhook_process", database.app_dsn, database.platform_dsn], cwd=ROOT, start_new_session=True
    )


async def test_a_killed_deliverers_share_moves_within_seconds_and_nothing_is_lost(store: EventStore, database: Database):
    world = World(store, RealClock())
    async with receiver() as hook:
        ids = [(await world.subscribe(hook.url))[0] for _ in range(12)]
        other = spawn(database)
        try:
            async with world.delivering() as deliverer:

                def mine() -> int:
                    return sum(key[1] in ids for key in deliverer.lanes)

                await wait_until(lambda: 0 < mine() < 12, 30, what="the work to be shared")
                await world.happen(*[f"execution-{number}" for number in range(10)] * 10)
                await wait_until(lambda: len(hook.received) > 300, 30, what="deliveries under way")
                other.kill()
                other.wait()
                await wait_until(lambda: mine() == 12, 15, what="its share to move")
                for id in ids:
                    await world.until_delivered(id, 100)
        finally:
            other.kill()
            other.wait()
        # Every subscription has every event, in order by subject; what came twice has the same id.
        assert len({got.id for got in hook.received}) == 1_200
        for id in ids:
            assert await world.deliveries(id) == {"delivered": 100}


async def test_killed_again_and_again_a_deliverer_delivers_everything_in_order(store: EventStore, database: Database):
    world = World(store, RealClock())
    async with receiver() as hook:
        id, _ = await world.subscribe(hook.url)
        for _ in range(3):
            process = spawn(database)
            try:
                await world.happen(*[f"execution-{number}" for number in range(5)] * 20)
                seen = len(hook.received)
                await wait_until(lambda seen=seen: len(hook.received) > seen + 30, 30, what="some deliveries")
            finally:
                process.kill()
                process.wait()
        async with world.delivering():
            await wait_until(lambda: len({got.id for got in hook.received}) == 300, 30, what="every event")
            await world.until_delivered(id, 300)
        for subject in range(5):
            numbers = [number for one, number in hook.subjects if one == f"execution/{subject}"]
            assert list(dict.fromkeys(numbers)) == list(range(1, 61))
