# intent_ref: tests.artifacts
"""What decisions make that is too large for the log: results of loops, outputs, inputs of children. Events have a bound."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from commands.execution import decided
from commands.execution_commands import CompleteStep, ExpireStep, StartExecution
from commands.execution_start import begun, fitting_inputs, startable
from commands.expressions import ExpressionFailed, evaluate
from commands.kept_values import DECISION_BYTES_MAX, SMALL_BYTES_MAX, VALUE_BYTES_MAX, Kept, NotKept, Room, with_kept
from commands.progress import Turn
from commands.recorded_events import EVENT_BYTES_MAX, new_event
from domain.execution import Execution
from domain.execution_events import ExecutionCompleted, ExecutionFailing, SignalReceived, StepCompleted, StepFailed, StepWaiting
from domain.refusals import EventTooLarge
from domain.values import StepId, TenantId
from event_store import codec
from modules.artifacts.claim_check import checked_out, claims_in
from modules.artifacts.inputs import InputArtifacts
from modules.artifacts.store import JSON, Artifact, ArtifactLimits
from modules.contract import ModuleError
from tests.unit.execution_play import ACTIONS, intent_of
from tests.unit.samples import AT, EXECUTION, INTENT, RULES, after
from tests.unit.test_kept_inputs import Kept as Artifacts

TENANT = TenantId("tenant-123")
LARGE = {"rows": ["größe" * 40_000]}
"""A value too large for the log; of a definition, whose texts are small, it takes several."""
PARTS = {f"part{number}": "x" * 60_000 for number in range(6)}


class World:
    """An execution that is decided on as the shell does, with artifacts in a dictionary."""

    def __init__(self, artifacts: Artifacts | None = None) -> None:
        self.artifacts = artifacts
        self.store = None if artifacts is None else InputArtifacts(artifacts)
        self.turn: Turn

    async def _decide(self, decide: Callable[[Room], Turn]) -> list[Any]:
        room = Room()
        turn = decide(room)
        self.turn = await with_kept(self.store, TENANT, room, decide) if room.unkept else turn
        for event in self.turn.events:
            assert len(new_event(event).payload) <= EVENT_BYTES_MAX
        return self.turn.events

    async def start(self, *steps: Any, inputs: dict[str, Any] | None = None, **definition: Any) -> list[Any]:
        command = StartExecution(execution_id=EXECUTION, intent_id=INTENT, at=AT, tenant_id=TENANT, inputs=inputs or {})
        start = startable(intent_of({"target": "t", "steps": list(steps), **definition}), command, ACTIONS, RULES)
        given = fitting_inputs(start, command.inputs)
        return await self._decide(lambda room: begun(start, command, given, room))

    async def complete(self, step: str, result: Any) -> list[Any]:
        command = CompleteStep(execution_id=EXECUTION, step=StepId(step), attempt=1, result=result, at=after(1))
        state = self.turn.state
        return await self._decide(lambda room: decided(state, command, room))

    @property
    def state(self) -> Execution:
        return self.turn.state


def loop(count: int, **more: Any) -> dict[str, Any]:
    return {"action": "a", "foreach": {"items": list(range(count)), "concurrency": 1_000}, **more}


async def looped(world: World, results: list[Any], *after_it: Any, **more: Any) -> list[Any]:
    """What the last answer of a loop leads to."""
    await world.start(loop(len(results), **more), *after_it)
    events: list[Any] = []
    for number, result in enumerate(results):
        events = await world.complete(f"a[{number}]", result)
    return events


def size(value: Any) -> int:
    return len(orjson.dumps(value))


async def test_the_results_of_a_loop_that_are_large_together_leave_claims_and_the_small_ones_can_be_seen():
    world = World(Artifacts())
    results = [{"n": 1}, "x" * 200_000, "y" * 150_000, {"n": 4}]
    events = await looped(world, results, {"action": "b", "when": "steps.a.result[3].n == 4 && size(steps.a.result) == 4"})
    (_, whole, started) = events
    assert (whole.step, started.step) == ("a", "b")
    assert (whole.result[0], whole.result[3], set(whole.result[1])) == ({"n": 1}, {"n": 4}, {"$artifact"})
    assert size(whole.result) <= VALUE_BYTES_MAX
    assert await checked_out(world.artifacts, TENANT, whole.result) == results
    assert evaluate("${{ steps.a.result }}", {"steps": {"a": {"result": whole.result}}}) == whole.result


async def test_many_results_that_are_large_together_leave_one_claim_without_claims_inside():
    world = World(Artifacts())
    large = await InputArtifacts(world.artifacts).kept(TENANT, LARGE, SMALL_BYTES_MAX)
    results = [large, *["x" * 4_000 for _ in range(100)]]
    (*_, ended) = await looped(world, results)
    assert isinstance(ended, ExecutionCompleted)
    claim = world.state.runs[StepId("a")].result
    assert len(claims_in(claim)) == 1
    assert await checked_out(world.artifacts, TENANT, claim) == [LARGE, *results[1:]]


async def test_a_loop_whose_results_find_no_place_fails_with_the_reason_and_nothing_is_stored():
    small_tenant, small_artifact = ArtifactLimits(tenant_bytes_max=100_000), ArtifactLimits(artifact_bytes_max=100_000)
    for limits, code in ((small_tenant, "artifact-quota"), (small_artifact, "artifact-too-large")):
        world = World(Artifacts(limits))
        events = await looped(world, ["x" * 200_000] * 2)
        (failed,) = [event for event in events if isinstance(event, StepFailed)]
        assert (failed.step, failed.error["code"], failed.result) == ("a", code, None)
        assert world.state.status == "failed"
        assert world.artifacts.by_place == {}


async def test_what_nobody_could_be_handed_is_refused_before_it_is_looked_through():
    world = World(Artifacts())
    events = await looped(world, ["x" * 250_000] * 300)
    (failed,) = [event for event in events if isinstance(event, StepFailed)]
    assert (failed.error["code"], world.artifacts.puts) == ("artifact-too-large", 0)


async def test_without_a_store_a_loop_says_that_its_results_are_too_large():
    world = World()
    events = await looped(world, ["x" * 200_000] * 2, on_failure="continue")
    (failed,) = [event for event in events if isinstance(event, StepFailed)]
    assert (failed.error["code"], world.state.status) == ("artifact-too-large", "completed")


async def test_a_failure_that_is_lived_with_keeps_what_the_others_have_come_to_or_says_why_not():
    broken = {"wait": {"for": "${{ item == 2 ? 'never' : '0s' }}"}, "on_failure": "continue"}
    for artifacts, left_out in ((Artifacts(), None), (Artifacts(ArtifactLimits(tenant_bytes_max=9)), "artifact-quota")):
        world = World(artifacts)
        await world.start(loop(3, **broken), {"action": "b"})
        for number in range(2):  # the waits are over
            command = ExpireStep(execution_id=EXECUTION, step=StepId(f"a[{number}]"), gate=0, at=after(1))
            world.turn = decided(world.state, command)
        await world.complete("a[0]", "x" * 200_000)
        events = await world.complete("a[1]", "y" * 200_000)
        (failed,) = [event for event in events if isinstance(event, StepFailed)]
        assert failed.error["code"] == "items-failed"
        if left_out is None:
            assert await checked_out(artifacts, TENANT, failed.result) == ["x" * 200_000, "y" * 200_000, None]
            assert "result_left_out" not in failed.error
        else:
            assert (failed.result, failed.error["result_left_out"]["code"]) == (None, left_out)


async def test_outputs_without_expressions_may_be_large_and_those_with_are_bounded():
    world = World(Artifacts())
    await world.start({"action": "a"}, outputs=PARTS)
    (_, ended) = await world.complete("a", None)
    assert size(ended.result) <= VALUE_BYTES_MAX
    assert await checked_out(world.artifacts, TENANT, ended.result) == PARTS
    world = World(Artifacts())
    await world.start({"action": "a"}, outputs={"one": "${{ steps.a.result }}", "two": "${{ steps.a.result }}"})
    events = await world.complete("a", "x" * 200_000)
    (failing,) = [event for event in events if isinstance(event, ExecutionFailing)]
    assert failing.error["code"] == "expression-failed"
    assert "of at most 262,144" in failing.error["message"]
    assert world.artifacts.puts == 0


async def test_outputs_that_find_no_place_fail_the_execution_with_the_reason():
    world = World(Artifacts(ArtifactLimits(tenant_bytes_max=1_000)))
    await world.start({"action": "a"}, outputs=PARTS)
    await world.complete("a", None)
    assert (world.state.status, world.state.error["code"] if world.state.error else None) == ("failed", "artifact-quota")


async def test_a_child_is_told_its_large_inputs_by_claim_and_the_step_fails_where_they_find_no_place():
    step = {"id": "part", "workflow": {"name": "inner", "inputs": {**PARTS, "n": 1}}}
    world = World(Artifacts())
    (_, waiting) = await world.start(step)
    assert isinstance(waiting, StepWaiting)
    assert size(waiting.detail["inputs"]) <= VALUE_BYTES_MAX
    assert waiting.detail["inputs"]["n"] == 1
    assert await checked_out(world.artifacts, TENANT, waiting.detail["inputs"]) == {**PARTS, "n": 1}
    world = World(Artifacts(ArtifactLimits(tenant_bytes_max=1_000)))
    await world.start(step)
    assert (world.state.status, world.state.runs[StepId("part")].error["code"]) == ("failed", "artifact-quota")  # type: ignore[index]
    both = {"one": "${{ steps.a.result }}", "two": "${{ steps.a.result }}"}
    world = World(Artifacts())
    await world.start({"action": "a"}, {"id": "part", "workflow": {"name": "inner", "inputs": both}})
    await world.complete("a", "x" * 200_000)
    assert world.state.runs[StepId("part")].error["code"] == "expression-failed"  # type: ignore[index]


async def test_what_begins_at_once_stays_within_one_append_however_many_they_are():
    world = World(Artifacts())
    parts = [
        {"id": f"p{number}", "workflow": {"name": "inner", "inputs": {"big": "${{ steps.a.result }}", "n": number}}}
        for number in range(300)
    ]
    await world.start({"action": "a"}, *[{**part, "depends_on": ["a"]} for part in parts])
    events = await world.complete("a", "x" * 200_000)
    assert len(events) == 301
    total = sum(len(codec.encode(event)[1]) for event in events)
    assert total < DECISION_BYTES_MAX + 300 * (SMALL_BYTES_MAX + 1_000)
    for event in events[1:]:
        inputs = await checked_out(world.artifacts, TENANT, event.detail["inputs"])
        assert inputs == {"big": "x" * 200_000, "n": int(event.step[1:])}
    assert len(world.artifacts.by_place) == 1


async def test_loops_and_messages_that_have_no_claim_fail_where_a_decision_has_no_room_left():
    world = World(Artifacts())
    loops = [{"id": f"l{number}", "action": "b", "foreach": "${{ steps.a.result }}", "depends_on": ["a"]} for number in range(80)]
    asks = [{"id": f"q{number}", "approval": {"message": "${{ steps.c.result }}"}, "depends_on": ["c"]} for number in range(80)]
    steps = [{**step, "on_failure": "continue"} for step in (*loops, *asks)]
    await world.start({"action": "a"}, {"action": "c", "depends_on": []}, *steps)
    for events in (await world.complete("a", ["x" * 250_000] * 1), await world.complete("c", "m" * 250_000)):
        failed = [event.error for event in events if isinstance(event, StepFailed)]
        assert failed
        assert all("Let less begin at once" in error["message"] for error in failed)
        assert sum(len(codec.encode(event)[1]) for event in events) < 2 * DECISION_BYTES_MAX
    begun_loops = [run for step, run in world.state.runs.items() if step.startswith("l") and run.items]
    assert len(begun_loops) > 10


async def test_a_store_that_is_away_decides_nothing_and_the_same_goes_well_later():
    class Away(Artifacts):
        is_away = True

        async def put(self, tenant_id: str, data: bytes, content_type: str = JSON) -> Artifact:
            if self.is_away:
                raise ModuleError("artifact-unavailable", "It does not answer.")
            return await super().put(tenant_id, data, content_type)

    away = Away()
    world = World(away)
    with pytest.raises(ModuleError):
        await looped(world, ["x" * 200_000] * 2)
    away.is_away = False
    await world.complete("a[1]", "x" * 200_000)
    assert world.state.status == "completed"


def test_a_value_has_a_name_of_its_own_and_what_is_kept_takes_its_place():
    room = Room({"known": Kept({"$artifact": {}}), "gone": Kept(error={"code": "c", "message": "m"})})
    assert room.value("known", "x" * 300_000) == {"$artifact": {}}
    with pytest.raises(NotKept):
        room.value("gone", "x")
    assert room.value("new", "x" * 300_000) is None
    assert set(room.unkept) == {"new"}
    with pytest.raises(ExpressionFailed):
        room.whole("/p", ["x" * 1_000_000] * 17)


def test_an_event_that_is_larger_than_any_may_be_is_refused_before_it_is_written():
    with pytest.raises(EventTooLarge) as raised:
        new_event(SignalReceived(EXECUTION, "s", "x" * EVENT_BYTES_MAX, AT))
    assert (raised.value.limit, raised.value.topic) == (EVENT_BYTES_MAX, "execution.signal_received.v1")
    assert new_event(StepCompleted(EXECUTION, StepId("a"), 1, "x" * VALUE_BYTES_MAX, AT)).payload
