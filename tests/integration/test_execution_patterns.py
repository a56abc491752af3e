# intent_ref: tests.execution-patterns
"""Patterns of control flow carried out on a real log by real sagas: gates, children, failures, undoing, and what people ask."""

import asyncio
from typing import Any

import pytest

from commands.execution_commands import (
    ApproveStep,
    CancelExecution,
    PauseExecution,
    RejectStep,
    RerunExecution,
    ResumeExecution,
    RetryExecution,
    SignalExecution,
    TerminateExecution,
)
from commands.handle import KEY_SCOPE
from domain.refusals import ExecutionExists
from domain.values import ExecutionId
from event_store.store import EventStore
from modules.contract import Invocation, ModuleError
from tests.execution_world import ExecutionWorld, Running, sagas_on
from tests.waiting import wait_until

OPS = frozenset({"operator"})


class Blocked:
    """An answer that comes when the test lets it."""

    def __init__(self, world: ExecutionWorld) -> None:
        self.go_on = asyncio.Event()
        world.bench.answer = self.answer

    async def answer(self, invocation: Invocation) -> Any:
        if invocation.action == "slow":
            await self.go_on.wait()
        return invocation.parameters


def failing(world: ExecutionWorld, *steps: str, code: str = "broken") -> list[str]:
    """Lets attempts of these runs fail, for as long as they are in the list."""
    left = list(steps)

    async def answer(invocation: Invocation) -> Any:
        if invocation.step in left:
            raise ModuleError(code, "It broke.")
        return invocation.parameters

    world.bench.answer = answer
    return left


# --- gates


async def test_a_wait_an_approval_and_a_signal_are_passed_one_after_the_other(store: EventStore) -> None:
    world = ExecutionWorld(store, "gates")
    async with sagas_on(world):
        running = await world.run({"action": "do", "wait": "50ms", "approval": {"roles": ["operator"]}, "signal": "go"})
        await running.until(lambda state: "approval" in str(state.runs), what="the approval to be asked for")
        await running.say(ApproveStep, step="do", by="ann", roles=OPS)
        await running.say(SignalExecution, name="go", payload=1)
        await running.ended()
    assert await running.lines() == [
        "begin", "wait do: timer", "wait do: approval", "approved do", "wait do: signal", "signal go", "start do", "done do",
        "COMPLETED",
    ]  # fmt: skip


async def test_a_signal_that_came_early_is_there_when_it_is_asked_for(store: EventStore) -> None:
    world = ExecutionWorld(store, "early")
    blocked = Blocked(world)
    async with sagas_on(world):
        use = {"action": "do", "n": "${{ steps.paid.result }}"}
        running = await world.run({"action": "slow"}, {"signal": "paid", "id": "paid"}, use)
        await running.say(SignalExecution, name="paid", payload=5)
        blocked.go_on.set()
        assert (await running.ended()).runs[(await running.state()).steps[2].id].result == {"n": 5}


@pytest.mark.parametrize(
    ("on_expiry", "status", "run"),
    [("approve", "completed", "completed"), ("skip", "completed", "skipped"), ("fail", "failed", "failed")],
)
async def test_an_approval_that_nobody_gives_runs_out(store: EventStore, on_expiry: str, status: str, run: str) -> None:
    world = ExecutionWorld(store, f"expiry-{on_expiry}")
    async with sagas_on(world):
        running = await world.run({"action": "do", "approval": {"expires_in": "50ms", "on_expiry": on_expiry}})
        state = await running.ended(status)
    assert state.runs[state.steps[0].id].status == run


async def test_a_refused_approval_fails_what_asked_for_it(store: EventStore) -> None:
    world = ExecutionWorld(store, "refused")
    async with sagas_on(world):
        running = await world.run({"action": "do", "approval": True})
        await running.say(RejectStep, step="do", by="ann", roles=OPS, comment="no")
        await running.ended("failed")
    assert world.bench.asked == []


# --- loops and data


async def test_items_inputs_results_and_outputs_flow(store: EventStore) -> None:
    world = ExecutionWorld(store, "flow")
    async with sagas_on(world):
        running = await world.run(
            {"action": "do", "id": "list", "hosts": "${{ inputs.hosts }}"},
            {"action": "do", "id": "each", "foreach": {"items": "${{ steps.list.result.hosts }}", "concurrency": 2},
             "host": "${{ item }}", "number": "${{ index }}"},
            inputs={"hosts": ["x", "y", "z"]}, outputs={"last": "${{ steps.each.result[2].host }}"},
        )  # fmt: skip
        state = await running.ended()
    assert state.result == {"last": "z"}
    assert [result["number"] for result in state.runs[state.steps[1].id].result] == [0, 1, 2]


async def test_only_the_items_that_failed_are_done_again_by_a_retry(store: EventStore) -> None:
    world = ExecutionWorld(store, "items-again")
    left = failing(world, "do[1]")
    async with sagas_on(world):
        running = await world.run({"action": "do", "foreach": {"items": [1, 2, 3], "concurrency": 1}})
        await running.ended("failed")
        left.clear()
        await running.say(RetryExecution)
        await running.ended()
    assert world.bench.steps_asked() == ["do[0]", "do[1]", "do[1]", "do[2]"]


# --- children


async def test_children_give_their_outputs_and_their_failures_to_their_parents(store: EventStore) -> None:
    world = ExecutionWorld(store, "children")
    await world.define("child", {
        "target": "t", "inputs": {"properties": {"n": {"type": "integer"}}},
        "steps": [{"action": "do", "id": "half", "n": "${{ inputs.n }}"}], "outputs": {"n": "${{ steps.half.result.n }}"},
    })  # fmt: skip
    async with sagas_on(world):
        running = await world.run(
            {"workflow": {"name": "child@1", "inputs": {"n": "${{ item }}"}}, "id": "all", "foreach": [1, 2, 3]},
            {"action": "do", "id": "sum", "n": "${{ steps.all.result.map(one, one.n) }}"},
        )
        state = await running.ended()
        assert state.runs[state.steps[1].id].result == {"n": [1, 2, 3]}
        wrong = await world.run({"workflow": {"name": "child", "inputs": {"n": "x"}}, "id": "w"})
        unknown = await world.run({"workflow": "nowhere", "id": "w", "fallback": {"action": "do", "n": 7}})
        assert ((await wrong.ended("failed")).error or {})["code"] == "validation-failed"
        assert (await unknown.ended()).runs[(await unknown.state()).steps[0].id].result == {"n": 7}


async def test_a_child_that_starts_itself_for_ever_ends_at_the_tenth(store: EventStore) -> None:
    world = ExecutionWorld(store, "endless")
    await world.define("endless", {"target": "t", "steps": [{"workflow": "endless", "id": "again"}]})
    async with sagas_on(world):
        running = await world.start("endless")
        error = (await running.ended("failed", 40)).error
    depth = 0
    while error is not None and "cause" in error:
        error, depth = error["cause"], depth + 1
    assert error is not None
    assert (depth, error["code"]) == (10, "intent-not-executable")


@pytest.mark.parametrize(("how", "ends"), [(CancelExecution, "cancelled"), (TerminateExecution, "terminated")])
async def test_children_and_their_children_end_with_the_parent(store: EventStore, how: Any, ends: str) -> None:
    world = ExecutionWorld(store, f"family-{ends}")
    await world.define("leaf", {"target": "t", "steps": [{"signal": "never", "id": "s"}]})
    await world.define("branch", {"target": "t", "steps": [{"workflow": "leaf", "id": "leaf"}]})
    async with sagas_on(world):
        root = await world.run({"workflow": "branch", "id": "branch"})
        branch = await _child(root, "branch")
        leaf = await _child(branch, "leaf")
        await leaf.until_run("s", "waiting")
        await root.say(how, reason=None)
        for one in (root, branch, leaf):
            await one.ended(ends)
        await wait_until(lambda: _none(world), what="nothing to be left to wait for")


async def _child(running: Running, step: str) -> Running:
    await running.until_beginning()
    waiting = (await running.until_run(step, "waiting")).waiting
    assert waiting is not None
    child = Running(running.world, ExecutionId(waiting.detail["execution_id"]))
    await child.until_beginning()
    return child


async def _none(world: ExecutionWorld) -> bool:
    return await world.rows() == 0


# --- failures


async def test_attempts_then_the_fallback_then_going_on_without(store: EventStore) -> None:
    world = ExecutionWorld(store, "failures")
    failing(world, "a", "b")
    async with sagas_on(world):
        running = await world.run(
            {
                "action": "do",
                "id": "a",
                "retry": {"max_attempts": 2, "initial_interval": "20ms"},
                "fallback": {"action": "no-op"},
            },
            {"action": "do", "id": "b", "on_failure": "continue"},
            {"action": "do", "id": "c", "when": "steps.b.error.code == 'broken'"},
        )
        await running.ended()
    assert await running.lines() == [
        "begin", "start a", "again a #2 in 0.02", "fall back a", "start a #3", "done a", "start b", "failed b: broken", "start c",
        "done c", "COMPLETED",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"timeout": 0.1}, "timeout"),
        ({"timeouts": {"attempt": "100ms"}}, "timeout"),
        ({"timeouts": {"total": "100ms"}}, "timeout"),
    ],
)
async def test_a_call_without_an_answer_runs_out_of_time(store: EventStore, limit: dict[str, Any], code: str) -> None:
    world = ExecutionWorld(store, f"late-{len(str(limit))}")
    Blocked(world)
    async with sagas_on(world):
        running = await world.run({"action": "slow", **limit})
        assert ((await running.ended("failed")).error or {})["code"] == code


async def test_an_execution_runs_out_of_time_and_its_calls_are_given_up(store: EventStore) -> None:
    world = ExecutionWorld(store, "deadline")
    Blocked(world)
    async with sagas_on(world) as (saga,):
        running = await world.run({"action": "slow"}, timeout="150ms")
        await running.ended("failed")
        await wait_until(lambda: saga.running == 0, what="the call to be given up")


# --- undoing


async def test_what_completed_is_undone_in_reverse_order_items_too_and_what_was_made_is_released(store: EventStore) -> None:
    world = ExecutionWorld(store, "undoing")
    failing(world, "bad")
    undo = {"compensate": {"action": "undo", "of": "${{ steps.vm.result.resources[0].id }}"}}
    async with sagas_on(world):
        running = await world.run(
            {"action": "do", "id": "vm", "resources": [{"type": "vm", "id": "i-1"}], **undo},
            {"action": "do", "id": "each", "foreach": {"items": ["x", "y"], "concurrency": 1},
             "compensate": {"action": "undo", "of": "${{ item }}"}},
            {"action": "do", "id": "bad"},
        )  # fmt: skip
        state = await running.ended("failed")
    assert [(one.step, one.parameters["of"]) for one in world.bench.asked if one.action == "undo"] == [
        ("~each[1]", "y"), ("~each[0]", "x"), ("~vm", "i-1"),
    ]  # fmt: skip
    assert state.resources == {}
    assert (await running.lines())[-3:] == ["undone ~vm", "released vm/i-1", "FAILED by bad"]


async def test_cancelling_waits_for_the_call_that_runs_and_undoes_it(store: EventStore) -> None:
    world = ExecutionWorld(store, "cancel-undo")
    blocked = Blocked(world)
    async with sagas_on(world):
        running = await world.run({"action": "slow", "compensate": "undo"}, {"action": "do"})
        await wait_until(lambda: world.bench.asked, what="the call")
        await running.say(CancelExecution, reason="enough")
        blocked.go_on.set()
        await running.ended("cancelled")
    assert world.bench.steps_asked() == ["slow", "~slow"]


async def test_an_undoing_that_fails_for_good_is_told_and_the_others_are_made(store: EventStore) -> None:
    world = ExecutionWorld(store, "not-undone")
    failing(world, "~b", "c")
    undo_twice = {"action": "undo", "retry": {"max_attempts": 2, "initial_interval": "10ms"}}
    async with sagas_on(world):
        running = await world.run(
            {"action": "do", "id": "a", "compensate": "undo"},
            {"action": "do", "id": "b", "compensate": undo_twice},
            {"action": "do", "id": "c"},
        )
        state = await running.ended("failed")
    assert state.not_undone == ("b",)
    assert world.bench.steps_asked() == ["a", "b", "c", "~b", "~b", "~a"]


# --- what people ask


async def test_an_approval_during_a_pause_begins_nothing_until_the_pause_is_over(store: EventStore) -> None:
    world = ExecutionWorld(store, "paused")
    async with sagas_on(world):
        running = await world.run({"action": "do", "approval": True})
        await running.say(PauseExecution)
        await running.say(ApproveStep, step="do", by="ann", roles=OPS)
        assert (await running.state()).status == "paused"
        assert world.bench.asked == []
        await running.say(ResumeExecution)
        await running.ended()


async def test_a_timer_that_is_due_during_a_pause_begins_nothing_until_the_pause_is_over(store: EventStore) -> None:
    world = ExecutionWorld(store, "paused-timer")
    async with sagas_on(world):
        running = await world.run({"action": "do", "wait": "50ms"})
        await running.say(PauseExecution)
        await running.until(lambda state: "resume" in str(state.runs), what="the timer")
        await running.say(ResumeExecution)
        await running.ended()


async def test_a_rerun_keeps_what_does_not_depend_on_it(store: EventStore) -> None:
    world = ExecutionWorld(store, "rerun")
    async with sagas_on(world):
        running = await world.run(
            {"action": "do", "id": "a"}, {"action": "do", "id": "b"}, {"action": "do", "id": "c", "depends_on": ["a"]},
        )  # fmt: skip
        await running.ended()
        await running.say(RerunExecution, step="b")
        await running.ended()
    assert sorted(world.bench.steps_asked()) == ["a", "b", "b", "c"]


async def test_a_business_key_is_held_by_one_execution_at_a_time(store: EventStore) -> None:
    world = ExecutionWorld(store, "keys")
    blocked = Blocked(world)
    definition = {"target": "t", "steps": [{"action": "slow", "when": "!has(inputs.skip)"}]}
    intent_id = await world.define("keyed", definition)
    async with sagas_on(world):
        first = await world.start("keyed", business_key="order-7")
        for inputs in ({}, {"skip": True}):
            with pytest.raises(ExecutionExists) as refused:
                await world.start("keyed", inputs, business_key="order-7")
            assert refused.value.execution_id == first.id
        await world.start("keyed", business_key="order-8")
        await world.define("other", definition)
        await world.start("other", business_key="order-7")
        blocked.go_on.set()
        await first.ended()
        assert await store.claim_holder(world.tenant, KEY_SCOPE, f"{intent_id}/order-7") is None
        await (await world.start("keyed", {"skip": True}, business_key="order-7")).ended()
        await (await world.start("keyed", business_key="order-7")).ended()


async def test_a_retried_execution_takes_its_key_back_or_is_refused(store: EventStore) -> None:
    world = ExecutionWorld(store, "keys-again")
    left = failing(world, "do")
    await world.define("keyed", {"target": "t", "steps": [{"action": "do"}, {"signal": "go", "id": "go"}]})
    async with sagas_on(world):
        first = await world.start("keyed", business_key="k")
        await first.ended("failed")
        left.clear()
        second = await world.start("keyed", business_key="k")
        with pytest.raises(ExecutionExists):
            await first.say(RetryExecution)
        await second.say(SignalExecution, name="go")
        await second.ended()
        await first.say(RetryExecution)
        with pytest.raises(ExecutionExists):
            await world.start("keyed", business_key="k")
        await first.say(SignalExecution, name="go")
        await first.ended()
