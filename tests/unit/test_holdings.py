# intent_ref: commands.holdings
"""What a change to an intent makes one more of, which is what a limit is asked about."""

from datetime import UTC, datetime
from typing import Any

import pytest

from commands.holdings import newly_held
from domain.intent import Intent, IntentCreated, IntentDeprecated, IntentRevised, IntentRolledBack, evolve
from domain.values import IntentId

AT = datetime(2026, 11, 21, tzinfo=UTC)
ID = IntentId("i-1")
PLAIN: dict[str, Any] = {"target": "t", "steps": []}
TRIGGERED = {**PLAIN, "on": {"type": "order.placed"}}
SCHEDULED = {**PLAIN, "schedule": {"interval": {"every": "1h"}}}
BOTH = {**TRIGGERED, **SCHEDULED}


def created(definition: dict[str, Any]) -> IntentCreated:
    return IntentCreated(ID, "shop", definition, None, None, AT)


def known(definition: dict[str, Any]) -> Intent:
    return evolve(None, created(definition))


def revised(definition: dict[str, Any]) -> IntentRevised:
    return IntentRevised(ID, 2, definition, None, None, AT)


@pytest.mark.parametrize(
    ("definition", "held"),
    [(PLAIN, {"intents"}), (TRIGGERED, {"intents", "triggers"}), (SCHEDULED, {"intents", "schedules"}),
     (BOTH, {"intents", "triggers", "schedules"}), ({**PLAIN, "on": None}, {"intents"})],
)  # fmt: skip
def test_a_new_intent_is_one_more_with_all_it_has(definition: dict[str, Any], held: set[str]) -> None:
    assert newly_held(None, [created(definition)]) == held


@pytest.mark.parametrize(
    ("before", "after", "held"),
    [(PLAIN, PLAIN, set()), (PLAIN, BOTH, {"triggers", "schedules"}), (TRIGGERED, TRIGGERED, set()), (BOTH, PLAIN, set()),
     (SCHEDULED, BOTH, {"triggers"})],
)  # fmt: skip
def test_a_version_is_one_more_of_what_the_one_before_had_not(before: Any, after: Any, held: set[str]) -> None:
    assert newly_held(known(before), [revised(after)]) == held
    assert newly_held(known(before), [IntentRolledBack(ID, 3, 1, after, AT)]) == held


def test_other_changes_are_no_more_of_anything() -> None:
    assert newly_held(known(BOTH), [IntentDeprecated(ID, AT)]) == set()
    assert newly_held(known(BOTH), []) == set()
