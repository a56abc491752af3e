# intent_ref: tests.golden-histories
"""Executions that began under an old definition, an old module or an old release end under them, whatever has changed since."""

from typing import Any

import pytest

from commands.execution import ApproveStep, CancelExecution, ResumeExecution, RetryExecution, SignalExecution
from commands.handle import handle
from commands.intent import ArchiveIntent, ReviseIntent
from commands.module import ChangeModule, RegisterModule
from domain.execution import ENDED
from domain.execution_events import ExecutionStarted
from domain.module import Action, RetryPolicy, Transport
from domain.values import ActionName, ExecutionId, ModuleName, StepId, execution_stream
from event_store.ids import uuid7
from event_store.records import NO_STREAM, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore
from tests.acceptance.http_modules import http_module
from tests.execution_world import ExecutionWorld, Running, now, sagas_on
from tests.golden.histories import FOLDER, History

OLD = {path.stem: History.read(path) for path in sorted(FOLDER.glob("before-control-flow.*.json"))}
UNFINISHED = [name for name, history in OLD.items() if history.document["status"] not in ENDED]
V1 = {
    "target": "production", "timeout": "1h",
    "steps": [
        {"action": "do", "id": "first", "approval": {"roles": ["author"]}, "n": 1, "compensate": "undo"},
        {"action": "build", "id": "second", "n": "${{ steps.first.result.n }}"},
        {"workflow": "part@1", "id": "third"},
    ],
    "outputs": {"built": "${{ steps.second.result.built }}", "part": "${{ steps.third.result.version }}"},
}  # fmt: skip
V2 = {"target": "elsewhere", "steps": [{"action": "build", "id": "only", "n": 2}]}


async def test_an_execution_ends_under_its_definition_though_intent_module_and_child_have_changed(store: EventStore) -> None:
    world = ExecutionWorld(store, "old-version")

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body["attempt"] == 1:
            return 503, {"message": "not yet"}
        return 200, {"built": body["parameters"]["n"], "target": body["target"]}

    with http_module(answer) as before, http_module(answer) as after:
        build = Action(ActionName("build"), retry=RetryPolicy(3, 0.02), timeout_seconds=30.0)
        register = RegisterModule(name="builder", actions=(build,), transport=Transport("http", url=before.url), at=now())
        await handle(world.shell, register, world.envelope())
        part = await world.define("part", {"target": "t", "steps": [{"action": "do"}], "outputs": {"version": 1}})
        intent = await world.define("whole", V1)
        async with sagas_on(world):
            running = await world.start("whole")
            await running.until_run("first", "waiting")

            # Everything changes: the steps, the child, and of the module its address, retries and schema.
            await handle(world.shell, ReviseIntent(intent_id=intent, definition=V2, at=now()), world.envelope())
            new_part = {"target": "t", "steps": [{"action": "undo"}], "outputs": {"version": 2}}
            await handle(world.shell, ReviseIntent(intent_id=part, definition=new_part, at=now()), world.envelope())
            impatient = Action(ActionName("build"), retry=RetryPolicy(1), timeout_seconds=1.0)
            transport = Transport("http", url=after.url)
            change = ChangeModule(name=ModuleName("builder"), actions=(impatient,), transport=transport, at=now())
            await handle(world.shell, change, world.envelope())

            await running.say(ApproveStep, step="first", by="ann", roles=frozenset({"author"}))
            old = await running.ended()
            new = await (await world.start("whole")).ended("failed")
    assert (old.version, old.target, list(old.runs)) == (1, "production", ["first", "second", "third"])
    assert old.result == {"built": 1, "part": 1}
    assert old.runs[StepId("second")].attempts == 2, "its retries are those of the time when it began"
    assert (new.version, new.target, new.runs[StepId("only")].attempts) == (2, "elsewhere", 1)
    assert not before.asked, "where the module is, is a fact of today"
    assert [asked.body["parameters"] for asked in after.asked] == [{"n": 1}, {"n": 1}, {"n": 2}]
    assert world.bench.steps_asked() == ["first", "do"]


async def test_an_execution_outlives_its_intent(store: EventStore) -> None:
    world = ExecutionWorld(store, "archived-meanwhile")
    intent = await world.define("gone", {"target": "t", "steps": [{"signal": "go", "id": "go"}, {"action": "do", "n": 1}]})
    async with sagas_on(world):
        running = await world.start("gone")
        await running.until_run("go", "waiting")
        await handle(world.shell, ArchiveIntent(intent_id=intent, at=now()), world.envelope())
        await running.say(SignalExecution, name="go")
        assert (await running.ended()).runs[StepId("do")].result == {"n": 1}


async def in_the_log(world: ExecutionWorld, history: History) -> Running:
    """The history as if the release that wrote it had written it here: the very bytes, decision by decision."""
    execution_id = ExecutionId(history.document["execution_id"])
    version = NO_STREAM
    for number, decision in enumerate(history.decisions):
        events = [NewEvent(uuid7(), topic, payload) for topic, payload in decision]
        append = StreamAppend(execution_stream(execution_id), events, version)
        metadata = Metadata("c", None, "user:ann" if number == 0 else "saga:execution", None, None)
        appended = await world.store.append(world.tenant, [append], command_id=uuid7(), metadata=metadata)
        version = appended.versions[0]
    return Running(world, execution_id)


@pytest.mark.parametrize("name", UNFINISHED)
async def test_what_an_old_release_left_unfinished_is_finished_by_todays_saga(store: EventStore, name: str) -> None:
    world = ExecutionWorld(store, f"old-{name.partition('.')[2]}")
    running = await in_the_log(world, OLD[name])
    async with sagas_on(world):
        if OLD[name].document["status"] == "paused":
            await running.say(ResumeExecution)
        state = await running.ended()
    assert isinstance((await running.events())[0], ExecutionStarted)
    assert {run.status for run in state.runs.values()} == {"completed"}
    assert [run.result["sandbox"] for run in state.runs.values() if run.result and "sandbox" in run.result]


async def test_what_failed_under_an_old_release_is_retried_under_this_one(store: EventStore) -> None:
    world = ExecutionWorld(store, "old-failed")
    running = await in_the_log(world, OLD["before-control-flow.failed"])
    async with sagas_on(world):
        await running.say(RetryExecution)
        state = await running.ended()
    assert {run.status for run in state.runs.values()} == {"completed"}
    assert state.runs[StepId("push-to-registry")].attempts == 4


async def test_what_an_old_release_left_unfinished_can_be_cancelled(store: EventStore) -> None:
    world = ExecutionWorld(store, "old-cancelled")
    running = await in_the_log(world, OLD["before-control-flow.side-by-side"])
    await running.say(CancelExecution)
    async with sagas_on(world):
        await running.ended("cancelled")
    assert await world.rows() == 0
