# intent_ref: tests.execution-saga
"""The execution saga on a real log: what may be attempted is attempted, and each outcome is recorded once."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from commands.execution import CancelExecution, PauseExecution, ResumeExecution, StartExecution
from commands.handle import Envelope, Shell, handle
from commands.intent import CreateIntent
from commands.module import RegisterModule, RemoveModule
from domain import execution
from domain.definition import Limits, Rules
from domain.execution import Execution
from domain.execution_events import StepCompleted, StepFailed, StepStarted
from domain.module import Action, Module, RetryPolicy, Transport
from domain.plan import Work
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, TenantId, execution_stream
from event_store.faults import DATABASE_FAULTS
from event_store.ids import uuid7
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore
from modules.catalogue import Caller, builtin, in_process
from modules.contract import Invocation, ModuleError, Plugins
from modules.http import HttpModules
from sagas.attempts import Call, untraced
from sagas.dispatches import Dispatch
from sagas.execution import ExecutionSaga
from sagas.execution import Limits as SagaLimits
from streaming.embedded import EmbeddedTransport
from streaming.transport import Handler, Message
from tests.conftest import Database
from tests.waiting import wait_until

RULES = Rules(Limits(), ())
AT = datetime(2026, 1, 1, tzinfo=UTC)
SHORT_GRACE = SagaLimits(grace_seconds=2.0)
TUTORIAL: list[dict[str, Any]] = [
    {"action": "build-docker-image", "image": "myapp:latest", "context": "./app"},
    {"action": "push-to-registry", "registry": "azurecr.io", "image": "myapp:latest"},
    {"action": "deploy-to-kubernetes", "namespace": "production", "replicas": 3},
]


class Probe:
    """A module of the tests that keeps what it was asked, and answers as the test says."""

    def __init__(self) -> None:
        actions = (
            Action(ActionName("probe")),
            Action(
                ActionName("probe-checked"), input_schema={"type": "object", "required": ["n"]},
                output_schema={"type": "object", "required": ["m"]},
            ),
        )  # fmt: skip
        self.module = Module(ModuleName("probe"), actions, Transport("in-process", plugin="probe"), AT, AT)
        self.asked: list[Invocation] = []
        self.cancelled: list[str] = []
        self.answer: Callable[[Invocation], Awaitable[Any]] = self.echo

    async def echo(self, invocation: Invocation) -> Any:
        return {"n": invocation.parameters.get("n")}

    async def call(self, invocation: Invocation) -> Any:
        self.asked.append(invocation)
        try:
            return await self.answer(invocation)
        except asyncio.CancelledError:
            self.cancelled.append(invocation.execution_id)
            raise

    def asked_of(self, execution_id: str) -> list[Invocation]:
        return [invocation for invocation in self.asked if invocation.execution_id == execution_id]


class World:
    """A shell and a caller on one store, with the sandbox and a probe."""

    def __init__(self, store: EventStore, tenant: str, probe: Probe | None = None) -> None:
        self.store, self.tenant, self.probe = store, TenantId(tenant), probe or Probe()
        self.http = HttpModules(allow_private=True)
        running = in_process(self.http, sandbox=True, plugins=Plugins({"probe": self.probe}))
        self.shell = Shell(store, builtin(running), RULES)
        self.caller = Caller(running, self.http)

    def envelope(self, **more: Any) -> Envelope:
        return Envelope(self.tenant, uuid7(), "user:test", more.pop("correlation_id", "corr-1"), **more)

    async def start(
        self, steps: list[dict[str, Any]], inputs: dict[str, Any] | None = None, timeout: str | None = None, **more: Any
    ) -> ExecutionId:
        intent, started = IntentId(str(uuid7())), ExecutionId(str(uuid7()))
        definition = {"target": "production", "steps": steps, "timeout": timeout}
        create = CreateIntent(intent_id=intent, name=f"i-{intent}", definition=definition, at=now())
        await handle(self.shell, create, self.envelope())
        command = StartExecution(
            execution_id=started, intent_id=intent, inputs=inputs or {}, tenant_id=self.tenant, at=now()
        )  # fmt: skip
        await handle(self.shell, command, self.envelope(**more))
        return started

    async def state(self, execution_id: ExecutionId) -> Execution:
        loaded = await self.store.load(self.tenant, execution_stream(execution_id), execution.evolve)
        assert loaded.state is not None
        return loaded.state

    async def ended(self, execution_id: ExecutionId, timeout_seconds: float = 20.0) -> Execution:
        async def over() -> Execution | None:
            try:
                state = await self.state(execution_id)
            except StoreUnavailable:
                return None
            return state if state.status in execution.ENDED else None

        state = await wait_until(over, timeout_seconds, what=f"the end of execution {execution_id}")
        assert state is not None
        return state

    async def events(self, execution_id: ExecutionId) -> list[RecordedEvent]:
        return await self.store.read_stream(self.tenant, execution_stream(execution_id))

    async def dispatches(self) -> int:
        count: int = await self.store.platform_pool.fetchval(
            "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1", self.tenant
        )
        return count


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def saga_running(
    world: World, *, call: Call | None = None, transport: Any = None, limits: SagaLimits = SHORT_GRACE, trace: Any = untraced
) -> AsyncIterator[ExecutionSaga]:  # fmt: skip
    saga = ExecutionSaga(
        world.shell, transport or EmbeddedTransport(world.store), call or world.caller.call, limits=limits, trace=trace
    )
    stop = asyncio.Event()
    task = asyncio.create_task(saga.run(stop))
    try:
        yield saga
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)


@asynccontextmanager
async def another_store(database: Database) -> AsyncIterator[EventStore]:
    store = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    try:
        yield store
    finally:
        await store.close()


def topics(events: list[RecordedEvent]) -> list[str]:
    return [event.topic.removeprefix("execution.").removesuffix(".v1") for event in events]


async def test_the_tutorials_intent_ends_completed_with_its_steps_in_order(store: EventStore) -> None:
    world = World(store, "tutorial")
    async with saga_running(world):
        started = await world.start(TUTORIAL)
        state = await world.ended(started)
    assert state.status == "completed"
    assert topics(await world.events(started)) == [
        "started", "step_started", "step_completed", "step_started", "step_completed", "step_started", "step_completed",
        "completed",
    ]  # fmt: skip
    for run in state.runs.values():
        assert run.result["sandbox"] is True
        assert run.result["note"] == "nothing was changed"
    assert state.runs[state.steps[2].id].result["replicas"] == 3
    await wait_until(lambda: _is_zero(world.dispatches()), what="the rows to be gone")


async def _is_zero(count: Awaitable[int]) -> bool:
    return await _are(count, 0)


async def _are(count: Awaitable[int], wanted: int) -> bool:
    return await count == wanted


async def test_an_execution_started_while_no_saga_runs_is_carried_out_by_the_next(store: EventStore) -> None:
    world = World(store, "later")
    started = await world.start(TUTORIAL)
    async with saga_running(world):
        assert (await world.ended(started)).status == "completed"


async def test_the_sagas_envelope_says_who_why_and_in_which_conversation_and_trace(store: EventStore) -> None:
    world = World(store, "envelope")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    child = "00-0af7651916cd43dd8448eb211c80319c-00000000000000aa-01"
    traced: list[tuple[str | None, str]] = []

    @contextmanager
    def trace(dispatch: Dispatch, work: Work) -> Iterator[str]:
        traced.append((dispatch.traceparent, work.action))
        yield child

    async with saga_running(world, trace=trace):
        started = await world.start([{"action": "probe", "n": 1}], correlation_id="conv-7", traceparent=parent)
        await world.ended(started)
    begun, completed = (await world.events(started))[1:3]
    assert completed.metadata.actor == "saga:execution"
    assert completed.metadata.causation_id == str(begun.event_id)
    assert completed.metadata.correlation_id == "conv-7"
    assert completed.metadata.traceparent == child
    assert world.probe.asked[0].traceparent == child
    assert traced == [(parent, "probe")]


async def test_the_module_is_told_all_it_needs(store: EventStore) -> None:
    world = World(store, "told")
    async with saga_running(world):
        started = await world.start([{"action": "probe", "id": "one", "n": 1}], inputs={"who": "me"}, correlation_id="c")
        await world.ended(started)
    asked = world.probe.asked[0]
    assert (asked.tenant_id, asked.execution_id, asked.step, asked.action, asked.attempt) == ("told", started, "one", "probe", 1)
    assert (asked.parameters, asked.inputs, asked.target) == ({"n": 1}, {"who": "me"}, "production")
    assert asked.deadline > now()


async def test_a_step_that_fails_twice_succeeds_under_its_retry_policy(store: EventStore) -> None:
    world = World(store, "retry")
    step = {
        "action": "deploy-to-kubernetes",
        "retry": {"max_attempts": 4, "initial_interval": 0.05},
        "sandbox": {"fail": "no such cluster", "fail_attempts": 2},
    }
    async with saga_running(world):
        started = await world.start([step])
        state = await world.ended(started)
    assert state.status == "completed"
    events = await world.events(started)
    assert topics(events) == ["started", "step_started", "step_retrying", "step_retrying", "step_completed", "completed"]
    assert events[2].event.error["message"] == "no such cluster"  # type: ignore[union-attr]
    assert events[4].event.attempt == 3  # type: ignore[union-attr]
    assert events[3].recorded_at >= events[2].event.due_at  # type: ignore[union-attr]


async def test_a_failure_that_is_final_is_not_attempted_again(store: EventStore) -> None:
    world = World(store, "final")
    step = {"action": "no-op", "retry": {"max_attempts": 5}, "sandbox": {"fail": "never", "retryable": False}}
    async with saga_running(world):
        started = await world.start([step])
        state = await world.ended(started)
    assert state.status == "failed"
    assert topics(await world.events(started)) == ["started", "step_started", "step_failed", "failed"]


async def test_a_call_that_takes_too_long_is_given_up_and_fails_with_timeout(store: EventStore) -> None:
    world = World(store, "slow")
    async with saga_running(world):
        started = await world.start([{"action": "wait", "seconds": 60, "timeout": 0.2}])
        state = await world.ended(started)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error["code"] == "timeout"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x" * 300_000, "result-too-large"),
        (object(), "result-invalid"),
        ({"text": "a\0b"}, "result-invalid"),
        (ZeroDivisionError("by zero"), "module-crashed"),
        (ModuleError("quota", "No more today.", retryable=False, details={"left": 0}), "quota"),
        (ModuleError("odd", "Bad \0 text", retryable=False, details={"thing": object()}), "odd"),
    ],
    ids=["too-large", "not-json", "nul", "crash", "module-error", "module-error-with-odd-details"],
)
async def test_a_bad_answer_fails_the_step_with_a_code_and_no_stack_trace(store: EventStore, answer: Any, code: str) -> None:
    world = World(store, "bad-answers")

    async def answered(_invocation: Invocation) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    world.probe.answer = answered
    async with saga_running(world):
        state = await world.ended(await world.start([{"action": "probe"}]))
    assert state.status == "failed"
    assert state.error is not None
    assert state.error["code"] == code
    assert "Traceback" not in str(state.error)


async def test_an_actions_schemas_are_held_against_what_goes_in_and_what_comes_out(store: EventStore) -> None:
    world = World(store, "schemas")
    retry = {"max_attempts": 3, "initial_interval": 0.01}
    async with saga_running(world):
        without = await world.ended(await world.start([{"action": "probe-checked", "retry": retry}]))
        wrong = await world.ended(await world.start([{"action": "probe-checked", "n": 1, "retry": retry}]))
    assert without.error is not None
    assert wrong.error is not None
    assert (without.error["code"], without.runs[without.steps[0].id].attempts) == ("input-invalid", 1)
    assert (wrong.error["code"], wrong.runs[wrong.steps[0].id].attempts) == ("output-invalid", 3)


class Twice:
    """Delivers everything two times, as a stream may after a crash."""

    reads_the_log = True

    def __init__(self, store: EventStore) -> None:
        self._inner = EmbeddedTransport(store)

    async def publish(self, messages: Any) -> None: ...

    async def close(self) -> None: ...

    async def consume(self, group: str, handler: Handler, **more: Any) -> None:
        async def twice(messages: Any) -> None:
            await handler(messages)
            await handler(messages)

        await self._inner.consume(group, twice, **more)


async def test_events_delivered_twice_lead_to_one_outcome_each(store: EventStore) -> None:
    world = World(store, "twice")
    async with saga_running(world, transport=Twice(store)):
        started = [await world.start([{"action": "probe", "n": n}, {"action": "probe", "n": -n}]) for n in range(20)]
        for one in started:
            assert (await world.ended(one)).status == "completed"
    for one in started:
        assert Counter(topics(await world.events(one))) == {
            "started": 1, "step_started": 2, "step_completed": 2, "completed": 1,
        }  # fmt: skip


async def test_events_seen_again_long_after_call_no_module_again(store: EventStore) -> None:
    world = World(store, "again")
    async with saga_running(world):
        started = await world.start([{"action": "probe", "n": 1}])
        await world.ended(started)
        await wait_until(lambda: _is_zero(world.dispatches()), what="the row to be gone")
    await store.platform_pool.execute("UPDATE quantum.stream_leases SET checkpoint = 0")
    async with saga_running(world) as saga:
        last = await world.start([{"action": "probe", "n": 2}])
        await world.ended(last)
        assert saga.statistics.reactions > 2
    assert len(world.probe.asked_of(started)) == 1


async def test_a_crash_between_call_and_record_repeats_the_call_under_the_same_key(store: EventStore) -> None:
    world = World(store, "crash")
    crashes = iter([True])

    @contextmanager
    def crashing(dispatch: Dispatch, _work: Work) -> Iterator[str | None]:
        yield dispatch.traceparent

    async def call(module: Module, invocation: Invocation) -> Any:
        result = await world.caller.call(module, invocation)
        if next(crashes, False):
            raise MemoryError("the process is about to die")
        return result

    async with saga_running(world, call=call, trace=crashing) as saga:
        started = await world.start([{"action": "probe", "n": 1}])
        state = await world.ended(started)
        assert saga.statistics.postponed == 1
    first, second = world.probe.asked_of(started)
    assert first.idempotency_key == second.idempotency_key
    assert first.attempt == second.attempt == 1
    assert state.status == "completed"
    assert topics(await world.events(started)).count("step_completed") == 1


async def test_cancelling_stops_the_running_call_and_its_retries(store: EventStore) -> None:
    world = World(store, "cancel")

    async def forever(_invocation: Invocation) -> Any:
        await asyncio.Event().wait()

    world.probe.answer = forever
    retry = {"max_attempts": 2, "initial_interval": 600, "max_interval": 600}
    async with saga_running(world) as saga:
        running = await world.start([{"action": "probe"}])
        waiting = await world.start([{"action": "no-op", "retry": retry, "sandbox": {"fail": True}}])
        await wait_until(lambda: world.probe.asked_of(running), what="the call")
        await wait_until(lambda: _has_retry(world, waiting), what="the retry timer")
        await wait_until(lambda: _are(world.dispatches(), 2), what="the row of the first attempt to be gone")
        for one in (running, waiting):
            await handle(world.shell, CancelExecution(execution_id=one, reason="enough", at=now()), world.envelope())
        await wait_until(lambda: world.probe.cancelled == [running], what="the call to be cancelled")
        await wait_until(lambda: _is_zero(world.dispatches()), what="the rows to be gone")
        assert saga.running == 0
    assert (await world.state(running)).status == "cancelled"


async def _has_retry(world: World, execution_id: ExecutionId) -> bool:
    return "step_retrying" in topics(await world.events(execution_id))


async def test_a_paused_execution_finishes_what_runs_and_starts_nothing_until_resumed(store: EventStore) -> None:
    world = World(store, "pause")
    go_on = asyncio.Event()

    async def gated(invocation: Invocation) -> Any:
        await go_on.wait()
        return invocation.step

    world.probe.answer = gated
    async with saga_running(world):
        started = await world.start([{"action": "probe", "id": "a"}, {"action": "probe", "id": "b"}])
        await wait_until(lambda: world.probe.asked_of(started), what="the first call")
        await handle(world.shell, PauseExecution(execution_id=started, at=now()), world.envelope())
        go_on.set()
        await wait_until(lambda: _completed(world, started, 1), what="the first step")
        assert len(world.probe.asked_of(started)) == 1
        assert (await world.state(started)).status == "paused"
        await handle(world.shell, ResumeExecution(execution_id=started, at=now()), world.envelope())
        assert (await world.ended(started)).status == "completed"


async def _completed(world: World, execution_id: ExecutionId, count: int) -> bool:
    return topics(await world.events(execution_id)).count("step_completed") == count


async def test_a_module_that_was_removed_fails_the_step_until_it_is_back(store: EventStore) -> None:
    world = World(store, "removed")
    module = RegisterModule(
        name="gone", actions=(Action(ActionName("gone.do"), retry=RetryPolicy(2, 0.05)),),
        transport=Transport("http", url="http://127.0.0.1:9/"), at=now(),
    )  # fmt: skip
    await handle(world.shell, module, world.envelope())
    started = await world.start([{"action": "gone.do"}])
    await handle(world.shell, RemoveModule(name="gone", at=now()), world.envelope())
    async with saga_running(world):
        state = await world.ended(started)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error["code"] == "module-unavailable"
    assert state.runs[state.steps[0].id].attempts == 2


async def test_stopping_lets_running_calls_finish_within_their_grace(store: EventStore) -> None:
    world = World(store, "grace")
    go_on = asyncio.Event()

    async def gated(_invocation: Invocation) -> Any:
        await go_on.wait()

    world.probe.answer = gated
    saga = ExecutionSaga(world.shell, EmbeddedTransport(store), world.caller.call, limits=SagaLimits(grace_seconds=10))
    stop = asyncio.Event()
    running = asyncio.create_task(saga.run(stop))
    started = await world.start([{"action": "probe"}])
    await wait_until(lambda: world.probe.asked, what="the call")
    stop.set()
    go_on.set()
    await asyncio.wait_for(running, 15)
    assert (await world.state(started)).status == "completed"
    assert await world.dispatches() == 0


async def test_what_outlives_the_grace_is_taken_by_another_worker_at_once(store: EventStore) -> None:
    world = World(store, "no-grace")

    async def first_hangs(_invocation: Invocation) -> Any:
        if len(world.probe.asked) == 1:
            await asyncio.Event().wait()

    world.probe.answer = first_hangs
    async with saga_running(world, limits=SagaLimits(grace_seconds=0.05)):
        started = await world.start([{"action": "probe"}])
        await wait_until(lambda: world.probe.asked, what="the call")
    async with saga_running(world):
        assert (await world.ended(started)).status == "completed"
    assert len({invocation.idempotency_key for invocation in world.probe.asked}) == 1


async def test_no_more_calls_run_at_once_than_allowed_and_the_rest_follow(store: EventStore) -> None:
    world = World(store, "bounded")
    at_once: list[int] = []

    async def counted(_invocation: Invocation) -> Any:
        at_once.append(saga.running)
        await asyncio.sleep(0)

    world.probe.answer = counted
    async with saga_running(world, limits=SagaLimits(calls_max=4, grace_seconds=2)) as saga:
        steps = [{"action": "probe", "id": f"s{n}", "depends_on": []} for n in range(60)]
        assert (await world.ended(await world.start(steps))).status == "completed"
    assert max(at_once) <= 4
    assert len(world.probe.asked) == 60


async def test_two_workers_share_the_executions_and_each_outcome_is_recorded_once(database: Database, store: EventStore) -> None:
    one = World(store, "shared")
    async with another_store(database) as second:
        two = World(second, "shared")
        async with saga_running(one) as first, saga_running(two) as other:
            await wait_until(lambda: _two_members(store), what="both to hold their half")
            started = [await one.start([{"action": "probe", "n": n}, {"action": "probe", "n": n}]) for n in range(40)]
            for each in started:
                assert (await one.ended(each)).status == "completed"
            assert first.statistics.recorded + other.statistics.recorded == 80
    assert one.probe.asked
    assert two.probe.asked
    assert len(one.probe.asked) + len(two.probe.asked) == 80


async def _two_members(store: EventStore) -> bool:
    shares = await store.platform_pool.fetch(
        "SELECT count(*) FROM quantum.stream_leases WHERE consumer_group = 'saga.execution' AND owner IS NOT NULL GROUP BY owner"
    )
    return [row[0] for row in shares] == [8, 8]


async def test_a_poisonous_event_holds_nobody_else_up(store: EventStore) -> None:
    world = World(store, "poison")
    async with saga_running(world) as saga:
        bad = Message(uuid7(), 1, "poison", "execution-x", 1, "execution.step_started.v1", b"{}", "{}", now())
        await saga._handle([bad])
        assert saga.statistics.undecodable == 1
        assert (await world.ended(await world.start([{"action": "probe"}]))).status == "completed"


async def test_connections_that_the_database_drops_cost_time_and_nothing_else(database: Database, store: EventStore) -> None:
    world = World(store, "dropped")
    steps = [{"action": "wait", "id": f"s{n}", "seconds": 0.05} for n in range(4)]
    async with saga_running(world):
        started = [await world.start(steps) for _ in range(20)]
        for wanted in (10, 30, 50):
            await wait_until(lambda low=wanted: _outcomes_reach(world, low), 20, what="some outcomes")
            await _drop_connections(database)
        for each in started:
            assert (await world.ended(each, 30)).status == "completed"
    for each in started:
        assert topics(await world.events(each)).count("step_completed") == 4


async def _drop_connections(database: Database) -> None:
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IN ('quantum_app', 'quantum_platform')"
        )
    finally:
        await connection.close()


async def _outcomes_reach(world: World, low: int) -> bool:
    with contextlib.suppress(*DATABASE_FAULTS):
        return await _outcomes(world) >= low
    return False


WORKER = """
import asyncio, sys
from tests.integration.test_execution_saga import World, saga_running
from event_store.store import EventStore

async def main():
    store = await EventStore.connect(app_dsn=sys.argv[1], platform_dsn=sys.argv[2])
    async with saga_running(World(store, "killed")):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.chaos
async def test_a_killed_worker_process_loses_no_step_and_doubles_no_outcome(database: Database, store: EventStore) -> None:
    world = World(store, "killed")
    started = [
        await world.start([{"action": "wait", "id": f"s{n}", "seconds": 0.2} for n in range(4)]) for _ in range(30)
    ]  # fmt: skip
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, database.app_dsn, database.platform_dsn, stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        before = await _outcomes(world)
        await wait_until(lambda seen=before: _more_outcomes(world, seen), 20, what="outcomes of this worker")
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert 0 < await _outcomes(world) < 120
    async with saga_running(world):
        for each in started:
            assert (await world.ended(each, 60)).status == "completed"
    for each in started:
        events = [event.event for event in await world.events(each)]
        assert Counter(event.step for event in events if isinstance(event, StepStarted)) == dict.fromkeys(
            ["s0", "s1", "s2", "s3"], 1
        )  # fmt: skip
        assert Counter(event.step for event in events if isinstance(event, StepCompleted | StepFailed)) == dict.fromkeys(
            ["s0", "s1", "s2", "s3"], 1
        )  # fmt: skip


async def _outcomes(world: World) -> int:
    count: int = await world.store.platform_pool.fetchval(
        "SELECT count(*) FROM quantum.events WHERE tenant_id = $1 AND topic = 'execution.step_completed.v1'", world.tenant
    )
    return count


async def _more_outcomes(world: World, before: int) -> bool:
    return await _outcomes(world) > before


class LosesAnswers:
    """A pool whose statements are obeyed while the answers to the first few of one kind never come."""

    def __init__(self, pool: Any, statement: str, answers: int) -> None:
        self._pool, self._statement, self._answers = pool, statement, answers

    async def fetch(self, query: str, *arguments: Any, **options: Any) -> Any:
        rows = await self._pool.fetch(query, *arguments, **options)
        if self._statement in query and self._answers and rows:
            self._answers -= 1
            raise ConnectionResetError("the connection was lost while the answer was on its way")
        return rows


@pytest.mark.parametrize("statement", ["INSERT INTO quantum.saga_dispatches", "SET lease_owner = $1, claims"])
async def test_a_lease_whose_answer_was_lost_is_given_back_and_the_step_made(store: EventStore, statement: str) -> None:
    world = World(store, f"lost-answer-{len(statement)}")
    if statement.startswith("INSERT"):
        steps = [{"action": "probe"}]
    else:
        steps = [{"action": "probe", "retry": {"max_attempts": 2, "initial_interval": 1}}]
        failures = iter([True])

        async def fails_once(invocation: Invocation) -> Any:
            if next(failures, False):
                raise ModuleError("flaky", "not this time")
            return {"ok": True}

        world.probe.answer = fails_once
    async with saga_running(world) as saga:
        saga._dispatches._pool = LosesAnswers(store.platform_pool, statement, 1)
        started = await world.start(steps)
        state = await world.ended(started, 30)
    assert state.status == "completed"
    completed = [event for event in await world.events(started) if isinstance(event.event, StepCompleted)]
    assert len(completed) == 1
