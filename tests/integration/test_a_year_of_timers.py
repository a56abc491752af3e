# intent_ref: tests.year-of-timers
"""A year of waits, retries, approvals and deadlines, in seconds: time is a parameter. Nothing comes early, late or twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from commands.execution import StartExecution
from commands.handle import handle
from commands.intent import CreateIntent
from domain.execution_events import StepRetrying, StepStarted, StepWaiting
from domain.values import ExecutionId, IntentId, StepId
from event_store.ids import uuid7
from event_store.store import EventStore
from modules.contract import Invocation, ModuleError
from sagas.execution import ExecutionSaga
from sagas.stalls import StallCheck
from streaming.embedded import EmbeddedTransport
from tests.integration.test_execution_saga import SHORT_GRACE, World
from tests.waiting import wait_until

BEGIN = datetime(2027, 1, 1, 12, 0, tzinfo=UTC)
MOMENT = timedelta(milliseconds=1)


@dataclass
class Clock:
    """The time, as somebody has set it."""

    at: datetime = BEGIN

    def __call__(self) -> datetime:
        return self.at


class Year:
    """Executions of one tenant under a saga that goes by our clock."""

    def __init__(self, world: World, clock: Clock, saga: ExecutionSaga) -> None:
        self.world, self.clock, self.saga = world, clock, saga
        self.check = StallCheck(world.shell, clock=clock, grace_seconds=0.0)
        self.moments: list[datetime] = []
        self._sentinel = IntentId(str(uuid7()))
        self._others = World(world.store, f"{world.tenant}-sentinels", world.probe)

    async def begin(self) -> None:
        """Prepares what tells that the saga has looked."""
        definition = {"target": "t", "steps": [{"id": "now", "wait": {"until": "${{ inputs.at }}"}}]}
        create = CreateIntent(intent_id=self._sentinel, name="sentinel", definition=definition, at=self.clock())
        await handle(self._others.shell, create, self._others.envelope())

    async def start(self, *steps: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any) -> ExecutionId:
        """An execution of these steps, begun now."""
        intent, started = IntentId(str(uuid7())), ExecutionId(str(uuid7()))
        definition = {"target": "production", "steps": list(steps), **more}
        create = CreateIntent(intent_id=intent, name=f"i-{intent}", definition=definition, at=self.clock())
        await handle(self.world.shell, create, self.world.envelope())
        start = StartExecution(
            execution_id=started, intent_id=intent, inputs=inputs or {}, tenant_id=self.world.tenant, at=self.clock()
        )  # fmt: skip
        await handle(self.world.shell, start, self.world.envelope())
        return started

    async def quiet(self) -> int:
        """Returns when the saga has nothing to do at this time; how many events there are.

        An execution of another tenant that is due at once tells that the saga has read the log and looked for what is due.
        """
        while True:
            before = await self._events()
            await self._sentinel_passes()
            if not await self._busy() and await self._events() == before:  # in this order: what ends in between is seen
                return before

    async def until(self, end: datetime) -> None:
        """Time goes by, from one moment at which something is due to the next. A moment before, nothing happens."""
        seen = await self.quiet()
        while (due := await self._next_due()) is not None and due <= end:
            assert due > self.clock.at, "what was due has not been done"
            self._set(max(self.clock.at, due - MOMENT))
            assert await self.quiet() == seen, f"something came before it was due at {due}"
            await self.nothing_stalls()
            self._set(due)
            seen = await self.quiet()
            self.moments.append(due)
        self._set(end)
        assert await self.quiet() == seen
        await self.nothing_stalls()

    async def nothing_stalls(self) -> None:
        """Every unfinished execution has what will wake it."""
        await self.check.follow()
        assert await self.check.check() == 0

    async def times(self, execution_id: ExecutionId) -> dict[str, datetime]:
        """When each run of the execution was over, and the execution itself."""
        state = await self.world.state(execution_id)
        found = {str(run_id): run.completed_at for run_id, run in state.runs.items()} | {"": state.completed_at}
        return {name: at for name, at in found.items() if at is not None}

    def _set(self, at: datetime) -> None:
        self.clock.at = at
        self.saga.wake()

    async def _sentinel_passes(self) -> None:
        started = ExecutionId(str(uuid7()))
        start = StartExecution(
            execution_id=started, intent_id=self._sentinel, inputs={"at": self.clock().isoformat()},
            tenant_id=self._others.tenant, at=self.clock(),
        )  # fmt: skip
        await handle(self._others.shell, start, self._others.envelope())
        await self._others.ended(started)

    async def _events(self) -> int:
        count: int = await self.world.store.platform_pool.fetchval(
            "SELECT count(*) FROM quantum.events WHERE tenant_id = $1", self.world.tenant
        )
        return count

    async def _busy(self) -> bool:
        """True while something of the tenant's is under way or due."""
        busy: bool = await self.world.store.platform_pool.fetchval(
            "SELECT EXISTS (SELECT FROM quantum.saga_dispatches"
            " WHERE tenant_id = $1 AND (lease_owner IS NOT NULL OR rank IS NOT NULL OR due_at <= $2))",
            self.world.tenant, self.clock(),
        )  # fmt: skip
        return busy or self.saga.running > 0

    async def _next_due(self) -> datetime | None:
        due: datetime | None = await self.world.store.platform_pool.fetchval(
            "SELECT min(due_at) FROM quantum.saga_dispatches WHERE tenant_id = $1 AND due_at < '9000-01-01'", self.world.tenant
        )
        return due


@asynccontextmanager
async def a_year(store: EventStore, tenant: str, **more: Any) -> AsyncIterator[Year]:
    """A saga on a clock that stands at the year's beginning."""
    world, clock = World(store, tenant), Clock()
    saga = ExecutionSaga(
        world.shell, EmbeddedTransport(store), more.get("call", world.caller.call), limits=SHORT_GRACE, clock=clock
    )  # fmt: skip
    stop = asyncio.Event()
    task = asyncio.create_task(saga.run(stop))
    year = Year(world, clock, saga)
    try:
        await year.begin()
        yield year
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task


def after(**spans: float) -> datetime:
    """So long after the beginning."""
    return BEGIN + timedelta(**spans)


async def test_waits_over_a_year_end_at_their_times_and_in_their_order(store: EventStore) -> None:
    async with a_year(store, "year-waits") as year:
        began = asyncio.get_running_loop().time()
        chain = await year.start(
            {"id": "quarter", "wait": {"for": "90d"}}, {"id": "more", "wait": {"for": "100d"}, "action": "probe"},
            {"id": "rest", "wait": {"until": "2028-01-01T00:00:00Z"}},
        )  # fmt: skip
        items = [{"days": days} for days in (300, 1, 30, 30)]
        each = await year.start({"id": "each", "foreach": items, "wait": {"for": "${{ item.days * 86400 }}"}})
        past = await year.start({"id": "past", "wait": {"until": "2020-02-29T00:00:00+14:00"}})
        longest = await year.start({"id": "longest", "wait": {"for": "366d"}})
        await year.until(after(days=367))
        assert await year.times(chain) == {
            "quarter": after(days=90), "more": after(days=190),
            "rest": datetime(2028, 1, 1, tzinfo=UTC), "": datetime(2028, 1, 1, tzinfo=UTC),
        }  # fmt: skip
        assert await year.times(each) == {
            "each[1]": after(days=1), "each[2]": after(days=30), "each[3]": after(days=30), "each[0]": after(days=300),
            "each": after(days=300), "": after(days=300),
        }  # fmt: skip
        assert await year.times(past) == {"past": BEGIN, "": BEGIN}
        assert (await year.times(longest))[""] == after(days=366)
        for one in (chain, each, past, longest):
            assert (await year.world.state(one)).status == "completed"
        assert year.moments == sorted(year.moments)
        print(f"a year in {asyncio.get_running_loop().time() - began:.1f} seconds")


ZONES = {"Europe/Berlin": (2027, 3, 28), "America/New_York": (2027, 3, 14), "Australia/Lord_Howe": (2027, 10, 3)}
BACK = {"Europe/Berlin": (2027, 10, 31), "America/New_York": (2027, 11, 7), "Australia/Lord_Howe": (2027, 4, 4)}


@pytest.mark.parametrize("zone", ZONES)
async def test_a_time_with_its_offset_means_one_moment_whatever_the_clocks_on_the_wall_do(store: EventStore, zone: str) -> None:
    """Either side of the hour that is missing in spring, and both of the times that autumn has twice."""
    wall = ZoneInfo(zone)
    spring, autumn = datetime(*ZONES[zone], tzinfo=wall), datetime(*BACK[zone], tzinfo=wall)
    told = [
        spring.replace(hour=1, minute=59, second=59), spring.replace(hour=3, minute=30),
        autumn.replace(hour=1, minute=45, fold=0), autumn.replace(hour=1, minute=45, fold=1), autumn.replace(hour=3),
    ]  # fmt: skip
    async with a_year(store, f"year-{zone.partition('/')[2].lower().replace('_', '-')}") as year:
        until = [f"${{{{ inputs.at[{number}] }}}}" for number in range(len(told))]
        steps = [{"id": f"t{number}", "depends_on": [], "wait": {"until": at}} for number, at in enumerate(until)]
        started = await year.start(*steps, inputs={"at": [at.isoformat() for at in told]})
        await year.until(after(days=366))
        times = await year.times(started)
        assert {name: times[name] for name in times if name} == {f"t{n}": at.astimezone(UTC) for n, at in enumerate(told)}
        missing = (spring.replace(hour=3, minute=30).astimezone(UTC) - told[0].astimezone(UTC)).total_seconds()
        assert missing < 3_700, "there is an hour less, or half of one, than the wall says"
        assert (await year.world.state(started)).status == "completed"


async def test_a_retry_is_made_when_it_is_due_and_not_before(store: EventStore) -> None:
    asked: list[tuple[str, int, datetime]] = []
    async with a_year(store, "year-retries") as year:

        async def fails(invocation: Invocation) -> Any:
            asked.append((invocation.step, invocation.attempt, year.clock()))
            if invocation.attempt < 5:
                raise ModuleError("not-yet", "Not yet.")

        year.world.probe.answer = fails
        exact = {"max_attempts": 6, "initial_interval": "6h", "backoff": 2, "max_interval": "1d", "jitter": 0}
        spread = {**exact, "jitter": 0.5}
        steps = [{"action": "probe", "id": name, "depends_on": [], "retry": said} for name, said in (("x", exact), ("y", spread))]
        started = await year.start(*steps)
        await year.until(after(days=30))
        state = await year.world.state(started)
        assert state.status == "completed"
        events = [event.event for event in await year.world.events(started)]
    assert [(attempt, at) for step, attempt, at in asked if step == "x"] == [
        (1, BEGIN), (2, after(hours=6)), (3, after(hours=18)), (4, after(hours=42)), (5, after(hours=66)),
    ]  # fmt: skip
    due = {(event.step, event.attempt): event.due_at for event in events if isinstance(event, StepRetrying)}
    due |= {(event.step, event.attempt): event.at for event in events if isinstance(event, StepStarted)}
    assert {(step, attempt): at for step, attempt, at in asked} == due
    waits = [due[StepId("y"), number + 1] - due[StepId("y"), number] for number in range(1, 5)]
    for wait, hours in zip(waits, (6, 12, 24, 24), strict=True):
        assert timedelta(hours=hours / 2) <= wait <= timedelta(hours=hours)
    assert set(Counter(asked).values()) == {1}


async def test_approvals_and_signals_expire_at_their_times_as_they_are_told_to(store: EventStore) -> None:
    async with a_year(store, "year-approvals") as year:
        gates = {
            "approve": {"approval": {"expires_in": "30d", "on_expiry": "approve"}},
            "skip": {"approval": {"expires_in": "60d", "on_expiry": "skip"}},
            "fail": {"approval": {"expires_in": "90d", "on_expiry": "fail"}, "on_failure": "continue"},
            "signal": {"signal": {"name": "paid", "expires_in": "120d", "on_expiry": "complete"}},
        }
        started = await year.start(*[{"id": name, "depends_on": [], **said} for name, said in gates.items()])
        await year.until(after(days=366))
        state = await year.world.state(started)
        assert await year.times(started) == {
            "approve": after(days=30), "skip": after(days=60), "fail": after(days=90), "signal": after(days=120),
            "": after(days=120),
        }  # fmt: skip
        assert state.status == "completed"
        assert {str(name): run.status for name, run in state.runs.items()} == {
            "approve": "completed", "skip": "skipped", "fail": "failed", "signal": "completed",
        }  # fmt: skip
        events = [event.event for event in await year.world.events(started)]
        assert len([event for event in events if isinstance(event, StepWaiting)]) == 4
        assert year.moments == [after(days=days) for days in (30, 60, 90, 120)]


async def test_an_execution_and_a_step_are_out_of_time_when_they_are_and_what_they_did_is_undone(store: EventStore) -> None:
    async with a_year(store, "year-deadlines") as year:

        async def fails(invocation: Invocation) -> Any:
            if invocation.parameters.get("fails"):
                raise ModuleError("not-yet", "Not yet.")

        year.world.probe.answer = fails
        whole = await year.start(
            {"action": "probe", "id": "made", "compensate": "probe"}, {"id": "for-ever", "approval": {}}, timeout="200d"
        )
        step = await year.start(
            {
                "action": "probe", "fails": True, "id": "again", "timeouts": {"total": "10d"},
                "retry": {"max_attempts": 100, "initial_interval": "1d", "max_interval": "1d"},
            },
        )  # fmt: skip
        in_time = await year.start({"id": "short", "wait": {"for": "199d"}}, timeout="200d")
        await year.until(after(days=366))
        state = await year.world.state(whole)
        assert (state.status, (state.error or {})["code"], state.completed_at) == ("failed", "timeout", after(days=200))
        assert (state.runs[StepId("made")].status, state.runs[StepId("for-ever")].status) == ("compensated", "cancelled")
        state = await year.world.state(step)
        assert (state.status, (state.error or {})["code"], state.completed_at) == ("failed", "timeout", after(days=10))
        assert (await year.times(in_time))[""] == after(days=199)
        assert (await year.world.state(in_time)).status == "completed"
        assert await year.world.dispatches() == 0, "nothing is left that would wake somebody"


async def test_a_call_that_has_to_be_made_again_waits_by_the_same_clock(store: EventStore) -> None:
    """A year from now by the database's own time would be a long wait, and a year ago no wait at all."""
    crashes = iter([True])
    world = World(store, "year-crash")

    async def call(module: Any, invocation: Invocation) -> Any:
        if next(crashes, False):
            raise MemoryError("nobody foresaw this")
        return await world.caller.call(module, invocation)

    async with a_year(store, "year-crash", call=call) as year:
        year.clock.at = datetime(2020, 1, 1, tzinfo=UTC)
        started = await year.start({"action": "probe", "id": "once"})
        await wait_until(lambda: year.saga.statistics.postponed == 1, what="the crash")
        await year.until(datetime(2020, 1, 1, 0, 2, tzinfo=UTC))
        assert (await year.world.state(started)).status == "completed"
