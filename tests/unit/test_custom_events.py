# intent_ref: commands.custom-event
"""What steps say in the tenant's own words: named, bounded, and never in the platform's name."""

from typing import Any

import pytest

from commands.custom_event import DATA_BYTES_MAX, EVENTS_MAX, EmitEvent, decide
from domain.custom_event import CustomEventEmitted, CustomEvents, evolve
from domain.refusals import Invalid, TooManyCustomEvents
from domain.values import StepId
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, EXECUTION, RULES

decider: Decider[CustomEvents] = Decider(evolve, lambda state, command: decide(state, command, RULES))
STEP = StepId("tell")


def emit(type: Any, data: Any = None) -> EmitEvent:
    return EmitEvent(execution_id=EXECUTION, step=STEP, type=type, data=data, at=AT)


def test_a_step_says_what_has_happened():
    placed = CustomEventEmitted(EXECUTION, STEP, "order.placed", {"total": 120}, AT)
    decider.given().when(emit("order.placed", {"total": 120})).then(placed)
    decider.given(placed).when(emit("com.example/v1:order")).then(
        CustomEventEmitted(EXECUTION, STEP, "com.example/v1:order", None, AT)
    )


@pytest.mark.parametrize(
    "type",
    ["", 7, None, "a b", "a.", ".a", "a..b", "a.*", "x" * 201, "quantum.a.v1", "Quantum.x", "quantum", "é"],
)
def test_types_are_names_and_none_of_the_platforms_own(type: Any):
    decider.given().when(emit(type)).then_faults(Invalid, ("/type", "invalid-type"))


def test_data_is_bounded_and_no_place_for_secrets():
    half = "x" * (DATA_BYTES_MAX // 2)
    decider.given().when(emit("a", [half, half])).then_faults(Invalid, ("/data", "too-large"))
    refusal: Any = decider.given().when(emit("a", {"password": "hunter2hunter2"})).then_refused(Invalid)
    assert refusal.faults[0].pointer.startswith("/data")


def test_an_execution_does_not_go_on_talking_for_ever():
    with pytest.raises(TooManyCustomEvents):
        decide(CustomEvents(EVENTS_MAX), emit("a"), RULES)
    assert decide(CustomEvents(EVENTS_MAX - 1), emit("a"), RULES)
