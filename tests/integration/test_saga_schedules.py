# intent_ref: tests.schedules
"""Intents with a schedule start by themselves, at their times and at no other, once each."""

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import orjson
import pytest

from commands.execution import CancelExecution
from commands.handle import handle
from commands.intent import ArchiveIntent, DeprecateIntent, PauseSchedule, ResumeSchedule, RollBackIntent
from commands.tenant import ReactivateTenant, RegisterTenant, SuspendTenant
from domain.refusals import DefinitionInvalid, IntentHasNoSchedule
from domain.values import ExecutionId
from event_store.store import EventStore
from sagas.schedule_rows import Change, ScheduleRows
from tests.conftest import Database
from tests.consumers import another_store
from tests.unattended import START, Land, StandingClock
from tests.waiting import wait_until

HOURLY = {"interval": {"every": "1h"}}
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def hours(*counts: float) -> list[datetime]:
    return [START + timedelta(hours=count) for count in counts]


async def test_an_interval_starts_an_execution_each_time(store: EventStore):
    land = Land(store, "interval")
    intent = await land.intent(schedule=HOURLY)
    await land.pass_until(START + timedelta(hours=3, minutes=30))
    assert await land.times(intent) == hours(1, 2, 3)
    (first, *_) = await land.executions(intent)
    assert first.options is not None
    assert (first.version, first.options.started_by) == (1, f"schedule of intent {intent}")


async def test_a_running_saga_takes_in_what_it_hears_and_starts_it(store: EventStore):
    land = Land(store, "running", StandingClock(datetime.now(UTC)))
    intent = await land.intent(schedule=HOURLY)
    stop = asyncio.Event()
    task = asyncio.create_task(land.saga.run(stop))
    try:

        async def row() -> Any:
            found = await land.row(intent)
            return found is not None and found["look_at"] is not None and found["look_at"] > land.clock()

        await wait_until(row, what="the schedule to be taken in")
        land.clock.pass_by(hours=1)
        land.saga.wake()
        await wait_until(lambda: land.times(intent), what="the execution")
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


def local_days(zone: ZoneInfo, at: time) -> list[datetime]:
    """That time of each day of 2026 by the clock of a place, the first where it comes twice, the end of the gap where never."""
    found = []
    for number in range(365):
        day = date(2026, 1, 1) + timedelta(days=number)
        instant = datetime.combine(day, at, zone).astimezone(UTC)
        if instant.astimezone(zone).time() != at:  # in a gap
            assert day == date(2026, 3, 29)
            instant = datetime(2026, 3, 29, 1, tzinfo=UTC)
        found.append(instant)
    return found


@pytest.mark.slow
async def test_a_year_of_schedules_passes_in_seconds_and_keeps_to_the_clocks_of_their_places(store: EventStore):
    land = Land(store, "year", StandingClock(datetime(2025, 12, 31, 23, 59, tzinfo=UTC)))
    nightly = await land.intent(schedule={"cron": "30 2 * * *", "timezone": "Europe/Berlin"})
    office = await land.intent(schedule={"cron": "0 9 * * 1-5", "timezone": "America/New_York"})
    monthly = await land.intent(schedule={"cron": "@monthly"})
    around_changes = await land.intent(schedule={"cron": "*/30 * 25,29 3,10 *", "timezone": "Europe/Berlin"})
    await land.pass_until(datetime(2026, 12, 31, 23, 0, tzinfo=UTC))

    assert await land.times(nightly) == local_days(BERLIN, time(2, 30))
    weekdays = [at for at in local_days(NEW_YORK, time(9)) if at.astimezone(NEW_YORK).weekday() < 5]
    assert await land.times(office) == weekdays
    assert await land.times(monthly) == [datetime(2026, month, 1, tzinfo=UTC) for month in range(1, 13)]
    # 23 hours on the day that the clocks are put forward, 25 on the day that they are put back.
    days = [at.astimezone(BERLIN).date() for at in await land.times(around_changes)]
    assert [days.count(date(2026, *day)) for day in ((3, 25), (3, 29), (10, 25), (10, 29))] == [48, 46, 50, 48]
    assert land.saga.statistics.refused == land.saga.statistics.repeated == 0


async def test_two_processes_share_what_is_due_and_start_each_run_once(database: Database, store: EventStore):
    clock = StandingClock()
    async with another_store(database) as second:
        one, other = Land(store, "shared", clock), Land(second, "shared", clock)
        intents = [await one.intent(schedule=HOURLY) for _ in range(48)]
        await one.look()
        clock.pass_by(hours=1)
        await asyncio.gather(one.saga.look(), other.saga.look())
        assert [await one.times(intent) for intent in intents] == [hours(1)] * 48
        mine, theirs = one.saga.statistics, other.saga.statistics
        assert (mine.started + theirs.started, mine.repeated + theirs.repeated) == (48, 0)
        assert mine.started > 0
        assert theirs.started > 0


async def test_a_process_that_dies_between_a_start_and_its_row_starts_nothing_twice(database: Database, store: EventStore):
    clock = StandingClock()
    async with another_store(database) as second:
        dying, living = Land(store, "dying", clock), Land(second, "dying", clock)
        intent = await dying.intent(schedule=HOURLY)
        await dying.look()
        clock.pass_by(hours=1)
        before = await dying.row(intent)
        await dying.saga.look()
        # What the table says when the process is gone after the start: it was about to look, and has said nothing since.
        await store.platform_pool.execute(
            "UPDATE quantum.saga_schedules"
            "   SET dealt_until = $2, look_at = $3, runs = 0, last_execution_id = NULL, last_time = NULL WHERE intent_id = $1",
            intent, before["dealt_until"], clock() + timedelta(seconds=30),
        )  # fmt: skip
        await living.saga.look()
        assert (await living.row(intent))["runs"] == 0, "for half a minute nobody else looks"
        clock.pass_by(seconds=31)
        await living.saga.look()
        assert await living.times(intent) == hours(1)
        assert living.saga.statistics.repeated == 1
        row = await living.row(intent)
        assert (row["runs"], row["last_time"], row["look_at"]) == (1, *hours(1, 2))


async def test_after_an_absence_each_policy_does_what_it_says(store: EventStore):
    land = Land(store, "absence")
    once = await land.intent(schedule=HOURLY)
    skipping = await land.intent(schedule={**HOURLY, "missed": "skip"})
    all_of_them = await land.intent(schedule={**HOURLY, "missed": "all", "missed_max": 3})
    many = await land.intent(schedule={**HOURLY, "missed": "all", "missed_max": 1_000})
    await land.pass_until(START + timedelta(hours=1, minutes=30))
    land.clock.at = START + timedelta(hours=50, minutes=10)
    await land.look()
    land.clock.at = START + timedelta(hours=51, seconds=30)
    await land.look()
    assert await land.times(skipping) == [*hours(1), land.clock.at]
    late = START + timedelta(hours=50, minutes=10)
    assert await land.times(once) == [*hours(1), late, land.clock.at]
    assert await land.times(all_of_them) == [*hours(1), late, late, late, land.clock.at]
    assert len(await land.times(many)) == 51


async def test_runs_know_the_time_that_they_are_for(store: EventStore):
    land = Land(store, "inputs")
    schema = {"properties": {"day": {"type": "string"}, "size": {"type": "integer", "default": 7}}, "required": ["day"]}
    schedule = {**HOURLY, "inputs": {"day": "${{ schedule.time.substring(0, 10) }}", "whose": "${{ tenant.id }}"}}
    intent = await land.intent(inputs=schema, schedule=schedule)
    await land.pass_until(START + timedelta(hours=2))
    (run,) = await land.executions(intent)
    assert run.inputs == {"day": "2026-01-01", "whose": "inputs", "size": 7}


@pytest.mark.parametrize(
    ("schedule", "pointer"),
    [
        (HOURLY, "/definition/schedule"),
        ({**HOURLY, "inputs": {"day": 7}}, "/definition/schedule/inputs/day"),
        ({**HOURLY, "inputs": {"day": "${{ steps.a.result }}"}}, "/definition/schedule/inputs/day"),
        ({**HOURLY, "inputs": {"day": "${{ schedule.tiem }}"}}, "/definition/schedule/inputs/day"),
        ({**HOURLY, "inputs": "all"}, "/definition/schedule/inputs"),
        ({**HOURLY, "inputs": {"day": ""}, "overlap": "queue"}, "/definition/schedule/overlap"),
    ],
)
async def test_a_schedule_that_could_never_start_anything_is_refused_when_it_is_written(
    store: EventStore, schedule: Any, pointer: str
):
    land = Land(store, "written")
    schema = {"properties": {"day": {"type": "string"}}, "required": ["day"]}
    with pytest.raises(DefinitionInvalid) as caught:
        await land.intent(inputs=schema, schedule=schedule)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_a_change_counts_from_the_moment_it_is_made_even_before_it_is_taken_in(store: EventStore):
    land = Land(store, "changed")
    paused, archived, revised = [await land.intent(schedule=HOURLY) for _ in range(3)]
    await land.look()
    land.clock.pass_by(hours=1)
    await land.ask(PauseSchedule(intent_id=paused, at=land.clock()))
    await land.ask(ArchiveIntent(intent_id=archived, at=land.clock()))
    await land.revise(revised, schedule={"interval": {"every": "30m"}})
    await land.saga.look()  # the rows still say that all three are due
    for intent in (paused, archived, revised):
        assert await land.times(intent) == []
    await land.pass_until(START + timedelta(hours=2))
    assert await land.times(paused) == await land.times(archived) == []
    assert await land.times(revised) == hours(1.5)


async def test_what_passes_during_a_pause_is_not_made_up_for(store: EventStore):
    land = Land(store, "paused")
    intent = await land.intent(schedule={**HOURLY, "missed": "all"})
    await land.pass_until(START + timedelta(minutes=90))
    await land.ask(PauseSchedule(intent_id=intent, at=land.clock()))
    assert await land.look() is None or (await land.row(intent))["look_at"] is None
    land.clock.at = START + timedelta(hours=5, minutes=30)
    await land.ask(ResumeSchedule(intent_id=intent, at=land.clock()))
    await land.pass_until(START + timedelta(hours=6, minutes=30))
    assert await land.times(intent) == hours(1, 6)


async def test_a_deprecated_intent_still_keeps_its_times_and_the_same_schedule_survives_a_revision(store: EventStore):
    land = Land(store, "kept")
    intent = await land.intent(schedule=HOURLY)
    await land.pass_until(START + timedelta(minutes=30))
    await land.ask(DeprecateIntent(intent_id=intent, at=land.clock()))
    land.clock.at = START + timedelta(hours=1, minutes=5)  # an absence, at the end of which comes a revision
    await land.revise(intent, schedule=HOURLY, timeout="1h")
    await land.look()
    assert await land.times(intent) == [land.clock.at]
    assert [run.version for run in await land.executions(intent)] == [2]


async def test_a_version_without_a_schedule_starts_nothing_and_a_rollback_brings_it_back(store: EventStore):
    land = Land(store, "without")
    intent = await land.intent(schedule=HOURLY)
    await land.revise(intent)
    with pytest.raises(IntentHasNoSchedule):
        await land.ask(PauseSchedule(intent_id=intent, at=land.clock()))
    await land.pass_until(START + timedelta(hours=2, minutes=30))
    assert await land.times(intent) == []
    await land.ask(RollBackIntent(intent_id=intent, version=1, at=land.clock()))
    await land.pass_until(START + timedelta(hours=3, minutes=30))
    assert await land.times(intent) == hours(3)


async def test_events_that_come_again_change_nothing(store: EventStore):
    land = Land(store, "again")
    intent = await land.intent(schedule=HOURLY)
    await land.revise(intent, schedule={"interval": {"every": "2h"}})
    await land.ask(PauseSchedule(intent_id=intent, at=land.clock()))
    messages = await land.messages()
    await land.saga.take_in(messages)
    before = await land.row(intent)
    await land.saga.take_in(messages)
    await land.saga.take_in(messages[:1])
    assert await land.row(intent) == before
    assert before["paused"] is True
    assert orjson.loads(before["schedule"]) == {"interval": {"every": "2h"}}


async def test_one_event_at_a_time_or_all_at_once_lead_to_the_same_row(store: EventStore):
    land = Land(store, "batches")
    intents = []
    for _ in range(2):
        intent = await land.intent(schedule=HOURLY)
        await land.ask(PauseSchedule(intent_id=intent, at=land.clock()))
        await land.ask(ResumeSchedule(intent_id=intent, at=land.clock()))
        await land.revise(intent, schedule={"interval": {"every": "3h"}})
        intents.append(intent)
    messages = await land.messages()
    await land.saga.take_in(messages[:4])
    for message in messages[4:]:
        await land.saga.take_in([message])
    one, other = [dict(await land.row(intent)) for intent in intents]
    del one["intent_id"], other["intent_id"]
    assert one == other


async def test_a_refused_start_is_said_and_the_others_go_on(store: EventStore):
    land = Land(store, "refused")
    schema = {"properties": {"n": {"type": "integer"}}}
    broken = await land.intent(inputs=schema, schedule={**HOURLY, "inputs": {"n": "${{ schedule.time }}"}})
    failing = await land.intent(schedule={**HOURLY, "inputs": {"n": "${{ int(schedule.time) }}"}})
    sound = await land.intent(schedule=HOURLY)
    await land.pass_until(START + timedelta(hours=2, minutes=30))
    assert await land.times(sound) == hours(1, 2)
    error = orjson.loads((await land.row(broken))["last_error"])
    assert (error["code"], error["time"], error["faults"][0]["pointer"]) == (
        "validation-failed", "2026-01-01T02:00:00Z", "/inputs/n",
    )  # fmt: skip
    assert orjson.loads((await land.row(failing))["last_error"])["code"] == "expression-failed"
    assert land.saga.statistics.refused == 4
    await land.revise(broken, schedule=HOURLY)
    await land.pass_until(START + timedelta(hours=3, minutes=30))
    assert (await land.row(broken))["last_error"] is None


async def test_nothing_starts_in_a_suspended_tenant(store: EventStore):
    land = Land(store, "suspended")
    await handle(land.shell, RegisterTenant(tenant_id=land.tenant, name="S", at=land.clock()), land.envelope())
    intent = await land.intent(schedule=HOURLY)
    await handle(land.shell, SuspendTenant(tenant_id=land.tenant, at=land.clock()), land.envelope())
    await land.pass_until(START + timedelta(hours=1, minutes=30))
    assert orjson.loads((await land.row(intent))["last_error"])["code"] == "tenant-suspended"
    await handle(land.shell, ReactivateTenant(tenant_id=land.tenant, at=land.clock()), land.envelope())
    await land.pass_until(START + timedelta(hours=2, minutes=30))
    assert await land.times(intent) == hours(2)


async def test_a_time_is_passed_over_while_the_last_run_is_under_way(store: EventStore):
    land = Land(store, "overlap")
    steps = [{"approval": {"roles": []}}]
    alone = await land.intent(steps=steps, schedule={**HOURLY, "overlap": "skip"})
    beside = await land.intent(steps=steps, schedule=HOURLY)
    await land.pass_until(START + timedelta(hours=3, minutes=30))
    assert (await land.times(alone), await land.times(beside)) == (hours(1), hours(1, 2, 3))
    assert (await land.row(alone))["passed_over"] == 2
    (run,) = await land.executions(alone)
    await land.ask(CancelExecution(execution_id=ExecutionId(run.execution_id), at=land.clock()))
    await land.pass_until(START + timedelta(hours=4, minutes=30))
    assert await land.times(alone) == hours(1, 4)


async def test_ten_thousand_idle_schedules_cost_what_one_costs(database: Database, store: EventStore):
    land = Land(store, "idle")
    rows = ScheduleRows(store.platform_pool)
    far = START + timedelta(days=400)
    schedule = orjson.dumps(HOURLY).decode()
    await rows.apply([Change("idle", f"i-{number}", 1, far, 1, schedule) for number in range(10_000)])
    await land.saga.look()
    connections = [await store.platform_pool.acquire() for _ in range(store.platform_pool.get_max_size())]
    asked: list[str] = []
    for connection in connections:
        connection.add_query_logger(lambda query: asked.append(query.query))
    for connection in connections:
        await store.platform_pool.release(connection)
    await land.saga.look()
    assert len([query for query in asked if "saga_schedules" in query]) == 2
    assert await rows.next_look() is not None
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        await owner.execute("ANALYZE quantum.saga_schedules")
        for query in (
            "SELECT min(look_at) FROM quantum.saga_schedules WHERE look_at IS NOT NULL",
            "SELECT 1 FROM quantum.saga_schedules WHERE look_at <= '2006-01-01' ORDER BY look_at LIMIT 16",
        ):
            plan = "\n".join(row[0] for row in await owner.fetch(f"EXPLAIN {query}"))
            assert "saga_schedules_by_look" in plan, plan
    finally:
        await owner.close()
