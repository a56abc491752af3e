# intent_ref: tests.execution-patterns
"""docs/workflow-patterns.md: every example on the page is an intent that runs, and ends as the page says."""

import json
import re
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from commands.execution_commands import ApproveStep, CancelExecution, SignalExecution
from domain.execution import Execution
from domain.execution_events import ExecutionStarted, StepCompleted, StepStarted
from domain.values import ExecutionId
from event_store.store import EventStore
from tests.execution_world import ExecutionWorld, Running, sagas_on

PAGE = (Path(__file__).parents[2] / "docs" / "workflow-patterns.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, dict[str, Any]] = {
    body["name"]: body["definition"] for body in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}


async def _outcome(world: ExecutionWorld, name: str, inputs: dict[str, Any] | None = None) -> tuple[Running, dict[str, str]]:
    for each, definition in EXAMPLES.items():
        await world.define(each, definition)
    running = await world.start(name, inputs)
    state = await running.ended()
    return running, _statuses(state)


def _statuses(state: Execution) -> dict[str, str]:
    return {step.id: state.runs[step.id].status for step in state.steps}


async def _order(running: Running) -> list[str]:
    return [line for line in await running.lines() if line.startswith(("start", "done"))]


async def sequence(world: ExecutionWorld) -> None:
    running, _ = await _outcome(world, "sequence")
    assert await _order(running) == ["start build", "done build", "start push", "done push", "start deploy", "done deploy"]


async def parallel_split(world: ExecutionWorld) -> None:
    running, _ = await _outcome(world, "parallel-split")
    assert (await _order(running))[:4] == ["start build", "done build", "start unit", "start load"]


async def synchronization(world: ExecutionWorld) -> None:
    running, _ = await _outcome(world, "synchronization")
    order = await _order(running)
    assert order.index("start deploy") > max(order.index("done unit"), order.index("done load"))


async def exclusive_choice(world: ExecutionWorld) -> None:
    _, statuses = await _outcome(world, "exclusive-choice")
    assert (statuses["ship"], statuses["complain"]) == ("completed", "skipped")


async def simple_merge(world: ExecutionWorld) -> None:
    for urgent, taken in ((True, "fast"), (False, "thorough")):
        running, statuses = await _outcome(world, "simple-merge", {"urgent": urgent})
        assert statuses == {"fast": "skipped", "thorough": "skipped", taken: "completed", "deploy": "completed"}
        assert (await _order(running)).count("start deploy") == 1


async def multi_choice(world: ExecutionWorld) -> None:
    _, statuses = await _outcome(world, "multi-choice", {"by": ["mail", "call"]})
    assert statuses == {"mail": "completed", "chat": "skipped", "call": "completed"}


async def synchronizing_merge(world: ExecutionWorld) -> None:
    for by, told in ((["mail", "chat"], "completed"), (["chat"], "completed"), ([], "skipped")):
        _, statuses = await _outcome(world, "synchronizing-merge", {"by": by})
        assert statuses["told"] == told


async def instead_of_multi_merge(world: ExecutionWorld) -> None:
    running, statuses = await _outcome(world, "instead-of-multi-merge")
    assert set(statuses.values()) == {"completed"}
    assert len(await _children(running)) == 2


async def _children(running: Running) -> list[ExecutionId]:
    found = await running.world.store.read_log(0, topics={"execution.started.v1"}, limit=1_000)
    started = [event.event for event in found.events]
    return [
        event.execution_id for event in started
        if isinstance(event, ExecutionStarted) and event.options is not None and event.options.parent is not None
        and event.options.parent.execution_id == running.id
    ]  # fmt: skip


async def discriminator(world: ExecutionWorld) -> None:
    running, _ = await _outcome(world, "discriminator")
    lines = await running.lines()
    assert lines.index("start deploy") < lines.index("done far")
    assert lines.count("start deploy") == 1


async def again_while(world: ExecutionWorld) -> None:
    running, statuses = await _outcome(world, "again-while")
    assert statuses == {"work": "completed", "again": "completed"}
    (child,) = await _children(running)
    (grandchild,) = await _children(Running(world, child))
    last = await Running(world, grandchild).ended()
    assert last.inputs == {"left": 1}
    assert _statuses(last)["again"] == "skipped"


async def implicit_termination(world: ExecutionWorld) -> None:
    _, statuses = await _outcome(world, "implicit-termination")
    assert set(statuses.values()) == {"completed"}


async def instances_without_synchronization(world: ExecutionWorld) -> None:
    running, statuses = await _outcome(world, "instances-without-synchronization")
    assert set(statuses.values()) == {"completed"}
    order = await _order(running)
    assert order.index("start deploy") < order.index("done tell")


async def instances_known_at_design_time(world: ExecutionWorld) -> None:
    running, _ = await _outcome(world, "instances-known-at-design-time")
    assert (await running.state()).result == {"where": ["eu", "us", "ap"]}
    under_way = 0
    for event in await running.events():
        under_way += isinstance(event, StepStarted) and event.step.startswith("deploy[")
        under_way -= isinstance(event, StepCompleted) and event.step.startswith("deploy[")
        assert under_way <= 2


async def instances_known_at_run_time(world: ExecutionWorld) -> None:
    running, _ = await _outcome(world, "instances-known-at-run-time", {"regions": ["eu", "us"]})
    results = (await running.state()).runs[(await running.state()).steps[0].id].result
    assert [result["namespace"] for result in results] == ["eu", "us"]


async def deferred_choice(world: ExecutionWorld) -> None:
    await world.define("deferred-choice", EXAMPLES["deferred-choice"])
    for said, taken, other in (("yes", "accept", "decline"), ("no", "decline", "accept")):
        running = await world.start("deferred-choice")
        await running.until_run("answer", "waiting")
        await running.say(SignalExecution, name="answer", payload=said)
        statuses = _statuses(await running.ended())
        assert (statuses[taken], statuses[other]) == ("completed", "skipped")


async def interleaved_parallel_routing(world: ExecutionWorld) -> None:
    running, statuses = await _outcome(world, "interleaved-parallel-routing")
    assert set(statuses.values()) == {"completed"}
    done = [event for event in await running.events() if isinstance(event, StepCompleted)]
    assert done[-1].step == "report"
    moments = sorted(event.at for event in done[:-1])
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]
    assert all(gap >= 0.04 for gap in gaps), "two were under way at once"


async def while_it_lasts(world: ExecutionWorld) -> None:
    await world.define("while-it-lasts", EXAMPLES["while-it-lasts"])
    in_time, late = await world.start("while-it-lasts"), await world.start("while-it-lasts")
    await in_time.say(SignalExecution, name="amendment")
    assert _statuses(await in_time.ended())["amend"] == "completed"
    assert _statuses(await late.ended())["amend"] == "skipped"


async def cancel_activity(world: ExecutionWorld) -> None:
    for name in ("inquiry", "cancel-activity"):
        await world.define(name, EXAMPLES[name])
    running = await world.start("cancel-activity")
    waiting = (await running.until_run("inquire", "waiting")).waiting
    assert waiting is not None
    child = Running(world, ExecutionId(waiting.detail["execution_id"]))

    await child.until_beginning()
    await child.say(CancelExecution, reason="no longer wanted")
    state = await running.ended()
    assert _statuses(state) == {"inquire": "failed", "go-on": "completed"}
    error = state.runs[state.steps[0].id].error
    assert error is not None
    assert error["code"] == "workflow-cancelled"


async def cancel_case(world: ExecutionWorld) -> None:
    await world.define("cancel-case", EXAMPLES["cancel-case"])
    running, approved = await world.start("cancel-case"), await world.start("cancel-case")
    await running.until_run("go-live", "waiting")
    await running.say(CancelExecution, reason=None)
    state = await running.ended("cancelled")
    assert [line for line in await running.lines() if line.startswith(("undo", "CANCELLED"))] == [
        "undo deploy server", "undone ~deploy", "undone ~server", "CANCELLED",
    ]  # fmt: skip
    assert _statuses(state) == {
        "server": "compensated", "deploy": "compensated", "go-live": "cancelled", "announce": "cancelled",
    }  # fmt: skip
    await approved.until_run("go-live", "waiting")
    await approved.say(ApproveStep, step="go-live", by="ann", roles=frozenset({"operator"}))
    await approved.ended()


PARTS_OF_OTHERS = {"close-case", "inquiry"}
STORIES: dict[str, Callable[[ExecutionWorld], Awaitable[None]]] = {
    story.__name__.replace("_", "-"): story
    for story in (
        sequence, parallel_split, synchronization, exclusive_choice, simple_merge, multi_choice, synchronizing_merge,
        instead_of_multi_merge, discriminator, again_while, implicit_termination, instances_without_synchronization,
        instances_known_at_design_time, instances_known_at_run_time, deferred_choice, interleaved_parallel_routing,
        while_it_lasts, cancel_activity, cancel_case,
    )
}  # fmt: skip


def test_every_example_of_the_page_has_its_story_and_every_pattern_its_place() -> None:
    assert set(EXAMPLES) == set(STORIES) | PARTS_OF_OTHERS
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", PAGE, re.MULTILINE)]
    rows = [int(number) for number in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)]
    assert numbers == rows == list(range(1, 21))


@pytest.mark.parametrize("name", list(STORIES))
async def test_an_example_of_the_page_ends_as_it_says(store: EventStore, name: str) -> None:
    world = ExecutionWorld(store, f"page-{name}")
    async with sagas_on(world):
        await STORIES[name](world)
