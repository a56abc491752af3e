# intent_ref: tests.schedules
"""Schedules and triggers as clients see them, and the steps that emit events and give commands, on a whole platform."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.unit.test_schedules_page import definitions
from tests.waiting import wait_until

NIGHTLY = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
STEPS: list[dict[str, Any]] = [{"action": "no-op"}]
ALL_COMMANDS = ("start-execution", "cancel-execution", "signal-execution", "create-intent", "deprecate-intent")


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    folder: Path = tmp_path_factory.mktemp("data")
    async with serving(database, folder, step_commands=ALL_COMMANDS) as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


async def intent(tenant: Tenant, name: str, steps: list[dict[str, Any]] | None = None, **definition: Any) -> str:
    body = {"name": name, "definition": {"target": "production", "steps": STEPS if steps is None else steps, **definition}}
    answer = await tenant.post("/intents", body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def executed(tenant: Tenant, intent_id: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """An execution by hand, once it has ended."""
    answer = await tenant.post(f"/intents/{intent_id}/execute", {"inputs": inputs or {}})
    assert answer.status_code == 202, answer.text
    return await ended(tenant, str(answer.json()["execution_id"]))


async def ended(tenant: Tenant, execution_id: str) -> dict[str, Any]:
    async def over() -> Any:
        answer = await tenant.get(f"/executions/{execution_id}")
        return answer.json() if answer.status_code == 200 and answer.json()["completed_at"] else None

    found: dict[str, Any] = await wait_until(over, 20, what="the end of the execution")
    return found


async def runs_of(tenant: Tenant, intent_id: str) -> list[dict[str, Any]]:
    answer = await tenant.get("/executions", params={"intent_id": intent_id})
    return list(answer.json()["items"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_schedule_runs_by_itself_and_shows_what_it_did(tenant: Tenant):
    made = await intent(tenant, "every-second", schedule={"interval": {"every": "1s"}, "inputs": {"at": "${{ schedule.time }}"}})

    async def has_run() -> Any:
        shown = (await tenant.get(f"/intents/{made}/schedule")).json()
        return shown if shown["last_run"] else None

    shown = await wait_until(has_run, 20, what="the first run")
    assert shown["status"] == "active"
    assert (shown["intent_id"], shown["version"], shown["last_error"]) == (made, 1, None)
    assert len(shown["next_runs"]) == 10
    assert shown["next_runs"] == sorted(shown["next_runs"])
    execution = await ended(tenant, shown["last_run"]["execution_id"])
    assert execution["inputs"] == {"at": shown["last_run"]["time"]}
    assert execution["started_by"] == f"schedule of intent {made}"


async def test_pausing_resuming_and_running_out_of_turn(tenant: Tenant):
    made = await intent(tenant, "nightly", schedule={**NIGHTLY, "inputs": {"night": "${{ schedule.time }}"}})
    paused = await tenant.post(f"/intents/{made}/schedule/pause")
    assert (paused.status_code, paused.json()) == (200, {"intent_id": made, "version": 1, "status": "paused"})
    shown = (await tenant.get(f"/intents/{made}/schedule")).json()
    assert (shown["status"], shown["next_runs"], shown["runs"]) == ("paused", [], 0)

    key = {"Idempotency-Key": "once"}
    ran = await tenant.post(f"/intents/{made}/schedule/run-now", headers=key)
    again = await tenant.post(f"/intents/{made}/schedule/run-now", headers=key)
    assert (ran.status_code, again.json()) == (202, ran.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    run = await ended(tenant, ran.json()["execution_id"])
    assert (run["started_by"], list(run["inputs"])) == ("ada", ["night"])

    resumed = await tenant.post(f"/intents/{made}/schedule/resume", roles=["operator"])
    assert resumed.json()["status"] == "active"
    assert len((await tenant.get(f"/intents/{made}/schedule")).json()["next_runs"]) == 10
    events = await tenant.get("/events", params={"types": "quantum.intent.*"})
    assert [event["type"] for event in events.json()["items"]] == [
        "quantum.intent.created.v1", "quantum.intent.schedule_paused.v1", "quantum.intent.schedule_resumed.v1",
    ]  # fmt: skip


async def test_who_may_not_and_what_is_not_there(http: Http, tenant: Tenant):
    plain = await intent(tenant, "plain")
    made = await intent(tenant, "nightly", schedule=NIGHTLY)
    other = await http.tenant()
    for path in ("pause", "resume", "run-now"):
        assert code(await tenant.post(f"/intents/{made}/schedule/{path}", roles=["viewer"])) == (403, "role-missing")
        assert code(await other.post(f"/intents/{made}/schedule/{path}")) == (404, "not-found")
        assert code(await tenant.post(f"/intents/nobody/schedule/{path}")) == (404, "not-found")
        assert (await tenant.post(f"/intents/{made}/schedule/{path}", {"x": 1})).status_code == 422
    assert code(await tenant.post(f"/intents/{plain}/schedule/pause")) == (409, "intent-has-no-schedule")
    assert code(await tenant.post(f"/intents/{plain}/schedule/run-now")) == (409, "intent-has-no-schedule")
    for part in ("schedule", "trigger"):
        assert code(await tenant.get(f"/intents/{plain}/{part}")) == (404, "not-found")
        assert code(await other.get(f"/intents/{made}/{part}")) == (404, "not-found")
    assert (await tenant.request("DELETE", f"/intents/{made}")).status_code == 204
    assert (await tenant.get(f"/intents/{made}/schedule")).json()["status"] == "archived"
    assert code(await tenant.post(f"/intents/{made}/schedule/pause")) == (409, "intent-archived")
    assert code(await tenant.post(f"/intents/{made}/schedule/run-now")) == (409, "intent-archived")


async def test_a_step_emits_an_event_and_another_intent_starts_upon_it(http: Http, tenant: Tenant):
    billing = await intent(
        tenant, "billing",
        on={"type": "order.placed", "when": "event.data.total > 100", "inputs": {"order": "${{ event.data }}"}},
    )  # fmt: skip
    ordering = await intent(
        tenant, "ordering",
        [{"action": "transform", "value": {"total": "${{ inputs.price * inputs.count }}"}},
         {"action": "emit", "type": "order.placed", "data": "${{ steps.transform.result }}"}],
    )  # fmt: skip
    bystander = await http.tenant()
    elsewhere = await intent(bystander, "billing", on={"type": "order.placed"})

    small = await executed(tenant, ordering, {"price": 10, "count": 2})
    large = await executed(tenant, ordering, {"price": 60, "count": 2})
    assert [one["status"] for one in (small, large)] == ["completed"] * 2
    runs = await wait_until(lambda: runs_of(tenant, billing), 20, what="billing")
    assert [run["inputs"] for run in runs] == [{"order": {"total": 120}}]
    shown = (await tenant.get(f"/intents/{billing}/trigger")).json()
    assert (shown["runs"], shown["last_run"]["execution_id"], shown["last_error"]) == (1, runs[0]["id"], None)
    assert runs[0]["started_by"] == f"event {shown['last_run']['event_id']}"
    assert await runs_of(bystander, elsewhere) == []
    emitted = (await tenant.get("/events", params={"types": "quantum.custom.emitted.v1"})).json()["items"]
    assert [event["data"]["data"] for event in emitted] == [{"total": 20}, {"total": 120}]


async def test_the_definitions_on_the_page_work_together(tenant: Tenant):
    nightly, billing, ordering = definitions()
    answers = [
        await tenant.post("/intents", {"name": name, "definition": definition})
        for name, definition in (("nightly", nightly), ("billing", billing), ("ordering", ordering))
    ]
    assert [answer.status_code for answer in answers] == [201] * 3
    ids = [answer.json()["id"] for answer in answers]
    run = await tenant.post(f"/intents/{ids[0]}/schedule/run-now")
    assert (await ended(tenant, run.json()["execution_id"]))["inputs"]["keep_days"] == 30
    await executed(tenant, ids[2], {"price": 101})
    (billed,) = await wait_until(lambda: runs_of(tenant, ids[1]), 20, what="billing")
    assert billed["inputs"] == {"order": {"total": 101}}


@pytest.mark.parametrize("type", ["quantum.execution.started.v1", "a b", ""])
async def test_a_step_that_says_what_it_may_not_fails_and_says_why(tenant: Tenant, type: str):
    made = await intent(tenant, "emitting", [{"action": "emit", "retry": 1, "type": "${{ inputs.type }}"}])
    run = await executed(tenant, made, {"type": type})
    assert (run["status"], run["steps"][0]["error"]["code"]) == ("failed", "input-invalid")


async def test_steps_give_commands_in_their_own_tenant(http: Http, tenant: Tenant):
    target = await intent(tenant, "target")
    waiting = await intent(tenant, "waiting", [{"id": "go", "signal": "go"}])
    commanding = await intent(
        tenant, "commanding",
        [
            {"id": "start", "action": "command", "name": "start-execution",
             "arguments": {"intent": "target", "inputs": {"n": 1}}},
            {"id": "wait", "action": "command", "name": "start-execution", "arguments": {"intent": waiting}},
            {"id": "signal", "action": "command", "name": "signal-execution",
             "arguments": {"execution_id": "${{ steps.wait.result.execution_id }}", "signal": "go", "payload": {"by": "step"}}},
            {"id": "create", "action": "command", "name": "create-intent",
             "arguments": {"name": "made-by-a-step", "definition": {"target": "x", "steps": [{"action": "no-op"}]}}},
            {"id": "deprecate", "action": "command", "name": "deprecate-intent",
             "arguments": {"intent_id": "${{ steps.create.result.intent_id }}"}},
        ],
    )  # fmt: skip
    run = await executed(tenant, commanding)
    assert run["status"] == "completed", run
    results = {step["id"]: step["result"] for step in run["steps"]}
    started = await ended(tenant, results["start"]["execution_id"])
    assert (started["intent_id"], started["inputs"], started["started_by"]) == (target, {"n": 1}, f"execution {run['id']}")
    signalled = await ended(tenant, results["wait"]["execution_id"])
    assert (signalled["status"], signalled["steps"][0]["result"]) == ("completed", {"by": "step"})
    assert results["deprecate"]["status"] == "deprecated"

    # What is another tenant's does not exist.
    other = await http.tenant()
    theirs = await intent(
        other, "theirs", [{"action": "command", "retry": 1, "name": "start-execution", "arguments": {"intent": target}}]
    )
    refused = await executed(other, theirs)
    assert (refused["status"], refused["steps"][0]["error"]["code"]) == ("failed", "not-found")


async def test_commands_that_are_not_allowed_or_make_no_sense_are_refused(tenant: Tenant):
    made = await intent(
        tenant, "senseless",
        [{"action": "command", "retry": 1, "name": "${{ inputs.name }}", "arguments": "${{ inputs.arguments }}"}],
    )  # fmt: skip
    for name, arguments in (
        ("archive-intent", {}),
        ("start-execution", {}),
        ("start-execution", {"intent": "senseless", "tenant_id": "tenant-1"}),
        ("cancel-execution", {"execution_id": 7}),
        ("create-intent", {"name": "x", "definition": {"target": "x", "steps": [{"action": "unheard-of"}]}}),
    ):
        run = await executed(tenant, made, {"name": name, "arguments": arguments})
        assert (run["status"], run["steps"][0]["error"]["code"]) == ("failed", "input-invalid"), (name, run)
