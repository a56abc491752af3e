# intent_ref: tests.execution-core
"""How control flow is written: every key of a step that is not its action's, and every fault where it is."""

from typing import Any

import pytest

from domain.definition import parse_definition
from domain.module import RetryPolicy
from domain.refusals import DefinitionInvalid
from domain.step_control import CONTROL_KEYS, ControlDraft, GateUse, WorkflowUse
from domain.steps import Step
from tests.unit.samples import CATALOGUE, RULES, steps


def parsed(*written: Any) -> tuple[Step, ...]:
    return parse_definition(steps(*written), CATALOGUE, RULES).steps


def control(**fields: Any) -> ControlDraft:
    said = parsed({"action": "a", **fields})[-1].control
    assert said is not None
    return said


def found(*written: Any) -> list[tuple[str, str]]:
    with pytest.raises(DefinitionInvalid) as caught:
        parse_definition(steps(*written), CATALOGUE, RULES)
    return [(fault.pointer.removeprefix("/definition/steps/"), fault.code) for fault in caught.value.faults]


def test_a_step_that_says_nothing_of_control_has_none() -> None:
    assert parsed({"action": "a"})[0].control is None
    assert parsed({"action": "a", **dict.fromkeys(CONTROL_KEYS)})[0].control is None


# --- what is right


@pytest.mark.parametrize(
    ("written", "kept"), [("inputs.go", "inputs.go"), (True, "true"), (False, "false"), ("x" * 4_096, "x" * 4_096)]
)
def test_a_condition_is_an_expression_or_a_constant(written: Any, kept: str) -> None:
    assert control(when=written).when == kept


@pytest.mark.parametrize("join", ["all", "any", 1, 2])
def test_a_join_is_all_or_any_or_a_number_of_the_dependencies(join: Any) -> None:
    written = [{"action": "a", "depends_on": []}, {"action": "b", "depends_on": []}]
    said = parsed(*written, {"action": "c", "depends_on": ["a", "b"], "join": join})[-1].control
    assert said is not None
    assert said.join == join


@pytest.mark.parametrize(
    ("written", "duration", "until"),
    [
        ("5m", 300.0, None),
        (0.5, 0.5, None),
        ("366d", 366 * 86_400.0, None),
        ({"for": "2h"}, 7_200.0, None),
        ({"for": "${{ inputs.pause }}"}, "${{ inputs.pause }}", None),
        ({"until": "2026-12-24T18:00:00+01:00"}, None, "2026-12-24T18:00:00+01:00"),
        ({"until": "${{ inputs.at }}", "for": None}, None, "${{ inputs.at }}"),
    ],
)
def test_a_wait_is_for_a_duration_or_until_a_time(written: Any, duration: Any, until: Any) -> None:
    assert control(wait=written).gates == (GateUse("wait", duration, until),)


@pytest.mark.parametrize(
    ("written", "gate"),
    [
        (True, GateUse("approval", on_due="fail")),
        ({}, GateUse("approval", on_due="fail")),
        ({"roles": ["ops", "lead"]}, GateUse("approval", on_due="fail", roles=("ops", "lead"))),
        ({"expires_in": "1d"}, GateUse("approval", 86_400.0, on_due="fail")),
        ({"expires_in": "${{ inputs.x }}", "on_expiry": "skip"}, GateUse("approval", "${{ inputs.x }}", on_due="skip")),
        ({"expires_in": 5, "on_expiry": "approve", "message": "Go?"}, GateUse("approval", 5.0, on_due="complete", message="Go?")),
    ],
)
def test_an_approval_says_who_and_how_long_and_what_then(written: Any, gate: GateUse) -> None:
    assert control(approval=written).gates == (gate,)


@pytest.mark.parametrize(
    ("written", "gate"),
    [
        ("paid", GateUse("signal", on_due="fail", signal="paid")),
        ({"name": "paid"}, GateUse("signal", on_due="fail", signal="paid")),
        (
            {"name": "paid", "expires_in": "1h", "on_expiry": "complete"},
            GateUse("signal", 3600.0, on_due="complete", signal="paid"),
        ),
        ({"name": "paid", "expires_in": "1h", "on_expiry": "skip"}, GateUse("signal", 3600.0, on_due="skip", signal="paid")),
    ],
)  # fmt: skip
def test_a_signal_is_a_name_with_or_without_an_end(written: Any, gate: GateUse) -> None:
    assert control(signal=written).gates == (gate,)


def test_gates_are_passed_in_one_order_however_they_are_written() -> None:
    gates = control(signal="s", approval=True, wait=1).gates
    assert [gate.kind for gate in gates] == ["wait", "approval", "signal"]


@pytest.mark.parametrize(
    ("written", "use"),
    [
        ("release", WorkflowUse("release", None, {})),
        ("release@3", WorkflowUse("release", 3, {})),
        ("with spaces", WorkflowUse("with spaces", None, {})),
        ({"name": "release"}, WorkflowUse("release", None, {})),
        ({"name": "release@3", "inputs": {"n": "${{ inputs.n }}"}}, WorkflowUse("release", 3, {"n": "${{ inputs.n }}"})),
        ({"name": "release", "version": 2}, WorkflowUse("release", 2, {})),
    ],
)
def test_a_workflow_is_a_name_with_or_without_a_version(written: Any, use: WorkflowUse) -> None:
    step = parsed({"workflow": written})[0]
    assert step.control is not None
    assert step.control.workflow == use
    assert (step.id, step.action, step.has_action) == ("workflow", "workflow", False)


@pytest.mark.parametrize(
    ("written", "items", "at_once"),
    [
        ([], [], 10),
        ([1, {"n": 2}], [1, {"n": 2}], 10),
        ("${{ inputs.all }}", "${{ inputs.all }}", 10),
        ({"items": [1], "concurrency": 1}, [1], 1),
        ({"items": list(range(1_000)), "concurrency": 1_000}, list(range(1_000)), 1_000),
    ],
)
def test_a_loop_is_over_an_array_or_a_template(written: Any, items: Any, at_once: int) -> None:
    said = control(foreach=written)
    assert (said.is_loop, said.items, said.items_at_once) == (True, items, at_once)


def test_failure_is_lived_with_where_the_step_says_so() -> None:
    assert control(on_failure="continue").goes_on_after_failure
    assert not control(on_failure="fail").goes_on_after_failure


@pytest.mark.parametrize("key", ["fallback", "compensate"])
def test_what_stands_in_or_undoes_is_an_action_by_name_or_with_parameters(key: str) -> None:
    plain = getattr(control(**{key: "b"}), key)
    assert (plain.action, plain.parameters, plain.timeout_seconds, plain.retry) == ("b", {}, None, None)
    written = {"action": "b", "n": 1, "timeout": "5s", "retry": {"max_attempts": 2, "backoff": 1}}
    full = getattr(control(**{key: written}), key)
    assert (full.action, full.parameters, full.timeout_seconds, full.retry) == ("b", {"n": 1}, 5.0, RetryPolicy(2, 1.0, 1.0))


def test_a_step_can_say_that_nothing_undoes_it() -> None:
    said = control(compensate=False)
    assert (said.is_never_undone, said.compensate) == (True, None)


def test_timeouts_are_of_an_attempt_of_queueing_and_of_the_whole() -> None:
    said = control(timeouts={"attempt": "5s", "queue": 10, "total": "366d"}, heartbeat="30s")
    assert (said.attempt_seconds, said.queue_seconds, said.total_seconds) == (5.0, 10.0, 366 * 86_400.0)
    assert said.heartbeat_seconds == 30.0


def test_the_timeout_of_an_attempt_may_be_said_in_either_way_and_the_plain_one_wins() -> None:
    assert parsed({"action": "a", "timeouts": {"attempt": 5}})[0].timeout_seconds == 5.0
    assert parsed({"action": "a", "timeout": 7, "timeouts": {"attempt": 5}})[0].timeout_seconds == 7.0


@pytest.mark.parametrize(
    ("written", "key", "most"),
    [
        ("db", "db", 1),
        ("${{ inputs.db }}", "${{ inputs.db }}", 1),
        ({"key": "db"}, "db", 1),
        ({"key": "db", "max": 10_000}, "db", 10_000),
    ],
)
def test_a_concurrency_key_says_how_many_may_run_at_once(written: Any, key: str, most: int) -> None:
    said = control(concurrency=written)
    assert (said.concurrency_key, said.concurrency_max) == (key, most)


# --- steps without an action, and gates written as actions


@pytest.mark.parametrize(
    ("written", "word"),
    [({"wait": 1}, "wait"), ({"approval": True}, "approval"), ({"signal": "s"}, "signal"),
    ({"wait": 1, "signal": "s"}, "signal"),
     ({"workflow": "w", "wait": 1}, "workflow")],
)  # fmt: skip
def test_a_step_without_an_action_is_called_by_what_it_does(written: Any, word: str) -> None:
    step = parsed(written)[0]
    assert (step.id, step.action, step.has_action) == (word, word, False)


def test_a_wait_and_an_approval_may_be_written_as_actions() -> None:
    wait, approval = parsed({"action": "wait", "for": "5s", "id": "w"}, {"action": "approval", "roles": ["ops"], "expires_in": 9})
    assert wait.control is not None
    assert approval.control is not None
    assert (wait.id, wait.has_action, wait.control.gates) == ("w", False, (GateUse("wait", 5.0),))
    assert approval.control.gates == (GateUse("approval", 9.0, on_due="fail", roles=("ops",)),)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ({"wait": {"for": 1, "until": None}}, {"wait": 1}),
        ({"approval": {"roles": None, "expires_in": None, "on_expiry": None}}, {"approval": True}),
        ({"signal": {"name": "s", "on_expiry": None}}, {"signal": "s"}),
        ({"workflow": {"name": "x@3", "version": None, "inputs": None}}, {"workflow": "x@3"}),
    ],
)
def test_null_says_nothing_inside_of_control_either(written: dict[str, Any], same: dict[str, Any]) -> None:
    assert parsed(written) == parsed(same)


# --- what is wrong


@pytest.mark.parametrize(
    ("key", "value", "place", "code"),
    [
        ("when", "", "when", "type"), ("when", "  ", "when", "type"), ("when", "x" * 4_097, "when", "type"),
        ("when", 1, "when", "type"),
        ("when", ["a"], "when", "type"), ("when", {}, "when", "type"),
        ("join", 0, "join", "invalid-join"), ("join", -1, "join", "invalid-join"), ("join", True, "join", "invalid-join"),
        ("join", "some", "join", "invalid-join"), ("join", 1.5, "join", "invalid-join"), ("join", [], "join", "invalid-join"),
        ("join", {}, "join", "invalid-join"), ("join", "any", None, None), ("join", 1, "join", "invalid-join"),
        ("wait", {}, "wait", "missing"), ("wait", {"for": 1, "until": "x"}, "wait", "missing"),
        ("wait", {"for": 0}, "wait/for", "invalid-duration"), ("wait", "367d", "wait/for", "invalid-duration"),
        ("wait", True, "wait/for", "invalid-duration"), ("wait", [], "wait/for", "invalid-duration"),
        ("wait", {"until": 5}, "wait/until", "type"), ("wait", {"until": []}, "wait/until", "type"),
        ("wait", {"until": "yesterday"}, "wait/until", "type"),
        ("wait", {"until": "2026-12-24T18:00:00"}, "wait/until", "type"),
        ("approval", False, "approval", "type"), ("approval", "ops", "approval", "type"),
        ("approval", [], "approval", "type"),
        ("approval", {"roles": "ops"}, "approval/roles", "type"), ("approval", {"roles": [1]}, "approval/roles", "type"),
        ("approval", {"roles": ["ops"] * 21}, "approval/roles", "type"),
        ("approval", {"expires_in": "soon"}, "approval/expires_in", "invalid-duration"),
        ("approval", {"on_expiry": "complete"}, "approval/on_expiry", "invalid"),
        ("approval", {"on_expiry": []}, "approval/on_expiry", "invalid"),
        ("approval", {"on_expiry": {}}, "approval/on_expiry", "invalid"),
        ("signal", "", "signal", "type"), ("signal", "a b", "signal", "type"), ("signal", 5, "signal", "type"),
        ("signal", {}, "signal", "type"), ("signal", {"name": 5}, "signal", "type"), ("signal", True, "signal", "type"),
        ("signal", {"name": "s", "on_expiry": "approve"}, "signal/on_expiry", "invalid"),
        ("signal", {"name": "s", "expires_in": -1}, "signal/expires_in", "invalid-duration"),
        ("foreach", 5, "foreach", "type"), ("foreach", "text", "foreach", "type"), ("foreach", {}, "foreach", "type"),
        ("foreach", list(range(1_001)), "foreach", "too-many-items"),
        ("foreach", {"items": [1], "concurrency": 0}, "foreach/concurrency", "invalid-number"),
        ("foreach", {"items": [1], "concurrency": 1_001}, "foreach/concurrency", "invalid-number"),
        ("foreach", {"items": [1], "concurrency": True}, "foreach/concurrency", "invalid-number"),
        ("foreach", {"items": [1], "concurrency": "5"}, "foreach/concurrency", "invalid-number"),
        ("on_failure", "ignore", "on_failure", "invalid"), ("on_failure", True, "on_failure", "invalid"),
        ("on_failure", [], "on_failure", "invalid"),
        ("fallback", True, "fallback", "type"), ("fallback", {}, "fallback", "type"),
        ("fallback", {"action": 5}, "fallback", "type"),
        ("fallback", False, "fallback", "type"), ("fallback", "nowhere", "fallback/action", "unknown-action"),
        ("fallback", {"action": "b", "timeout": 0}, "fallback/timeout", "invalid-duration"),
        ("fallback", {"action": "b", "retry": 0}, "fallback/retry", "invalid-number"),
        ("compensate", True, "compensate", "type"),
        ("compensate", {"action": "nowhere"}, "compensate/action", "unknown-action"),
        ("timeouts", 5, "timeouts", "type"), ("timeouts", {"attempt": "2d"}, "timeouts/attempt", "invalid-duration"),
        ("timeouts", {"queue": 0}, "timeouts/queue", "invalid-duration"),
        ("timeouts", {"total": []}, "timeouts/total", "invalid-duration"),
        ("heartbeat", 0, "heartbeat", "invalid-duration"), ("heartbeat", {}, "heartbeat", "invalid-duration"),
        ("concurrency", 5, "concurrency", "type"), ("concurrency", "", "concurrency", "type"),
        ("concurrency", {}, "concurrency", "type"),
        ("concurrency", {"key": "k", "max": 0}, "concurrency/max", "invalid-number"),
        ("concurrency", {"key": "k", "max": 10_001}, "concurrency/max", "invalid-number"),
        ("concurrency", {"key": "k", "max": True}, "concurrency/max", "invalid-number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_is(key: str, value: Any, place: str | None, code: str | None) -> None:
    if place is None:
        assert parsed({"action": "a", key: value})
    else:
        assert found({"action": "a", key: value}) == [(f"0/{place}", code)]


@pytest.mark.parametrize("value", [5, True, "", "x@0", "x@-1", "x@1.5", "a@b@1", "x" * 201, {}, {"name": 5}, []])
def test_a_workflows_name_is_a_text_with_a_version_from_1(value: Any) -> None:
    assert ("0/workflow", "type") in found({"workflow": value})


@pytest.mark.parametrize("version", [0, -1, True, "3", 1.5])
def test_a_workflows_version_is_an_integer_from_1(version: Any) -> None:
    assert found({"workflow": {"name": "x", "version": version}}) == [("0/workflow/version", "invalid-number")]
    assert found({"workflow": {"name": "x", "inputs": [1]}}) == [("0/workflow/inputs", "type")]


@pytest.mark.parametrize(
    ("key", "value", "typo"),
    [("wait", {"for": 1}, "form"), ("approval", {}, "role"), ("signal", {"name": "s"}, "payload"),
    ("foreach", {"items": []}, "item"),
     ("timeouts", {}, "atempt"), ("concurrency", {"key": "k"}, "maximum")],
)  # fmt: skip
def test_a_key_that_means_nothing_is_never_passed_over(key: str, value: dict[str, Any], typo: str) -> None:
    assert found({"action": "a", key: {**value, typo: 1}}) == [(f"0/{key}/{typo}", "unknown-key")]


def test_a_workflows_key_that_means_nothing_is_never_passed_over() -> None:
    assert found({"workflow": {"name": "x", "input": {}}}) == [("0/workflow/input", "unknown-key")]


def test_a_step_has_either_an_action_or_a_workflow() -> None:
    assert found({"action": "a", "workflow": "x"}) == [("0/workflow", "type")]
    assert found({"foreach": [1], "when": "true"}) == [("0", "missing")]


def test_only_actions_have_parameters() -> None:
    assert found({"wait": 1, "image": "i"}) == [("0/image", "unknown-key")]
    assert found({"workflow": "x", "inputs": {}}) == [("0/inputs", "unknown-key")]


@pytest.mark.parametrize("key", ["timeout", "retry", "timeouts", "heartbeat", "concurrency"])
def test_what_only_attempts_have_is_refused_where_there_are_none(key: str) -> None:
    value = {"timeout": 5, "retry": 2, "timeouts": {"attempt": 5}, "heartbeat": 5, "concurrency": "k"}[key]
    place = "0/timeouts/attempt" if key == "timeouts" else f"0/{key}"
    assert found({"workflow": "x", key: value}) == [(place, "no-action")]
    assert found({"wait": 5, key: value}) == [(place, "no-action")]


@pytest.mark.parametrize("step", [{"workflow": "x"}, {"wait": 5}, {"approval": True}, {"signal": "s"}])
def test_every_step_may_have_a_time_as_a_whole(step: dict[str, Any]) -> None:
    (read,) = parsed({**step, "timeouts": {"total": "1h"}})
    assert read.control is not None
    assert read.control.total_seconds == 3_600
    queueing = {**step, "timeouts": {"total": "1h", "queue": "1m", "attempt": "1m"}}
    assert found(queueing) == [("0/timeouts/queue", "no-action"), ("0/timeouts/attempt", "no-action")]


def test_a_join_of_more_than_there_are_is_a_fault() -> None:
    written = [{"action": "a"}, {"action": "b", "depends_on": ["a"], "join": 2}, {"action": "c", "depends_on": [], "join": 1}]
    assert found(*written) == [("1/join", "invalid-join"), ("2/join", "invalid-join")]


def test_all_faults_of_all_keys_are_told_at_once() -> None:
    broken = {
        "action": "a", "when": 5, "join": "x", "wait": {}, "approval": 5, "signal": 5, "foreach": 5, "on_failure": 5,
        "fallback": 5, "compensate": 5, "timeouts": 5, "heartbeat": 0, "concurrency": 5, "workflow": 5, "timeout": 0, "retry": 0,
    }  # fmt: skip
    pointers = [pointer for pointer, _ in found(broken)]
    assert {pointer.split("/")[1] for pointer in pointers if "/" in pointer} >= set(broken) - {"action"}
    assert len(pointers) == len(set(pointers))


@pytest.mark.parametrize("key", CONTROL_KEYS)
@pytest.mark.parametrize(
    "value",
    ["\0", "\ud800", "${{", "${{ x", [[[]]] * 3, {"\0": 1}, {"": {}}, 10**400, -(2**70), float("nan"), float("inf"),
     {"action": "\0"},
     {"name": "\0"}, {"items": {"a": 1}}, {"key": "\0"}, {"for": float("inf")}, {"roles": [["x"]]}, {1: 2}],
)  # fmt: skip
def test_whatever_a_key_is_given_the_answer_is_a_definition_or_its_faults(key: str, value: Any) -> None:
    try:
        parsed({"action": "a", key: value})
    except DefinitionInvalid as refusal:
        assert refusal.faults
        assert all(fault.pointer.isprintable() or "\\" not in fault.pointer for fault in refusal.faults)
