# intent_ref: commands.turns
"""Many commands for one stream at once, in several processes: all are obeyed, each once."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from commands.handle import Envelope, Shell, handle
from commands.pull_subscription import CreatePullSubscription
from domain.definition import Rules
from domain.module import Modules
from domain.pull_subscription import PullStart, PullSubscriptions, PullTerms, evolve
from domain.values import SubscriptionId, TenantId, pull_subscriptions_stream
from event_store.ids import uuid7
from event_store.store import EventStore
from tests.conftest import Database

TENANT = TenantId("crowd")
AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def create(id: str) -> CreatePullSubscription:
    return CreatePullSubscription(subscription_id=SubscriptionId(id), terms=PullTerms(), start=PullStart(0), at=AT)


async def test_commands_of_several_processes_for_one_stream_are_all_obeyed(database: Database):
    async with AsyncExitStack() as stack:
        shells = []
        for _ in range(3):
            store = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
            stack.push_async_callback(store.close)
            shells.append(Shell(store, Modules({}), Rules()))
        ids = [f"s-{number}" for number in range(90)]

        async def obey(number: int, id: str) -> None:
            # Every command is sent twice, as clients do when an answer is lost.
            envelope = Envelope(TENANT, uuid7(), "ada", "correlation")
            for shell in (shells[number % 3], shells[(number + 1) % 3]):
                await handle(shell, create(id), envelope)

        async with asyncio.TaskGroup() as group:
            for number, id in enumerate(ids):
                group.create_task(obey(number, id))
        loaded = await shells[0].store.load(TENANT, pull_subscriptions_stream(), evolve)
        state: PullSubscriptions | None = loaded.state
        assert state is not None
        assert (set(state.by_id), loaded.version) == (set(ids), len(ids))
        assert [len(shell.turns) for shell in shells] == [0, 0, 0]
