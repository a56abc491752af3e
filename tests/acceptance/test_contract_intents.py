# intent_ref: tests.contract
"""The contract's intents: created, listed, revised, rolled back, deprecated, archived; every version kept."""

import asyncio

import pytest

from tests.acceptance.outside import API, DEPLOY, Outside, Tenant, assert_problem


async def test_the_deployment_intent_is_created_as_the_contract_says(tenant: Tenant):
    created = await tenant.post("/intents", {**DEPLOY, "description": "The shop", "labels": {"team": "web"}})
    assert created.status_code == 201
    intent = created.json()
    assert intent["id"]
    assert intent["created_at"].endswith("Z")
    expected = {
        "name": "deploy-web-app", "version": 1, "tenant_id": tenant.id, "status": "active", "definition": DEPLOY["definition"],
        "description": "The shop", "labels": {"team": "web"},
    }  # fmt: skip
    assert intent.items() >= expected.items()
    assert created.headers["ETag"] == '"1"'
    assert created.headers["Quantum-Position"]
    assert created.headers["Content-Type"] == "application/json"
    shown = await tenant.get(f"/intents/{intent['id']}", after=created)
    assert shown.status_code == 200
    assert shown.json() == intent
    assert shown.headers["ETag"] == '"1"'


async def test_a_name_is_taken_once_in_a_tenant_and_free_in_another(outside: Outside, tenant: Tenant):
    assert (await tenant.post("/intents", DEPLOY)).status_code == 201
    assert_problem(await tenant.post("/intents", DEPLOY), 409)
    assert (await (await outside.tenant()).post("/intents", DEPLOY)).status_code == 201


async def test_what_is_another_tenants_does_not_exist(outside: Outside, tenant: Tenant):
    other = await outside.tenant()
    created = await other.post("/intents", DEPLOY)
    intent = created.json()["id"]
    execution = (await other.post(f"/intents/{intent}/execute")).json()["execution_id"]
    await other.ended(execution)
    reads = (f"/intents/{intent}", f"/intents/{intent}/versions", f"/intents/{intent}/versions/1", f"/executions/{execution}",
             f"/executions/{execution}/events")  # fmt: skip
    for path in reads:
        assert (await other.get(path, after=created, headers={"Accept": "application/json"})).status_code == 200
        assert_problem(await tenant.get(path, headers={"Accept": "application/json"}), 404)
    for path in (f"/intents/{intent}/execute", f"/intents/{intent}/deprecate", f"/executions/{execution}/cancel"):
        assert_problem(await tenant.post(path), 404)
    stolen = await tenant.request("PUT", f"/intents/{intent}", json={"definition": {}}, headers={"If-Match": '"1"'})
    assert stolen.status_code in (404, 422)
    assert_problem(await tenant.request("DELETE", f"/intents/{intent}"), 404)
    assert (await tenant.get("/intents")).json() == {"items": [], "next_cursor": None}


async def test_lists_filter_by_name_status_words_and_labels(tenant: Tenant):
    empty = {"target": "staging", "steps": []}
    await tenant.post(
        "/intents", {"name": "first", "definition": empty, "description": "copies the warehouse", "labels": {"team": "data"}}
    )
    second = await tenant.post("/intents", {"name": "second", "definition": empty, "labels": {"team": "web", "tier": "gold"}})
    last = await tenant.post(f"/intents/{second.json()['id']}/deprecate")
    assert last.status_code == 200

    async def names(query: str) -> list[str]:
        answer = await tenant.get(f"/intents?{query}", after=last)
        assert answer.status_code == 200, answer.text
        return sorted(item["name"] for item in answer.json()["items"])

    assert await names("") == ["first", "second"]
    assert await names("name=first") == ["first"]
    assert await names("name=fir") == []
    assert await names("status=deprecated") == ["second"]
    assert await names("status=active") == ["first"]
    assert await names("q=warehouse") == ["first"]
    assert await names("label=tier") == ["second"]
    assert await names("label=team%3Ddata") == ["first"]
    assert await names("label=team%3Ddata&status=deprecated") == []
    assert_problem(await tenant.get("/intents?status=unheard-of"), 422)


async def test_a_list_is_pages_with_a_cursor_and_a_link(tenant: Tenant):
    for number in range(5):
        last = await tenant.intent([], f"page-{number}")
    seen: list[str] = []
    path = "/intents?limit=2"
    pages = 0
    while path:
        answer = await tenant.get(path, after=last)
        page = answer.json()
        assert len(page["items"]) <= 2
        seen += [item["name"] for item in page["items"]]
        pages += 1
        if page["next_cursor"] is None:
            assert "Link" not in answer.headers
            break
        target, _, relation = answer.headers["Link"].partition(">")
        assert relation.strip() == '; rel="next"'
        path = target.removeprefix("<").removeprefix(API)
        assert page["next_cursor"] in path
    assert pages == 3
    assert sorted(seen) == [f"page-{number}" for number in range(5)]
    assert_problem(await tenant.get("/intents?cursor=made-up"), 400)


async def test_a_revision_needs_the_version_it_is_based_on(tenant: Tenant):
    created = await tenant.post("/intents", DEPLOY)
    path = f"/intents/{created.json()['id']}"
    changed = {"definition": {"target": "production", "steps": [{"action": "no-op"}]}}
    assert_problem(await tenant.request("PUT", path, json=changed), 428)
    revised = await tenant.request("PUT", path, json=changed, headers={"If-Match": created.headers["ETag"]})
    assert revised.status_code == 200
    assert revised.json()["version"] == 2
    assert revised.json()["definition"] == changed["definition"]
    assert revised.headers["ETag"] == '"2"'
    stale = await tenant.request("PUT", path, json=changed, headers={"If-Match": created.headers["ETag"]})
    assert_problem(stale, 412)
    assert (await tenant.request("PUT", path, json=changed, headers={"If-Match": "*"})).json()["version"] == 3
    assert_problem(await tenant.request("PUT", "/intents/none", json=changed, headers={"If-Match": '"1"'}), 404)


async def test_of_many_concurrent_revisions_one_wins_a_version(tenant: Tenant):
    created = await tenant.intent([])
    path = f"/intents/{created.json()['id']}"

    async def revise(number: int) -> int:
        body = {"definition": {"target": f"target-{number}", "steps": []}}
        return (await tenant.request("PUT", path, json=body, headers={"If-Match": '"1"'})).status_code

    assert sorted(await asyncio.gather(*map(revise, range(8)))) == [200] + [412] * 7


async def test_every_version_is_kept_and_a_rollback_is_a_new_one(tenant: Tenant):
    created = await tenant.post("/intents", DEPLOY)
    path = f"/intents/{created.json()['id']}"
    second = {"target": "production", "steps": []}
    await tenant.request("PUT", path, json={"definition": second}, headers={"If-Match": '"1"'})
    back = await tenant.post(f"{path}/rollback", {"version": 1})
    assert back.status_code == 200
    assert back.json()["version"] == 3
    assert back.json()["definition"] == DEPLOY["definition"]
    versions = (await tenant.get(f"{path}/versions", after=back)).json()
    assert {item["version"]: item["definition"] for item in versions["items"]} == {
        1: DEPLOY["definition"], 2: second, 3: DEPLOY["definition"],
    }  # fmt: skip
    assert versions["next_cursor"] is None
    one = await tenant.get(f"{path}/versions/2", after=back)
    assert one.status_code == 200
    assert one.json().items() >= {"version": 2, "definition": second}.items()
    assert_problem(await tenant.get(f"{path}/versions/9", after=back), 404)
    assert_problem(await tenant.post(f"{path}/rollback", {"version": 9}), 404)


async def test_deprecate_activate_and_archive(tenant: Tenant):
    created = await tenant.post("/intents", DEPLOY)
    path = f"/intents/{created.json()['id']}"
    assert (await tenant.post(f"{path}/deprecate")).json()["status"] == "deprecated"
    assert (await tenant.post(f"{path}/execute")).status_code == 202
    assert (await tenant.post(f"{path}/activate")).json()["status"] == "active"
    gone = await tenant.request("DELETE", path)
    assert gone.status_code == 204
    assert gone.content == b""
    assert gone.headers["Quantum-Position"]
    shown = await tenant.get(path, after=gone)
    assert shown.status_code == 200
    assert shown.json()["status"] == "archived"
    assert len((await tenant.get(f"{path}/versions", after=gone)).json()["items"]) == 1
    assert_problem(await tenant.post(f"{path}/execute"), 409)
    assert_problem(await tenant.request("PUT", path, json={"definition": DEPLOY["definition"]}, headers={"If-Match": "*"}), 409)
    assert (await tenant.post("/intents", DEPLOY)).status_code == 201, "its name is free again"


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        ([{"action": "launch-rocket"}], "/definition/steps/0/action"),
        ([{"action": "no-op", "id": "a"}, {"action": "no-op", "id": "a"}], "/definition/steps/1/id"),
        ([{"action": "no-op", "depends_on": ["b"]}], "/definition/steps/0/depends_on/0"),
        ([{"action": "no-op", "id": "a", "depends_on": ["b"]}, {"action": "no-op", "id": "b"}], "/definition/steps/0/depends_on"),
        ([{"action": "no-op", "password": "hunter2-hunter2"}], "/definition/steps/0/password"),
        ([{"image": "x"}], "/definition/steps/0"),
        ([{"action": "no-op", "timeout": -1}], "/definition/steps/0/timeout"),
    ],
)
async def test_a_faulty_definition_is_refused_with_the_place_of_the_fault(tenant: Tenant, steps: list[object], pointer: str):
    answer = await tenant.post("/intents", {"name": "faulty", "definition": {"target": "production", "steps": steps}})
    problem = assert_problem(answer, 422)
    assert pointer in [fault["pointer"] for fault in problem["errors"]]
    assert "hunter2" not in answer.text


async def test_every_fault_is_reported_at_once(tenant: Tenant):
    steps = [
        {"action": "no-such"},
        {"action": "no-op", "depends_on": ["nobody"]},
        {"action": "no-op", "api_key": "sk-live-0123456789abcdef"},
    ]
    problem = assert_problem(await tenant.post("/intents", {"name": "n", "definition": {"target": "t", "steps": steps}}), 422)
    pointers = {fault["pointer"] for fault in problem["errors"]}
    assert {"/definition/steps/0/action", "/definition/steps/1/depends_on/0", "/definition/steps/2/api_key"} <= pointers


async def test_an_intent_without_steps_may_be_kept_and_not_executed(tenant: Tenant):
    created = await tenant.post("/intents", {"name": "some-day", "definition": {"target": "production", "steps": []}})
    assert created.status_code == 201
    path = f"/intents/{created.json()['id']}"
    assert_problem(await tenant.post(f"{path}/execute"), 422, "intent-not-executable")
    revised = await tenant.request("PUT", path, json={"definition": DEPLOY["definition"]}, headers={"If-Match": '"1"'})
    assert revised.status_code == 200
    assert (await tenant.post(f"{path}/execute")).status_code == 202
    assert_problem(await tenant.post(f"{path}/execute", {"version": 1}), 422, "intent-not-executable")
