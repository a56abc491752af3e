# intent_ref: commands.intent
"""Pausing and resuming an intent's schedule: decided on its own stream, so that the log says who and when."""

from typing import Any

from commands.intent import ArchiveIntent, PauseSchedule, ResumeSchedule, ReviseIntent, decide
from domain.intent import (
    Intent,
    IntentArchived,
    IntentCreated,
    IntentRevised,
    IntentSchedulePaused,
    IntentScheduleResumed,
    evolve,
)
from domain.refusals import IntentHasNoSchedule, IntentIsArchived, NotFound
from domain.values import Version
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, CATALOGUE, INTENT, RULES, after, deployment

decider: Decider[Intent] = Decider(evolve, lambda state, command: decide(state, command, CATALOGUE, RULES))
SCHEDULED: dict[str, Any] = {**deployment(), "schedule": {"interval": {"every": "1h"}}}
CREATED = IntentCreated(INTENT, "deploy", SCHEDULED, None, {}, AT)
PLAIN = IntentCreated(INTENT, "deploy", deployment(), None, {}, AT)
PAUSED, RESUMED = IntentSchedulePaused(INTENT, after(1)), IntentScheduleResumed(INTENT, after(2))
PAUSE, RESUME = PauseSchedule(intent_id=INTENT, at=after(1)), ResumeSchedule(intent_id=INTENT, at=after(2))


def test_a_schedule_is_paused_once_and_resumed_once():
    paused = decider.given(CREATED).when(PAUSE).then(PAUSED)
    paused.when(PAUSE).then_nothing()
    resumed = paused.when(RESUME).then(RESUMED)
    resumed.when(RESUME).then_nothing()
    state = paused.state
    assert state is not None
    assert (state.schedule_paused, state.status, state.updated_at) == (True, "active", AT)


def test_a_pause_outlasts_a_version():
    revise = ReviseIntent(intent_id=INTENT, definition=deployment(), at=after(3))
    plain = decider.given(CREATED, PAUSED).when(revise).then(
        IntentRevised(INTENT, Version(2), deployment(), None, {}, after(3))
    )  # fmt: skip
    assert plain.state is not None
    assert plain.state.schedule_paused
    plain.when(RESUME).then_refused(IntentHasNoSchedule, intent_id=INTENT)


def test_what_has_no_schedule_or_is_not_there_cannot_be_paused():
    decider.given(PLAIN).when(PAUSE).then_refused(IntentHasNoSchedule, intent_id=INTENT)
    decider.given().when(PAUSE).then_refused(NotFound)
    archived = decider.given(CREATED).when(ArchiveIntent(intent_id=INTENT, at=after(1)))
    archived.then(IntentArchived(INTENT, "deploy", after(1))).when(RESUME).then_refused(IntentIsArchived)
