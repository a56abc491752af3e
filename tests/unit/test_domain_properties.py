# intent_ref: domain.properties
"""Laws of the domain, held against whatever hypothesis can think of."""

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from commands import intent as intent_commands
from commands.execution import (
    CancelExecution,
    CompleteStep,
    FailStep,
    PauseExecution,
    ResumeExecution,
    RetryExecution,
    StartExecution,
    decide,
)
from commands.execution_start import decide_start
from commands.intent import CreateIntent, ReviseIntent, RollBackIntent
from domain import execution as executions
from domain import intent as intents
from domain.definition import Limits, Rules, parse_definition
from domain.execution import ENDED, Execution
from domain.execution_events import ExecutionEvent, StepCompleted, StepFailed, StepRetrying, StepStarted
from domain.json_values import value_faults
from domain.refusals import DefinitionInvalid, Refusal
from domain.values import StepId
from tests.unit.given_when_then import folded, stored
from tests.unit.samples import AT, CATALOGUE, EXECUTION, INTENT, RULES, after

COUNTED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# --- definitions: whatever comes in, the answer is a definition or its faults

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=("Cs", "Cc", "Lu")), max_size=6),
    st.sampled_from(
        ["a", "b", "patient", "30s", "AKIAIOSFODNN7EXAMPLE", "https://u:pass@h", "${{ x }}", "secret://x", "${{", "\0"]
    ),
)
KEYS = st.one_of(
    st.sampled_from(
        ["target", "steps", "action", "id", "depends_on", "timeout", "retry", "max_attempts", "initial_interval", "backoff",
         "max_interval", "when", "password", "a/b", "~"]
    ),
    st.text(max_size=8),
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(10**30), 10**30) | st.floats() | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25)


def _wrapped(value: Any, levels: int) -> Any:
    for level in range(levels):
        value = [value] if level % 3 else {"k": value}
    return value


NESTED = st.builds(_wrapped, JSON, st.integers(0, 3_000))


LIKELY_STEPS = st.fixed_dictionaries(
    {"action": st.sampled_from("abcde")},
    optional={
        "id": st.sampled_from(["a", "b", "x", "y", "a-2"]) | JSON,
        "depends_on": st.lists(st.sampled_from(["a", "b", "x", "y", "a-2", "nowhere"]), max_size=3) | JSON,
        "timeout": st.sampled_from([1, "5m"]) | JSON,
        "retry": st.sampled_from([3, {"max_attempts": 2}]) | JSON,
        "image": JSON,
        "when": JSON,
    },
)
LIKELY = st.fixed_dictionaries({"target": st.just("t") | JSON, "steps": st.lists(LIKELY_STEPS | JSON, max_size=6) | JSON})


def _at(raw: Any, pointer: str) -> Any:
    """What an RFC 6901 pointer points at; raises where it points at nothing."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        raw = raw[int(key)] if isinstance(raw, list) else raw[key]
    return raw


@settings(COUNTED, max_examples=600)
@given(st.one_of(JSON, LIKELY, NESTED, st.builds(lambda deep: {"target": "t", "metadata": deep}, NESTED)))
def test_any_json_is_a_definition_or_is_refused_with_faults_that_can_be_sent(raw: Any) -> None:
    try:
        definition = parse_definition(raw, CATALOGUE, RULES, prefix="")
    except DefinitionInvalid as refusal:
        assert refusal.faults
        for fault in refusal.faults:
            orjson.dumps([fault.pointer, fault.detail, fault.code])
            assert (
                "\ufffd" in fault.pointer
                or "?" in fault.pointer
                or "(left out)" in fault.pointer
                or _is_at_or_absent(raw, fault.pointer)
            )
    else:
        assert orjson.loads(orjson.dumps(raw)) == raw
        names = [step.id for step in definition.steps]
        assert len(set(names)) == len(names)
        assert all(before in names and before != step.id for step in definition.steps for before in step.depends_on)
        assert value_faults(raw, "", RULES.limits, look_for_secrets=True) == []


def _is_at_or_absent(raw: Any, pointer: str) -> bool:
    """A fault points at a value that is there, or at a key that would have to be (`max_attempts` of a retry)."""
    try:
        _at(raw, pointer)
    except KeyError:
        _at(raw, pointer.rpartition("/")[0])
    return True


@st.composite
def acyclic_definitions(draw: st.DrawFn) -> dict[str, Any]:
    """Definitions without a fault: any graph without a cycle, written down in any order."""
    count = draw(st.integers(1, 7))
    order = draw(st.permutations(range(count)))
    written: list[dict[str, Any]] = [{} for _ in range(count)]
    for rank, index in enumerate(order):
        earlier = [f"s{other}" for other in order[:rank]]
        depends_on = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        written[index] = {"action": draw(st.sampled_from("abcde")), "id": f"s{index}", "depends_on": depends_on}
        if draw(st.booleans()):
            written[index]["retry"] = draw(st.integers(1, 3))
    return {"target": "t", "steps": written}


@COUNTED
@given(acyclic_definitions(), st.integers(0, 6), st.integers(0, 6))
def test_a_graph_is_accepted_exactly_when_it_has_no_cycle(raw: dict[str, Any], one: int, other: int) -> None:
    assert len(parse_definition(raw, CATALOGUE, RULES).steps) == len(raw["steps"])
    steps = raw["steps"]
    one, other = one % len(steps), other % len(steps)
    if f"s{other}" in steps[one]["depends_on"]:
        return
    steps[one]["depends_on"].append(f"s{other}")
    closes_a_cycle = _reaches(steps, other, one)
    if closes_a_cycle:
        with pytest.raises(DefinitionInvalid) as caught:
            parse_definition(raw, CATALOGUE, RULES)
        assert {fault.code for fault in caught.value.faults} == {"cycle"}
    else:
        parse_definition(raw, CATALOGUE, RULES)


def _reaches(steps: Sequence[dict[str, Any]], start: int, goal: int) -> bool:
    reached, waiting = {start}, [start]
    while waiting:
        for name in steps[waiting.pop()]["depends_on"]:
            if (index := int(name[1:])) not in reached:
                reached.add(index)
                waiting.append(index)
    return goal in reached


@COUNTED
@given(LIKELY)
def test_an_accepted_definition_can_be_planned(raw: Any) -> None:
    try:
        definition = parse_definition(raw, CATALOGUE, RULES)
    except DefinitionInvalid:
        return
    state = intents.evolve(None, intents.IntentCreated(INTENT, "n", raw, None, {}, AT))
    command = StartExecution(execution_id=EXECUTION, intent_id=INTENT, at=AT)
    try:
        events = decide_start(state, command, CATALOGUE, RULES)
    except Refusal as refusal:
        assert refusal.code == "intent-not-executable"
        assert not definition.steps or any("${{" in json.dumps(raw) or step.control is not None for step in definition.steps)
    else:
        assert any(isinstance(event, StepStarted) or step.control is not None for event in events for step in definition.steps)
        assert [stored(event) for event in events] == events


@settings(COUNTED, max_examples=60)
@given(JSON, st.integers(1, 5), st.integers(1, 30), st.integers(1, 60))
def test_what_limits_let_pass_is_within_them(value: Any, depth_max: int, values_max: int, bytes_max: int) -> None:
    limits = Limits(depth_max=depth_max, values_max=values_max, value_bytes_max=bytes_max)
    if value_faults(value, "", limits, look_for_secrets=False):
        return
    depth, values, longest = _measured(value)
    assert depth <= depth_max
    assert values <= values_max
    assert longest <= bytes_max


def _measured(value: Any) -> tuple[int, int, int]:
    """(levels of nesting, values in containers, bytes of the longest string)."""
    if isinstance(value, str):
        return 0, 0, len(value.encode())
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    if children is None:
        return 0, 0, 0
    inner = [_measured(child) for child in children]
    return (
        1 + max((depth for depth, _, _ in inner), default=0),
        len(children) + sum(count for _, count, _ in inner),
        max((longest for _, _, longest in inner), default=0),
    )


# --- intents: any order of commands keeps versions dense, and what was once a version for ever


INTENT_COMMANDS = st.one_of(
    st.builds(lambda n: ReviseIntent(intent_id=INTENT, definition={"target": f"t{n}"}, at=AT), st.integers(0, 9)),
    st.builds(lambda n: RollBackIntent(intent_id=INTENT, version=n, at=AT), st.integers(-1, 6)),
    st.builds(intent_commands.DeprecateIntent, intent_id=st.just(INTENT), at=st.just(AT)),
    st.builds(intent_commands.ActivateIntent, intent_id=st.just(INTENT), at=st.just(AT)),
    st.sampled_from(
        [intent_commands.ArchiveIntent(intent_id=INTENT, at=AT), CreateIntent(intent_id=INTENT, name="n", definition={}, at=AT)]
    ),
)


@COUNTED
@given(st.lists(INTENT_COMMANDS, max_size=15))
def test_versions_of_an_intent_are_dense_and_never_change(commands: list[Any]) -> None:
    create = CreateIntent(intent_id=INTENT, name="n", definition={"target": "t"}, at=AT)
    events = intent_commands.decide(None, create, CATALOGUE, RULES)
    state = folded(intents.evolve, events)
    for command in commands:
        assert state is not None
        before = state
        try:
            happened = intent_commands.decide(state, command, CATALOGUE, RULES)
        except Refusal:
            continue
        events += happened
        state = folded(intents.evolve, happened, state)
        assert state is not None
        assert state.versions[: len(before.versions)] == before.versions
        assert [version.version for version in state.versions] == list(range(1, len(state.versions) + 1))
        assert before.status != "archived" or not happened
    assert folded(intents.evolve, [stored(event) for event in events]) == state


# --- executions: any graph, any interleaving


class Run:
    """One execution as a sequence of commands, and what must hold after each."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.clock = 0.0
        intent = intents.evolve(None, intents.IntentCreated(INTENT, "n", raw, None, {}, AT))
        self.events: list[ExecutionEvent] = []
        self.state: Execution | None = None
        self._keep(decide_start(intent, StartExecution(execution_id=EXECUTION, intent_id=INTENT, at=AT), CATALOGUE, Rules()))

    def obey(self, command_class: Any, **fields: Any) -> bool:
        """Whether the command was obeyed; a refusal changes nothing."""
        self.clock += 1
        try:
            happened = decide(self.state, command_class(execution_id=EXECUTION, at=after(self.clock), **fields))
        except Refusal:
            return False
        self._keep(happened)
        return True

    def active(self) -> list[tuple[StepId, int]]:
        """(step, attempt) of each attempt that an answer is awaited for."""
        assert self.state is not None
        return [(step, run.attempts) for step, run in self.state.runs.items() if run.status in ("running", "retrying")]

    def _keep(self, happened: list[ExecutionEvent]) -> None:
        for event in happened:
            self._check_lawful(event)
            self.events.append(event)
            self.state = executions.evolve(self.state, event)
        assert self.state is not None
        statuses = {run.status for run in self.state.runs.values()}
        is_active = bool(statuses & {"running", "retrying"})
        assert not (self.state.status in ENDED and is_active), "an ended execution waits for an answer"
        assert is_active or self.state.status != "running", "a running execution waits for nothing"
        assert (self.state.status == "completed") == (statuses == {"completed"})
        if self.state.status == "failed":
            assert "failed" in statuses
            assert self.state.error is not None

    def _check_lawful(self, event: ExecutionEvent) -> None:
        if isinstance(event, StepStarted):
            assert self.state is not None
            step = self.state.step(event.step)
            assert step is not None
            assert self.state.status == "running", "a step starts in an execution that is not running"
            assert all(self.state.runs[before].status == "completed" for before in step.depends_on), "a step starts too early"
            assert not any(run.status == "failed" for run in self.state.runs.values()), "a step starts after a failure"
            assert self.state.runs[event.step].status == "pending"
        if isinstance(event, StepStarted | StepRetrying):
            assert (event.step, event.attempt) not in self._attempts(StepStarted, StepRetrying), "an attempt is made twice"
            earlier = [attempt for step, attempt in self._attempts(StepStarted, StepRetrying) if step == event.step]
            assert event.attempt == len(earlier) + 1
        if isinstance(event, StepCompleted | StepFailed):
            assert (event.step, event.attempt) not in self._attempts(StepCompleted, StepFailed), "an attempt is answered twice"
        if isinstance(event, StepCompleted):
            assert event.step not in [step for step, _ in self._attempts(StepCompleted)], "a step completes twice"

    def _attempts(self, *kinds: type[Any]) -> list[tuple[StepId, int]]:
        return [(event.step, event.attempt) for event in self.events if isinstance(event, kinds)]


@settings(COUNTED, max_examples=400)
@given(acyclic_definitions(), st.data())
def test_any_interleaving_keeps_to_the_plan_and_comes_to_an_end(raw: dict[str, Any], data: st.DataObject) -> None:
    run = Run(raw)
    for _ in range(data.draw(st.integers(0, 25), label="moves")):
        move = data.draw(
            st.sampled_from(["complete"] * 4 + ["fail"] * 3 + ["late", "pause", "resume", "retry"] + ["cancel"] * (run.clock > 8))
        )
        active = run.active()
        if move in ("complete", "fail") and active:
            step, attempt = data.draw(st.sampled_from(active))
            if move == "complete":
                assert run.obey(CompleteStep, step=step, attempt=attempt, result={"n": run.clock})
            else:
                retryable = data.draw(st.booleans())
                assert run.obey(FailStep, step=step, attempt=attempt, error={"code": "x", "message": "y"}, retryable=retryable)
        elif move == "late":
            step = StepId(data.draw(st.sampled_from([f"s{n}" for n in range(len(raw["steps"]))])))
            attempt = data.draw(st.integers(0, 4))
            was_awaited = (step, attempt) in active
            assert run.obey(CompleteStep, step=step, attempt=attempt) == was_awaited
        elif move in ("pause", "resume", "cancel", "retry"):
            kinds = {"pause": PauseExecution, "resume": ResumeExecution, "cancel": CancelExecution, "retry": RetryExecution}
            run.obey(kinds[move])
    run.obey(ResumeExecution)
    answers = 0
    while run.active():
        step, attempt = run.active()[0]
        assert run.obey(CompleteStep, step=step, attempt=attempt)
        answers += 1
        assert answers <= len(raw["steps"])
    assert run.state is not None
    note(json.dumps([type(event).__name__ for event in run.events]))
    assert run.state.status in ENDED
    assert folded(executions.evolve, [stored(event) for event in run.events]) == run.state


@COUNTED
@given(acyclic_definitions())
def test_a_run_without_failure_completes_every_step_once_in_an_order_of_the_plan(raw: dict[str, Any]) -> None:
    run = Run(raw)
    while run.active():
        step, attempt = run.active()[-1]
        assert run.obey(CompleteStep, step=step, attempt=attempt)
    assert run.state is not None
    assert run.state.status == "completed"
    completed = [event.step for event in run.events if isinstance(event, StepCompleted)]
    assert sorted(completed) == sorted(step["id"] for step in raw["steps"])


@COUNTED
@given(acyclic_definitions(), st.data())
def test_a_failed_run_can_be_retried_to_completion(raw: dict[str, Any], data: st.DataObject) -> None:
    run = Run(raw)
    while run.active():
        step, attempt = data.draw(st.sampled_from(run.active()))
        if data.draw(st.booleans()):
            assert run.obey(FailStep, step=step, attempt=attempt, error={"code": "x"}, retryable=False)
        else:
            assert run.obey(CompleteStep, step=step, attempt=attempt)
    assert run.state is not None
    if run.state.status == "failed":
        assert run.obey(RetryExecution)
        while run.active():
            step, attempt = run.active()[0]
            assert run.obey(CompleteStep, step=step, attempt=attempt)
    assert run.state.status == "completed"
