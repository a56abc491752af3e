# intent_ref: tests.http
"""Intents over HTTP: versions, entity tags, idempotency, pages, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from event_store.tokens import encode_token
from tests.conftest import Database
from tests.http_platform import API, STEPS, Http, serving

NOBODY = "00000000-0000-0000-0000-000000000000"
DEFINITION = {"target": "production", "steps": STEPS}
OTHER = {"target": "staging", "steps": []}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


async def test_an_intent_is_created_as_the_contract_says_and_read_as_it_was_answered(http: Http):
    tenant = await http.tenant()
    created = await tenant.intent("deploy-web-app", description="Deploys it", labels={"team": "web"})
    assert created.status_code == 201
    body = created.json()
    assert {name: body[name] for name in ("name", "version", "tenant_id", "status", "definition")} == {
        "name": "deploy-web-app", "version": 1, "tenant_id": tenant.id, "status": "active", "definition": DEFINITION,
    }  # fmt: skip
    assert body["created_at"].endswith("Z")
    assert (created.headers["ETag"], created.headers["Location"]) == ('"1"', f"{API}/intents/{body['id']}")
    read = await tenant.get(f"/intents/{body['id']}", after=created)
    assert (read.status_code, read.json(), read.headers["ETag"]) == (200, body, '"1"')


async def test_a_change_needs_the_version_it_is_based_on(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}"
    missing = await tenant.request("PUT", path, json={"definition": OTHER})
    assert (missing.status_code, missing.json()["code"]) == (428, "precondition-missing")
    changed = await tenant.request("PUT", path, json={"definition": OTHER}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.json()["version"], changed.headers["ETag"]) == (200, 2, '"2"')
    for tag, status in [('"1"', 412), ('W/"2"', 412), ('"abc"', 412), ("nonsense", 400), ('"1", "2"', 200), ("*", 200)]:
        answer = await tenant.request("PUT", path, json={"definition": DEFINITION}, headers={"If-Match": tag})
        assert answer.status_code == status, (tag, answer.text)
    assert answer.json()["version"] == 4


async def test_of_two_changes_to_one_version_one_is_refused(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}"
    answers = await asyncio.gather(
        *(tenant.request("PUT", path, json={"definition": OTHER}, headers={"If-Match": '"1"'}) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


async def test_a_tag_tells_whether_an_intent_has_changed(http: Http):
    tenant = await http.tenant()
    created = await tenant.intent()
    path = f"/intents/{created.json()['id']}"
    unchanged = await tenant.get(path, after=created, headers={"If-None-Match": created.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", '"1"')
    deprecated = await tenant.post(f"{path}/deprecate")
    assert (deprecated.status_code, deprecated.json()["status"]) == (200, "deprecated")
    read = await tenant.get(path, after=deprecated, headers={"If-None-Match": created.headers["ETag"]})
    assert (read.status_code, read.json()["status"]) == (200, "deprecated")
    assert read.headers["ETag"] == deprecated.headers["ETag"]
    revised = await tenant.request("PUT", path, json={"definition": OTHER}, headers={"If-Match": read.headers["ETag"]})
    assert revised.status_code == 200


async def test_a_name_that_looks_like_a_status_does_not_fool_the_tag(http: Http):
    tenant = await http.tenant()
    created = await tenant.intent('x","status":"archived')
    read = await tenant.get(f"/intents/{created.json()['id']}", after=created)
    assert read.headers["ETag"] == '"1"'


async def test_every_version_is_kept_and_a_rollback_is_a_new_one(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}"
    await tenant.request("PUT", path, json={"definition": OTHER}, headers={"If-Match": "*"})
    back = await tenant.post(f"{path}/rollback", {"version": 1})
    assert (back.status_code, back.json()["version"], back.json()["definition"]) == (200, 3, DEFINITION)
    versions = await tenant.get(f"{path}/versions", after=back)
    assert [(one["version"], one["rolled_back_to"]) for one in versions.json()["items"]] == [(3, 1), (2, None), (1, None)]
    second = await tenant.get(f"{path}/versions/2", after=back)
    assert second.json()["definition"] == OTHER
    for number in ("4", "0", "-1", "x", "٣", "9" * 30):
        assert (await tenant.get(f"{path}/versions/{number}", after=back)).status_code == 404
    stale = await tenant.post(f"{path}/rollback", {"version": 1}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert (await tenant.post(f"{path}/rollback", {"version": 99})).status_code == 404


async def test_an_archived_intent_keeps_its_history_and_frees_its_name(http: Http):
    tenant = await http.tenant()
    created = await tenant.intent("short-lived")
    path = f"/intents/{created.json()['id']}"
    taken = await tenant.intent("short-lived")
    assert (taken.status_code, taken.json()["code"]) == (409, "intent-name-taken")
    for _ in range(2):
        gone = await tenant.request("DELETE", path)
        assert (gone.status_code, gone.content) == (204, b"")
    assert (await tenant.get(path, after=gone)).json()["status"] == "archived"
    assert (await tenant.get(f"{path}/versions", after=gone)).json()["items"]
    for method, where, body in [("PUT", "", {"definition": OTHER}), ("POST", "/execute", {}), ("POST", "/activate", {})]:
        refused = await tenant.request(method, path + where, json=body, headers={"If-Match": "*"})
        assert (refused.status_code, refused.json()["code"]) == (409, "intent-archived"), where
    assert (await tenant.intent("short-lived")).status_code == 201


async def test_deprecating_twice_changes_nothing_more(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}"
    first, second = [await tenant.post(f"{path}/deprecate") for _ in range(2)]
    assert first.json() == second.json()
    assert (await tenant.post(f"{path}/activate")).json()["status"] == "active"


async def test_a_key_gives_the_first_answer_again_even_after_later_changes(http: Http):
    tenant = await http.tenant()
    key = {"Idempotency-Key": "create 1"}
    first = await tenant.post("/intents", {"name": "keyed", "definition": DEFINITION}, headers=key)
    path = f"/intents/{first.json()['id']}"
    await tenant.request("PUT", path, json={"definition": OTHER}, headers={"If-Match": "*"})
    await tenant.request("DELETE", path)
    again = await tenant.post("/intents", {"name": "keyed", "definition": DEFINITION}, headers=key)
    assert (again.status_code, again.content, again.headers["ETag"]) == (201, first.content, first.headers["ETag"])
    assert (again.headers["Idempotency-Replayed"], "Idempotency-Replayed" in first.headers) == ("true", False)
    assert again.headers["Quantum-Position"] == first.headers["Quantum-Position"]
    other = await tenant.post("/intents", {"name": "keyed-2", "definition": DEFINITION}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


async def test_a_key_sent_a_hundred_times_at_once_creates_one_intent(http: Http):
    tenant = await http.tenant()
    body, key = {"name": "once", "definition": DEFINITION}, {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(tenant.post("/intents", body, headers=key) for _ in range(100)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    listed = await tenant.get("/intents", after=answers[0])
    assert len(listed.json()["items"]) == 1


async def test_a_key_works_on_changes_and_deletions_too(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}"
    headers = {"If-Match": '"1"', "Idempotency-Key": "put-1"}
    first, again = [await tenant.request("PUT", path, json={"definition": OTHER}, headers=headers) for _ in range(2)]
    assert (again.status_code, again.content, again.headers["ETag"]) == (200, first.content, '"2"')
    deleted, repeated = [await tenant.request("DELETE", path, headers={"Idempotency-Key": "d"}) for _ in range(2)]
    assert (deleted.status_code, repeated.status_code) == (204, 204)
    assert repeated.headers["Idempotency-Replayed"] == "true"


async def test_one_key_means_different_things_to_different_tenants_and_people(http: Http):
    one, other = await http.tenant(), await http.tenant()
    body, key = {"name": "same", "definition": DEFINITION}, {"Idempotency-Key": "shared"}
    first, second = await one.post("/intents", body, headers=key), await other.post("/intents", body, headers=key)
    assert first.json()["id"] != second.json()["id"]
    bearer = http.bearer(one.id, subject="bob")
    third = await http.client.post(f"{API}/intents", json={**body, "name": "bobs"}, headers={**key, **bearer})
    assert third.status_code == 201


async def test_pages_lead_through_all_intents_each_once_newest_first(http: Http):
    tenant = await http.tenant()
    created = [await tenant.intent(f"intent-{number}", labels={"even": str(number % 2 == 0)}) for number in range(7)]
    seen: list[str] = []
    address = f"{API}/intents?limit=3"
    bearer = {**http.bearer(tenant.id), "Quantum-Min-Position": created[-1].headers["Quantum-Position"]}
    while address:
        answer = await http.client.get(address, headers=bearer)
        seen += [item["name"] for item in answer.json()["items"]]
        address = answer.links["next"]["url"] if "next" in answer.links else ""
        assert (answer.json()["next_cursor"] is None) == (not address)
    assert seen == [f"intent-{number}" for number in range(6, -1, -1)]
    for query, names in [
        ("name=intent-3", ["intent-3"]), ("label=even%3DTrue&limit=2", ["intent-6", "intent-4"]),
        ("label=even:False&limit=1", ["intent-5"]),
        ("q=intent-2", ["intent-2"]), ("status=archived", []), ("name=nobody", []), ("label=odd", []),
    ]:  # fmt: skip
        listed = await tenant.get(f"/intents?{query}", after=created[-1])
        assert [item["name"] for item in listed.json()["items"]] == names, (query, listed.text)


@pytest.mark.parametrize(
    ("query", "status"),
    [("cursor=nonsense", 400), ("cursor=%00", 422), ("limit=0", 422), ("limit=1000", 422), ("stauts=active", 422),
     ("status=x", 422), ("name=a&name=b", 422), ("label==", 422), ("q=%22%27%3A%26%7C%21%28%29%2A%5C", 200),
     ("q=%EF%BF%BF", 200), ("name=%ff", 200)],
)  # fmt: skip
async def test_a_query_is_understood_or_refused(http: Http, query: str, status: int):
    tenant = await http.tenant()
    answer = await tenant.get(f"/intents?{query}")
    assert answer.status_code == status, answer.text


async def test_a_cursor_of_another_list_is_refused(http: Http):
    tenant, other = await http.tenant(), await http.tenant()
    for number in range(2):
        created = await tenant.intent(f"n-{number}")
    cursor = (await tenant.get("/intents?limit=1", after=created)).json()["next_cursor"]
    assert (await tenant.get(f"/intents?limit=1&cursor={cursor}")).status_code == 200
    lists = [(other, "/intents?"), (tenant, "/executions?"), (tenant, "/intents?status=active&"), (tenant, "/modules?")]
    for reader, path in lists:
        refused = await reader.get(f"{path}limit=1&cursor={cursor}")
        assert (refused.status_code, refused.json()["code"]) == (400, "cursor-invalid")


async def test_a_read_waits_for_the_write_it_names_and_not_for_ever(http: Http):
    tenant = await http.tenant()
    for number in range(20):
        created = await tenant.intent(f"n-{number}")
        assert (await tenant.get(f"/intents/{created.json()['id']}", after=created)).status_code == 200
    late = await tenant.get("/intents", headers={"Quantum-Min-Position": encode_token(1 << 40)})
    assert (late.status_code, late.json()["code"], late.headers["Retry-After"]) == (503, "not-caught-up", "1")
    wrong = await tenant.get("/intents", headers={"Quantum-Min-Position": "xyz"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "position-invalid")


async def test_all_faults_of_a_definition_are_told_at_once_by_pointer(http: Http):
    tenant = await http.tenant()
    steps: list[Any] = [
        {"action": "no-such-action"}, {"action": "build-docker-image", "depends_on": ["nobody"]}, {"id": "x"},
        {"action": "build-docker-image", "password": "hunter2hunter2"},
    ]  # fmt: skip
    answer = await tenant.intent("bad", steps)
    assert (answer.status_code, answer.json()["code"]) == (422, "definition-invalid")
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert {"/definition/steps/0/action", "/definition/steps/1/depends_on/0"} <= set(pointers)
    assert any(pointer.startswith("/definition/steps/2") for pointer in pointers)
    assert any(pointer.startswith("/definition/steps/3") for pointer in pointers)
    assert "hunter2" not in answer.text
    assert (await tenant.get("/intents", after=await tenant.intent("good"))).json()["items"][0]["name"] == "good"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/name"), ({"name": "n"}, "/definition"), ({"name": 7, "definition": OTHER}, "/name"),
     ({"name": "", "definition": OTHER}, "/name"), ({"name": "n", "definition": []}, "/definition"),
     ({"name": "n", "definition": OTHER, "lables": {}}, "/lables"),
     ({"name": "n", "definition": OTHER, "labels": {"a": 1}}, "/labels/a"), ({"name": "n", "definition": None}, "/definition"),
     ({"name": "n", "definition": OTHER, "description": ["x"]}, "/description")],
)  # fmt: skip
async def test_what_is_wrong_around_a_definition_is_pointed_at(http: Http, body: Any, pointer: str):
    tenant = await http.tenant()
    answer = await tenant.post("/intents", body)
    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("intent_id", [NOBODY, "x", "%00", "%F0%9F%98%80", "x" * 300, "..%2e", "%ff"])
async def test_what_is_not_there_is_not_found_by_any_route(http: Http, intent_id: str):
    tenant = await http.tenant()
    for method, path, body in [
        ("GET", "", None), ("GET", "/versions", None), ("GET", "/versions/1", None), ("PUT", "", {"definition": OTHER}),
        ("POST", "/rollback", {"version": 1}), ("POST", "/deprecate", None), ("POST", "/activate", None), ("DELETE", "", None),
        ("POST", "/execute", {}),
    ]:  # fmt: skip
        options: dict[str, Any] = {} if body is None else {"json": body}
        answer = await tenant.request(method, f"/intents/{intent_id}{path}", headers={"If-Match": "*"}, **options)
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
