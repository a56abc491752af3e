# intent_ref: tests.tenant-limits
"""What limits say, what they make of a start, and what a worker may take without asking."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from access.http.problems import of_refusal
from commands.again import RERUNS_MAX
from commands.execution import decide as decide_execution
from commands.execution_commands import AdmitExecution, RerunExecution, RetryExecution
from commands.intent import VERSIONS_MAX, ReviseIntent, RollBackIntent
from commands.intent import decide as decide_intent
from commands.tenant import SetTenantLimits, decide
from domain.execution import evolve as evolve_execution
from domain.execution_events import ExecutionQueued, StepStarted
from domain.input_rules import module_faults
from domain.intent import IntentCreated, IntentRevised
from domain.intent import evolve as evolve_intent
from domain.module import Action, Rate, Transport
from domain.refusals import ExecutionHasEnded, Invalid, LimitReached, NotFound, TooManyReruns, TooManyVersions
from domain.tenant import TenantLimitsSet, TenantRegistered, TenantSuspended, evolve
from domain.tenant_limits import COUNT_MAX, NO_LIMITS, TenantLimits
from domain.values import ActionName, StepId, TenantId, Version
from sagas.dispatches import Dispatch
from sagas.reactions import Cause, admission_row, react
from sagas.room import Limits, Room
from sagas.stalls import reasons_to_wake
from tests.unit.execution_play import Play, again
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, EXECUTION, INTENT, RULES, after, modules_of

TENANT = TenantId("tenant-123")
tenant = Decider(evolve, decide)
REGISTERED = TenantRegistered(TENANT, "Contoso", AT)
SOME = TenantLimits(concurrent_executions=2, weight=2.0)
A, B = {"action": "a"}, {"action": "b"}


def limiting(limits: TenantLimits) -> SetTenantLimits:
    return SetTenantLimits(tenant_id=TENANT, limits=limits, at=AT)


# --- what is set


def test_limits_are_set_once_and_hold_through_a_suspension() -> None:
    happened = TenantLimitsSet(TENANT, SOME, AT)
    tenant.given(REGISTERED).when(limiting(SOME)).then(happened)
    tenant.given(REGISTERED, happened).when(limiting(SOME)).then_nothing()
    tenant.given(REGISTERED, happened).when(limiting(NO_LIMITS)).then(TenantLimitsSet(TENANT, NO_LIMITS, AT))
    given_both = tenant.given(REGISTERED, happened, TenantSuspended(TENANT, None, after(1)))
    assert given_both.state is not None
    assert given_both.state.limits == SOME


def test_limits_of_a_tenant_that_is_not_there_are_not_set() -> None:
    tenant.given().when(limiting(SOME)).then_refused(NotFound)


def test_every_limit_that_makes_no_sense_is_named() -> None:
    wrong = TenantLimits(0, -1, None, COUNT_MAX + 1, 0, 1_000.0)
    names = ("concurrent_steps", "concurrent_executions", "executions_a_minute", "queue_length", "weight")
    tenant.given(REGISTERED).when(limiting(wrong)).then_faults(Invalid, *((f"/{name}", "invalid-number") for name in names))


def test_what_is_not_set_holds_as_the_installation_has_it() -> None:
    installation = TenantLimits(concurrent_steps=5, concurrent_executions=9, on_exceeded="reject")
    assert SOME.over(installation) == TenantLimits(5, 2, "reject", None, None, 2.0)
    assert NO_LIMITS.over(NO_LIMITS) == NO_LIMITS


@pytest.mark.parametrize(
    ("rate", "concurrency", "place"),
    [
        (Rate(0, 1.0), None, "/actions/0/rate"), (Rate(1, 0.01), None, "/actions/0/rate"),
        (Rate(1, 1e6), None, "/actions/0/rate"),
        (None, 0, "/actions/0/concurrency"), (None, 10**7, "/actions/0/concurrency"),
    ],
)  # fmt: skip
def test_an_actions_limits_have_limits(rate: Rate | None, concurrency: int | None, place: str) -> None:
    action = Action(ActionName("pour"), rate=rate, concurrency=concurrency)
    assert [fault.pointer for fault in module_faults("pourer", (action,), Transport("pull"))] == [place]


def test_a_limit_that_is_reached_is_told_in_headers() -> None:
    rate = LimitReached("executions-a-minute", 600, "Too many.", again_seconds=12, window_seconds=60)
    assert of_refusal(rate).headers == {
        "Retry-After": "12", "RateLimit-Policy": '"executions-a-minute";q=600;w=60',
        "RateLimit": '"executions-a-minute";r=0;t=12',
    }  # fmt: skip
    queue = of_refusal(LimitReached("queue-length", 5, "Full.", again_seconds=5))
    assert (queue.code, queue.headers["RateLimit-Policy"]) == ("limit-reached", '"queue-length";q=5')


# --- an execution's turn


def test_what_queues_begins_with_its_turn_and_not_before() -> None:
    play = Play(A, B, start={"queues": True, "priority": 2})
    assert play.begun == ["begin", "queued 1"]
    assert play.last[-1] == ExecutionQueued(EXECUTION, 1, 2, AT)
    assert (play.status, play.state.is_queued, play.state.is_plain) == ("running", True, False)
    assert reasons_to_wake(play.state) == {("", admission_row(1))}
    assert play.obey(AdmitExecution) == ["admitted", "start a"]
    assert play.obey(AdmitExecution) == []
    assert play.complete("a") == ["done a", "start b"]
    assert again(play) == play.state


def test_a_turn_that_comes_during_a_pause_begins_nothing_before_the_pause_ends() -> None:
    play = Play(A, start={"queues": True})
    assert play.pause() == ["pause"]
    assert play.obey(AdmitExecution) == ["admitted"]
    assert play.resume() == ["resume", "start a"]
    other = Play(A, start={"queues": True})
    other.pause()
    assert other.resume() == ["resume"], "the end of a pause is no turn"
    assert other.obey(AdmitExecution) == ["admitted", "start a"]


def test_what_waits_for_its_turn_keeps_signals_and_can_be_ended() -> None:
    play = Play({"id": "s", "signal": "go"}, start={"queues": True})
    assert play.signal("go", 1) == ["signal go"]
    assert play.obey(AdmitExecution)[:2] == ["admitted", "wait s: signal"]
    for end in ("cancel", "terminate"):
        other = Play(A, start={"queues": True})
        assert [line.split()[0].lower() for line in getattr(other, end)()] == [f"{end}led" if end == "cancel" else "terminated"]
        with pytest.raises(ExecutionHasEnded):
            other.obey(AdmitExecution)
    late = Play(A, start={"queues": True}, timeout="1m")
    assert late.out_of_time()[-1].startswith("FAILED")


def test_what_has_queued_queues_again_when_it_is_retried_or_rerun() -> None:
    play = Play(A, start={"queues": True})
    play.obey(AdmitExecution)
    play.fail("a", retryable=False)
    assert play.retry()[-1] == "queued 2"
    assert play.obey(AdmitExecution) == ["admitted", "start a #2"]
    play.complete("a")
    assert play.rerun("a")[-1] == "queued 3"
    free = Play(A)
    free.fail("a", retryable=False)
    assert free.retry()[-1] == "start a #2", "what never had to queue does not have to now"


def test_a_turn_is_waited_for_in_a_row_of_the_executions_priority() -> None:
    cause = Cause("t", UUID(int=1), "c", None)
    (row,) = react(cause, ExecutionQueued(EXECUTION, 3, 4, AT))
    assert isinstance(row, Dispatch)
    assert (row.kind, row.step, row.attempt, row.priority) == ("admission", "", -4, 4)
    assert not row.is_unlimited
    (other,) = react(cause, ExecutionQueued(EXECUTION, 4, 4, AT))
    assert isinstance(other, Dispatch)
    assert other.key != row.key


# --- a metered action


def test_attempts_of_a_metered_action_say_so_and_others_cost_nothing() -> None:
    modules = modules_of(
        some=(Action(ActionName("a"), concurrency=2), Action(ActionName("b")), Action(ActionName("undo"), rate=Rate(1, 1.0)))
    )
    play = Play({**A, "compensate": "undo", "retry": 2}, B, {"action": "b", "fallback": {"action": "a"}}, modules=modules)
    started = play.only(StepStarted)
    assert (started.limits.metered, started.limits.priority) == ("a", 3)
    play.fail("a")
    assert play.last[-1].limits.metered == "a"  # type: ignore[union-attr]
    play.complete("a")
    assert play.only(StepStarted).limits is None
    play.complete("b")
    play.fail("b-2", retryable=False)
    assert play.only(StepStarted).limits.metered == "a", "the fallback is metered, its step is not"
    play.fail("b-2", retryable=False)
    assert play.only(StepStarted).limits.metered == "undo"


# --- places of a worker


def row(tenant_id: str = "t", number: int = 0, **more: Any) -> Dispatch:
    return Dispatch(tenant_id, "e", f"s{number}", 1, AT, UUID(int=1), UUID(int=2), "c", None, **more)


def open_room(limits: Limits | None = None) -> Room:
    room = Room(limits or Limits(calls_max=4, tenant_calls_max=3))
    room.backlog = False
    return room


def test_a_worker_takes_what_it_has_room_for_and_no_tenant_takes_all() -> None:
    room = open_room()
    assert room.taken_at_once([row(number=number) for number in range(4)], AT) == [True, True, True, False]
    room.enter("t")
    assert room.taken_at_once([row(number=1), row(number=2), row(number=3), row("o")], AT) == [True, True, False, True]
    assert (room.free, room.of_tenants()) == (3, {"t": 2})
    room.leave("t")
    assert (room.free, room.of_tenants()) == (4, {})


def test_nothing_is_taken_past_what_waits_or_what_is_counted_elsewhere() -> None:
    room = open_room()
    rows = [row("a"), row("b", 1), row("c", 2), row("c", 3, slot_key="k", slot_max=1), row("c", 4, metered="m"), row("c", 5)]
    room.waits, room.limited = frozenset("a"), frozenset("b")
    assert room.taken_at_once(rows, AT) == [False, False, True, False, False, True]
    assert room.taken_at_once([row("c", due := 6)], after(-due)) == [False]
    room.backlog = True
    assert room.taken_at_once(rows, AT) == [False] * 6
    counted = open_room(Limits(4, 3, installation=TenantLimits(concurrent_steps=9)))
    assert counted.taken_at_once(rows, AT) == [False] * 6


def test_a_worker_looks_again_when_something_ends_that_others_wait_for() -> None:
    room = open_room()
    assert not room.is_awaited(["a"])
    room.waits = frozenset({"a", "b"})
    assert room.is_awaited(["c", "a"])
    assert not room.is_awaited(["c"])
    room.backlog = True
    assert room.is_awaited(["c"])


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30), st.integers(0, 10), st.integers(0, 10),
    st.frozensets(st.sampled_from("abc")), st.frozensets(st.sampled_from("abc")),
)  # fmt: skip
def test_no_room_is_ever_given_twice(
    wanted: list[tuple[str, bool]], calls: int, of_tenant: int, waits: frozenset[str], limited: frozenset[str]
) -> None:
    room = open_room(Limits(calls, of_tenant))
    room.waits, room.limited = waits, limited
    rows = [row(name, number, slot_key="k" if slotted else None) for number, (name, slotted) in enumerate(wanted)]
    taken = [one for one, fits in zip(rows, room.taken_at_once(rows, AT), strict=True) if fits]
    assert len(taken) <= calls
    assert not [one for one in taken if one.tenant_id in waits | limited or one.slot_key]
    for name in "abc":
        assert sum(one.tenant_id == name for one in taken) <= of_tenant


# --- what an intent and an execution may grow to


def test_an_intent_has_no_more_versions_than_it_may() -> None:
    first = IntentCreated(INTENT, "deploy", {"target": "t", "steps": []}, None, {}, AT)
    last = IntentRevised(INTENT, Version(VERSIONS_MAX - 1), {"target": "t", "steps": []}, None, {}, AT)
    deciding = Decider(evolve_intent, lambda state, command: decide_intent(state, command, modules_of(), RULES))
    revise = ReviseIntent(intent_id=INTENT, definition={"target": "u", "steps": []}, at=AT)
    full = (
        deciding.given(first, last)
        .when(revise)
        .then(IntentRevised(INTENT, Version(VERSIONS_MAX), {"target": "u", "steps": []}, None, {}, AT))
    )
    full.when(revise).then_refused(TooManyVersions, limit=VERSIONS_MAX)
    full.when(RollBackIntent(intent_id=INTENT, version=1, at=AT)).then_refused(TooManyVersions)


def test_an_execution_is_begun_again_only_so_often() -> None:
    play = Play(A)
    play.complete("a")
    worn = replace(play.state, reruns=RERUNS_MAX - 1)
    again_at = RerunExecution(execution_id=EXECUTION, step=StepId("a"), at=AT)
    for event in decide_execution(worn, again_at):
        worn = evolve_execution(worn, event)
    assert worn.reruns == RERUNS_MAX
    failed = replace(worn, status="failed")
    for command in (again_at, RetryExecution(execution_id=EXECUTION, at=AT)):
        with pytest.raises(TooManyReruns, match="1,000 times"):
            decide_execution(failed, command)


def test_the_loops_of_an_execution_have_no_more_items_together_than_they_may() -> None:
    loop = {"action": "a", "foreach": {"items": "${{ inputs.items }}", "concurrency": 1}, "depends_on": []}
    play = Play(*[{**loop, "id": f"l{number}"} for number in range(11)], start={"inputs": {"items": list(range(1_000))}})
    assert play.statuses() == ["running"] * 10 + ["failed"]
    assert play.run("l10").error is not None
    assert play.run("l10").error["code"] == "too-many-items"  # type: ignore[index]
