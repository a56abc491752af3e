# intent_ref: tests.quick-calls
"""Answers of one execution that come while another is being recorded go into the log together, and each is recorded once."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from commands.execution import CompleteStep, FailStep
from domain.execution_events import StepCompleted, StepFailed, StepStarted
from domain.values import ExecutionId, StepId
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from sagas.dispatches import Dispatch
from sagas.outcomes import TOGETHER_MAX, Outcomes
from sagas.reactions import Cause, react
from tests.conftest import Database
from tests.consumers import another_store
from tests.integration.test_execution_saga import World, now
from tests.integration.test_quick_calls import held, waits_for_lock
from tests.waiting import wait_until

ERROR = {"code": "broken", "message": "It broke."}


class Wide:
    """An execution with steps side by side, all under way, whose answers are ours to give."""

    def __init__(self, world: World, execution_id: ExecutionId, dispatches: dict[str, Dispatch]) -> None:
        self.world, self.execution_id, self.dispatches = world, execution_id, dispatches
        self.outcomes = Outcomes(world.shell)

    @classmethod
    async def begun(cls, world: World, steps: int, **said: Any) -> "Wide":
        """Its steps are `s0`, `s1`, …"""
        definition = [{"action": "probe", "id": f"s{number}", "depends_on": [], **said} for number in range(steps)]
        started = await world.start(definition)
        dispatches = {}
        for event in await world.events(started):
            if isinstance(event.event, StepStarted):
                [dispatch] = react(Cause(world.tenant, event.event_id, "c", None), event.event)
                assert isinstance(dispatch, Dispatch)
                dispatches[str(event.event.step)] = dispatch
        return cls(world, started, dispatches)

    def answer(self, step: str, result: Any = None, *, outcomes: Outcomes | None = None) -> "asyncio.Task[bool | None]":
        """The step's module answers with this result."""
        command = CompleteStep(
            execution_id=self.execution_id, step=StepId(step), attempt=self.dispatches[step].attempt, result=result, at=now()
        )  # fmt: skip
        return asyncio.create_task((outcomes or self.outcomes).record(self.dispatches[step], command, None))

    def failure(self, step: str) -> "asyncio.Task[bool | None]":
        """The step's module fails."""
        command = FailStep(execution_id=self.execution_id, step=StepId(step), attempt=1, error=ERROR, at=now())
        return asyncio.create_task(self.outcomes.record(self.dispatches[step], command, None))

    async def settled(self) -> Counter[str]:
        """How often each step has an outcome in the log."""
        events = [event.event for event in await self.world.events(self.execution_id)]
        return Counter(str(event.step) for event in events if isinstance(event, StepCompleted | StepFailed))

    async def commands(self) -> dict[str, Any]:
        """Under which command each step's outcome went into the log."""
        rows = await self.world.store.platform_pool.fetch(
            "SELECT command_id, version FROM quantum.events WHERE tenant_id = $1 AND stream_id = $2",
            self.world.tenant, f"execution-{self.execution_id}",
        )  # fmt: skip
        by_version = {row[1]: row[0] for row in rows}
        events = await self.world.events(self.execution_id)
        return {str(event.event.step): by_version[event.version] for event in events if isinstance(event.event, StepCompleted)}


def each_once(steps: int) -> Counter[str]:
    return Counter({f"s{number}": 1 for number in range(steps)})


async def all_of(tasks: Sequence["asyncio.Task[bool | None]"]) -> list[Any]:
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_answers_that_come_together_are_recorded_in_one_append(store: EventStore) -> None:
    wide = await Wide.begun(World(store, "together"), 50)
    assert await all_of([wide.answer(step) for step in wide.dispatches]) == [True] * 50
    assert await wide.settled() == each_once(50)
    assert len(set((await wide.commands()).values())) == 2  # the first alone, and then all that came meanwhile
    assert (await wide.world.state(wide.execution_id)).status == "completed"
    assert not wide.outcomes._waiting


async def test_however_many_come_together_each_append_has_its_bound(store: EventStore) -> None:
    count = TOGETHER_MAX + 60
    wide = await Wide.begun(World(store, "many"), count)
    assert await all_of([wide.answer(step) for step in wide.dispatches]) == [True] * count
    assert await wide.settled() == each_once(count)
    assert max(Counter((await wide.commands()).values()).values()) == TOGETHER_MAX


async def test_the_same_answer_twice_in_one_go_is_recorded_once(store: EventStore) -> None:
    wide = await Wide.begun(World(store, "twice-in-one"), 5)
    await all_of([wide.answer(step, {"n": turn}) for turn in range(3) for step in wide.dispatches])
    assert await wide.settled() == each_once(5)


async def test_an_answer_that_another_worker_has_recorded_takes_no_other_with_it(store: EventStore, database: Database) -> None:
    """The first of those that go together is in the log already, under the very command id they would share."""
    wide = await Wide.begun(World(store, "taken"), 4)
    async with another_store(database) as second:
        assert await all_of([wide.answer("s1", outcomes=Outcomes(World(second, "taken").shell))]) == [True]
    answers = await all_of([wide.answer(step) for step in ("s0", "s1", "s2", "s3")])
    assert answers == [True, False, True, True]
    assert await wide.settled() == each_once(4)
    assert (await wide.world.state(wide.execution_id)).status == "completed"


HOSTILE = [object(), float("nan"), {"text": "a\0b"}, {"text": "\ud800"}, {1: 2}, b"bytes", "x" * 2_000_000, {"deep": [[[[1]]]]}]


@pytest.mark.parametrize("value", HOSTILE, ids=["object", "nan", "nul", "surrogate", "key", "bytes", "long", "deep"])
async def test_one_bad_answer_among_good_ones_takes_none_with_it(store: EventStore, value: Any) -> None:
    wide = await Wide.begun(World(store, "bad-among"), 4, on_failure="continue")
    deep = value
    for _ in range(500 if isinstance(value, dict) and "deep" in value else 0):
        deep = [deep]
    tasks = [wide.answer("s0"), wide.answer("s1"), wide.answer("s2", deep), wide.answer("s3")]
    answers = await all_of(tasks)
    assert [answers[number] for number in (0, 1, 3)] == [True, True, True], answers
    state = await wide.world.state(wide.execution_id)
    assert {str(run): state.runs[run].status for run in state.runs if run != "s2"} == dict.fromkeys(
        ["s0", "s1", "s3"], "completed"
    )
    assert state.runs[StepId("s2")].status == "failed", "what cannot be stored fails its step, and waits for nobody"


async def test_a_failure_that_ends_the_execution_leaves_the_answers_behind_it_where_they_belong(store: EventStore) -> None:
    wide = await Wide.begun(World(store, "fatal-among"), 4)
    answers = await all_of([wide.answer("s0"), wide.failure("s1"), wide.answer("s2"), wide.answer("s3")])
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    assert await wide.settled() == each_once(4)
    state = await wide.world.state(wide.execution_id)
    assert (state.status, state.failing) == ("failed", "s1")
    # Too late, all of them: nobody hangs, nothing is added.
    late = await all_of([wide.answer(step) for step in wide.dispatches])
    assert True not in late
    assert not [answer for answer in late if isinstance(answer, BaseException)]
    assert await wide.settled() == each_once(4)


async def test_an_answer_given_up_on_its_way_holds_no_other_up(store: EventStore, database: Database) -> None:
    wide = await Wide.begun(World(store, "given-up"), 6)
    async with held(database, "events"):
        first = wide.answer("s0")
        await wait_until(lambda: waits_for_lock(store, "events"), what="the first one on its way")
        waiting = [wide.answer(step) for step in ("s1", "s2", "s3")]
        await asyncio.sleep(0)
        waiting[1].cancel()
        first.cancel()
    answers = await all_of([first, *waiting])
    assert isinstance(answers[0], asyncio.CancelledError)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert (answers[1], answers[3]) == (True, True)
    # What was given up is asked for again, and recorded if it was not.
    assert None not in await all_of([wide.answer("s4"), wide.answer("s5")])
    await all_of([wide.answer("s0"), wide.answer("s2")])
    assert await wide.settled() == each_once(6)
    assert not wide.outcomes._waiting


async def test_whoever_records_for_others_and_is_given_up_leaves_nobody_waiting_for_ever(
    store: EventStore, database: Database
) -> None:
    wide = await Wide.begun(World(store, "given-up-twice"), 6)
    async with held(database, "events"):
        first = wide.answer("s0")
        await wait_until(lambda: waits_for_lock(store, "events"), what="the first one on its way")
        together = [wide.answer(step) for step in ("s1", "s2")]
        await asyncio.sleep(0)
        first.cancel()  # from here on it records for the others, and is given up once more
        await wait_until(lambda: not _queued(wide), what="the others on their way")
        later = [wide.answer(step) for step in ("s3", "s4")]
        await wait_until(lambda: _queued(wide) == 2, what="those that come later to wait")
        first.cancel()
        answers = await all_of([first, *together, *later])
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers[1:]), answers
    # All of them are made again, as the saga does with what could not be recorded.
    await all_of([wide.answer(step) for step in wide.dispatches])
    assert await wide.settled() == each_once(6)
    assert not wide.outcomes._waiting


def _queued(wide: Wide) -> int:
    return sum(len(waiting) for waiting in wide.outcomes._waiting.values())


async def test_connections_that_drop_while_answers_go_together_lose_none(store: EventStore, database: Database) -> None:
    wide = await Wide.begun(World(store, "dropped-together"), 20)
    async with held(database, "events"):
        tasks = [wide.answer(step) for step in wide.dispatches]
        await wait_until(lambda: waits_for_lock(store, "events"), what="the first one on its way")
        connection = await asyncpg.connect(database.owner_dsn)
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename IN ('quantum_app', 'quantum_platform')"
            )
        finally:
            await connection.close()
    assert None not in await all_of(tasks)
    assert await wide.settled() == each_once(20)
