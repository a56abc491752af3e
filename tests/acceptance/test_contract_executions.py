# intent_ref: tests.contract
"""The contract's executions: their steps, their events as a list and as a stream, failures, retries, and steering them."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.acceptance.outside import API, DEPLOY, ENDS, Sent, Tenant, assert_problem, sent_events

OFF = {"action": "no-op"}


def failing(**wishes: Any) -> dict[str, Any]:
    return {"action": "no-op", "sandbox": wishes}


async def streamed(tenant: Tenant, execution_id: str, **headers: str) -> list[Sent]:
    """Everything a stream sends until it ends."""
    path = f"{API}/executions/{execution_id}/events"
    async with tenant.outside.client.stream("GET", path, headers={**tenant.headers(), **headers}, timeout=20) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].split(";")[0] == "text/event-stream"
        return [event async for event in sent_events(answer.aiter_lines())]


async def test_the_deployment_runs_from_definition_to_completed(tenant: Tenant):
    created = await tenant.post("/intents", DEPLOY)
    intent_id = created.json()["id"]
    accepted = await tenant.post(f"/intents/{intent_id}/execute", {"inputs": {"ticket": "OPS-1"}})
    assert accepted.status_code == 202
    receipt = accepted.json()
    assert receipt.items() >= {"intent_id": intent_id, "version": 1, "status": "running"}.items()
    assert accepted.headers["Quantum-Position"]
    at_once = await tenant.get(f"/executions/{receipt['execution_id']}", after=accepted)
    assert at_once.status_code == 200
    ended = await tenant.ended(receipt["execution_id"])
    assert ended["status"] == "completed"
    assert ended.items() >= {"intent_id": intent_id, "version": 1, "tenant_id": tenant.id, "inputs": {"ticket": "OPS-1"}}.items()
    assert [step["action"] for step in ended["steps"]] == [step["action"] for step in DEPLOY["definition"]["steps"]]
    for step in ended["steps"]:
        assert {"id", "action", "status", "attempts", "result", "error", "started_at", "completed_at"} <= set(step)
        assert step.items() >= {"status": "completed", "attempts": 1, "error": None, "id": step["action"]}.items()
        assert step["result"]["sandbox"] is True
        assert step["started_at"] <= step["completed_at"]
    starts = [step["started_at"] for step in ended["steps"]]
    assert starts == sorted(starts)


async def test_an_execution_without_a_body_and_of_an_older_version(tenant: Tenant):
    created = await tenant.intent([OFF, OFF])
    path = f"/intents/{created.json()['id']}"
    await tenant.request("PUT", path, json={"definition": {"target": "t", "steps": [OFF]}}, headers={"If-Match": '"1"'})
    current = await tenant.post(f"{path}/execute")
    assert (current.status_code, current.json()["version"]) == (202, 2)
    older = await tenant.post(f"{path}/execute", {"version": 1})
    assert (older.status_code, older.json()["version"]) == (202, 1)
    assert len((await tenant.ended(older.json()["execution_id"]))["steps"]) == 2
    assert_problem(await tenant.post(f"{path}/execute", {"version": 7}), 404)
    assert_problem(await tenant.post("/intents/nobody/execute"), 404)


async def test_executions_are_listed_by_status_and_intent(tenant: Tenant):
    good, bad = await tenant.start([OFF]), await tenant.start([failing(fail=True)])
    documents = {one: await tenant.ended(one) for one in (good, bad)}

    async def ids(query: str) -> list[str]:
        answer = await tenant.get(f"/executions?{query}")
        assert answer.status_code == 200
        assert set(answer.json()) == {"items", "next_cursor"}
        return [item["execution_id"] for item in answer.json()["items"]]

    assert sorted(await ids("")) == sorted([good, bad])
    assert await ids("status=failed") == [bad]
    assert await ids("status=completed") == [good]
    assert await ids(f"intent_id={documents[bad]['intent_id']}") == [bad]
    assert len(await ids("limit=1")) == 1
    assert_problem(await tenant.get("/executions/nobody"), 404)


async def test_steps_are_named_by_their_action_and_wait_for_the_one_before(tenant: Tenant):
    steps = [
        OFF, OFF, {"action": "no-op", "id": "mine"}, {"action": "notify"}, OFF, {"action": "notify", "depends_on": ["mine"]},
    ]  # fmt: skip
    ended = await tenant.ended(await tenant.start(steps))
    found = {step["id"]: step["depends_on"] for step in ended["steps"]}
    assert found == {
        "no-op": [], "no-op-2": ["no-op"], "mine": ["no-op-2"], "notify": ["mine"], "no-op-3": ["notify"], "notify-2": ["mine"],
    }  # fmt: skip


async def test_a_step_that_depends_on_nothing_starts_at_once(tenant: Tenant):
    steps = [failing(take=600), {"action": "notify", "depends_on": []}, {"action": "notify"}]
    execution_id = await tenant.start(steps)
    await tenant.step(execution_id, "notify-2", "completed")
    shown = (await tenant.get(f"/executions/{execution_id}")).json()
    assert {step["id"]: step["status"] for step in shown["steps"]} == {
        "no-op": "running", "notify": "completed", "notify-2": "completed",
    }  # fmt: skip
    assert (await tenant.post(f"/executions/{execution_id}/cancel")).status_code == 202


async def test_the_stream_sends_history_then_what_happens_and_ends(tenant: Tenant):
    execution_id = await tenant.start([failing(take=0.3), OFF])
    live = await streamed(tenant, execution_id)
    types = [event.event for event in live]
    assert types == [
        "execution_started", "step_started", "step_completed", "step_started", "step_completed", "execution_completed",
    ]  # fmt: skip
    for event in live:
        assert event.data["type"] == event.event
        assert event.data["execution_id"] == execution_id
        assert event.data["at"].endswith("Z")
        assert event.id
    assert len({event.id for event in live}) == len(live)
    assert [event.data["step"] for event in live[1:5]] == ["no-op", "no-op", "no-op-2", "no-op-2"]
    assert live[2].data["result"]["sandbox"] is True
    assert [event.data for event in await streamed(tenant, execution_id)] == [event.data for event in live]
    assert await tenant.events(execution_id) == [event.data for event in live]


async def test_the_stream_goes_on_after_the_last_event_id(tenant: Tenant):
    execution_id = await tenant.start([OFF])
    await tenant.ended(execution_id)
    whole = await streamed(tenant, execution_id)
    for number, event in enumerate(whole):
        assert await streamed(tenant, execution_id, **{"Last-Event-ID": event.id}) == whole[number + 1 :]
    path = f"/executions/{execution_id}/events"
    assert_problem(await tenant.get(path, headers={"Last-Event-ID": "made-up"}), 400)


async def test_a_step_that_fails_fails_the_execution_and_no_later_step_starts(tenant: Tenant):
    execution_id = await tenant.start([OFF, failing(fail="no such cluster"), {"action": "notify"}])
    ended = await tenant.ended(execution_id)
    assert ended["status"] == "failed"
    assert ended["error"]["message"] == "no such cluster"
    assert [step["status"] for step in ended["steps"]] == ["completed", "failed", "pending"]
    events = await tenant.events(execution_id)
    assert [event["type"] for event in events][-2:] == ["step_failed", "execution_failed"]
    assert events[-2]["step"] == "no-op-2"
    assert events[-2]["error"]["message"] == "no such cluster"
    again = await tenant.post(f"/executions/{execution_id}/cancel")
    assert_problem(again, 409)


async def test_a_retry_policy_tries_again_and_says_so(tenant: Tenant):
    retry = {"max_attempts": 3, "initial_interval": 0.05, "backoff": 1}
    execution_id = await tenant.start([{**failing(fail="flaky", fail_attempts=2), "retry": retry}])
    ended = await tenant.ended(execution_id)
    assert ended["status"] == "completed"
    assert ended["steps"][0]["attempts"] == 3
    events = await tenant.events(execution_id)
    assert [event["type"] for event in events] == [
        "execution_started", "step_started", "step_retrying", "step_retrying", "step_completed", "execution_completed",
    ]  # fmt: skip
    assert events[2]["error"]["message"] == "flaky"
    exhausted = await tenant.ended(await tenant.start([{**failing(fail=True), "retry": {**retry, "max_attempts": 2}}]))
    assert (exhausted["status"], exhausted["steps"][0]["attempts"]) == ("failed", 2)
    final = await tenant.ended(await tenant.start([{**failing(fail=True, retryable=False), "retry": retry}]))
    assert (final["status"], final["steps"][0]["attempts"]) == ("failed", 1)


async def test_a_step_that_takes_longer_than_its_timeout_fails(tenant: Tenant):
    ended = await tenant.ended(await tenant.start([{**failing(take=600), "timeout": 0.2}]))
    assert ended["status"] == "failed"
    assert ended["steps"][0]["error"]["code"] == "timeout"


async def test_a_cancelled_execution_ends_and_starts_nothing_more(tenant: Tenant):
    execution_id = await tenant.start([failing(take=600), OFF])
    following = asyncio.create_task(streamed(tenant, execution_id))
    await tenant.step(execution_id, "no-op", "running")
    cancelled = await tenant.post(f"/executions/{execution_id}/cancel", {"reason": "superseded"})
    assert cancelled.status_code == 202
    assert cancelled.json()["status"] == "cancelled"
    ended = await tenant.ended(execution_id)
    assert [step["status"] for step in ended["steps"]] == ["cancelled", "cancelled"]
    assert (await following)[-1].event == "execution_cancelled"
    for what in ("cancel", "pause", "resume", "retry"):
        assert_problem(await tenant.post(f"/executions/{execution_id}/{what}"), 409)


async def test_a_paused_execution_starts_nothing_until_it_is_resumed(tenant: Tenant):
    execution_id = await tenant.start([failing(take=0.3), OFF])
    paused = await tenant.post(f"/executions/{execution_id}/pause")
    assert (paused.status_code, paused.json()["status"]) == (202, "paused")
    await tenant.step(execution_id, "no-op", "completed")
    shown = (await tenant.get(f"/executions/{execution_id}")).json()
    assert shown["status"] == "paused"
    assert [step["status"] for step in shown["steps"]] == ["completed", "pending"]
    resumed = await tenant.post(f"/executions/{execution_id}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "running")
    assert (await tenant.ended(execution_id))["status"] == "completed"
    types = [event["type"] for event in await tenant.events(execution_id)]
    assert types.index("execution_paused") < types.index("execution_resumed") < len(types) - 1


async def test_a_failed_execution_goes_on_from_the_failed_step(tenant: Tenant):
    execution_id = await tenant.start([OFF, {**failing(fail=True, fail_attempts=1)}, {"action": "notify"}])
    assert (await tenant.ended(execution_id))["status"] == "failed"
    again = await tenant.post(f"/executions/{execution_id}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "running")
    events = await streamed(tenant, execution_id)
    assert events[-1].event == "execution_completed"
    ended = await tenant.ended(execution_id)
    assert {step["id"]: step["attempts"] for step in ended["steps"]} == {"no-op": 1, "no-op-2": 2, "notify": 1}
    assert_problem(await tenant.post(f"/executions/{execution_id}/retry"), 409)


@pytest.mark.parametrize("what", ["cancel", "pause", "resume", "retry"])
async def test_steering_what_is_not_there_is_404(tenant: Tenant, what: str):
    assert_problem(await tenant.post(f"/executions/nobody/{what}"), 404)


async def test_a_stream_for_whom_nothing_is_there_is_refused(tenant: Tenant):
    assert_problem(await tenant.get("/executions/nobody/events"), 404)
    execution_id = await tenant.start([OFF])
    bare = await tenant.outside.client.get(f"{API}/executions/{execution_id}/events")
    assert_problem(bare, 401)


async def test_many_executions_at_once_all_end(tenant: Tenant):
    intent = (await tenant.intent([OFF, OFF])).json()["id"]

    async def run() -> str:
        accepted: httpx.Response = await tenant.post(f"/intents/{intent}/execute")
        events = await streamed(tenant, accepted.json()["execution_id"])
        return events[-1].event

    ends = await asyncio.gather(*(run() for _ in range(30)))
    assert set(ends) == {"execution_completed"}
    assert set(ends) <= set(ENDS)
