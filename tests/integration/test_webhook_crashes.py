# intent_ref: tests.webhooks
"""Deliverers that die, share, come and go: nothing is lost, order is kept, repeats have the same id."""

import asyncio
import contextlib

import pytest

from event_store.faults import DATABASE_FAULTS
from event_store.store import EventStore
from tests.conftest import Database
from tests.receivers import Answer, Receiver, receiver
from tests.waiting import wait_until
from tests.webhook_world import World


@pytest.fixture
def world(store: EventStore) -> World:
    return World(store)


def numbered(hook: Receiver, subject: str) -> list[int]:
    """The sequence numbers of a subject's events in the order in which they came first; a repeat counts once."""
    return list(dict.fromkeys(number for one, number in hook.subjects if one == subject))


def is_each_in_order(hook: Receiver, subjects: int, events: int) -> bool:
    return all(numbered(hook, f"execution/{one}") == list(range(1, events + 1)) for one in range(subjects))


async def test_a_deliverer_that_dies_in_the_middle_loses_nothing(world: World):
    late = asyncio.Event()

    def answer(got: object) -> Answer:
        return Answer(wait=late) if len(hook.received) % 3 == 0 and not late.is_set() else Answer()

    async with receiver(answer) as hook:
        async with world.killable() as first:
            id, _ = await world.subscribe(hook.url)
            await world.happen(*[f"execution-{number % 5}" for number in range(60)])
            await wait_until(lambda: len(hook.received) >= 6 and hook.open, what="requests under way")
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first
        late.set()
        async with world.delivering():
            await world.until_delivered(id, 60)
        assert is_each_in_order(hook, 5, 12)
        assert len({got.id for got in hook.received}) == 60, "a repeat has the id of the first"


async def test_killed_again_and_again_it_delivers_everything_in_order(world: World):
    async with receiver() as hook:
        id, _ = await world.subscribe(hook.url)
        for turn in range(6):
            await world.happen(*[f"execution-{number}" for number in range(5)] * 6)
            async with world.killable() as task:
                seen = len(hook.received)
                await wait_until(lambda seen=seen, turn=turn: len(hook.received) > seen + turn * 5, what="some deliveries")
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        async with world.delivering():
            await world.until_delivered(id, 180)
        assert is_each_in_order(hook, 5, 36)


async def test_a_database_that_goes_away_for_a_moment_loses_nothing(world: World, database: Database):
    import asyncpg

    async with receiver() as hook, world.delivering():
        id, _ = await world.subscribe(hook.url)
        owner = await asyncpg.connect(database.owner_dsn)
        try:
            for _ in range(3):
                with contextlib.suppress(*DATABASE_FAULTS):
                    await world.happen(*[f"execution-{number}" for number in range(5)] * 4)
                await owner.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = 'quantum_platform'",
                    database.name,
                )
        finally:
            await owner.close()

        async def all_delivered() -> bool:
            with contextlib.suppress(*DATABASE_FAULTS):  # the test's own connections were cut as well
                return await world.deliveries(id) == {"delivered": 60}
            return False

        await wait_until(all_delivered, 30, what="every delivery")
        assert is_each_in_order(hook, 5, 12)
