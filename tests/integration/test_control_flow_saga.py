# intent_ref: tests.execution-patterns
"""The time of a step as a whole, loops with failed items and times of a place, carried out on a real log by real sagas."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from commands.execution_commands import ApproveStep, CancelExecution, RejectStep, RetryExecution, SignalExecution
from domain.execution_events import StepWaiting
from domain.values import ExecutionId, TenantId
from event_store.store import EventStore
from modules.contract import Invocation, ModuleError
from tests.execution_world import ExecutionWorld, Running, now, sagas_on
from tests.waiting import wait_until

OPS = frozenset({"operator"})
SHORT = {"timeouts": {"total": "150ms"}}


async def nothing_left(world: ExecutionWorld) -> None:
    """Returns when nothing is to be done any more, and nothing waits."""

    async def look() -> str | None:
        return "nothing" if await world.rows() == 0 else None

    await wait_until(look, what="nothing to be left to wait for")


@pytest.mark.parametrize("gate", [{"approval": True}, {"signal": "never"}, {"wait": "1h"}])
async def test_a_gate_is_waited_for_no_longer_than_the_step_may_take(store: EventStore, gate: dict[str, Any]) -> None:
    world = ExecutionWorld(store, f"whole-{next(iter(gate))}")
    async with sagas_on(world):
        running = await world.run({"action": "do", "id": "a", "on_failure": "continue", **gate, **SHORT}, {"action": "do"})
        await running.ended()
        await nothing_left(world)
    assert (await running.lines())[2:] == ["failed a: timeout", "start do", "done do", "COMPLETED"]


async def test_a_child_is_stopped_when_its_step_has_run_out_of_time(store: EventStore) -> None:
    world = ExecutionWorld(store, "whole-child")
    await world.define("leaf", {"target": "t", "steps": [{"signal": "never", "id": "s"}]})
    async with sagas_on(world):
        parent = await world.run({"workflow": "leaf", "id": "w", "on_failure": "continue", "timeouts": {"total": "500ms"}})
        child = await child_of(parent, "w")
        await child.until_run("s", "waiting")
        await parent.ended()
        await child.ended("cancelled")
        await nothing_left(world)
    assert await parent.lines() == ["begin", "wait w: child", "failed w: timeout", "COMPLETED"]


async def test_a_child_whose_parent_is_cancelled_while_it_is_being_started_is_stopped(store: EventStore) -> None:
    world = ExecutionWorld(store, "orphan-child")
    await world.define("leaf", {"target": "t", "steps": [{"signal": "never", "id": "s"}]})
    parents: list[Running] = []

    async def may_start(tenant_id: TenantId, is_part: bool) -> bool:
        if is_part:  # the child is decided on and not in the log yet: the order to stop it finds nothing
            await wait_until(lambda: parents, what="the parent to be known")
            await parents[0].say(CancelExecution)
            await wait_until(stopped, what="the order to stop the child to have been given")
        return False

    async def stopped() -> bool:
        return (await parents[0].state()).status == "cancelled" and await world.rows() == 0

    world.shell = replace(world.shell, may_start=may_start)
    async with sagas_on(world):
        parents.append(await world.run({"workflow": "leaf", "id": "w"}))
        await parents[0].ended("cancelled")
        waiting = next(event for event in await parents[0].events() if isinstance(event, StepWaiting))
        child = Running(world, ExecutionId(waiting.detail["execution_id"]))
        await child.until_beginning()
        await child.ended("cancelled")
        await nothing_left(world)


async def child_of(running: Running, step: str) -> Running:
    """The execution that runs for a step."""
    await running.until_beginning()
    waiting = (await running.until_run(step, "waiting")).waiting
    assert waiting is not None
    child = Running(running.world, ExecutionId(waiting.detail["execution_id"]))
    await child.until_beginning()
    return child


async def test_a_fallback_has_what_is_left_of_the_time(store: EventStore) -> None:
    world = ExecutionWorld(store, "whole-fallback")

    async def answer(invocation: Invocation) -> Any:
        if invocation.action == "do":
            raise ModuleError("broken", "It broke.", retryable=False)
        async with asyncio.timeout(20):
            await asyncio.Event().wait()

    world.bench.answer = answer
    async with sagas_on(world):
        running = await world.run({"action": "do", "id": "a", "fallback": "slow", "timeouts": {"total": "300ms"}})
        assert ((await running.ended("failed")).error or {})["code"] == "timeout"
    assert await running.lines() == ["begin", "start a", "fall back a", "start a #2", "failed a: timeout", "FAILED by a"]


async def test_a_loop_with_failed_items_hands_on_the_good_results_and_what_went_wrong(store: EventStore) -> None:
    world = ExecutionWorld(store, "loop-results")

    async def answer(invocation: Invocation) -> Any:
        if invocation.step == "each[1]":
            raise ModuleError("broken", "It broke.", retryable=False)
        return invocation.parameters

    world.bench.answer = answer
    async with sagas_on(world):
        running = await world.run(
            {"action": "do", "id": "each", "foreach": ["x", "y", "z"], "on_failure": "continue", "name": "${{ item }}"},
            {"action": "do", "id": "use", "good": "${{ steps.each.result.filter(one, one != null).map(one, one.name) }}",
             "bad": "${{ steps.each.error.items.map(one, one.index) }}"},
        )  # fmt: skip
        state = await running.ended()
    assert state.runs[state.steps[1].id].result == {"good": ["x", "z"], "bad": [1]}


async def test_a_failed_item_ends_the_loop_though_others_wait_for_people_or_children(store: EventStore) -> None:
    world = ExecutionWorld(store, "loop-siblings")
    await world.define("leaf", {"target": "t", "steps": [{"signal": "go", "id": "s"}]})
    async with sagas_on(world):
        asked = await world.run({"action": "do", "id": "ask", "foreach": [1, 2, 3], "approval": True})
        await asked.until_run("ask[2]", "waiting")
        await asked.say(RejectStep, step="ask[1]", by="ann", roles=OPS)
        await asked.ended("failed")
        parent = await world.run({"workflow": "leaf", "id": "w", "foreach": [1, 2], "approval": True})
        await parent.until_run("w[1]", "waiting")
        await parent.say(ApproveStep, step="w[0]", by="ann", roles=OPS)
        child = await child_of_item(parent, "w[0]")
        await parent.say(RejectStep, step="w[1]", by="ann", roles=OPS)
        await child.ended("cancelled")
        await parent.ended("failed")
        await nothing_left(world)
        await parent.say(RetryExecution)
        for item in ("w[0]", "w[1]"):
            await parent.until_run(item, "waiting")
            await parent.say(ApproveStep, step=item, by="ann", roles=OPS)
            await (await child_of_item(parent, item)).say(SignalExecution, name="go", payload=item)
        await parent.ended()


async def child_of_item(parent: Running, item: str) -> Running:
    """The execution that runs for an item, once its approval is behind it."""

    def waits(state: Any) -> bool:
        run = state.runs.get(item)
        return run is not None and run.waiting is not None and run.waiting.reason == "child"

    state = await parent.until(waits, what=f"{item} to wait for its child")
    waiting = state.runs[item].waiting  # type: ignore[index]
    assert waiting is not None
    child = Running(parent.world, ExecutionId(waiting.detail["execution_id"]))
    await child.until_beginning()
    return child


async def test_a_wait_is_until_a_time_of_a_place(store: EventStore) -> None:
    world = ExecutionWorld(store, "zones")
    at = now() + timedelta(milliseconds=200)
    local = at.astimezone(ZoneInfo("Asia/Kathmandu")).replace(tzinfo=None).isoformat()
    async with sagas_on(world):
        written = {"wait": {"until": "${{ inputs.at }}", "zone": "Asia/Kathmandu"}, "id": "w"}
        running = await world.run(written, inputs={"at": local})
        state = await running.ended()
    assert state.completed_at is not None
    assert state.completed_at >= at
