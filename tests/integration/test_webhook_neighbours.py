# intent_ref: tests.webhooks
"""One receiver's troubles are its own: beside slow, wrong, dead and gone ones a good one gets everything, and in order."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from domain.subscription import Start
from event_store.store import EventStore
from tests.receivers import Answer, Received, receiver
from tests.waiting import wait_until
from tests.webhook_world import World


@pytest.fixture
def world(store: EventStore) -> World:
    return World(store)


async def test_beside_bad_receivers_of_every_kind_a_good_one_gets_everything_for_three_days(world: World):
    late, ports = asyncio.Event(), list[int]()
    bad = {
        "slow": lambda _got: Answer(wait=late),
        "wrong": lambda _got: Answer(500, body=b"\x00" * 100_000),
        "elsewhere": lambda _got: Answer(307, {"Location": f"http://127.0.0.1:{ports[0]}/inside"}),
        "nonsense": lambda _got: Answer(99),
        "gone": lambda _got: Answer(410),
    }
    async with AsyncExitStack() as stack:
        # Requests that are never answered end by the deliverer's own time limit.
        made = await stack.enter_async_context(world.delivering(in_flight_max=16, timeout_seconds=0.5))
        good = await stack.enter_async_context(receiver())
        inside = await stack.enter_async_context(receiver())
        ports.append(inside.port)
        well, _ = await world.subscribe(good.url, types=("quantum.execution.*", "quantum.subscription.disabled"))
        ids = {}
        for name, answer in bad.items():
            hook = await stack.enter_async_context(receiver(answer))
            ids[name], _ = await world.subscribe(hook.url)
        ids["nobody"], _ = await world.subscribe("http://127.0.0.1:9/hook")
        began, count = world.clock.at, 0
        while world.clock.at - began < timedelta(days=3, hours=12):
            await world.happen(*[f"execution-{number}" for number in range(3)])
            count += 3
            await wait_until(lambda count=count: len(of(good.received, "execution")) >= count, 20, what="what has just happened")
            world.clock.forward(hours=6)
            made.wake()
        for number in range(3):
            mine = [int(one.event["sequence"]) for one in good.received if one.event["subject"] == f"execution/{number}"]
            assert mine == list(range(1, count // 3 + 1))

        async def told() -> bool:
            world.clock.forward(hours=6)
            made.wake()
            return len(of(good.received, "subscription.disabled")) == len(ids)

        await wait_until(told, 60, what="word of every receiver that was given up")
        reasons = {one.event["data"]["subscription_id"]: one.event["data"]["reason"]
                   for one in of(good.received, "subscription.disabled")}  # fmt: skip
        assert reasons == {id: "gone" if name == "gone" else "failing" for name, id in ids.items()}
        assert (await world.subscription(well)).status == "active"
        assert inside.connections == 0
        late.set()


def of(received: list[Received], kind: str) -> list[Received]:
    """Those whose type begins so; a repeat counts once."""
    return list({one.id: one for one in received if one.event["type"].startswith(f"quantum.{kind}")}.values())


@pytest.mark.parametrize("order", ["per-subject", "parallel"])
async def test_what_one_asks_for_again_the_others_do_not_get(world: World, order: str):
    async with receiver() as hook, receiver() as other, world.delivering():
        id, _ = await world.subscribe(hook.url, order=order)
        well, _ = await world.subscribe(other.url)
        await world.happen(*[f"execution-{number % 4}" for number in range(12)])
        await world.until_delivered(id, 12)
        await world.until_delivered(well, 12)
        assert (await world.requests.rewind(world.tenant, id, 0, None))[0] == "accepted"
        await wait_until(lambda: len(hook.received) == 24, what="all of it again")
        assert {one.id for one in hook.received[12:]} == {one.id for one in hook.received[:12]}
        if order == "per-subject":
            for number in range(4):
                assert [seen for subject, seen in hook.subjects[12:] if subject == f"execution/{number}"] == [1, 2, 3]
        await world.happen("execution-9")
        await world.until_delivered(well, 13)
        assert len(other.received) == 13


async def test_a_subscription_that_begins_now_gets_nothing_older_than_itself_though_another_reads_all_history(world: World):
    await world.happen(*[f"execution-{number % 3}" for number in range(300)])
    async with receiver() as history, receiver() as now, world.delivering():
        whole, _ = await world.subscribe(history.url)
        late, _ = await world.subscribe(now.url, Start())
        await world.happen("execution-new")
        await world.until_delivered(late, 1)
        await world.until_delivered(whole, 301)
        assert now.subjects == [("execution/new", 1)]
        for number in range(3):
            assert [seen for subject, seen in history.subjects if subject == f"execution/{number}"] == list(range(1, 101))
