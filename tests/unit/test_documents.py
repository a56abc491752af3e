# intent_ref: tests.projections
"""Documents: what answers carry."""

from datetime import UTC, datetime, timedelta, timezone

import orjson
from hypothesis import given
from hypothesis import strategies as st

from domain import documents, intent
from domain.documents import timestamp
from domain.execution import evolve
from domain.execution_events import ExecutionStarted
from domain.module import Action, Module, RetryPolicy, Transport
from domain.values import ActionName, ModuleName, TenantId
from tests.histories import BEGIN, created, started


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_timestamps_are_utc_with_z_as_the_log_writes_them(at: datetime) -> None:
    assert f'"{timestamp(at)}"'.encode() == orjson.dumps(at.astimezone(UTC), option=orjson.OPT_UTC_Z)


def test_an_intent_shows_its_current_version() -> None:
    state = intent.evolve(None, created("i-1", labels={"team": "web"}))
    document = documents.intent_document(TenantId("tenant-1"), state)
    assert list(document) == [
        "id", "name", "version", "tenant_id", "status", "definition", "description", "labels", "created_at", "updated_at",
    ]  # fmt: skip
    assert (document["version"], document["status"], document["created_at"]) == (1, "active", "2026-11-21T08:00:00Z")


def test_a_version_says_what_it_was_rolled_back_to() -> None:
    state = intent.evolve(None, created("i-1"))
    assert documents.intent_version_document(state.intent_id, state.current) == {
        "intent_id": "i-1",
        "version": 1,
        "definition": state.current.definition,
        "created_at": "2026-11-21T08:00:00Z",
        "rolled_back_to": None,
    }


def test_an_execution_shows_its_steps_in_the_order_of_the_plan() -> None:
    event: ExecutionStarted = started("e-1")
    document = documents.execution_document(TenantId("tenant-1"), evolve(None, event))
    assert document["id"] == document["execution_id"] == "e-1"
    assert document["steps"] == [
        {
            "id": "build", "action": "act", "status": "pending", "attempts": 0, "depends_on": [], "result": None,
            "error": None, "fell_back": False, "waiting_for": None, "due_at": None, "items": None, "compensation": None,
            "started_at": None, "completed_at": None,
        }
    ]  # fmt: skip


def test_a_module_shows_its_actions_and_whether_it_is_built_in() -> None:
    action = Action(ActionName("deploy"), {"type": "object"}, None, 30.0, RetryPolicy(3))
    module = Module(ModuleName("sandbox"), (action,), Transport("in-process", plugin="sandbox"), BEGIN, BEGIN)
    document = documents.module_document(module, built_in=True)
    assert document["built_in"] is True
    assert document["transport"] == {"kind": "in-process", "url": None, "plugin": "sandbox", "secret": None}
    assert document["actions"] == [
        {
            "name": "deploy", "input_schema": {"type": "object"}, "output_schema": None, "timeout": 30.0,
            "retry": {
                "attempts_max": 3, "initial_seconds": 1.0, "backoff": 2.0, "cap_seconds": 60.0, "jitter": 0.0,
                "non_retryable": [],
            },
            "rate": None, "concurrency": None, "compensate": None,
        }
    ]  # fmt: skip
