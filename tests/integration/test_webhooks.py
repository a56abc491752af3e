# intent_ref: tests.webhooks
"""Webhooks: what a receiver gets, signed and in order, whatever becomes of it, of others, and of the deliverer."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from commands.subscription import (
    ChangeSubscription,
    DeleteSubscription,
    EnableSubscription,
    PauseSubscription,
    ResumeSubscription,
    RotateSubscriptionSecret,
)
from domain.subscription import Start
from domain.values import SecretId
from event_store.store import EventStore
from streaming.webhooks.ledger import Ledger
from streaming.webhooks.signing import webhook_id
from tests.conftest import Database
from tests.receivers import Answer, Received, Receiver, receiver
from tests.waiting import wait_until
from tests.webhook_world import World

OK, AWAY = Answer(), Answer(503, body=b"not now")


@pytest.fixture
def world(store: EventStore) -> World:
    return World(store)


def numbered(hook: Receiver, subject: str) -> list[int]:
    """The sequence numbers of a subject's events in the order in which they came first; a repeat counts once."""
    return list(dict.fromkeys(number for one, number in hook.subjects if one == subject))


async def test_an_event_arrives_signed_as_a_cloud_event(world: World):
    async with receiver() as hook, world.delivering():
        id, secret = await world.subscribe(hook.url, headers={"X-Team": "web"})
        await world.happen("execution-1")
        await wait_until(lambda: hook.received, what="a delivery")
        (got,) = hook.received
        assert Webhook(secret).verify(got.body, got.headers)["subject"] == "execution/1"
        assert got.event["type"] == "quantum.execution.started.v1"
        assert (got.headers["content-type"], got.headers["x-team"]) == ("application/cloudevents+json", "web")
        assert got.id == str(webhook_id_of(got, id))
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(got.body + b" ", got.headers)
        await world.until_delivered(id, 1)
        await wait_until(lambda: at_least(world, id, 2), what="the cursor")


def webhook_id_of(got: Received, subscription_id: str) -> object:
    from uuid import UUID

    return webhook_id(UUID(got.event["id"]), subscription_id)


async def at_least(world: World, id: str, position: int) -> bool:
    return await world.cursor(id) >= position


async def test_history_from_the_first_event_and_then_live_without_a_gap_or_a_repeat(world: World):
    await world.happen(*[f"execution-{number % 7}" for number in range(150)])
    async with receiver() as hook, world.delivering():
        id, _ = await world.subscribe(hook.url)
        await wait_until(lambda: len(hook.received) > 20, what="the first deliveries")
        await world.happen(*[f"execution-{number % 7}" for number in range(150)])
        await world.until_delivered(id, 300)
        assert len(hook.received) == 300
        for subject in range(7):
            numbers = numbered(hook, f"execution/{subject}")
            assert numbers == list(range(1, len(numbers) + 1))


async def test_a_subscription_begins_where_it_says(world: World):
    await world.happen("execution-1")
    position = await world.store.horizon()
    await world.happen("execution-2")
    at = (await world.store.read_log(position, limit=1)).events[0].recorded_at
    async with receiver() as now, receiver() as positioned, receiver() as timed, world.delivering():
        ids = [
            (await world.subscribe(now.url, Start()))[0], (await world.subscribe(positioned.url, Start(position=position)))[0],
            (await world.subscribe(timed.url, Start(time=at)))[0],
        ]  # fmt: skip
        await world.happen("execution-3")
        for id, count in zip(ids, (1, 2, 2), strict=True):
            await world.until_delivered(id, count)
        assert now.subjects == [("execution/3", 1)]
        assert sorted(positioned.subjects) == sorted(timed.subjects) == [("execution/2", 1), ("execution/3", 1)]


async def test_only_what_is_wanted_is_delivered_and_nothing_of_another_tenant(world: World):
    other = World(world.store, world.clock)
    async with receiver() as hook, receiver() as theirs, world.delivering():
        id, _ = await world.subscribe(hook.url, types=("quantum.execution.started",), subjects=("execution/a*",))
        their_id, _ = await other.subscribe(theirs.url)
        await world.happen("execution-a1", "execution-b1")
        await world.happen("execution-a1", topic="execution.completed.v1")
        await world.happen("execution-a2")
        await other.happen("execution-a1")
        await world.until_delivered(id, 2)
        await other.until_delivered(their_id, 1)
        assert sorted(subject for subject, _ in hook.subjects) == ["execution/a1", "execution/a2"]
        assert {got.event["tenantid"] for got in theirs.received} == {other.tenant}


async def test_a_failing_event_holds_up_its_own_subject_and_no_other(world: World):
    bad = "execution/bad"

    def answer(got: Received) -> Answer:
        return AWAY if got.event["subject"] == bad and mended is False else OK

    mended = False
    async with receiver(answer) as hook, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url)
        await world.happen("execution-bad", "execution-good", "execution-bad", "execution-good", "execution-bad")
        await world.until_delivered(id, 2)
        await wait_until(lambda: is_filed(world, id, retrying=1, waiting=2), what="the bad subject to be filed")
        assert numbered(hook, bad) == [1]
        assert numbered(hook, "execution/good") == [1, 2]
        mended = True
        world.clock.forward(seconds=10)
        deliverer.wake()
        await world.until_delivered(id, 5)
        assert numbered(hook, bad) == [1, 2, 3]
        first = {got.id for got in hook.received if got.event["subject"] == bad and got.event["sequence"] == "0000000001"}
        assert len(first) == 1, "a retry has the id of the first attempt"


async def is_filed(world: World, id: str, **counts: int) -> bool:
    found = await world.deliveries(id)
    return {status: found.get(status, 0) for status in counts} == counts


async def test_in_parallel_a_failing_event_holds_up_nothing(world: World):
    def answer(got: Received) -> Answer:
        return AWAY if got.event["sequence"] == "0000000001" else OK

    async with receiver(answer) as hook, world.delivering():
        id, _ = await world.subscribe(hook.url, order="parallel")
        await world.happen(*["execution-1"] * 4)
        await wait_until(lambda: is_filed(world, id, retrying=1, waiting=0, delivered=3), what="one filed, the others through")


async def test_a_receiver_down_for_days_loses_nothing_and_others_notice_nothing(world: World):
    down = True

    def answer(_got: Received) -> Answer:
        return AWAY if down else OK

    async with receiver(answer) as hook, receiver() as healthy, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url)
        well, _ = await world.subscribe(healthy.url)
        subjects = [f"execution-{number % 30}" for number in range(90)]
        await world.happen(*subjects)
        await world.until_delivered(well, 90)
        began, requests = world.clock.at, 0
        while world.clock.at - began < timedelta(days=2, hours=22):
            requests = len(hook.received)
            world.clock.forward(hours=2)
            deliverer.wake()
            await wait_until(lambda seen=requests: len(hook.received) > seen and not deliverer.in_flight, what="another try")
        assert (await world.subscription(id)).status == "active"
        assert len(hook.received) < 500, "a receiver that is away is not hammered"
        down = False
        world.clock.forward(hours=12)
        deliverer.wake()
        await world.until_delivered(id, 90)
        for number in range(30):
            assert numbered(hook, f"execution/{number}") == [1, 2, 3]
        assert len(healthy.received) == 90


async def test_a_receiver_down_for_longer_is_disabled_with_an_event_and_goes_on_when_it_is_enabled(world: World):
    down = True

    def answer(_got: Received) -> Answer:
        return AWAY if down else OK

    async with receiver(answer) as hook, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url)
        await world.happen("execution-1", "execution-2")
        began = world.clock.at
        while (await world.subscription(id)).status == "active":
            assert world.clock.at - began < timedelta(days=5)
            seen = len(hook.received)
            world.clock.forward(hours=6)
            deliverer.wake()
            with contextlib.suppress(AssertionError):
                await wait_until(lambda seen=seen: len(hook.received) > seen, 0.3)
        assert timedelta(days=2) < world.clock.at - began
        disabled = await world.subscription(id)
        assert (disabled.status, disabled.disabled_reason) == ("disabled", "failing")
        assert "status-503" in str(disabled.disabled_detail)
        await wait_until(lambda: not deliverer.in_flight, what="the last request")
        seen = len(hook.received)
        await world.happen("execution-1")
        world.clock.forward(days=30)
        deliverer.wake()
        down = False
        await world.command(EnableSubscription(subscription_id=id, at=world.clock()))
        await world.until_delivered(id, 3)
        assert numbered(hook, "execution/1") == [1, 2]


async def test_a_receiver_that_is_gone_is_disabled_at_once(world: World):
    async with receiver(lambda _got: Answer(410)) as hook, receiver() as healthy, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url, max_in_flight=1)
        well, _ = await world.subscribe(healthy.url)
        await world.happen("execution-1", "execution-2", "execution-3")

        async def is_disabled() -> bool:
            return (await world.subscription(id)).disabled_reason == "gone"

        await wait_until(is_disabled, what="the event")
        await world.until_delivered(well, 3)
        world.clock.forward(days=1)
        deliverer.wake()
        assert len(hook.received) == 1


async def test_a_receiver_that_answers_nonsense_or_redirects_is_tried_again_and_never_followed(world: World):
    answers: list[Callable[[Receiver], Answer]] = [
        lambda hook: Answer(301, {"Location": f"http://127.0.0.1:{hook.port}/elsewhere"}),
        lambda _hook: Answer(400),
        lambda _hook: Answer(99),
        lambda _hook: Answer(500, body=b"\xff\x00" * 400_000),
        lambda _hook: Answer(429, {"Retry-After": "100"}),
        lambda _hook: Answer(200, body=b"x" * 1_000_000),
    ]
    made: list[Receiver] = []

    def answer(_got: Received) -> Answer:
        return answers[min(len(made[0].received), len(answers)) - 1](made[0])

    async with receiver(answer) as hook, world.delivering() as deliverer:
        made.append(hook)
        id, _ = await world.subscribe(hook.url)
        await world.happen("execution-1")
        for count in range(1, len(answers) + 1):
            await wait_until(lambda count=count: len(hook.received) == count, what=f"try {count}")
            await wait_until(lambda: not deliverer.in_flight, what="its answer")
            world.clock.forward(hours=6)
            deliverer.wake()
        await world.until_delivered(id, 1)
        assert {got.path for got in hook.received} == {"/hook"}
        attempts = await world.store.platform_pool.fetchval(
            "SELECT attempts FROM quantum.webhook_deliveries WHERE subscription_id = $1", id
        )
        for said in ("redirect-not-followed", "status-400", "status-500", "status-429"):
            assert said in attempts
        assert len(attempts) < 8_000


async def test_retry_after_is_honoured_for_the_whole_subscription(world: World):
    asked: list[float] = []

    def answer(_got: Received) -> Answer:
        asked.append(world.clock.at.timestamp())
        return Answer(429, {"Retry-After": "3600"}) if len(asked) == 1 else OK

    async with receiver(answer) as hook, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url, max_in_flight=1)
        await world.happen("execution-1")
        await wait_until(lambda: is_filed(world, id, retrying=1), what="the failure")
        await world.happen("execution-2")
        for _ in range(5):
            world.clock.forward(minutes=11)
            deliverer.wake()
        assert len(hook.received) == 1
        world.clock.forward(minutes=6)
        deliverer.wake()
        await world.until_delivered(id, 2)
        assert min(asked[1:]) - asked[0] >= 3600


async def test_a_slow_receiver_delays_no_other(world: World):
    late = asyncio.Event()
    async with receiver(lambda _got: Answer(wait=late)) as slow, receiver() as fast, world.delivering(in_flight_max=8) as made:
        slow_ids = [(await world.subscribe(slow.url, max_in_flight=4))[0] for _ in range(3)]
        await world.happen(*[f"execution-{number}" for number in range(20)])
        await wait_until(lambda: slow.open == 8, what="the slow receiver to take every place")
        # Places come free when the slow requests end; from then on slow receivers have at most half of them.
        late.set()
        for id in slow_ids:
            await world.until_delivered(id, 20)
        late.clear()
        for lane in made.lanes.values():
            lane.answer_seconds = 5.0
        id, _ = await world.subscribe(fast.url, Start(), max_in_flight=4)
        slow.open_most = slow.open
        await world.happen(*[f"execution-{number}" for number in range(100, 140)])
        await world.until_delivered(id, 40)
        assert slow.open_most <= 4
        late.set()
        for one in slow_ids:
            await world.until_delivered(one, 60)


async def test_a_subscription_never_has_more_in_flight_than_it_allows(world: World):
    late = asyncio.Event()
    async with receiver(lambda _got: Answer(wait=late)) as hook, world.delivering():
        id, _ = await world.subscribe(hook.url, max_in_flight=3)
        await world.happen(*[f"execution-{number}" for number in range(30)])
        await wait_until(lambda: hook.open == 3, what="three requests")
        late.set()
        await world.until_delivered(id, 30)
        assert hook.open_most == 3


async def test_paused_nothing_goes_and_resumed_nothing_is_lost(world: World):
    async with receiver() as hook, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url)
        await world.command(PauseSubscription(subscription_id=id, at=world.clock()))
        await wait_until(lambda: any(lane.config.status == "paused" for lane in deliverer.lanes.values()), what="the pause")
        await world.happen(*["execution-1"] * 200)
        await world.command(ResumeSubscription(subscription_id=id, at=world.clock()))
        await world.until_delivered(id, 200)
        assert numbered(hook, "execution/1") == list(range(1, 201))


async def test_a_change_of_address_holds_for_what_waits(world: World):
    async with receiver(lambda _got: AWAY) as old, receiver() as new, world.delivering() as deliverer:
        id, _ = await world.subscribe(old.url)
        await world.happen("execution-1", "execution-1")
        await wait_until(lambda: is_filed(world, id, retrying=1, waiting=1), what="the failure")
        await world.command(ChangeSubscription(subscription_id=id, url=new.url, at=world.clock()))
        await wait_until(lambda: any(lane.config.terms.url == new.url for lane in deliverer.lanes.values()), what="the change")
        world.clock.forward(minutes=1)
        deliverer.wake()
        await world.until_delivered(id, 2)
        assert numbered(new, "execution/1") == [1, 2]


async def test_after_a_rotation_both_secrets_verify_for_a_while(world: World):
    async with receiver() as hook, world.delivering() as deliverer:
        id, first = await world.subscribe(hook.url)
        secret_id, second = await world.secrets(world.store.tenant_pool).make(world.tenant, id)
        command = RotateSubscriptionSecret(
            subscription_id=id, secret_id=SecretId(secret_id), former_hours=1, at=world.clock()
        )  # fmt: skip
        await world.command(command)
        await wait_until(lambda: any(lane.config.former_secret_id for lane in deliverer.lanes.values()), what="the rotation")
        await world.happen("execution-1")
        await world.until_delivered(id, 1)
        (got,) = hook.received
        assert len(got.headers["webhook-signature"].split()) == 2
        for secret in (first, second):
            Webhook(secret).verify(got.body, got.headers)
        world.clock.forward(minutes=61)
        await world.happen("execution-2")
        await world.until_delivered(id, 2)
        assert len(hook.received[1].headers["webhook-signature"].split()) == 1


async def test_a_deleted_subscription_leaves_nothing(world: World):
    async with receiver() as hook, world.delivering():
        id, _ = await world.subscribe(hook.url)
        await world.happen("execution-1")
        await world.until_delivered(id, 1)
        await world.command(DeleteSubscription(subscription_id=id, at=world.clock()))

        async def is_gone() -> bool:
            counts = [
                await world.store.platform_pool.fetchval(f"SELECT count(*) FROM quantum.{table} WHERE subscription_id = $1", id)
                for table in ("webhook_subscriptions", "webhook_deliveries", "webhook_requests", "subscription_secrets")
            ]
            return not any(counts)

        await wait_until(is_gone, what="its rows to go")
        await world.happen("execution-2")
        assert len(hook.received) == 1


async def test_one_is_delivered_again_or_everything_since_a_moment(world: World):
    async with receiver() as hook, world.delivering():
        id, _ = await world.subscribe(hook.url)
        await world.happen(*["execution-1"] * 3)
        await world.until_delivered(id, 3)
        again = webhook_id_of(hook.received[1], id)
        assert (await world.requests.redeliver(world.tenant, id, again))[0] == "accepted"  # type: ignore[arg-type]
        await wait_until(lambda: len(hook.received) == 4, what="the repeat")
        assert hook.received[3].id == hook.received[1].id
        await world.until_delivered(id, 3)

        horizon = await world.store.horizon()
        page = await world.store.read_log(0, limit=1_000, tenant_id=world.tenant)
        second = [event for event in page.events if event.stream_id == "execution-1"][1]
        assert (await world.requests.rewind(world.tenant, id, None, second.recorded_at))[0] == "accepted"
        await wait_until(lambda: len(hook.received) == 6, what="everything since the second")
        assert hook.subjects[4:] == [("execution/1", 2), ("execution/1", 3)]
        await world.happen("execution-1")
        await world.until_delivered(id, 4)
        assert hook.subjects[6:] == [("execution/1", 4)]
        await wait_until(lambda: at_least(world, id, horizon + 1), what="the cursor to come back")


async def test_a_test_is_sent_once_whatever_the_matter(world: World):
    async with receiver(lambda _got: AWAY) as hook, world.delivering() as deliverer:
        id, secret = await world.subscribe(hook.url, Start())
        await world.command(PauseSubscription(subscription_id=id, at=world.clock()))
        asked, delivery_id = await world.requests.test(world.tenant, id)
        assert asked == "accepted"
        await wait_until(lambda: is_filed(world, id, failed=1), what="its outcome")
        world.clock.forward(days=1)
        deliverer.wake()
        (got,) = hook.received
        assert (got.id, got.event["type"]) == (str(delivery_id), "quantum.subscription.test.v1")
        Webhook(secret).verify(got.body, got.headers)


async def test_old_deliveries_leave_the_log_of_deliveries(world: World):
    async with receiver() as hook:
        async with world.delivering():
            id, _ = await world.subscribe(hook.url)
            await world.happen("execution-1")
            await world.until_delivered(id, 1)
        world.clock.forward(days=8)
        async with world.delivering():
            await wait_until(lambda: is_filed(world, id, delivered=0), what="the old delivery to go")


async def test_a_connection_that_the_receiver_closed_meanwhile_costs_no_attempt_and_nonsense_is_one_attempt(world: World):
    answers = iter([OK, Answer(200, {"Connection": "close"}), OK, Answer(99)])
    async with receiver(lambda _got: next(answers, OK)) as hook, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url)
        for count in (1, 2, 3):
            await world.happen(f"execution-{count}")
            await world.until_delivered(id, count)
        assert len(hook.received) == 3
        await world.happen("execution-4")
        await wait_until(lambda: is_filed(world, id, retrying=1), what="the failure to be filed")
        assert len(hook.received) == 4
        world.clock.forward(minutes=1)
        deliverer.wake()
        await world.until_delivered(id, 4)


async def test_headers_that_were_replaced_are_forgotten_and_those_in_use_are_not(world: World, database: Database):
    async with receiver() as hook, world.delivering() as deliverer:
        id, _ = await world.subscribe(hook.url, headers={"X-Key": "the first"})
        kept = await world.secrets(world.store.tenant_pool).keep_headers(world.tenant, id, {"X-Key": "the second"})
        change = ChangeSubscription(
            subscription_id=id, headers={"X-Key": "the second"}, headers_id=SecretId(kept), at=world.clock()
        )  # fmt: skip
        await world.command(change)
        await wait_until(
            lambda: any(lane.config.terms.headers_id == kept for lane in deliverer.lanes.values()), what="the change"
        )
        owner = await asyncpg.connect(database.owner_dsn)
        try:
            await owner.execute("UPDATE quantum.subscription_secrets SET created_at = created_at - interval '2 days'")
        finally:
            await owner.close()
        await Ledger(world.store).forget_unused_secrets()
        left = await world.store.platform_pool.fetch(
            "SELECT secret_id FROM quantum.subscription_secrets WHERE tenant_id = $1", world.tenant
        )
        assert {row["secret_id"] for row in left} == {(await world.subscription(id)).secret_id, kept}
        await world.happen("execution-1")
        await world.until_delivered(id, 1)
        assert hook.received[0].headers["x-key"] == "the second"


async def test_where_headers_are_lost_nothing_is_sent_without_them(world: World, database: Database):
    async with receiver() as hook, world.delivering():
        id, _ = await world.subscribe(hook.url, headers={"Authorization": "Bearer 8f2d41c09b7e6a35"})
        headers_id = (await world.subscription(id)).terms.headers_id
        await world.store.platform_pool.execute("DELETE FROM quantum.subscription_secrets WHERE secret_id = $1", headers_id)
        await world.happen("execution-1")
        await wait_until(lambda: is_filed(world, id, retrying=1), what="the failure")
        attempts = await world.store.platform_pool.fetchval(
            "SELECT attempts FROM quantum.webhook_deliveries WHERE subscription_id = $1", id
        )
        assert "headers-missing" in attempts
        assert hook.received == []
