# intent_ref: tests.http
"""Tenants over HTTP: registering, suspending, and which tenant a request is about."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


async def test_a_platform_admin_whose_own_tenant_is_not_registered_registers_tenants(http: Http):
    admin = http.bearer("nowhere", roles=["platform-admin"])
    answer = await http.client.post(f"{API}/tenants", json={"id": "first", "name": "First"}, headers=admin)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{API}/tenants/first"
    body = answer.json()
    assert {**body, "created_at": None, "updated_at": None} == {
        "id": "first", "name": "First", "status": "active", "created_at": None, "updated_at": None,
    }  # fmt: skip
    headers = {**admin, "Quantum-Min-Position": answer.headers["Quantum-Position"]}
    listed = await http.client.get(f"{API}/tenants", headers=headers)
    assert body in listed.json()["items"]
    assert (await http.client.get(f"{API}/tenants/first", headers=headers)).json() == body


async def test_a_tenant_can_be_registered_once(http: Http):
    tenant, admin = await http.tenant(), http.bearer("p", roles=["platform-admin"])
    again = await http.client.post(f"{API}/tenants", json={"id": tenant.id, "name": "x"}, headers=admin)
    assert (again.status_code, again.json()["code"]) == (409, "tenant-exists")


@pytest.mark.parametrize("tenant_id", ["", "A", "a b", "-a", "a-", "x" * 64, "é", "a/b", "a_b"])
async def test_a_tenant_id_is_a_slug(http: Http, tenant_id: str):
    admin = http.bearer("p", roles=["platform-admin"])
    answer = await http.client.post(f"{API}/tenants", json={"id": tenant_id, "name": "x"}, headers=admin)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/id"


async def test_one_key_registers_one_tenant_even_when_the_other_body_names_another(http: Http):
    headers = {**http.bearer("p", roles=["platform-admin"]), "Idempotency-Key": "register-1"}
    first = await http.client.post(f"{API}/tenants", json={"id": "keyed-a", "name": "A"}, headers=headers)
    again = await http.client.post(f"{API}/tenants", json={"id": "keyed-a", "name": "A"}, headers=headers)
    other = await http.client.post(f"{API}/tenants", json={"id": "keyed-b", "name": "B"}, headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert again.content == first.content
    assert (again.headers["Idempotency-Replayed"], "Idempotency-Replayed" in first.headers) == ("true", False)
    assert other.json()["code"] == "idempotency-key-reused"
    assert (await http.client.get(f"{API}/tenants/keyed-b", headers=headers)).status_code == 404


async def test_a_request_for_a_tenant_that_is_not_registered_is_refused_until_it_is(http: Http):
    bearer = http.bearer("late")
    before = await http.client.get(f"{API}/intents", headers=bearer)
    assert (before.status_code, before.json()["code"]) == (403, "tenant-unknown")
    assert (await http.client.get(f"{API}/tenants/late", headers=bearer)).status_code == 403
    assert (await http.client.get(f"{API}/tenants", headers=bearer)).status_code == 403
    admin = http.bearer("p", roles=["platform-admin"])
    await http.client.post(f"{API}/tenants", json={"id": "late", "name": "Late"}, headers=admin)
    assert (await http.client.get(f"{API}/intents", headers=bearer)).status_code == 200


async def test_a_suspended_tenant_can_be_read_and_not_changed_at_once(http: Http):
    tenant, admin = await http.tenant(), http.bearer("p", roles=["platform-admin"])
    created = await tenant.intent()
    suspended = await http.client.post(f"{API}/tenants/{tenant.id}/suspend", json={"reason": "unpaid"}, headers=admin)
    assert (suspended.status_code, suspended.json()["status"]) == (200, "suspended")
    refused = await tenant.intent("another")
    assert (refused.status_code, refused.json()["code"]) == (403, "tenant-suspended")
    assert (await tenant.get(f"/intents/{created.json()['id']}", after=created)).status_code == 200
    shown = await tenant.get(f"/tenants/{tenant.id}", after=suspended)
    assert shown.json() == suspended.json()
    back = await http.client.post(f"{API}/tenants/{tenant.id}/reactivate", headers=admin)
    assert (back.status_code, back.json()["status"]) == (200, "active")
    assert (await tenant.intent("another")).status_code == 201


async def test_a_suspension_by_another_process_is_heard_of(database: Database, http: Http):
    tenant, admin = await http.tenant(), http.bearer("p", roles=["platform-admin"])
    async with serving(database, http.platform.settings.data_dir, role="write-api") as other:
        assert (await other.client.post(f"{API}/modules", json={}, headers=http.bearer(tenant.id))).status_code == 422
        await http.client.post(f"{API}/tenants/{tenant.id}/suspend", headers=admin)

        async def is_refused() -> bool:
            answer = await other.client.post(f"{API}/modules", json={}, headers=http.bearer(tenant.id))
            return answer.status_code == 403

        await wait_until(is_refused, what="the other process to hear of the suspension")


async def test_a_tenant_sees_itself_and_no_other(http: Http):
    one, other = await http.tenant(), await http.tenant()
    listed = await one.get("/tenants")
    await wait_until(lambda: _sees_itself(one), what="the tenants to be projected")
    assert other.id not in listed.text
    assert (await one.get(f"/tenants/{other.id}")).status_code == 404
    assert (await one.get("/tenants/never-registered")).status_code == 404


async def _sees_itself(tenant: Tenant) -> bool:
    listed = (await tenant.get("/tenants")).json()["items"]
    return [item["id"] for item in listed] == [tenant.id]


async def test_a_token_of_several_tenants_says_which(http: Http):
    one, other = await http.tenant(), await http.tenant()
    both = http.bearer(one.id, other.id)
    unsaid = await http.client.get(f"{API}/intents", headers=both)
    assert (unsaid.status_code, unsaid.json()["code"]) == (400, "tenant-not-chosen")
    assert "X-Tenant-Id" in unsaid.json()["detail"]
    for tenant in (one, other):
        body = {"name": "n", "definition": {"target": "t", "steps": []}}
        answer = await http.client.post(f"{API}/intents", headers={**both, "X-Tenant-Id": tenant.id}, json=body)
        assert answer.json()["tenant_id"] == tenant.id
    foreign = await http.client.get(f"{API}/intents", headers={**both, "X-Tenant-Id": "third"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "tenant-not-covered")
    assert (await one.get("/intents", headers={"X-Tenant-Id": other.id})).status_code == 403


async def test_pages_of_tenants_lead_through_all_of_them(http: Http):
    tenants = sorted([(await http.tenant()).id for _ in range(5)])
    last = await http.tenant()
    reader = http.bearer(*tenants)
    await wait_until(lambda: _count(http, reader), what="the tenants to be projected")
    seen: list[str] = []
    address = f"{API}/tenants?limit=2"
    while address:
        answer = await http.client.get(address, headers=reader)
        seen += [item["id"] for item in answer.json()["items"]]
        address = answer.links["next"]["url"] if "next" in answer.links else ""
        assert (answer.json()["next_cursor"] is not None) == bool(address)
    assert seen == tenants
    assert last.id not in seen


async def _count(http: Http, headers: dict[str, str]) -> bool:
    return len((await http.client.get(f"{API}/tenants", headers=headers)).json()["items"]) == 5


async def test_an_unknown_tenant_cannot_be_suspended(http: Http):
    admin = http.bearer("p", roles=["platform-admin"])
    for name in ("never", "NOT-A-SLUG"):
        assert (await http.client.post(f"{API}/tenants/{name}/suspend", headers=admin)).status_code == 404
