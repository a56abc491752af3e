# intent_ref: tests.ahead-of-stream
"""Executions whose first events the stream brings: kept as they are then, and only while nobody can know better."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from domain.execution_events import StepStarted
from domain.values import ActionName, StepId, StreamId, TenantId
from event_store import codec
from event_store.ids import uuid7
from event_store.snapshots import StateCache
from sagas.new_executions import FRESH, keep_new
from streaming.transport import Message
from tests.unit.test_execution_decisions import AT, EXECUTION, planned, started_with

TENANT, STREAM = TenantId("tenant-1"), StreamId(f"execution-{EXECUTION}")
STEP = StepId("build")


@pytest.fixture
def states() -> StateCache:
    return StateCache(cast("Any", None))


def message(version: int, event: Any, age: timedelta = timedelta()) -> Message:
    topic, payload = codec.encode(event)
    return Message(uuid7(), version, TENANT, STREAM, version, topic, payload, "{}", datetime.now(UTC) - age)


def first_events(age: timedelta = timedelta()) -> list[Message]:
    started = started_with(planned(STEP))
    return [message(1, started, age), message(2, StepStarted(EXECUTION, STEP, ActionName("no-op"), 1, AT), age)]


def test_what_begins_is_kept_as_far_as_the_stream_tells(states: StateCache) -> None:
    keep_new(states, first_events())
    kept = states.cached(TENANT, STREAM)
    assert kept is not None
    assert kept.version == 2
    assert kept.state.runs[STEP].status == "running"


def test_what_is_heard_late_is_left_to_the_log(states: StateCache) -> None:
    keep_new(states, first_events(FRESH + timedelta(seconds=1)))
    assert states.cached(TENANT, STREAM) is None


def test_what_is_known_already_is_not_set_back(states: StateCache) -> None:
    keep_new(states, first_events())
    known = states.cached(TENANT, STREAM)
    keep_new(states, first_events()[:1])
    assert states.cached(TENANT, STREAM) is known


@pytest.mark.parametrize("missing", [0, 1])
def test_with_a_gap_nothing_is_kept(states: StateCache, missing: int) -> None:
    messages = [*first_events(), message(3, StepStarted(EXECUTION, STEP, ActionName("no-op"), 2, AT))]
    del messages[missing]
    keep_new(states, messages)
    assert states.cached(TENANT, STREAM) is None


def test_an_event_that_cannot_be_read_keeps_nothing_and_hurts_nobody(states: StateCache) -> None:
    first, second = first_events()
    keep_new(states, [first, replace(second, payload=b"{")])
    assert states.cached(TENANT, STREAM) is None
