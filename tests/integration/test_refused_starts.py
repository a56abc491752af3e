# intent_ref: tests.refused-starts
"""Starts that nobody asks for and that a limit refuses: tried again, let go by their policy, or dead letters."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from commands.handle import handle
from commands.intent import ArchiveIntent, PauseSchedule, ResumeSchedule
from commands.tenant import ReactivateTenant, SuspendTenant
from domain.values import IntentId
from event_store.store import EventStore
from sagas.trigger_starts import TENANT_STARTS_MAX, TRIES_MAX, Refused, TriggerStarts
from tests.conftest import Database
from tests.consumers import another_store
from tests.unattended import START, Land
from tests.waiting import wait_until

HOURLY = {"interval": {"every": "1h"}}
ORDER = {"type": "order.placed"}


def hour(count: float) -> datetime:
    return START + timedelta(hours=count)


def code(raw: str | None) -> Any:
    return None if raw is None else orjson.loads(raw)["code"]


async def owed(land: Land, intent: IntentId) -> Sequence[Any]:
    """The starts of a trigger that were refused, as the table has them."""
    rows: Sequence[Any] = await land.store.platform_pool.fetch(
        "SELECT * FROM quantum.saga_trigger_starts WHERE tenant_id = $1 AND intent_id = $2 ORDER BY position", land.tenant, intent
    )
    return rows


# -- at times


async def test_a_scheduled_start_that_a_limit_refuses_is_tried_again_until_it_is_started(store: EventStore):
    land = Land(store, "again")
    await land.used_up()
    intent = await land.intent(schedule=HOURLY)
    await land.pass_until(hour(1))
    next_at = await land.look()
    row = await land.row(intent)
    assert (row["owed_time"], row["tries"], code(row["last_error"]), row["missed"]) == (hour(1), 1, "limit-reached", 0)
    assert next_at is not None
    assert hour(1) < next_at <= hour(1) + timedelta(seconds=60)
    await land.pass_until(hour(1.25))
    row = await land.row(intent)
    assert (row["owed_time"], row["owed_since"]) == (hour(1), hour(1))
    assert row["tries"] > 2
    assert await land.executions(intent) == []
    await land.freed()
    await land.pass_until(hour(1.5))
    (run,) = await land.executions(intent)
    row = await land.row(intent)
    assert (row["owed_time"], row["last_error"], row["missed"], row["last_time"]) == (None, None, 0, hour(1))
    assert run.execution_id == row["last_execution_id"]
    await land.pass_until(hour(2.5))
    assert len(await land.executions(intent)) == 2


@pytest.mark.parametrize(
    ("policy", "started", "missed"),
    [({"missed": "once"}, [4], 3), ({"missed": "skip"}, [], 4), ({"missed": "all"}, [1, 2, 3, 4], 0),
     ({"missed": "all", "missed_max": 2}, [3, 4], 1)],
)  # fmt: skip
async def test_which_refused_times_are_made_up_for_is_for_the_policy_to_say(
    store: EventStore, policy: dict[str, Any], started: list[int], missed: int
):
    land = Land(store, f"policy-{policy['missed']}-{len(policy)}")
    await land.used_up()
    intent = await land.intent(schedule={**HOURLY, **policy, "inputs": {"time": "${{ schedule.time }}"}})
    await land.pass_until(hour(4.25))
    assert await land.executions(intent) == []
    await land.freed()
    await land.pass_until(hour(4.75))
    assert [run.inputs["time"] for run in await land.executions(intent)] == [f"2026-01-01T0{at}:00:00Z" for at in started]
    row = await land.row(intent)
    assert row["missed"] == land.saga.statistics.missed
    assert row["missed"] >= missed if policy.get("missed_max") else row["missed"] == missed
    if missed:
        assert code(row["last_missed"]) == "limit-reached"


async def test_a_time_that_no_other_takes_the_place_of_is_tried_for_a_day(store: EventStore):
    land = Land(store, "a-day")
    await land.used_up()
    intent = await land.intent(schedule={"cron": "0 1 1 1 *"})
    await land.pass_until(hour(24))
    assert (await land.row(intent))["owed_time"] == hour(1)
    await land.pass_until(hour(26))
    row = await land.row(intent)
    assert (row["owed_time"], row["missed"], code(row["last_missed"])) == (None, 1, "limit-reached")
    assert row["look_at"].year == 2027
    tries = land.saga.statistics.refused
    assert 24 * 12 <= tries <= 24 * 12 + 20, "every five minutes, in the end"


async def test_a_pause_a_change_and_an_end_let_go_what_is_owed_and_say_so(store: EventStore):
    land = Land(store, "let-go")
    await land.used_up()
    paused, changed, archived, same = [await land.intent(schedule=HOURLY) for _ in range(4)]
    await land.pass_until(hour(1.1))
    await land.ask(PauseSchedule(intent_id=paused, at=land.clock()))
    await land.revise(changed, schedule={"interval": {"every": "2h"}})
    await land.ask(ArchiveIntent(intent_id=archived, at=land.clock()))
    await land.revise(same, schedule=HOURLY)
    await land.look()
    for intent in (paused, changed, archived):
        row = await land.row(intent)
        assert (row["owed_time"], row["tries"], row["missed"], code(row["last_missed"])) == (None, 0, 1, "limit-reached")
    row = await land.row(same)
    assert (row["owed_time"], row["missed"]) == (hour(1), 0)
    await land.freed()
    await land.ask(ResumeSchedule(intent_id=paused, at=land.clock()))
    await land.pass_until(hour(1.9))
    assert [len(await land.executions(intent)) for intent in (paused, changed, archived, same)] == [0, 0, 0, 1]
    (run,) = await land.executions(same)
    assert run.version == 2


async def test_what_could_never_start_is_missed_at_once_with_its_reason(store: EventStore):
    land = Land(store, "never")
    intent = await land.intent(steps=[], schedule=HOURLY)
    await land.pass_until(hour(2.5))
    row = await land.row(intent)
    assert (row["owed_time"], row["missed"], code(row["last_missed"])) == (None, 2, "intent-not-executable")


async def test_times_of_a_suspended_tenant_are_missed_and_not_made_up_for(store: EventStore):
    land = Land(store, "suspended")
    await land.registered()
    intent = await land.intent(schedule={**HOURLY, "missed": "all"})
    await handle(land.shell, SuspendTenant(tenant_id=land.tenant, at=land.clock()), land.envelope())
    await land.pass_until(hour(3.5))
    row = await land.row(intent)
    assert (row["owed_time"], row["missed"], code(row["last_missed"])) == (None, 3, "tenant-suspended")
    await handle(land.shell, ReactivateTenant(tenant_id=land.tenant, at=land.clock()), land.envelope())
    await land.pass_until(hour(4.5))
    assert await land.times(intent) == [hour(4)]


# -- upon events


async def test_an_events_start_that_a_limit_refuses_is_tried_again_with_growing_pauses(store: EventStore):
    land = Land(store, "event")
    await land.used_up()
    intent = await land.intent(on=ORDER)
    await land.emit("order.placed")
    await land.fire()
    (row,) = await owed(land, intent)
    assert (row["tries"], code(row["error"])) == (1, "limit-reached")
    pauses = []
    for _ in range(7):
        (row,) = await owed(land, intent)
        pauses.append((row["due_at"] - land.clock()).total_seconds())
        land.clock.at = row["due_at"]
        await land.triggers.try_again()
    assert pauses == sorted(pauses)
    assert pauses[0] >= 5
    assert pauses[-1] > 4 * pauses[0]
    assert (await land.trigger_row(intent))["runs"] == 0
    await land.freed()
    land.clock.pass_by(seconds=600)
    assert await land.triggers.try_again() is None
    (run,) = await land.executions(intent)
    trigger = await land.trigger_row(intent)
    assert (trigger["runs"], trigger["last_execution_id"], trigger["last_error"]) == (1, run.execution_id, None)
    assert await owed(land, intent) == []


async def brought_to_its_end(land: Land) -> None:
    """Time passes until nothing is tried by itself any more."""
    while (next_at := await land.triggers.try_again()) is not None:
        land.clock.at = max(land.clock.at, next_at)


async def asked_again(land: Land, intent: IntentId, events: Any = None) -> int:
    count: int = await land.store.tenant_pool.fetchval(
        "SELECT quantum.retry_trigger_starts($1, $2, $3, $4)", land.tenant, intent, events, land.clock()
    )
    return count


async def test_what_is_refused_again_and_again_is_a_dead_letter_and_starts_once_when_somebody_asks(store: EventStore):
    land = Land(store, "dead")
    await land.used_up()
    intent = await land.intent(on=ORDER)
    await land.emit("order.placed")
    await land.fire()
    began = land.clock()
    await brought_to_its_end(land)
    (row,) = await owed(land, intent)
    assert (row["tries"], row["due_at"], code(row["error"])) == (TRIES_MAX, None, "limit-reached")
    assert timedelta(minutes=45) < land.clock() - began < timedelta(hours=3)
    assert land.triggers.statistics.dead_letters == 1
    land.clock.pass_by(days=30)
    assert await land.triggers.try_again() is None, "nobody has asked"
    await land.freed()
    assert await asked_again(land, intent) == 1
    assert await asked_again(land, intent) == 0, "it is on its way"
    await land.triggers.try_again()
    assert len(await land.executions(intent)) == 1
    assert await owed(land, intent) == []


async def test_a_suspended_tenant_and_inputs_that_do_not_fit_make_dead_letters_at_once(store: EventStore):
    land = Land(store, "at-once")
    await land.registered()
    schema = {"properties": {"n": {"type": "integer"}}}
    unfit = await land.intent(inputs=schema, on={**ORDER, "inputs": {"n": "${{ event.data.total }}"}})
    no_value = await land.intent(inputs=schema, on={**ORDER, "inputs": {"n": "${{ event.data.absent }}"}})
    unclear = await land.intent(on={**ORDER, "when": "event.data.customer.vip"})
    await land.emit("order.placed", {"total": "many"})
    await land.fire()
    codes = {intent: [code(row["error"]) for row in await owed(land, intent)] for intent in (unfit, no_value, unclear)}
    assert codes == {unfit: ["validation-failed"], no_value: ["expression-failed"], unclear: []}
    assert code((await land.trigger_row(unclear))["last_error"]) == "expression-failed", "whether it was fired nobody knows"
    sound = await land.intent(on=ORDER)
    await handle(land.shell, SuspendTenant(tenant_id=land.tenant, at=land.clock()), land.envelope())
    await land.emit("order.placed", {"total": 1})
    await land.fire()
    assert [code(row["error"]) for row in await owed(land, sound)] == ["tenant-suspended"]
    await handle(land.shell, ReactivateTenant(tenant_id=land.tenant, at=land.clock()), land.envelope())
    await asked_again(land, sound)
    await land.triggers.try_again()
    assert len(await land.executions(sound)) == 1


async def test_a_corrected_intent_takes_its_dead_letters_and_one_without_a_trigger_lets_them_go(store: EventStore):
    land = Land(store, "corrected")
    schema = {"properties": {"n": {"type": "integer"}}}
    corrected, gone = [
        await land.intent(inputs=schema, on={**ORDER, "inputs": {"n": "${{ event.data.total }}"}}) for _ in range(2)
    ]
    await land.emit("order.placed", {"total": "7"})
    await land.fire()
    await land.revise(corrected, inputs=schema, on={**ORDER, "inputs": {"n": "${{ int(event.data.total) }}"}})
    await land.ask(ArchiveIntent(intent_id=gone, at=land.clock()))
    for intent in (corrected, gone):
        assert await asked_again(land, intent) == 1
    await land.triggers.try_again()
    (run,) = await land.executions(corrected)
    assert (run.inputs, run.version) == ({"n": 7}, 2)
    assert (await owed(land, corrected), await owed(land, gone)) == ([], [])


async def test_an_event_that_is_delivered_again_is_kept_once_and_started_once(database: Database, store: EventStore):
    land = Land(store, "twice")
    await land.used_up()
    intent = await land.intent(on=ORDER)
    await land.emit("order.placed")
    messages = await land.messages("triggers")
    await land.triggers.take_in(messages)
    await land.triggers.take_in(messages)
    assert len(await owed(land, intent)) == 1
    await land.freed()
    land.clock.pass_by(hours=1)
    async with another_store(database) as second:
        other = Land(second, "twice", land.clock)
        await asyncio.gather(land.triggers.try_again(), other.triggers.try_again(), land.triggers.take_in(messages))
    assert len(await land.executions(intent)) == 1


async def test_refused_starts_of_a_tenant_are_kept_up_to_a_limit_and_another_tenants_beside_them(store: EventStore):
    land, other = Land(store, "many"), Land(store, "few")
    await store.platform_pool.execute(
        "INSERT INTO quantum.saga_trigger_starts SELECT 'many', 'i-1', gen_random_uuid(), n, 1, now(), now(), NULL, '{}'"
        "  FROM generate_series(1, $1) AS n",
        TENANT_STARTS_MAX - 1,
    )
    at = land.clock()
    event = (await _an_event(land)).event_id
    wanted = [Refused(tenant, "i-2", event, number, at, None, "{}") for tenant in ("many", "few") for number in (7,)]
    wanted.append(Refused("many", "i-3", event, 7, at, None, "{}"))
    kept = await TriggerStarts(store.platform_pool).keep(wanted)
    assert {key[0] for key in kept} == {"many", "few"}
    assert len(kept) == 2
    await land.used_up()
    intent = await land.intent(on=ORDER)
    await land.emit("order.placed")
    await land.fire()
    assert land.triggers.statistics.dropped == 1
    assert code((await land.trigger_row(intent))["last_error"]) == "limit-reached"
    assert await owed(other, intent) == []


async def _an_event(land: Land) -> Any:
    await land.emit("order.shipped")
    return (await land.messages("triggers"))[-1]


async def test_another_tenant_can_neither_see_nor_retry_nor_discard_them(store: EventStore):
    land = Land(store, "mine")
    await land.used_up()
    intent = await land.intent(on=ORDER)
    await land.emit("order.placed")
    await land.fire()
    await brought_to_its_end(land)
    pool = store.tenant_pool
    assert len(await pool.fetch("SELECT * FROM quantum.list_trigger_starts('mine', $1, 0, 10)", intent)) == 1
    assert await pool.fetch("SELECT * FROM quantum.list_trigger_starts('theirs', $1, 0, 10)", intent) == []
    for query in ("retry_trigger_starts('theirs', $1, NULL, now())", "discard_trigger_starts('theirs', $1, NULL)"):
        assert await pool.fetchval(f"SELECT quantum.{query}", intent) == 0
    assert await pool.fetch("SELECT * FROM quantum.saga_trigger_starts") == [], "without a tenant nothing is seen"
    assert await pool.fetchval("SELECT quantum.discard_trigger_starts('mine', $1, NULL)", intent) == 1


async def test_a_running_saga_tries_again_by_itself(store: EventStore):
    land = Land(store, "by-itself")
    await land.used_up()
    intent = await land.intent(on=ORDER)
    await land.emit("order.placed")
    stop = asyncio.Event()
    task = asyncio.create_task(land.triggers.run(stop))
    try:
        await wait_until(lambda: owed(land, intent), what="the refused start")
        await land.freed()
        land.clock.pass_by(hours=1)
        await wait_until(lambda: land.executions(intent), 20, what="the execution")
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task
