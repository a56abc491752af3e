# intent_ref: commands.execution
"""How an execution is planned and carried on, in each of its states."""

from functools import partial
from typing import Any

import pytest

from commands.execution import (
    CancelExecution,
    CompleteStep,
    FailStep,
    FollowUpCommand,
    PauseExecution,
    ResumeExecution,
    RetryExecution,
    StartExecution,
    decide,
)
from commands.execution_start import decide_start
from domain import intent as intents
from domain.definition import Rules
from domain.execution import Execution, evolve
from domain.execution_events import (
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionStarted,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
)
from domain.intent import IntentArchived, IntentCreated, IntentDeprecated, IntentRevised
from domain.module import Modules, RetryPolicy
from domain.plan import PlannedStep
from domain.refusals import (
    ExecutionHasEnded,
    ExecutionNotFailed,
    ExecutionNotPaused,
    IntentIsArchived,
    IntentNotExecutable,
    Invalid,
    NotFound,
    StepNotRunning,
)
from domain.values import ActionName, ModuleName, StepId, Version
from tests.unit.given_when_then import Decider, Given, folded
from tests.unit.samples import AT, CATALOGUE, EXECUTION, INTENT, NO_MODULES, RULES, after, deployment, steps

BROKEN = {"code": "broken", "message": "It broke."}
WORSE = {"code": "worse", "message": "It broke for good."}
execution: Decider[Execution] = Decider(evolve, decide)


# --- starting


def starting(catalogue: Modules = CATALOGUE, rules: Rules = RULES) -> Decider[Any]:
    return Decider(intents.evolve, partial(decide_start, catalogue=catalogue, rules=rules))


def start(**fields: Any) -> StartExecution:
    return StartExecution(**{"execution_id": EXECUTION, "intent_id": INTENT, "at": AT, **fields})


def created(definition: dict[str, Any]) -> IntentCreated:
    return IntentCreated(INTENT, "deploy", definition, None, {}, AT)


def planned(step: str, *depends_on: str, module: str = "letters", timeout: float = 300.0, **parameters: Any) -> PlannedStep:
    before = tuple(StepId(name) for name in depends_on)
    return PlannedStep(StepId(step), ActionName(step), ModuleName(module), before, parameters, timeout, RetryPolicy())


def started_with(*plan: PlannedStep, inputs: dict[str, Any] | None = None, version: int = 1) -> ExecutionStarted:
    return ExecutionStarted(EXECUTION, INTENT, "deploy", Version(version), "production", inputs or {}, plan, AT)


def begun(step: str, attempt: int = 1, seconds: float = 0) -> StepStarted:
    return StepStarted(EXECUTION, StepId(step), ActionName(step), attempt, after(seconds))


def test_an_execution_records_its_plan_and_starts_the_first_step() -> None:
    plan = started_with(
        planned("build-docker-image", module="sandbox", image="myapp:latest", context="./app"),
        planned("push-to-registry", "build-docker-image", module="sandbox", registry="azurecr.io", image="myapp:latest"),
        planned("deploy-to-kubernetes", "push-to-registry", module="sandbox", namespace="production", replicas=3),
        inputs={"dry": True},
    )
    starting().given(created(deployment())).when(start(inputs={"dry": True})).then(plan, begun("build-docker-image"))


def test_every_step_that_waits_for_none_starts_at_once_in_the_order_of_the_plan() -> None:
    definition = steps(
        {"action": "b", "depends_on": []},
        {"action": "a", "depends_on": ["c"]},
        {"action": "c", "depends_on": []},
        {"action": "d"},
    )
    starting().given(created(definition)).when(start()).then(
        started_with(planned("b"), planned("a", "c"), planned("c"), planned("d", "c")), begun("b"), begun("c")
    )


def test_what_a_step_leaves_unsaid_comes_from_its_action_and_then_from_the_platform() -> None:
    definition = steps(
        {"action": "patient"},
        {"action": "patient", "timeout": 2, "retry": 5},
        {"action": "a"},
    )
    events = decide_start(folded(intents.evolve, [created(definition)]), start(), CATALOGUE, RULES)
    assert isinstance(events[0], ExecutionStarted)
    assert [(step.timeout_seconds, step.retry) for step in events[0].steps] == [
        (7.5, RetryPolicy(3, 2.0, 3.0, 5.0)),
        (2.0, RetryPolicy(5)),
        (300.0, RetryPolicy(1)),
    ]


def test_an_older_version_can_be_executed() -> None:
    second = IntentRevised(INTENT, Version(2), steps({"action": "b"}), None, {}, AT)
    past = starting().given(created(steps({"action": "a"})), second)
    past.when(start()).then(started_with(planned("b"), version=2), begun("b"))
    past.when(start(version=1)).then(started_with(planned("a"), version=1), begun("a"))
    for version in (-1, 0, 3):
        past.when(start(version=version)).then_refused(NotFound, kind="version", identity=str(version))


def test_an_intent_that_is_not_there_or_archived_is_not_executed() -> None:
    starting().given().when(start()).then_refused(NotFound, kind="intent", identity=INTENT)
    archived = starting().given(created(deployment()), IntentArchived(INTENT, "deploy", AT))
    archived.when(start()).then_refused(IntentIsArchived, intent_id=INTENT)


def test_a_deprecated_intent_is_still_executed() -> None:
    past = starting().given(created(steps({"action": "a"})), IntentDeprecated(INTENT, AT))
    past.when(start()).then(started_with(planned("a")), begun("a"))


@pytest.mark.parametrize("definition", [{"target": "production"}, {"target": "production", "steps": []}])
def test_an_intent_without_steps_is_not_executable(definition: dict[str, Any]) -> None:
    starting().given(created(definition)).when(start()).then_faults(IntentNotExecutable, ("/definition/steps", "no-steps"))


def test_a_definition_is_held_to_the_modules_and_rules_of_today() -> None:
    past = (created(steps({"action": "a"})),)
    gone = ("/definition/steps/0/action", "unknown-action")
    starting(catalogue=NO_MODULES).given(*past).when(start()).then_faults(IntentNotExecutable, gone)
    forbidden = ("/definition/target", "forbidden-target")
    starting(rules=Rules(forbidden_targets=("production",))).given(*past).when(start()).then_faults(
        IntentNotExecutable, forbidden
    )


def test_inputs_hold_no_secret_and_nothing_that_cannot_be_stored() -> None:
    inputs = {"password": "hunter2", "deep": {"nul": "a\0b"}, "huge": 2**70}
    starting().given(created(steps({"action": "a"}))).when(start(inputs=inputs)).then_faults(
        Invalid, ("/inputs/huge", "unstorable"), ("/inputs/deep/nul", "unstorable"), ("/inputs/password", "secret")
    )


# --- answers of steps


def running(*plan: PlannedStep) -> Given[Execution]:
    return execution.given(started_with(*plan), *[begun(step.id) for step in plan if not step.depends_on])


def complete(step: str, attempt: int = 1, seconds: float = 1, result: Any = None) -> CompleteStep:
    return CompleteStep(execution_id=EXECUTION, step=StepId(step), attempt=attempt, result=result, at=after(seconds))


def completed(step: str, attempt: int = 1, seconds: float = 1, result: Any = None) -> StepCompleted:
    return StepCompleted(EXECUTION, StepId(step), attempt, result, after(seconds))


def fail(step: str, attempt: int = 1, seconds: float = 1, error: Any = None, retryable: bool = True) -> FailStep:
    return FailStep(
        execution_id=EXECUTION, step=StepId(step), attempt=attempt, error=error or BROKEN, retryable=retryable, at=after(seconds)
    )


def failed(step: str, attempt: int = 1, seconds: float = 1, error: Any = None) -> StepFailed:
    return StepFailed(EXECUTION, StepId(step), attempt, error or BROKEN, after(seconds))


def ended_badly(step: str, seconds: float = 1, error: Any = None) -> ExecutionFailed:
    return ExecutionFailed(EXECUTION, StepId(step), error or BROKEN, after(seconds))


def retrying(step: str, attempt: int, due: float, seconds: float = 1) -> StepRetrying:
    return StepRetrying(EXECUTION, StepId(step), attempt, BROKEN, after(due), after(seconds))


def test_steps_follow_one_another_to_the_end() -> None:
    past = running(planned("a"), planned("b", "a"), planned("c", "b"))
    past = past.when(complete("a", result={"image": "x"})).then(completed("a", result={"image": "x"}), begun("b", seconds=1))
    past = past.when(complete("b", seconds=2)).then(completed("b", seconds=2), begun("c", seconds=2))
    past = past.when(complete("c", seconds=3, result=[1])).then(
        completed("c", seconds=3, result=[1]), ExecutionCompleted(EXECUTION, after(3))
    )
    assert past.state is not None
    assert (past.state.status, past.state.runs[StepId("a")].result) == ("completed", {"image": "x"})


def test_a_step_waits_for_all_it_depends_on() -> None:
    past = running(planned("a"), planned("b"), planned("c", "a", "b"), planned("d", "b"), planned("e", "c", "d"))
    past = past.when(complete("a")).then(completed("a"))
    past = past.when(complete("b")).then(completed("b"), begun("c", seconds=1), begun("d", seconds=1))
    past = past.when(complete("d")).then(completed("d"))
    past.when(complete("c")).then(completed("c"), begun("e", seconds=1))


@pytest.mark.parametrize(("step", "attempt"), [("a", 0), ("a", 2), ("b", 1), ("b", 0), ("nowhere", 1)])
def test_an_answer_to_an_attempt_that_is_not_running_is_refused(step: str, attempt: int) -> None:
    past = running(planned("a"), planned("b", "a"))
    for command in (complete(step, attempt), fail(step, attempt)):
        past.when(command).then_refused(StepNotRunning, step=step, attempt=attempt)


def test_a_second_answer_to_an_attempt_is_refused() -> None:
    done = running(planned("a"), planned("b")).when(complete("a")).then(completed("a"))
    lost = running(planned("a"), planned("b")).when(fail("a")).then(failed("a"))
    for past in (done, lost):
        for command in (complete("a"), fail("a")):
            past.when(command).then_refused(StepNotRunning, step="a", attempt=1)


def test_a_failure_without_retries_ends_the_execution() -> None:
    past = running(planned("a"), planned("b", "a")).when(fail("a")).then(failed("a"), ended_badly("a"))
    assert past.state is not None
    assert (past.state.status, past.state.error) == ("failed", BROKEN)
    assert past.state.runs[StepId("b")].status == "pending"


def test_a_failure_lets_running_steps_finish_and_starts_no_other() -> None:
    past = running(planned("a"), planned("b"), planned("c", "b"))
    past = past.when(fail("a", seconds=1)).then(failed("a", seconds=1))
    past.when(complete("b", seconds=2)).then(completed("b", seconds=2), ended_badly("a", seconds=2))


def test_the_first_of_several_failures_is_the_executions_error() -> None:
    past = running(planned("a"), planned("b")).when(fail("b", seconds=1)).then(failed("b", seconds=1))
    past.when(fail("a", seconds=2, error=WORSE)).then(failed("a", seconds=2, error=WORSE), ended_badly("b", seconds=2))


def patient(*depends_on: str) -> PlannedStep:
    before = tuple(StepId(name) for name in depends_on)
    return PlannedStep(StepId("p"), ActionName("p"), ModuleName("m"), before, {}, 5.0, RetryPolicy(3, 2.0, 3.0, 5.0))


def test_a_failed_attempt_is_repeated_as_its_policy_says_and_waits_longer_each_time() -> None:
    past = running(patient())
    past = past.when(fail("p", 1, seconds=10)).then(retrying("p", 2, due=12, seconds=10))
    past = past.when(fail("p", 2, seconds=20)).then(retrying("p", 3, due=25, seconds=20))  # 2 * 3 s, at most 5
    past.when(fail("p", 3, seconds=30)).then(failed("p", 3, seconds=30), ended_badly("p", seconds=30))
    past.when(complete("p", 3, seconds=30)).then(completed("p", 3, seconds=30), ExecutionCompleted(EXECUTION, after(30)))


def test_an_answer_to_an_attempt_before_the_one_that_waits_is_refused() -> None:
    past = running(patient()).when(fail("p", 1)).then(retrying("p", 2, due=3))
    past.when(complete("p", 1)).then_refused(StepNotRunning, attempt=1)


def test_a_failure_that_no_other_attempt_would_mend_is_final() -> None:
    running(patient()).when(fail("p", retryable=False)).then(failed("p"), ended_badly("p"))


def test_an_execution_goes_on_while_a_step_waits_for_its_next_attempt() -> None:
    past = running(patient(), planned("a")).when(fail("p", 1)).then(retrying("p", 2, due=3))
    past = past.when(fail("a")).then(failed("a"))
    past.when(complete("p", 2, seconds=4)).then(completed("p", 2, seconds=4), ended_badly("a", seconds=4))


def test_a_result_that_cannot_be_stored_fails_its_step_for_good() -> None:
    error = {
        "code": "result-not-storable",
        "message": "The module's result cannot be stored.",
        "faults": [{"pointer": "/result/text", "detail": "This text has a NUL character, which cannot be stored."}],
    }
    past = running(patient())
    past.when(complete("p", result={"text": "a\0b"})).then(failed("p", error=error), ended_badly("p", error=error))


def test_an_error_that_cannot_be_stored_is_named_so_and_counts_as_the_failure_it_is() -> None:
    command = fail("p", error={"code": "broken", "message": "\ud800"})
    detail = "This text has half of a surrogate pair, which cannot be stored."
    error = {
        "code": "error-not-storable",
        "message": "The module's error cannot be stored.",
        "faults": [{"pointer": "/error/message", "detail": detail}],
    }
    running(patient()).when(command).then(StepRetrying(EXECUTION, StepId("p"), 2, error, after(3), after(1)))


def test_a_modules_answer_may_hold_what_a_definition_may_not() -> None:
    result = {"password": "one-time", "log": "x" * 100_000}
    past = running(planned("a"))
    past.when(complete("a", result=result)).then(completed("a", result=result), ExecutionCompleted(EXECUTION, after(1)))


# --- what people ask of it

CANCEL = CancelExecution(execution_id=EXECUTION, reason="wrong day", at=after(5))
PAUSE = PauseExecution(execution_id=EXECUTION, at=after(5))
RESUME = ResumeExecution(execution_id=EXECUTION, at=after(6))
RETRY = RetryExecution(execution_id=EXECUTION, at=after(7))
PAUSED = ExecutionPaused(EXECUTION, after(5))
RESUMED = ExecutionResumed(EXECUTION, after(6))
CANCELLED = ExecutionCancelled(EXECUTION, "wrong day", after(5))

TWO = (planned("a"), planned("b", "a"))
RUNNING = running(*TWO)
PAUSED_ONE = execution.given(*RUNNING.events, PAUSED)
COMPLETED_ONE = execution.given(*running(planned("a")).events, completed("a"), ExecutionCompleted(EXECUTION, after(1)))
FAILED_ONE = execution.given(*RUNNING.events, failed("a"), ended_badly("a"))
CANCELLED_ONE = execution.given(*RUNNING.events, CANCELLED)
ENDED = {"completed": COMPLETED_ONE, "failed": FAILED_ONE, "cancelled": CANCELLED_ONE}


@pytest.mark.parametrize("command", [complete("a"), fail("a"), CANCEL, PAUSE, RESUME, RETRY])
def test_an_execution_that_is_not_there_is_not_found(command: FollowUpCommand) -> None:
    execution.given().when(command).then_refused(NotFound, kind="execution", identity=EXECUTION)


@pytest.mark.parametrize("status", ENDED)
@pytest.mark.parametrize("command", [CANCEL, PAUSE, RESUME])
def test_an_execution_that_has_ended_stays_so(status: str, command: FollowUpCommand) -> None:
    ENDED[status].when(command).then_refused(ExecutionHasEnded, execution_id=EXECUTION, status=status)


@pytest.mark.parametrize("status", ENDED)
@pytest.mark.parametrize("command", [complete("a"), fail("a")])
def test_an_answer_to_an_execution_that_has_ended_comes_too_late(status: str, command: FollowUpCommand) -> None:
    ENDED[status].when(command).then_refused(StepNotRunning, step="a", attempt=1)


@pytest.mark.parametrize(
    ("status", "past"),
    [("running", RUNNING), ("paused", PAUSED_ONE), ("completed", COMPLETED_ONE), ("cancelled", CANCELLED_ONE)],
)
def test_only_a_failed_execution_is_retried(status: str, past: Given[Execution]) -> None:
    past.when(RETRY).then_refused(ExecutionNotFailed, execution_id=EXECUTION, status=status)


def test_cancelling_ends_an_execution_and_every_step_that_has_not_ended() -> None:
    past = running(planned("a"), planned("b"), planned("c", "a")).when(complete("a")).then(completed("a"), begun("c", seconds=1))
    state = past.when(CANCEL).then(CANCELLED).state
    assert state is not None
    assert state.status == "cancelled"
    assert [run.status for run in state.runs.values()] == ["completed", "cancelled", "cancelled"]
    PAUSED_ONE.when(CANCEL).then(CANCELLED)


@pytest.mark.parametrize(("reason", "code"), [("x" * 2_001, "oversize"), ("a\0b", "unstorable")])
def test_a_reason_is_text_that_can_be_stored(reason: str, code: str) -> None:
    RUNNING.when(CancelExecution(execution_id=EXECUTION, reason=reason, at=AT)).then_faults(Invalid, ("/reason", code))


def test_a_pause_holds_back_the_next_step_until_it_is_resumed() -> None:
    paused = RUNNING.when(PAUSE).then(PAUSED)
    paused.when(PAUSE).then_nothing()
    quiet = paused.when(complete("a")).then(completed("a"))
    resumed = quiet.when(RESUME).then(RESUMED, begun("b", seconds=6))
    resumed.when(RESUME).then_refused(ExecutionNotPaused, status="running")


def test_resuming_starts_nothing_twice() -> None:
    PAUSED_ONE.when(RESUME).then(RESUMED).when(complete("a")).then(completed("a"), begun("b", seconds=1))


def test_a_paused_execution_completes_when_its_last_step_does() -> None:
    past = execution.given(*running(planned("a")).events, PAUSED)
    past.when(complete("a")).then(completed("a"), ExecutionCompleted(EXECUTION, after(1)))


def test_a_paused_execution_fails_when_its_last_running_step_does() -> None:
    PAUSED_ONE.when(fail("a")).then(failed("a"), ended_badly("a"))


def test_a_paused_execution_still_repeats_attempts() -> None:
    execution.given(*running(patient()).events, PAUSED).when(fail("p", 1)).then(retrying("p", 2, due=3))


def test_resuming_after_a_failure_starts_no_step() -> None:
    plan = (planned("a"), planned("b"), planned("c", "b"), planned("d"))
    past = execution.given(*running(*plan).events, failed("a"), PAUSED, completed("b"))
    past.when(RESUME).then(RESUMED)


def test_a_retry_begins_with_the_failed_steps_and_keeps_the_completed_ones() -> None:
    past = FAILED_ONE.when(RETRY).then(ExecutionRetried(EXECUTION, (StepId("a"),), after(7)), begun("a", attempt=2, seconds=7))
    past.when(complete("a", 1)).then_refused(StepNotRunning, attempt=1)
    past.when(complete("a", 2)).then(completed("a", 2), begun("b", seconds=1))


def test_a_retry_starts_what_the_failure_had_held_back() -> None:
    plan = (planned("a"), planned("b"), planned("c", "b"), planned("d", "a"))
    past = (
        running(*plan)
        .when(fail("a"))
        .then(failed("a"))
        .when(complete("b", result=7))
        .then(completed("b", result=7), ended_badly("a"))
    )
    past = past.when(RETRY).then(
        ExecutionRetried(EXECUTION, (StepId("a"),), after(7)), begun("a", attempt=2, seconds=7), begun("c", seconds=7)
    )
    assert past.state is not None
    assert past.state.runs[StepId("b")].result == 7


def test_a_retry_resets_every_failed_step_in_the_order_of_the_plan() -> None:
    past = execution.given(*running(planned("a"), planned("b")).events, failed("b"), failed("a", error=WORSE), ended_badly("b"))
    past.when(RETRY).then(
        ExecutionRetried(EXECUTION, (StepId("a"), StepId("b")), after(7)), begun("a", 2, seconds=7), begun("b", 2, seconds=7)
    )


def test_attempts_before_a_retry_by_hand_do_not_count_against_the_policy() -> None:
    past = execution.given(*running(patient()).events, failed("p"), ended_badly("p"))
    past = past.when(RETRY).then(ExecutionRetried(EXECUTION, (StepId("p"),), after(7)), begun("p", attempt=2, seconds=7))
    past = past.when(fail("p", 2)).then(retrying("p", 3, due=3))
    past = past.when(fail("p", 3)).then(retrying("p", 4, due=6))
    past.when(fail("p", 4)).then(failed("p", 4), ended_badly("p"))
