# intent_ref: tests.contract
"""The contract's executions beyond a chain of steps: approvals, signals, reruns, keys, plans, explanations, resources."""

import asyncio
from typing import Any

import pytest

from tests.acceptance.outside import Outside, Tenant, assert_problem
from tests.acceptance.test_contract_executions import streamed
from tests.waiting import wait_until

OFF: dict[str, Any] = {"action": "no-op"}
SLOW: dict[str, Any] = {"action": "no-op", "sandbox": {"take": 600}}
BROKEN: dict[str, Any] = {"action": "notify", "sandbox": {"fail": "no such room", "retryable": False}}
GATE: dict[str, Any] = {"id": "gate", "approval": {"roles": ["operator"], "expires_in": "1d", "message": "To production?"}}


async def explained(tenant: Tenant, execution_id: str, step: str, reason: str) -> dict[str, Any]:
    """What is said of a step, once it is said for this reason."""

    async def said() -> dict[str, Any] | None:
        answer = await tenant.get(f"/executions/{execution_id}/explain")
        assert answer.status_code == 200, answer.text
        found = [one for one in answer.json()["steps"] if one["step"] == step and one["reason"] == reason]
        return found[0] if found else None

    found = await wait_until(said, 20, what=f"{step} to be explained by {reason}", every_seconds=0.03)
    assert found is not None
    return found


async def test_a_step_waits_for_an_approval_and_goes_on_when_one_who_may_gives_it(tenant: Tenant):
    execution_id = await tenant.start([OFF, GATE, OFF])
    following = asyncio.create_task(streamed(tenant, execution_id))
    await tenant.step(execution_id, "gate", "waiting")
    shown = (await tenant.get(f"/executions/{execution_id}")).json()["steps"][1]
    assert shown["waiting_for"] == {"reason": "approval", "on_due": "fail", "roles": ["operator"], "message": "To production?"}
    assert shown["due_at"].endswith("Z")
    path = f"/executions/{execution_id}/steps/gate"
    assert_problem(await tenant.post(f"{path}/approve"), 403, "not-your-approval")
    assert_problem(await tenant.post(f"{path}/approve", role="viewer"), 403, "role-missing")
    approved = await tenant.post(f"{path}/approve", {"comment": "Go ahead."}, role="operator")
    assert (approved.status_code, approved.json()["execution_id"]) == (202, execution_id)
    ended = await tenant.ended(execution_id)
    assert ended["status"] == "completed"
    assert ended["steps"][1]["result"] == {"approved_by": "cli", "comment": "Go ahead."}
    assert [event.event for event in await following] == [
        "execution_started", "step_started", "step_completed", "step_waiting", "step_approved", "step_completed", "step_started",
        "step_completed", "execution_completed",
    ]  # fmt: skip
    assert_problem(await tenant.post(f"{path}/approve", role="operator"), 409, "step-not-awaiting-approval")
    assert_problem(await tenant.post(f"/executions/{execution_id}/steps/none/approve"), 404)


async def test_a_rejected_step_fails_and_each_item_of_a_loop_is_judged_by_itself(tenant: Tenant):
    each = {"id": "each", "foreach": ["a", "b", "c"], "approval": True, "on_failure": "continue"}
    execution_id = await tenant.start([each])
    await tenant.step(execution_id, "each", "running")
    for index, judgement in enumerate(("approve", "reject", "approve")):
        answer = await tenant.post(f"/executions/{execution_id}/steps/each[{index}]/{judgement}", {"comment": f"no. {index}"})
        assert answer.status_code == 202, answer.text
    ended = await tenant.ended(execution_id)
    step = ended["steps"][0]
    assert (ended["status"], step["status"], step["error"]["code"]) == ("completed", "failed", "items-failed")
    assert step["items"]["statuses"] == {"completed": 2, "failed": 1}
    assert [(item["id"], item["status"]) for item in step["items"]["runs"]] == [
        ("each[0]", "completed"), ("each[1]", "failed"), ("each[2]", "completed"),
    ]  # fmt: skip
    assert step["items"]["runs"][1]["error"] == {
        "code": "approval-rejected", "message": "The approval was refused.", "by": "cli", "comment": "no. 1",
    }  # fmt: skip


async def test_a_signal_carries_any_json_and_may_come_before_it_is_asked_for(tenant: Tenant):
    execution_id = await tenant.start([{"id": "paid", "signal": "paid"}, GATE, {"id": "later", "signal": "later"}])
    path = f"/executions/{execution_id}/signals"
    assert (await tenant.post(f"{path}/later", [1, None, {"deep": True}])).status_code == 202
    assert (await tenant.post(f"{path}/paid", {"amount": 12.5})).status_code == 202
    await tenant.step(execution_id, "gate", "waiting")
    await tenant.post(f"/executions/{execution_id}/steps/gate/approve", role="operator")
    ended = await tenant.ended(execution_id)
    assert [step["result"] for step in ended["steps"]][::2] == [{"amount": 12.5}, [1, None, {"deep": True}]]
    assert_problem(await tenant.post(f"{path}/paid", {}), 409, "execution-ended")


@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff", b'"\\u0000"', b"1" * 30, b"[" * 300 + b"]" * 300, b'{"a":' * 250 + b"1" + b"}" * 250]
)
async def test_a_hostile_signal_is_refused_or_kept_and_never_a_fault_of_ours(tenant: Tenant, content: bytes):
    execution_id = await tenant.start([{"id": "paid", "signal": "other"}])
    answer = await tenant.request("POST", f"/executions/{execution_id}/signals/x", content=content)
    assert answer.status_code in ((202,) if content == b"" else (400, 422)), answer.text
    long = await tenant.post(f"/executions/{execution_id}/signals/{'x' * 101}", {})
    assert_problem(long, 422)
    await tenant.post(f"/executions/{execution_id}/terminate")


async def test_an_execution_holds_only_so_many_signals(tenant: Tenant):
    execution_id = await tenant.start([{"id": "paid", "signal": "other"}])
    answers = [await tenant.post(f"/executions/{execution_id}/signals/x", number) for number in range(101)]
    assert [answer.status_code for answer in answers] == [202] * 100 + [409]
    assert_problem(answers[-1], 409, "too-many-signals")
    await tenant.post(f"/executions/{execution_id}/terminate")


async def test_a_business_key_starts_one_execution_at_a_time(tenant: Tenant):
    intent = await tenant.intent([{"id": "go", "signal": "go"}])
    path = f"/intents/{intent.json()['id']}/execute"
    body = {"business_key": "order-7", "priority": 1}
    first, second = await tenant.post(path, body), await tenant.post(path, body)
    assert (first.status_code, second.status_code) == (202, 202)
    assert "deduplicated" not in first.json()
    assert second.json() == {**first.json(), "deduplicated": True}
    execution_id = first.json()["execution_id"]
    found = (await tenant.get("/executions?business_key=order-7", after=first)).json()["items"]
    assert [(one["id"], one["business_key"], one["priority"]) for one in found] == [(execution_id, "order-7", 1)]
    await tenant.post(f"/executions/{execution_id}/signals/go")
    await tenant.ended(execution_id)
    third = await tenant.post(path, body)
    assert third.json()["execution_id"] != execution_id
    other = await tenant.intent([OFF])
    assert "deduplicated" not in (await tenant.post(f"/intents/{other.json()['id']}/execute", body)).json()
    for wrong in (
        {"priority": 0},
        {"priority": 6},
        {"priority": "1"},
        {"business_key": ""},
        {"business_key": "x" * 201},
        {"x": 1},
    ):
        assert_problem(await tenant.post(path, wrong), 422)


async def test_a_failed_execution_undoes_what_it_did_and_what_is_not_undone_is_found(tenant: Tenant):
    undone = {"action": "no-op", "id": "one", "compensate": {"action": "notify"}}
    stuck = {"action": "no-op", "id": "two", "compensate": {"action": "notify", "sandbox": {"fail": "stuck", "retryable": False}}}
    execution_id = await tenant.start([undone, stuck, BROKEN])
    ended = await tenant.ended(execution_id)
    assert ended["status"] == "failed"
    one, two, broken = ended["steps"]
    assert (one["status"], one["compensation"]["status"]) == ("compensated", "completed")
    assert (two["status"], two["compensation"]["status"], two["compensation"]["error"]["message"]) == (
        "compensating", "failed", "stuck",
    )  # fmt: skip
    assert (broken["status"], broken["compensation"]) == ("failed", None)
    assert ended["not_undone"] == ["two"]
    fine = await tenant.start([OFF])
    await tenant.ended(fine)
    found = (await tenant.get("/executions?needs_attention=true")).json()["items"]
    assert [item["id"] for item in found] == [execution_id]
    assert [item["id"] for item in (await tenant.get("/executions?needs_attention=false")).json()["items"]] == [fine]
    assert_problem(await tenant.get("/executions?needs_attention=maybe"), 422)


async def test_terminate_ends_at_once_and_the_stream_with_it(tenant: Tenant):
    execution_id = await tenant.start([{**SLOW, "compensate": "notify"}, OFF])
    following = asyncio.create_task(streamed(tenant, execution_id))
    await tenant.step(execution_id, "no-op", "running")
    answer = await tenant.post(f"/executions/{execution_id}/terminate", {"reason": "runaway"})
    assert (answer.status_code, answer.json()["status"]) == (202, "terminated")
    assert (await following)[-1].data.items() >= {"type": "execution_terminated", "reason": "runaway"}.items()
    shown = (await tenant.get(f"/executions/{execution_id}", after=answer)).json()
    assert (shown["status"], shown["reason"], shown["steps"][0]["status"]) == ("terminated", "runaway", "cancelled")
    assert [one["id"] for one in (await tenant.get("/executions?status=terminated")).json()["items"]] == [execution_id]


async def test_a_rerun_keeps_the_results_of_what_does_not_depend_on_the_step(tenant: Tenant):
    steps = [{**OFF, "id": "a"}, {**OFF, "id": "b"}, {**OFF, "id": "c", "depends_on": []}]
    execution_id = await tenant.start(steps)
    before = await tenant.ended(execution_id)
    path = f"/executions/{execution_id}/rerun"
    assert_problem(await tenant.post(path, {"step": "none"}), 404)
    assert_problem(await tenant.post(path), 400)
    assert_problem(await tenant.post(path, {"step": 1}), 422)
    again = await tenant.post(path, {"step": "b"})
    assert (again.status_code, again.json()["status"]) == (202, "running")

    async def ran() -> bool:
        shown = (await tenant.get(f"/executions/{execution_id}")).json()
        return bool(shown["status"] == "completed" and shown["steps"][1]["attempts"] == 2)

    await wait_until(ran, 20, what="the rerun to end")
    after = (await tenant.get(f"/executions/{execution_id}")).json()
    assert [step["attempts"] for step in after["steps"]] == [1, 2, 1]
    assert after["steps"][0] == before["steps"][0]
    running = await tenant.start([SLOW])
    assert_problem(await tenant.post(f"/executions/{running}/rerun", {"step": "no-op"}), 409, "execution-not-ended")
    await tenant.post(f"/executions/{running}/terminate")


async def test_a_plan_says_what_would_be_done_and_does_nothing(tenant: Tenant):
    steps = [
        {**OFF, "id": "a"},
        {**OFF, "id": "b", "foreach": "${{ inputs.all }}"},
        GATE,
        {**OFF, "id": "d", "depends_on": ["a"]},
    ]
    intent = await tenant.intent(steps)
    path = f"/intents/{intent.json()['id']}/plan"
    answer = await tenant.post(path, {"inputs": {"all": [1]}}, role="viewer")
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert [(step["id"], step["kind"], step["depends_on"], step["begins_at_once"]) for step in plan["steps"]] == [
        ("a", "action", [], True), ("b", "action", ["a"], False), ("gate", "approval", ["b"], False),
        ("d", "action", ["a"], False),
    ]  # fmt: skip
    assert plan["order"] == ["a", "b", "d", "gate"]
    assert plan["critical_path"] == {"steps": ["a", "b", "gate"], "length": 3}
    assert plan["steps"][1]["control"]["foreach"] == {"items": "${{ inputs.all }}", "concurrency": 10}
    assert plan["steps"][0].items() >= {"module": "sandbox", "timeout_seconds": 300.0, "control": None}.items()
    assert (await tenant.get("/executions")).json()["items"] == []
    for options in ({"headers": {"Accept": "text/vnd.mermaid"}}, {"params": {"format": "mermaid"}}):
        drawn = await tenant.post(path, {}, **options)
        assert drawn.headers["Content-Type"].startswith("text/vnd.mermaid")
        assert drawn.text.startswith("flowchart TD\n")
        assert '[/"b<br/>no-op"/]' in drawn.text
    dot = await tenant.post(path, headers={"Accept": "text/vnd.graphviz;q=0.9, */*"})
    assert dot.headers["Content-Type"].startswith("text/vnd.graphviz")
    assert dot.text.startswith("digraph plan {")
    assert_problem(await tenant.post(path, params={"format": "png"}), 422)
    assert_problem(await tenant.post(path, {"version": 7}), 404)
    assert_problem(await tenant.post("/intents/nobody/plan"), 404)
    empty = await tenant.intent([])
    refusals = [await tenant.post(f"/intents/{empty.json()['id']}/{what}") for what in ("plan", "execute")]
    assert_problem(refusals[0], 422, "intent-not-executable")
    assert [one["detail"] for one in (refusals[0].json(), refusals[1].json())] == [refusals[1].json()["detail"]] * 2


async def test_every_reason_to_wait_is_explained(tenant: Tenant):
    steps = [
        {**SLOW, "id": "slow"}, {**OFF, "id": "after"}, {**GATE, "depends_on": []},
        {"id": "signal", "signal": {"name": "go", "expires_in": "1h", "on_expiry": "skip"}, "depends_on": []},
        {"id": "time", "wait": {"for": "2h"}, "depends_on": []},
        {"id": "each", "foreach": ["a", "b"], "approval": True, "depends_on": []},
        {**BROKEN, "id": "again", "sandbox": {"fail": "flaky"}, "depends_on": [],
         "retry": {"max_attempts": 3, "initial_interval": "1h", "max_interval": "1h"}},
        {**OFF, "id": "any", "depends_on": ["slow", "time"], "join": "any"},
    ]  # fmt: skip
    execution_id = await tenant.start(steps)
    assert (await explained(tenant, execution_id, "slow", "under-way"))["facts"]["module"] == "sandbox"
    again = await explained(tenant, execution_id, "again", "retry")
    assert (again["facts"]["attempt"], again["facts"]["error"]["message"]) == (2, "flaky")
    answer = (await tenant.get(f"/executions/{execution_id}/explain", role="viewer")).json()
    said = {one["step"]: one for one in answer["steps"]}
    assert answer["sentence"] == "It runs: 0 of 8 steps are over."
    assert {step: one["reason"] for step, one in said.items()} == {
        "slow": "under-way", "after": "depends-on", "gate": "approval", "signal": "signal", "time": "timer", "each": "items",
        "each[0]": "approval", "each[1]": "approval", "again": "retry", "any": "depends-on",
    }  # fmt: skip
    assert said["after"]["sentence"] == "It depends on 'slow', which is not over yet."
    assert said["after"]["facts"] == {"depends_on": [{"step": "slow", "status": "running"}]}
    assert said["any"]["facts"]["join"] == 1
    assert said["gate"]["sentence"].startswith("It waits for somebody with the role operator to approve it until 20")
    assert said["gate"]["sentence"].endswith("Z, and fails then.")
    assert said["signal"]["facts"]["on_due"] == "skip"
    assert said["each"]["facts"] == {"total": 2, "begun": 2, "over": 0, "failed": 0, "concurrency": 10}
    await tenant.post(f"/executions/{execution_id}/pause")
    assert "paused" in (await tenant.get(f"/executions/{execution_id}/explain")).json()["sentence"]
    await tenant.post(f"/executions/{execution_id}/terminate")
    ended = (await tenant.get(f"/executions/{execution_id}/explain")).json()
    assert (ended["steps"], ended["sentence"]) == ([], "It has ended, as terminated.")
    assert_problem(await tenant.get("/executions/nobody/explain"), 404)


async def test_a_child_is_named_where_it_is_waited_for_and_a_slot_where_it_is_taken(tenant: Tenant):
    made = await tenant.post("/workflows", {"name": "part", "steps": [GATE]})
    assert made.status_code == 201, made.text
    limited = {**SLOW, "concurrency": {"key": "cluster", "max": 1}, "depends_on": []}
    execution_id = await tenant.start(
        [{"id": "child", "workflow": "part@1"}, {**limited, "id": "first"}, {**limited, "id": "second"}]
    )
    child = await explained(tenant, execution_id, "child", "child")

    async def begun() -> dict[str, Any] | None:
        answer = await tenant.get(child["facts"]["href"].removeprefix("/api/v1"))
        return answer.json() if answer.status_code == 200 else None

    found = await wait_until(begun, 20, what="the child to begin")
    assert found is not None
    assert found["parent"] == {"execution_id": execution_id, "step": "child"}
    assert (await explained(tenant, execution_id, "child", "child"))["facts"]["has_begun"] is True

    async def slots() -> set[str]:
        answer = (await tenant.get(f"/executions/{execution_id}/explain")).json()
        return {one["reason"] for one in answer["steps"] if one["step"] in ("first", "second")}

    async def one_of_each() -> bool:
        return await slots() == {"under-way", "slot"}

    await wait_until(one_of_each, 20, what="one to run and the other to wait for its slot")
    await tenant.post(f"/executions/{execution_id}/terminate")


async def test_resources_are_listed_with_what_made_them(tenant: Tenant):
    declared = {"value": {"resources": [{"type": "vm", "id": "vm-1", "size": 2}]}}
    execution_id = await tenant.start([{"id": "make", "signal": "made", "compensate": "notify"}, {"id": "then", "signal": "x"}])
    sent = await tenant.post(f"/executions/{execution_id}/signals/made", declared["value"])
    listed = await tenant.get("/resources?type=vm", after=sent, role="viewer")
    [item] = listed.json()["items"]
    assert item.items() >= {"id": "vm-1", "status": "provisioned", "execution_id": execution_id, "step": "make"}.items()
    assert item["attributes"] == {"size": 2}
    shown = (await tenant.get(f"/executions/{execution_id}", after=sent)).json()
    assert shown["resources"] == [{"type": "vm", "id": "vm-1", "step": "make"}]
    assert (await tenant.get("/resources?status=released")).json()["items"] == []
    assert len((await tenant.get(f"/resources?execution_id={execution_id}")).json()["items"]) == 1
    assert_problem(await tenant.get("/resources?status=gone"), 422)
    await tenant.post(f"/executions/{execution_id}/cancel")

    async def released() -> bool:
        return bool((await tenant.get("/resources?status=released")).json()["items"])

    await wait_until(released, 20, what="the resource to be released")


async def test_a_workflow_is_an_intent_that_others_run(tenant: Tenant):
    body = {"name": "release", "steps": [OFF], "inputs": {"type": "object"}, "labels": {"team": "web"}}
    made = await tenant.post("/workflows", body)
    assert made.status_code == 201, made.text
    document = made.json()
    assert document["labels"] == {"team": "web", "kind": "workflow"}
    assert document["definition"] == {"target": "workflow", "steps": [OFF], "inputs": {"type": "object"}}
    await tenant.intent([OFF])
    assert [one["id"] for one in (await tenant.get("/workflows", after=made)).json()["items"]] == [document["id"]]
    assert (await tenant.get("/workflows?name=release")).json()["items"] == [document]
    assert (await tenant.get(f"/workflows/{document['id']}")).json() == document
    assert (await tenant.get(f"/intents/{document['id']}")).json() == document
    plain = await tenant.intent([OFF])
    assert_problem(await tenant.get(f"/workflows/{plain.json()['id']}", after=plain), 404)
    assert_problem(await tenant.post("/workflows", body), 409, "intent-name-taken")
    both = {"name": "x", "definition": {"target": "t", "steps": []}, "steps": []}
    assert_problem(await tenant.post("/workflows", both), 422)
    wrong = assert_problem(await tenant.post("/workflows", {"name": "x", "steps": [{"action": "no-such-action"}]}), 422)
    assert [one["pointer"] for one in wrong["errors"]] == ["/steps/0/action"]
    assert_problem(await tenant.post("/workflows", body, role="operator"), 403)
    whole = await tenant.post("/workflows", {"name": "whole", "definition": {"target": "eu", "steps": [OFF]}})
    assert whole.json()["definition"]["target"] == "eu"
    ended = await tenant.ended(await tenant.start([{"id": "run", "workflow": "release"}]))
    assert ended["status"] == "completed"


ROUTES = (
    ("POST", "/executions/{}/cancel"), ("POST", "/executions/{}/terminate"), ("POST", "/executions/{}/pause"),
    ("POST", "/executions/{}/resume"), ("POST", "/executions/{}/retry"), ("POST", "/executions/{}/rerun"),
    ("POST", "/executions/{}/steps/gate/approve"), ("POST", "/executions/{}/steps/gate/reject"),
    ("POST", "/executions/{}/signals/go"), ("GET", "/executions/{}/explain"), ("GET", "/executions/{}"),
)  # fmt: skip


async def test_what_belongs_to_another_tenant_is_not_there(tenant: Tenant, outside: Outside):
    execution_id = await tenant.start([GATE])
    await tenant.step(execution_id, "gate", "waiting")
    before = await tenant.events(execution_id)
    stranger = await outside.tenant()
    for method, path in ROUTES:
        options = {"json": {"step": "gate"}} if path.endswith("rerun") else {}
        for role in ("operator", "platform-admin"):
            assert_problem(await stranger.request(method, path.format(execution_id), role=role, **options), 404, "not-found")
    intent_id = (await tenant.get(f"/executions/{execution_id}")).json()["intent_id"]
    for method, path in (("POST", f"/intents/{intent_id}/plan"), ("GET", f"/workflows/{intent_id}")):
        assert_problem(await stranger.request(method, path), 404, "not-found")
    for path in ("/resources", "/workflows", "/executions"):
        assert (await stranger.get(path)).json()["items"] == []
    assert await tenant.events(execution_id) == before


async def test_who_may_not_control_executions_may_not_approve_signal_or_rerun_them(tenant: Tenant):
    execution_id = await tenant.start([GATE])
    for method, path in ROUTES:
        for role in ("viewer", "auditor"):
            answer = await tenant.request(method, path.format(execution_id), role=role)
            assert answer.status_code == (200 if method == "GET" else 403), (path, role, answer.text)
