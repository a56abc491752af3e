# intent_ref: tests.execution-histories
"""Histories of executions as commands write them: whatever may be asked of an execution is asked of it, in any order."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from commands import execution_commands as asking
from commands.execution import decide
from commands.execution_start import decide_start
from domain import execution, intent
from domain.definition import Rules
from domain.execution import Execution
from domain.module import Action, Module, Modules, Transport
from domain.plan import is_undoing
from domain.refusals import Refusal
from domain.runs import StepRun
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, StepId, TenantId

INTENT = IntentId("i-1")
RETRY = {"max_attempts": 2, "initial_interval": 1}
_MODULE = Module(
    ModuleName("m-1"), tuple(Action(ActionName(name)) for name in ("make", "check", "remove", "tell")),
    Transport("in-process", plugin="m-1"), datetime.fromisoformat("2026-11-21T08:00:00Z"),
    datetime.fromisoformat("2026-11-21T08:00:00Z"),
)  # fmt: skip
CATALOGUE = Modules({_MODULE.name: _MODULE})
RULES = Rules()

PIPELINE: list[dict[str, Any]] = [
    {"action": "make", "compensate": {"action": "remove", "retry": RETRY}, "retry": RETRY},
    {"action": "check", "when": "inputs.careful == true"},
    {"action": "tell", "depends_on": ["check"]},
    {"action": "check", "id": "late", "on_failure": "continue", "timeouts": {"total": "1h", "queue": "10m"}},
]
GATES: list[dict[str, Any]] = [
    {"id": "pause", "wait": {"for": "5m"}},
    {"action": "make", "approval": {"roles": ["operator"], "expires_in": "1d", "on_expiry": "skip"}, "fallback": "tell"},
    {"id": "paid", "signal": {"name": "paid", "expires_in": "1h"}, "depends_on": []},
    {"id": "agreed", "approval": {"expires_in": "1h", "on_expiry": "approve"}, "depends_on": ["paid"]},
    {"action": "tell", "depends_on": ["make", "agreed"], "join": "any"},
]
LOOPS: list[dict[str, Any]] = [
    {
        "id": "each", "action": "make", "foreach": {"items": "${{ inputs.items }}", "concurrency": 2}, "retry": RETRY,
        "compensate": "remove", "wait": {"for": "${{ item.seconds }}"}, "fallback": "check",
    },
    {"id": "ask", "foreach": ["a", "b", "c"], "approval": True, "depends_on": [], "on_failure": "continue"},
    {"action": "tell", "depends_on": ["each", "ask"], "when": "steps.each.result.size() > 1"},
]  # fmt: skip
CHILDREN: list[dict[str, Any]] = [
    {"action": "make", "compensate": "remove"},
    {"id": "release", "workflow": "release@2", "depends_on": [], "timeouts": {"total": "1h"}, "on_failure": "continue"},
    {"id": "all", "workflow": {"name": "part", "inputs": {"name": "${{ item }}"}}, "foreach": ["x", "y", "z"]},
    {"action": "tell", "depends_on": ["make", "release", "all"]},
]
DEFINITIONS: tuple[dict[str, Any], ...] = (
    {"target": "t", "steps": PIPELINE, "timeout": "1d", "priority": 2},
    {"target": "t", "steps": GATES, "outputs": {"who": "${{ steps.agreed.result.approved_by }}"}},
    {"target": "t", "steps": LOOPS},
    {"target": "t", "steps": CHILDREN},
)
RESULTS: tuple[Any, ...] = (
    None, {"ok": True}, {"resources": [{"type": "vm", "id": "1", "size": 2}, {"type": "vm", "id": "2"}]},
    {"resources": [{"type": "vm", "id": "1"}, {"type": "disk", "id": "d/1"}]},
)  # fmt: skip
BROKEN = {"code": "broken", "message": "It broke."}


def started(
    definition: dict[str, Any], at: datetime, *, execution_id: str = "e-1", inputs: dict[str, Any] | None = None, **more: Any
) -> list[Any]:
    """The events of a start."""
    created = intent.IntentCreated(INTENT, "deploy", definition, None, {}, at)
    command = asking.StartExecution(
        execution_id=ExecutionId(execution_id), intent_id=INTENT, inputs={"careful": True, **(inputs or {})}, at=at,
        **{"tenant_id": TenantId("t"), **more},
    )  # fmt: skip
    return list(decide_start(intent.evolve(None, created), command, CATALOGUE, RULES))


@st.composite
def starts(draw: st.DrawFn, at: datetime, execution_id: str) -> list[Any]:
    """The events of the start of any of `DEFINITIONS`."""
    items = [{"seconds": draw(st.sampled_from([1, 60, "soon"]))} for _ in range(draw(st.sampled_from([0, 1, 3, 5])))]
    inputs = {"careful": draw(st.booleans()), "items": items}
    key = draw(st.sampled_from([None, "order-1"]))
    queues = draw(st.sampled_from([False, False, True]))
    definition = draw(st.sampled_from(DEFINITIONS))
    return started(definition, at, execution_id=execution_id, inputs=inputs, business_key=key, queues=queues)


@st.composite
def continuations(draw: st.DrawFn, state: Execution, at: datetime) -> list[Any]:
    """The events of one more command; none where it is refused, or changes nothing."""
    name, command = draw(st.sampled_from(commands(state, at)))
    if name == "complete":
        command = replace(command, result=draw(st.sampled_from(RESULTS)))
    try:
        return list(decide(state, command))
    except Refusal:
        return []


def commands(state: Execution, at: datetime) -> list[tuple[str, Any]]:
    """Everything that may be asked now, what goes on several times, so that executions come to their ends as well."""
    identity = state.execution_id
    found: list[tuple[str, Any]] = [
        (type(command).__name__, command)
        for command in (
            asking.PauseExecution(execution_id=identity, at=at),
            asking.ResumeExecution(execution_id=identity, at=at),
            asking.CancelExecution(execution_id=identity, reason="why", at=at),
            asking.TerminateExecution(execution_id=identity, reason="why", at=at),
            asking.RetryExecution(execution_id=identity, at=at),
            asking.RetryExecution(execution_id=identity, at=at),
            asking.RerunExecution(execution_id=identity, step=state.steps[0].id, at=at),
            asking.RerunExecution(execution_id=identity, step=state.steps[-1].id, at=at),
            asking.ExpireExecution(execution_id=identity, at=at),
            *(3 * [asking.AdmitExecution(execution_id=identity, at=at)] if state.is_queued else []),
            asking.ReportStall(execution_id=identity, missing=("a dispatch",), at=at),
            asking.SignalExecution(execution_id=identity, name="paid", payload={"amount": 1}, at=at),
        )
    ]
    for run_id, run in state.runs.items():
        found += 3 * _of_run(identity, run_id, run, at)
    return found


def _of_run(identity: ExecutionId, run_id: StepId, run: StepRun, at: datetime) -> list[tuple[str, Any]]:
    run_of: dict[str, Any] = {"execution_id": identity, "step": run_id, "at": at}
    found: list[Any] = []
    if run.status in ("running", "retrying") and run.items is None:
        answer = {**run_of, "attempt": run.attempts}
        found += 3 * [asking.CompleteStep(**answer)]
        found += [asking.FailStep(**answer, error=BROKEN), asking.FailStep(**answer, error=BROKEN, retryable=False)]
        found += [asking.FailStep(**answer, error=BROKEN, counts=False)]
        if run.limits is not None and run.limits.expires_at is not None and not is_undoing(run_id):
            found.append(asking.ExpireStep(**{**run_of, "at": max(at, run.limits.expires_at)}, gate=None))
    elif run.status == "waiting" and run.waiting is not None:
        gate, roles = run.waiting.gate, frozenset({"operator"})
        found.append(asking.PassGate(**run_of, gate=gate, result={"passed": True}))
        if run.waiting.reason == "approval":
            found += 2 * [asking.ApproveStep(**run_of, by="ada", roles=roles, comment="yes")]
            found.append(asking.RejectStep(**run_of, by="ada", roles=roles))
        if run.limits is not None and run.limits.expires_at is not None:
            found.append(asking.ExpireStep(**{**run_of, "at": max(at, run.limits.expires_at)}, gate=None))
        if run.waiting.reason == "child":
            found.append(asking.FailGate(**run_of, gate=gate, error=BROKEN))
        else:
            found.append(asking.ExpireStep(**run_of, gate=gate))
    return [("complete" if isinstance(one, asking.CompleteStep) else type(one).__name__, one) for one in found]


@st.composite
def executions(draw: st.DrawFn, commands_max: int = 40) -> list[Any]:
    """All events of one execution."""
    at = datetime.fromisoformat("2026-11-21T08:00:00Z")
    happened = draw(starts(at, "e-1"))
    state: Any = None
    for event in happened:
        state = execution.evolve(state, event)
    for _ in range(draw(st.integers(0, commands_max))):
        at += timedelta(seconds=1)
        for event in draw(continuations(state, at)):
            happened.append(event)
            state = execution.evolve(state, event)
    return happened


def kinds(history: Sequence[Any]) -> set[type[Any]]:
    """The classes of events."""
    return {type(event) for event in history}
