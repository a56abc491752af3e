# intent_ref: tests.execution-core
"""Any plan, any fate, any order of what comes from outside, twice or late, with restarts in between: one right end."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from domain.execution import ENDED
from domain.execution_events import (
    CompensationFailed,
    CompensationStarted,
    ExecutionFailed,
    StepCompensated,
    StepCompleted,
    StepFailed,
    StepSkipped,
)
from domain.refusals import Refusal
from tests.unit.execution_fates import TOTAL, Stimulus, Story, asked_by, outcome_of_run, outcomes, stories
from tests.unit.execution_play import Play, again, told

COUNTED = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


class World:
    """A play, what still comes to it from outside, and what has come already."""

    def __init__(self, story: Story, **more: Any) -> None:
        self.story = story
        self.play = Play(*story.steps, **more)
        self.to_come: list[Stimulus] = []
        self.been: list[Stimulus] = []
        self._heard()

    def deliver(self, stimulus: Stimulus, *, again: bool = False) -> bool:
        """Whether it was taken; what comes a second time is refused, and changes nothing."""
        if not again:
            self.to_come.remove(stimulus)
            self.been.append(stimulus)
        return self.say(lambda: stimulus.arrive(self.play, self.story))

    def say(self, command: Callable[[], Any]) -> bool:
        """Whether the command was obeyed."""
        before = self.play.state
        try:
            command()
        except Refusal:
            assert self.play.state is before
            return False
        self._heard()
        return True

    def restart(self) -> None:
        """The process is gone, and another reads the execution from the log."""
        assert again(self.play) == self.play.state
        self.play._state = again(self.play)

    def finish(self, data: st.DataObject | None = None) -> None:
        """Everything still to come comes, whatever more it brings about."""
        for _ in range(2_000):
            if self.play.status in ENDED:
                return
            if self.play.status == "paused":
                self.play.resume()
                self._heard()
                continue
            assert self.to_come, "nothing more would ever come to this execution"
            self.deliver(self.to_come[0] if data is None else data.draw(st.sampled_from(self.to_come)))
        raise AssertionError("it does not come to an end")

    def _heard(self) -> None:
        self.to_come += asked_by(self.play.last, self.play)
        self.play.last = []


@settings(COUNTED, max_examples=150)
@given(stories(), st.data())
def test_every_execution_comes_to_the_one_right_end_whatever_the_order(story: Story, data: st.DataObject) -> None:
    world = World(story)
    moves = st.sampled_from(["come"] * 6 + ["twice", "restart", "pause", "resume"])
    for _ in range(data.draw(st.integers(0, 25), label="moves")):
        match data.draw(moves):
            case "come" if world.to_come:
                world.deliver(data.draw(st.sampled_from(world.to_come)))
            case "twice" if repeatable := [one for one in world.been if one.kind != "signal"]:
                assert not world.deliver(data.draw(st.sampled_from(repeatable)), again=True), "an answer is taken twice"
            case "restart":
                world.restart()
            case "pause" | "resume" as word if world.play.status in ("running", "paused"):
                world.say(getattr(world.play, word))
            case _:
                pass
    world.finish(data)
    note([told(event) for event in world.play.events].__repr__())
    check_end(world.play, story)
    world.restart()


def check_end(play: Play, story: Story) -> None:
    """Holds the end against the model's."""
    expected = outcomes(story)
    note(expected.__repr__())
    fatal = {name for name, outcome in expected.items() if outcome == "fatal"}
    if not fatal:
        assert play.status == "completed"
        assert {step: play.run(step).status for step in expected} == expected
        check_loops(play, story)
    else:
        assert play.status == "failed"
        (end,) = [event for event in play.events if isinstance(event, ExecutionFailed)]
        assert end.step in fatal
        for name, outcome in expected.items():
            possible = {"pending", "cancelled", {"fatal": "failed", "never": "pending"}.get(outcome, outcome)}
            if outcome == "completed":
                possible |= {"compensated", "compensating"}
            assert play.run(name).status in possible, name
    settled = Counter(event.step for event in play.events if isinstance(event, StepCompleted | StepFailed | StepSkipped))
    assert all(count == 1 for count in settled.values()), "what came of a run is recorded twice"
    check_undoing(play, story)


def check_loops(play: Play, story: Story) -> None:
    """Holds that each loop of a completed execution has the results of the items that went well, and the errors of the others."""
    for step in story.steps:
        run = play.run(step["id"])
        if run.items is None:
            continue
        ends = [outcome_of_run(step, story.fates[step["id"]], f"{step['id']}[{index}]") for index in range(len(run.items))]
        assert run.result == [f"{step['id']}[{index}]" if end == "completed" else None for index, end in enumerate(ends)]
        failed = [index for index, end in enumerate(ends) if end == "failed"]
        assert [one["index"] for one in (run.error or {}).get("items", [])] == failed


def check_undoing(play: Play, story: Story) -> None:
    """Holds that exactly what completed and can be undone was undone, in reverse order, where the whole failed."""
    can_be = {step["id"] for step in story.steps if "compensate" in step}
    loops = {step["id"] for step in story.steps if "foreach" in step}
    done = [event.step for event in play.events if isinstance(event, StepCompleted)]
    undoable = [run for run in done if run.partition("[")[0] in can_be and run not in loops]
    announced = [list(event.runs) for event in play.events if isinstance(event, CompensationStarted)]
    tried = [event.step.removeprefix("~") for event in play.events if isinstance(event, StepCompensated | CompensationFailed)]
    if play.status == "failed":
        assert announced == ([undoable[::-1]] if undoable else [])
        assert tried == undoable[::-1]
        (end,) = [event for event in play.events if isinstance(event, ExecutionFailed)]
        assert list(end.not_undone) == [run for run in tried if story.fates[run.partition("[")[0]].undoing_fails]
    else:
        assert announced == tried == []


@COUNTED
@given(stories(), st.data())
def test_whatever_anybody_does_to_it_the_laws_hold_and_it_comes_to_an_end(story: Story, data: st.DataObject) -> None:
    for step in story.steps:
        if data.draw(st.booleans()):
            step["timeouts"] = {"total": TOTAL, "queue": 5} if "action" in step else {"total": TOTAL}
    world = World(story, timeout="1h", start={"business_key": "k", "priority": 2})
    play, steps = world.play, [step["id"] for step in story.steps]
    moves = (
        ["come"] * 12 + ["twice"] * 4 + ["restart", "pause", "resume", "signal", "cancel", "retry", "retry", "rerun", "uncounted"]
    )
    moves += ["terminate", "step-time", "time"] * (len(steps) % 2)
    for _ in range(data.draw(st.integers(0, 40), label="moves")):
        play.later(data.draw(st.sampled_from([0, 1, 60])))
        match data.draw(st.sampled_from(moves)):
            case "come" if world.to_come:
                world.deliver(data.draw(st.sampled_from(world.to_come)))
            case "twice" if world.been:
                world.deliver(data.draw(st.sampled_from(world.been)), again=True)
            case "restart":
                world.restart()
            case "signal":
                world.say(lambda: play.signal(data.draw(st.sampled_from([f"signal-{step}" for step in steps])), 1))
            case "rerun":
                world.say(lambda: play.rerun(data.draw(st.sampled_from(steps))))
            case "step-time":
                world.say(lambda: play.out_of_time(data.draw(st.sampled_from(list(play.state.runs)))))
            case "time":
                world.say(play.out_of_time)
            case "uncounted":
                world.say(lambda: play.fail(data.draw(st.sampled_from(list(play.state.runs))), counts=False))
            case "cancel" | "terminate" | "pause" | "resume" | "retry" as word:
                world.say(getattr(play, word))
            case _:
                pass
    world.finish(data)
    note([told(event) for event in play.events].__repr__())
    world.restart()
    answered = Counter((e.step, e.attempt) for e in play.events if isinstance(e, StepCompleted | StepCompensated))
    loops = {step["id"] for step in story.steps if "foreach" in step}
    assert all(count == 1 for (run, _), count in answered.items() if run not in loops and _has_work(story, run))


def _has_work(story: Story, run_id: str) -> bool:
    name = run_id.removeprefix("~").partition("[")[0]
    return any(step["id"] == name and ("action" in step or "workflow" in step) for step in story.steps)


@COUNTED
@given(stories(fatal=False))
def test_without_failures_of_work_the_first_to_come_first_served_is_right_too(story: Story) -> None:
    world = World(story)
    world.finish()
    check_end(world.play, story)


@COUNTED
@given(stories(), st.data())
def test_a_failed_execution_that_is_retried_when_all_is_well_completes(story: Story, data: st.DataObject) -> None:
    world = World(story)
    world.finish(data)
    assume(world.play.status == "failed")
    assume(not any("expire-fail" in fate.gates.values() for fate in story.fates.values()))
    for fate in story.fates.values():
        fate.failures, fate.undoing_fails, fate.hangs = [0], False, False
        if "approval" in fate.gates:
            fate.gates["approval"] = fate.gates["approval"].replace("reject", "approve").replace("never", "approve")
        if "signal" in fate.gates:
            fate.gates["signal"] = fate.gates["signal"].replace("never", "come")
    world.to_come = []
    assert world.say(world.play.retry)
    world.finish(data)
    note([told(event) for event in world.play.events].__repr__())
    assert world.play.status == "completed"
