# intent_ref: tests.golden-histories
"""Histories that were written once fold to what they came to then, and what had not ended can be brought to every end today."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from commands.execution import decide
from commands.execution_commands import (
    ApproveStep,
    CancelExecution,
    CompleteStep,
    ExpireStep,
    FailStep,
    PassGate,
    RerunExecution,
    ResumeExecution,
    RetryExecution,
    SignalExecution,
    TerminateExecution,
)
from domain.documents import execution_document
from domain.execution import ENDED, Execution, evolve
from event_store import codec
from tests.golden.check import holds
from tests.golden.histories import FOLDER, TENANT, History, write
from tests.unit.execution_laws import check_event, check_state
from tests.unit.given_when_then import stored

HISTORIES = {path.stem: History.read(path) for path in sorted(FOLDER.glob("*.json"))}
DECISIONS_MAX = 200
BROKEN = {"code": "broken", "message": "It broke."}
every_history = pytest.mark.parametrize("name", HISTORIES)


@every_history
def test_it_folds_to_what_the_release_that_wrote_it_showed(name: str) -> None:
    history = HISTORIES[name]
    *_, state = history.states()
    shown = orjson.loads(orjson.dumps(execution_document(TENANT, state)))
    assert holds(shown, history.document)


@every_history
def test_each_of_its_events_would_say_as_much_if_it_were_written_today(name: str) -> None:
    for decision in HISTORIES[name].decisions:
        for topic, payload in decision:
            again = codec.encode(codec.decode(topic, payload))
            assert again[0] == topic
            assert holds(orjson.loads(again[1]), orjson.loads(payload))


@every_history
def test_the_laws_hold_after_each_of_its_decisions(name: str) -> None:
    state: Execution | None = None
    for events in HISTORIES[name].events():
        for event in events:
            check_event(state, event)
            state = evolve(state, event)
        assert state is not None
        check_state(state)


class Ending:
    """Brings an execution to an end with today's decisions. After each the laws hold."""

    def __init__(self, state: Execution) -> None:
        self.state, self.decisions = state, 0

    def obey(self, command: Any, **fields: Any) -> None:
        self.decisions += 1
        assert self.decisions < DECISIONS_MAX, "it comes to no end"
        at = fields.pop("at", self.state.updated_at)
        for event in decide(self.state, command(execution_id=self.state.execution_id, at=at, **fields)):
            check_event(self.state, event)
            assert stored(event) == event
            self.state = evolve(self.state, event)
        check_state(self.state)

    def to_the_end(self, *, fails: bool = False) -> Execution:
        """Everything that is waited for comes; with `fails`, every attempt fails for good."""
        while self.state.status not in ENDED:
            if self.state.status == "paused":
                self.obey(ResumeExecution)
                continue
            run_id, run = next(one for one in self.state.runs.items() if one[1].status in ("running", "retrying", "waiting")
                               and one[1].items is None)  # fmt: skip
            if run.waiting is None:
                attempt: dict[str, Any] = {"step": run_id, "attempt": run.attempts}
                if fails:
                    self.obey(FailStep, **attempt, error=BROKEN, retryable=False)
                else:
                    self.obey(CompleteStep, **attempt, result={"digest": "sha256:1"})
                continue
            match run.waiting.reason:
                case "approval":
                    self.obey(ApproveStep, step=run_id, by="ann", roles=frozenset(run.waiting.detail["roles"]))
                case "signal":
                    self.obey(SignalExecution, name=run.waiting.detail["signal"])
                case "timer":
                    self.obey(ExpireStep, step=run_id, gate=run.waiting.gate, at=run.due_at)
                case _:
                    self.obey(PassGate, step=run_id, gate=run.waiting.gate, result={"ok": True})
        return self.state


def moments(name: str) -> list[Execution]:
    """The execution as it stood after each of its decisions, where it had not ended."""
    return [state for state in HISTORIES[name].states() if state.status not in ENDED]


@every_history
def test_at_every_moment_it_can_be_completed(name: str) -> None:
    for state in moments(name):
        goes_well = state.failing is None and state.status in ("running", "paused")
        ended = Ending(state).to_the_end()
        assert ended.status == "completed" if goes_well else ended.status in ("failed", "cancelled")


@every_history
def test_at_every_moment_its_steps_may_fail_and_it_be_retried_to_its_completion(name: str) -> None:
    for state in moments(name):
        ending = Ending(state)
        if ending.to_the_end(fails=True).status == "failed":
            ending.obey(RetryExecution)
            ended = ending.to_the_end()
            # Out of time before, it is out of time no more: a retry has the time that it takes.
            assert ended.status == "completed", (ended.status, ended.error)


@every_history
@pytest.mark.parametrize("command", [CancelExecution, TerminateExecution])
def test_at_every_moment_it_can_be_given_up_and_begun_anew(name: str, command: type[Any]) -> None:
    for state in moments(name):
        ending = Ending(state)
        ending.obey(command)
        assert ending.to_the_end().status in ("cancelled", "terminated", "failed")
        ending.obey(RerunExecution, step=state.steps[0].id)
        ending.to_the_end()


@every_history
def test_what_has_ended_can_be_rerun_from_each_of_its_steps(name: str) -> None:
    *_, state = HISTORIES[name].states()
    if state.status in ENDED:
        for step in state.steps:
            ending = Ending(state)
            ending.obey(RerunExecution, step=step.id)
            assert ending.to_the_end().status in ENDED


def test_there_are_histories_of_the_release_before_control_flow_and_of_the_one_with_it() -> None:
    old = {name for name in HISTORIES if name.startswith("before-control-flow")}
    assert len(old) == 9
    assert set(HISTORIES) > old
    assert all(b'"control"' not in payload for name in old for decision in HISTORIES[name].decisions for _, payload in decision)


def test_a_history_that_has_its_file_is_never_written_again(tmp_path: Path) -> None:
    (tmp_path / "terminated.json").write_bytes(b"as it was")
    assert set(write(tmp_path)) == {f"{name}.json" for name in HISTORIES if not name.startswith("before-")} - {"terminated.json"}
    assert (tmp_path / "terminated.json").read_bytes() == b"as it was"
    assert write(tmp_path) == []
