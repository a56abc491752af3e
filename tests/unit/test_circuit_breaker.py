# intent_ref: tests.modules
"""A breaker opens for an endpoint that fails, stays open longer each time, and lets one call find out."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.breaker import Breakers, Circuit, Thresholds
from modules.contract import ModuleError

URL = "https://module.example/run"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def unreachable() -> ModuleError:
    return ModuleError("unreachable", "no")


def answered(status: int) -> ModuleError:
    return ModuleError("http-status", "no", details={"status": status})


class Breaker:
    """One endpoint's breaker under a clock of the test."""

    def __init__(self, **thresholds: Any) -> None:
        self.clock = Clock()
        self.all = Breakers(Thresholds(**{"calls_min": 4, "open_seconds": 10.0, **thresholds}), self.clock)

    def call(self, fault: BaseException | None = None, *, tenant: str = "t", url: str = URL) -> str:
        """What came of a call that ends with `fault`."""
        try:
            with self.all.guarding(tenant, url):
                if fault is not None:
                    raise fault
        except ModuleError as error:
            return error.code
        except BaseException as error:
            return type(error).__name__
        return "ok"

    def circuit(self, tenant: str = "t") -> Circuit:
        """How the endpoint is shown."""
        shown = (one for one in self.all.not_closed() if (one.tenant_id, one.url) == (tenant, URL))
        return next(shown, Circuit(tenant, URL, "closed", 0.0, 0))

    def state(self, tenant: str = "t") -> str:
        return str(self.circuit(tenant).state)

    def broken(self) -> "Breaker":
        for _ in range(4):
            assert self.call(unreachable()) == "unreachable"
        assert self.state() == "open"
        return self


def test_it_opens_when_too_many_fail_and_says_when_to_come_back():
    breaker = Breaker().broken()
    breaker.clock.now += 3
    with pytest.raises(ModuleError) as raised, breaker.all.guarding("t", URL):
        raise AssertionError("the endpoint is asked")
    assert (raised.value.code, raised.value.retryable, raised.value.counts) == ("circuit-open", True, False)
    assert raised.value.details == {"retry_after_seconds": 7}
    assert breaker.circuit() == Circuit("t", URL, "open", 3.0, 4, 7.0)


def test_few_calls_or_few_failures_leave_it_closed():
    breaker = Breaker()
    for _ in range(3):
        breaker.call(unreachable())
    assert breaker.state() == "closed"
    breaker = Breaker()
    for _ in range(20):
        assert [breaker.call(), breaker.call(), breaker.call(unreachable())] == ["ok", "ok", "unreachable"]
    assert breaker.state() == "closed"


def test_failures_outside_the_window_are_forgotten():
    breaker = Breaker(window_seconds=60)
    for _ in range(3):
        breaker.call(unreachable())
    breaker.clock.now += 61
    breaker.call(unreachable())
    assert breaker.state() == "closed"


@pytest.mark.parametrize("fault", [unreachable(), ModuleError("timeout", "no"), answered(500), answered(503), answered(429)])
def test_faults_of_the_infrastructure_count(fault: ModuleError):
    breaker = Breaker()
    for _ in range(4):
        breaker.call(fault)
    assert breaker.state() == "open"


@pytest.mark.parametrize(
    "fault",
    [answered(400), answered(404), answered(408), ModuleError("output-invalid", "no"), ModuleError("address-forbidden", "no"),
     asyncio.CancelledError(), RuntimeError()],
)  # fmt: skip
def test_faults_of_the_work_and_calls_that_were_given_up_do_not(fault: BaseException):
    breaker = Breaker()
    for _ in range(40):
        breaker.call(fault)
    assert breaker.state() == "closed"


def test_after_its_time_one_call_finds_out_and_the_others_wait():
    breaker = Breaker().broken()
    breaker.clock.now += 10
    assert breaker.state() == "half-open"
    with breaker.all.guarding("t", URL):
        assert breaker.call() == "circuit-open"
        assert breaker.call() == "circuit-open"
    assert breaker.state() == "closed"
    assert breaker.call() == "ok"


def test_each_failed_probe_doubles_the_time_up_to_a_limit():
    breaker = Breaker(open_seconds_max=35.0).broken()
    for seconds in (10, 20, 35, 35):
        breaker.clock.now += seconds - 0.5
        assert breaker.call() == "circuit-open"
        breaker.clock.now += 0.5
        assert breaker.call(unreachable()) == "unreachable"
    breaker.clock.now += 35
    assert breaker.call() == "ok"
    for _ in range(4):
        breaker.call(unreachable())
    assert breaker.circuit().probe_in_seconds == 10


def test_a_probe_that_is_given_up_lets_another_find_out():
    breaker = Breaker().broken()
    breaker.clock.now += 10
    assert breaker.call(asyncio.CancelledError()) == "CancelledError"
    assert breaker.call() == "ok"
    assert breaker.state() == "closed"


def test_a_business_error_closes_it_since_the_endpoint_answers():
    breaker = Breaker().broken()
    breaker.clock.now += 10
    breaker.call(answered(422))
    assert breaker.state() == "closed"


def test_calls_that_began_before_it_opened_change_nothing_when_they_end():
    breaker = Breaker()
    with breaker.all.guarding("t", URL):
        breaker.broken()
    assert breaker.state() == "open"


def test_tenants_and_addresses_have_breakers_of_their_own():
    breaker = Breaker().broken()
    assert breaker.call(tenant="other") == "ok"
    assert breaker.call(url=URL + "/2") == "ok"
    assert breaker.all.states() == {"closed": 2, "open": 1, "half-open": 0}


def test_there_are_never_more_than_the_limit():
    breaker = Breaker(breakers_max=10)
    for number in range(50):
        breaker.call(url=f"{URL}/{number}")
    assert sum(breaker.all.states().values()) == 10


@given(st.lists(st.tuples(st.sampled_from(["ok", "fault", "wait", "cancel"]), st.floats(0, 20)), max_size=80))
def test_whatever_happens_an_open_endpoint_is_left_alone_and_asked_again_in_time(history: list[tuple[str, float]]):
    breaker = Breaker(open_seconds_max=40.0)
    for kind, seconds in history:
        breaker.clock.now += seconds
        fault = {"fault": unreachable(), "cancel": asyncio.CancelledError()}.get(kind)
        shown = breaker.circuit()
        said = breaker.call(fault)
        assert (said == "circuit-open") == (shown.state == "open")
        assert (shown.probe_in_seconds or 0) <= 40
    breaker.clock.now += 40
    assert breaker.call() == "ok"
    assert breaker.state() == "closed"


def test_each_change_is_told_once_and_as_it_stands_then():
    breaker, told = Breaker(), []
    breaker.all.on_change(lambda: told.append(1))
    assert breaker.all.take_changes() == []
    breaker.broken()
    assert breaker.all.take_changes() == [Circuit("t", URL, "open", 0.0, 4, 10.0)]
    assert breaker.all.take_changes() == []
    assert breaker.call() == "circuit-open"
    assert breaker.all.take_changes() == []
    breaker.clock.now += 10
    assert [one.state for one in breaker.all.not_closed()] == ["half-open"]
    assert breaker.call(unreachable()) == "unreachable"
    assert breaker.all.take_changes() == [Circuit("t", URL, "open", 0.0, 5, 20.0)]
    breaker.clock.now += 21
    assert breaker.call() == "ok"
    assert breaker.all.take_changes() == [Circuit("t", URL, "closed", 0.0, 0)]
    assert breaker.all.not_closed() == []
    assert len(told) == 5


def test_changes_nobody_takes_do_not_pile_up():
    breaker = Breaker(breakers_max=3)
    for number in range(10):
        for _ in range(4):
            breaker.call(unreachable(), url=f"{URL}/{number}")
    assert [one.url[-1] for one in breaker.all.take_changes()] == ["7", "8", "9"]
