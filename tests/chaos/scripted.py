# intent_ref: tests.saga-workers
"""Executions whose fate is written in their definitions: ten steps each, of every kind of control flow, and how they end."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from commands.execution import StartExecution
from commands.handle import Envelope, Shell, handle
from commands.intent import CreateIntent
from domain import execution
from domain.definition import Limits, Rules
from domain.execution import Execution, evolve
from domain.execution_events import (
    CompensationFailed,
    ExecutionStalled,
    StepCompensated,
    StepCompleted,
    StepFailed,
    StepFallingBack,
    StepRetrying,
    StepStarted,
)
from domain.module import Action, Module, Transport
from domain.plan import is_undoing, item_run
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, TenantId, execution_stream
from event_store.ids import uuid7
from event_store.records import RecordedEvent
from event_store.store import EventStore
from modules.catalogue import Caller, builtin, in_process
from modules.contract import Invocation, ModuleError, Plugins
from modules.http import HttpModules
from tests.unit.execution_laws import check_event, check_state

_AT = datetime(2026, 1, 1, tzinfo=UTC)
ONCE = {"max_attempts": 3, "initial_interval": 0.02, "jitter": 0}


class Script:
    """A module that does what each step's `script` says and remembers nothing: `fails` attempts or `for_good`, `take` seconds.

    It tells `noted` of each call before it makes it.
    """

    def __init__(self, noted: Any = lambda invocation: None) -> None:
        actions = tuple(Action(ActionName(name)) for name in ("work", "undo", "stand-in"))
        self.module = Module(ModuleName("script"), actions, Transport("in-process", plugin="script"), _AT, _AT)
        self._noted = noted

    async def call(self, invocation: Invocation) -> Any:
        """Says what was done, or fails as it is written."""
        self._noted(invocation)
        script = invocation.parameters.get("script", {})
        if "take" in script:
            await asyncio.sleep(script["take"])
        if invocation.attempt <= script.get("fails", 0) or "for_good" in script:
            raise ModuleError("as-written", "It is written so.", retryable="for_good" not in script)
        return {"did": invocation.step, "as": invocation.action, "attempt": invocation.attempt}


def parts(store: EventStore, script: Script) -> tuple[Shell, Caller]:
    """A shell, and a caller for its modules."""
    http = HttpModules(allow_private=True)
    running = in_process(http, sandbox=False, plugins=Plugins({"script": script}))
    return Shell(store, builtin(running), Rules(Limits(), ())), Caller(running, http)


class Starter:
    """Starts executions of every kind in turn, and remembers them."""

    def __init__(self, shell: Shell, tenant_id: TenantId, kinds: Mapping[str, list[dict[str, Any]]] | None = None) -> None:
        self.shell, self.tenant_id = shell, tenant_id
        self.started: dict[str, str] = {}
        self._kinds = {name: kind.steps for name, kind in KINDS.items()} if kinds is None else kinds
        self._intents = {name: IntentId(str(uuid7())) for name in self._kinds}
        self._not_ended: set[str] = set()

    async def create_intents(self) -> None:
        """An intent of each kind."""
        for name, steps in self._kinds.items():
            definition = {"target": "production", "steps": steps}
            command = CreateIntent(intent_id=self._intents[name], name=name, definition=definition, at=datetime.now(UTC))
            await handle(self.shell, command, self._envelope())

    async def start(self, count: int, chance: random.Random) -> None:
        """That many executions, a few at a time."""
        names = [list(self._kinds)[(len(self.started) + number) % len(self._kinds)] for number in range(count)]
        while names:
            together, names = names[: (size := chance.randrange(1, 9))], names[size:]
            await asyncio.gather(*[self._start(name) for name in together])

    async def _start(self, name: str) -> None:
        identity = ExecutionId(str(uuid7()))
        command = StartExecution(
            execution_id=identity, intent_id=self._intents[name], tenant_id=self.tenant_id, at=datetime.now(UTC)
        )  # fmt: skip
        self.started[identity] = name
        self._not_ended.add(identity)
        await handle(self.shell, command, self._envelope())

    async def state(self, execution_id: str) -> Execution:
        """The execution as it is now."""
        loaded = await self.shell.store.load(self.tenant_id, execution_stream(ExecutionId(execution_id)), execution.evolve)
        assert loaded.state is not None
        return loaded.state

    async def have_all_ended(self) -> bool:
        """True once every execution that was started has ended."""
        for one in sorted(self._not_ended):
            if (await self.state(one)).status not in execution.ENDED:
                return False
            self._not_ended.discard(one)
        return True

    def _envelope(self) -> Envelope:
        return Envelope(self.tenant_id, uuid7(), "user:test", "chaos")


@dataclass(frozen=True)
class Kind:
    """Steps, and how an execution of them ends. `runs` are (status, attempts) of each run that is not (completed, 1).

    Where it `varies` which of the runs have begun when the execution fails, all that completed have been undone.
    """

    steps: list[dict[str, Any]]
    status: str = "completed"
    runs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    varies: bool = False


def _step(name: str, *after: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "action": "work", "depends_on": list(after), **more}


def _chain(**more: dict[str, Any]) -> list[dict[str, Any]]:
    """Ten steps in a row; `more` is what some of them say besides."""
    return [{"id": f"s{number}", "action": "work", **more.get(f"s{number}", {})} for number in range(10)]


def _branches(last: dict[str, Any], **more: dict[str, Any]) -> list[dict[str, Any]]:
    """One step, four branches of two, and one that joins them."""
    first = [_step(f"{name}1", "begin", **more.get(f"{name}1", {})) for name in "abcd"]
    then = [_step(f"{name}2", f"{name}1", **more.get(f"{name}2", {})) for name in "abcd"]
    return [_step("begin", **more.get("begin", {})), *first, *then, {**_step("end", "a2", "b2", "c2", "d2"), **last}]


_GATE = {"id": "s6", "wait": 0.15}
_UNDO = {"compensate": {"action": "undo", "retry": ONCE}}
_UNDO_AGAIN = {"compensate": {"action": "undo", "script": {"fails": 1}, "retry": ONCE}}
_GONE: dict[str, tuple[str, int]] = {
    **{f"s{number}": ("compensated", 1) for number in range(6)}, "~s2": ("completed", 2), "s6": ("failed", 1),
    **{f"s{number}": ("pending", 0) for number in (7, 8, 9)},
}  # fmt: skip

_FAILS_ONCE = {"script": {"fails": 1}, "retry": ONCE}
_FAILS_TWICE = {"script": {"fails": 2}, "retry": ONCE}
_FAILS_FOR_GOOD = {"script": {"for_good": True}}
_EACH = {"foreach": {"items": ["a", "b", "c", "d", "e"], "concurrency": 2}}

KINDS: dict[str, Kind] = {
    "chain": Kind(_chain()),
    "branches": Kind(_branches({}, a1={"script": {"take": 0.02}}, c2={"script": {"take": 0.05}})),
    "branches-of-which-two-suffice": Kind(_branches({"join": 2}, d1={"script": {"take": 0.05}})),
    "loop": Kind(
        _chain(s3=_EACH, s7={"foreach": "${{ steps.s3.result }}", **_FAILS_ONCE}),
        runs={"s3": ("completed", 0), "s7": ("completed", 0), **{item_run("s7", item): ("completed", 2) for item in range(5)}},
    ),
    "retries": Kind(
        _chain(s1=_FAILS_ONCE, s4=_FAILS_ONCE, s9=_FAILS_TWICE),
        runs={"s1": ("completed", 2), "s4": ("completed", 2), "s9": ("completed", 3)},
    ),
    "waits": Kind([*_chain(s2={"wait": 0.05})[:6], _GATE, *_chain()[7:]], runs={"s6": ("completed", 0)}),
    "fallback": Kind(
        _chain(s4={**_FAILS_FOR_GOOD, "fallback": "stand-in"}, s7={"script": {"fails": 9}, "on_failure": "continue"}),
        runs={"s4": ("completed", 2), "s7": ("failed", 1)},
    ),
    "choices": Kind(
        _chain(
            s2={"when": False}, s3={"depends_on": ["s2"]}, s4={"depends_on": ["s1", "s3"], "join": "any"},
            s8={"when": "steps.s7.result.attempt == 1"},
        ),
        runs={"s2": ("skipped", 0), "s3": ("skipped", 0)},
    ),
    "undone": Kind(
        _chain(s0=_UNDO, s1=_UNDO, s2=_UNDO_AGAIN, s3=_UNDO, s4=_UNDO, s5=_UNDO, s6=_FAILS_FOR_GOOD),
        status="failed", runs=_GONE,
    ),
    "branches-undone": Kind(
        _branches(
            _UNDO, begin=_UNDO, a1=_UNDO, b1=_UNDO, d1=_UNDO, a2=_UNDO, c2=_UNDO,
            b2={"script": {"for_good": True, "take": 0.03}},
        ),
        status="failed", varies=True,
    ),
}  # fmt: skip


def check_history(kind: Kind, events: Sequence[RecordedEvent], called: Mapping[tuple[str, int], int]) -> Execution:
    """Holds the whole history of one execution against what is written, and against the laws of all executions.

    `called` are the module's calls by (run, attempt), in the order of the first of each.
    """
    state: Execution | None = None
    for number, recorded in enumerate(events, 1):
        assert recorded.version == number, "the stream is not dense"
        check_event(state, recorded.event)  # type: ignore[arg-type]
        state = evolve(state, recorded.event)  # type: ignore[arg-type]
        assert not isinstance(recorded.event, ExecutionStalled), f"stalled: {recorded.event.missing}"
    assert state is not None
    check_state(state)
    _check_end(kind, state)
    _check_calls([recorded.event for recorded in events], called)
    first_call = {run: place for place, (run, _) in reversed(list(enumerate(called)))}
    for step in state.steps:
        if step.flow.join is None and step.id in first_call:
            early = [before for before in step.depends_on if before in first_call and first_call[before] > first_call[step.id]]
            assert not early, f"{step.id} was called before {early}"
    return state


def _check_end(kind: Kind, state: Execution) -> None:
    assert state.status == kind.status, (state.status, state.error)
    found = {str(run_id): (run.status, run.attempts) for run_id, run in state.runs.items()}
    if kind.varies:
        assert state.runs[state.failing or ""].status == "failed"  # type: ignore[index]
        undoable = {step.id for step in state.steps if step.flow.compensation is not None}
        assert not [run for run, (status, _) in found.items() if status == "completed" and run in undoable], "something is left"
        assert all(found[f"~{run}"] == ("completed", 1) for run, (status, _) in found.items() if status == "compensated")
    else:
        assert found == {run: kind.runs.get(run, ("completed", 1)) for run in found}
        assert set(kind.runs) <= set(found)
    for run_id, run in state.runs.items():
        if run.status == "completed" and run.result is not None and run.items is None and not run.gates_passed:
            said = {
                "did": run_id,
                "as": "undo" if is_undoing(run_id) else "stand-in" if run.fell_back else "work",
                "attempt": run.attempts,
            }
            assert run.result == said


def _check_calls(events: Sequence[Any], called: Mapping[tuple[str, int], int]) -> None:
    """Every attempt that the log asks for was made, no other one was, and each has one outcome."""
    asked = {(event.step, event.attempt) for event in events if isinstance(event, StepStarted | StepRetrying)}
    assert set(called) == asked
    answers = [event for event in events if isinstance(event, StepCompleted | StepCompensated | CompensationFailed | StepFailed)]
    outcomes = Counter((event.step, event.attempt) for event in answers)
    outcomes += Counter((event.step, event.attempt - 1) for event in events if isinstance(event, StepRetrying))
    assert all(count == 1 for count in outcomes.values()), outcomes
    # An attempt after which the step fell back has its outcome in that.
    fell_back = {event.step for event in events if isinstance(event, StepFallingBack)}
    assert {step for step, attempt in asked if not outcomes[step, attempt]} == fell_back
