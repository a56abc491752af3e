# intent_ref: tests.execution-core
"""One execution of a definition, decided on command by command, and told in short lines. After each decision the laws hold.

A line says one event: `start a`, `start a #2`, `done a`, `failed a: code`, `wait b: timer`, `skip c: condition`, and so on.
What a line leaves out (results, times, limits) is looked up in `play.last` or in the state.
"""

from collections.abc import Callable
from typing import Any

from commands.execution import decide
from commands.execution_commands import (
    ApproveStep,
    CancelExecution,
    CompleteStep,
    ExpireExecution,
    ExpireStep,
    FailGate,
    FailStep,
    PassGate,
    PauseExecution,
    RejectStep,
    RerunExecution,
    ResumeExecution,
    RetryExecution,
    SignalExecution,
    StartExecution,
    TerminateExecution,
)
from commands.execution_start import decide_start
from domain import execution_events as happened
from domain.definition import Rules
from domain.execution import Execution, evolve
from domain.execution_events import ExecutionEvent
from domain.intent import Intent, IntentCreated, IntentEvent
from domain.intent import evolve as evolve_intent
from domain.module import Action, Modules, RetryPolicy
from domain.runs import StepRun
from domain.values import ActionName, IntentId, StepId, TenantId
from tests.unit.execution_laws import check_event, check_state
from tests.unit.given_when_then import folded, stored
from tests.unit.samples import AT, EXECUTION, INTENT, RULES, after, modules_of

ACTIONS = modules_of(
    letters=("a", "b", "c", "d", "e", "f"),
    undoing=("undo", "other", Action(ActionName("make"), compensate=ActionName("unmake")), "unmake"),
    patience=(Action(ActionName("patient"), timeout_seconds=7.5, retry=RetryPolicy(3, 2.0, 3.0, 5.0)),),
)
BROKEN = {"code": "broken", "message": "It broke."}


def intent_of(definition: Any, *later: IntentEvent) -> Intent:
    """An intent with this definition."""
    state = folded(evolve_intent, [IntentCreated(INTENT, "deploy", definition, None, {}, AT), *later])
    assert state is not None
    return state


class Play:
    """An execution under way. Every method is one command, at the play's time, and gives the lines of what happened."""

    def __init__(self, *steps: Any, modules: Modules = ACTIONS, rules: Rules = RULES, intent: Intent | None = None,
                 start: dict[str, Any] | None = None, **definition: Any) -> None:  # fmt: skip
        self.seconds = 0.0
        self.events: list[ExecutionEvent] = []
        self.last: list[ExecutionEvent] = []
        self._state: Execution | None = None
        whole = intent or intent_of({"target": "production", "steps": list(steps), **definition})
        command = StartExecution(execution_id=EXECUTION, intent_id=INTENT, at=AT, **{"tenant_id": TenantId("t"), **(start or {})})
        self.begun = self._keep(decide_start(whole, command, modules, rules))

    @property
    def state(self) -> Execution:
        """The execution as it is by now."""
        assert self._state is not None
        return self._state

    @property
    def status(self) -> str:
        """The execution's status."""
        return self.state.status

    def run(self, run_id: str) -> StepRun:
        """The run as it is by now."""
        return self.state.runs.get(StepId(run_id), StepRun())

    def statuses(self, *runs: str) -> list[str]:
        """The status of each run; of each step of the plan where none is named."""
        return [self.run(run).status for run in (runs or [step.id for step in self.state.steps])]

    def later(self, seconds: float) -> "Play":
        """Time goes by."""
        self.seconds += seconds
        return self

    def obey(self, command: Any, **fields: Any) -> list[str]:
        """Decides on a command."""
        return self._keep(decide(self._state, command(execution_id=EXECUTION, at=after(self.seconds), **fields)))

    def complete(self, run: str, result: Any = None, *, attempt: int | None = None) -> list[str]:
        """The run's module gives a result, to its latest attempt unless said otherwise."""
        attempt = self.run(run).attempts if attempt is None else attempt
        return self.obey(CompleteStep, step=StepId(run), attempt=attempt, result=result)

    def fail(self, run: str, code: str = "broken", *, attempt: int | None = None, **more: Any) -> list[str]:
        """An attempt of the run fails."""
        attempt = self.run(run).attempts if attempt is None else attempt
        return self.obey(FailStep, step=StepId(run), attempt=attempt, error={**BROKEN, "code": code}, **more)

    def due(self, run: str, gate: int = 0) -> list[str]:
        """The time has come at a gate of the run."""
        return self.obey(ExpireStep, step=StepId(run), gate=gate)

    def out_of_time(self, run: str | None = None) -> list[str]:
        """The time of the run with all its attempts is up, or the execution's."""
        return self.obey(ExpireExecution) if run is None else self.obey(ExpireStep, step=StepId(run), gate=None)

    def child_done(self, run: str, result: Any = None) -> list[str]:
        """The child execution of the run has ended well."""
        return self.obey(PassGate, step=StepId(run), gate=self._gate(run), result=result)

    def child_failed(self, run: str, code: str = "workflow-failed") -> list[str]:
        """The child execution of the run has not ended well."""
        return self.obey(FailGate, step=StepId(run), gate=self._gate(run), error={**BROKEN, "code": code})

    def approve(self, run: str, *roles: str, by: str = "ann") -> list[str]:
        """Somebody approves."""
        return self.obey(ApproveStep, step=StepId(run), by=by, roles=frozenset(roles))

    def reject(self, run: str, *roles: str, comment: str | None = None) -> list[str]:
        """Somebody does not approve."""
        return self.obey(RejectStep, step=StepId(run), by="ann", roles=frozenset(roles), comment=comment)

    def signal(self, name: str, payload: Any = None) -> list[str]:
        """Something happens outside."""
        return self.obey(SignalExecution, name=name, payload=payload)

    def cancel(self, reason: str | None = "enough") -> list[str]:
        """Somebody cancels."""
        return self.obey(CancelExecution, reason=reason)

    def terminate(self) -> list[str]:
        """Somebody ends it at once."""
        return self.obey(TerminateExecution, reason="at once")

    def pause(self) -> list[str]:
        """Somebody pauses."""
        return self.obey(PauseExecution)

    def resume(self) -> list[str]:
        """Somebody resumes."""
        return self.obey(ResumeExecution)

    def retry(self) -> list[str]:
        """Somebody retries from the failed steps."""
        return self.obey(RetryExecution)

    def rerun(self, step: str) -> list[str]:
        """Somebody reruns from a step."""
        return self.obey(RerunExecution, step=StepId(step))

    def only(self, kind: type[Any]) -> Any:
        """The one event of this kind that the last decision brought."""
        (event,) = [event for event in self.last if isinstance(event, kind)]
        return event

    def _gate(self, run: str) -> int:
        waiting = self.run(run).waiting
        return -1 if waiting is None else waiting.gate

    def _keep(self, events: list[ExecutionEvent]) -> list[str]:
        for event in events:
            check_event(self._state, event)
            self._state = evolve(self._state, event)
        self.last = events
        self.events += events
        assert [stored(event) for event in events] == events, "an event changes on its way through the log"
        check_state(self.state)
        return [told(event) for event in events]


def again(play: Play) -> Execution | None:
    """The execution as it is read from the log."""
    return folded(evolve, [stored(event) for event in play.events])


def told(event: ExecutionEvent) -> str:
    """An event in a line."""
    line: Callable[[Any], str] | None = _LINES.get(type(event))
    return type(event).__name__ if line is None else line(event)


def _numbered(attempt: int) -> str:
    return f" #{attempt}" if attempt > 1 else ""


_LINES: dict[type[Any], Callable[[Any], str]] = {
    happened.ExecutionStarted: lambda e: "begin",
    happened.StepStarted: lambda e: f"start {e.step}{_numbered(e.attempt)}",
    happened.StepRetrying: lambda e: f"again {e.step} #{e.attempt} in {(e.due_at - e.at).total_seconds():g}",
    happened.StepCompleted: lambda e: f"done {e.step}",
    happened.StepFailed: lambda e: f"failed {e.step}: {e.error['code']}",
    happened.StepSkipped: lambda e: f"skip {e.step}: {e.reason}",
    happened.StepWaiting: lambda e: f"wait {e.step}: {e.reason}",
    happened.StepApproved: lambda e: f"approved {e.step}",
    happened.StepRejected: lambda e: f"rejected {e.step}",
    happened.StepExpanded: lambda e: f"each {e.step}: {len(e.items)}",
    happened.StepFallingBack: lambda e: f"fall back {e.step}",
    happened.StepCancelled: lambda e: f"give up {e.step}" + (" and child" if e.child else ""),
    happened.SignalReceived: lambda e: f"signal {e.name}",
    happened.ResourceProvisioned: lambda e: f"made {e.type}/{e.resource_id}",
    happened.ResourceReleased: lambda e: f"released {e.type}/{e.resource_id}",
    happened.CancellationRequested: lambda e: "cancelling",
    happened.ExecutionFailing: lambda e: f"failing: {e.error['code']}",
    happened.CompensationStarted: lambda e: f"undo {' '.join(e.runs)}",
    happened.StepCompensated: lambda e: f"undone {e.step}",
    happened.CompensationFailed: lambda e: f"not undone {e.step}: {e.error['code']}",
    happened.ExecutionCompleted: lambda e: "COMPLETED",
    happened.ExecutionFailed: lambda e: "FAILED" + (f" by {e.step}" if e.step else ""),
    happened.ExecutionCancelled: lambda e: "CANCELLED",
    happened.ExecutionTerminated: lambda e: "TERMINATED",
    happened.ExecutionPaused: lambda e: "pause",
    happened.ExecutionResumed: lambda e: "resume",
    happened.ExecutionRetried: lambda e: f"retry {' '.join(e.steps)}".strip(),
    happened.ExecutionRerun: lambda e: f"rerun {' '.join(e.steps)}",
    happened.ExecutionStalled: lambda e: f"stalled {' '.join(e.missing)}",
    happened.ExecutionQueued: lambda e: f"queued {e.turn}",
    happened.ExecutionAdmitted: lambda e: "admitted",
}
OTHER_INTENT = IntentId("0199-other")
