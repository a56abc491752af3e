# intent_ref: tests.contract
"""The contract's tenants and tokens: who may register, see and suspend, and what a token of `quantum token` is good for."""

import base64
import json

import httpx

from tests.acceptance.outside import API, Outside, Tenant, assert_problem, command, token
from tests.platforms import temporary_directory


def claims(text: str) -> dict[str, object]:
    payload = text.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def test_a_token_is_printed_and_nothing_else_with_the_server_down():
    with temporary_directory() as directory:
        done = command("token", "--tenant", "contractor", "--role", "author", "--subject", "ada", data_dir=directory)
        assert done.returncode == 0
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1
        assert done.stdout.count(".") == 2
        assert claims(done.stdout)["sub"] == "ada"
        by_option = command("token", "--tenant", "t", "--role", "viewer", "--data-dir", str(directory))
        assert by_option.returncode == 0
        assert by_option.stdout.count(".") == 2


async def test_a_token_made_before_its_tenant_works_once_the_tenant_is_registered(outside: Outside):
    early = {"Authorization": f"Bearer {token(outside.data_dir, ('late-tenant',), 'tenant-admin')}"}
    for method, path in (("GET", "/intents"), ("POST", "/intents"), ("GET", "/executions"), ("GET", "/modules")):
        refused = await outside.client.request(method, API + path, headers=early)
        assert_problem(refused, 403, "tenant-unknown")
    created = await outside.client.post(f"{API}/tenants", json={"id": "late-tenant", "name": "Late"}, headers=outside.admin())
    assert created.status_code == 201
    assert (await outside.client.get(f"{API}/intents", headers=early)).status_code == 200


async def test_a_tenant_is_registered_and_read_by_a_platform_admin(outside: Outside):
    body = {"id": "contractor", "name": "Acme"}
    created = await outside.client.post(f"{API}/tenants", json=body, headers=outside.admin())
    assert created.status_code == 201
    assert created.json().items() >= {"id": "contractor", "name": "Acme"}.items()
    assert created.headers["Quantum-Position"]
    assert_problem(await outside.client.post(f"{API}/tenants", json=body, headers=outside.admin()), 409)
    after = {**outside.admin(), "Quantum-Min-Position": created.headers["Quantum-Position"]}
    shown = await outside.client.get(f"{API}/tenants/contractor", headers=after)
    assert shown.status_code == 200
    assert shown.json() == created.json()
    listed = await outside.client.get(f"{API}/tenants", headers=after)
    assert listed.status_code == 200
    assert created.json() in listed.json()["items"]
    assert "next_cursor" in listed.json()


async def test_only_a_platform_admin_registers_and_suspends(outside: Outside, tenant: Tenant):
    for role in ("tenant-admin", "author", "operator", "viewer", "auditor", "service"):
        headers = tenant.headers(role)
        answer = await outside.client.post(f"{API}/tenants", json={"id": "x-y", "name": "X"}, headers=headers)
        assert_problem(answer, 403)
        assert_problem(await outside.client.post(f"{API}/tenants/{tenant.id}/suspend", headers=headers), 403)


async def test_a_tenant_sees_itself_and_no_other(outside: Outside, tenant: Tenant):
    alone = outside.bearer("seer", "viewer")
    created = await outside.client.post(f"{API}/tenants", json={"id": "seer", "name": "Seer"}, headers=outside.admin())
    after = {"Quantum-Min-Position": created.headers["Quantum-Position"]}
    shown = await outside.client.get(f"{API}/tenants/seer", headers={**alone, **after})
    assert shown.status_code == 200
    assert shown.json()["name"] == "Seer"
    assert_problem(await outside.client.get(f"{API}/tenants/{tenant.id}", headers=alone), 404)
    assert_problem(await outside.client.get(f"{API}/tenants/no-such", headers=alone), 404)
    listed = await outside.client.get(f"{API}/tenants", headers=alone)
    assert [item["id"] for item in listed.json()["items"]] == ["seer"]


async def test_a_suspended_tenant_reads_and_does_not_write_until_it_is_reactivated(outside: Outside, tenant: Tenant):
    async def steer(what: str) -> httpx.Response:
        return await outside.client.post(f"{API}/tenants/{tenant.id}/{what}", headers=outside.admin())

    intent = (await tenant.intent([{"action": "no-op"}])).json()
    suspended = await steer("suspend")
    assert suspended.status_code == 200
    assert suspended.json()["status"] == "suspended"
    assert_problem(await tenant.post("/intents", {"name": "n", "definition": {"target": "t", "steps": []}}), 403)
    assert_problem(await tenant.post(f"/intents/{intent['id']}/execute"), 403)
    assert (await tenant.get(f"/intents/{intent['id']}", after=suspended)).status_code == 200
    reactivated = await steer("reactivate")
    assert reactivated.status_code == 200
    assert reactivated.json()["status"] == "active"
    assert (await tenant.post(f"/intents/{intent['id']}/execute")).status_code == 202
    missing = await outside.client.post(f"{API}/tenants/no-such/suspend", headers=outside.admin())
    assert_problem(missing, 404)


async def test_the_tenant_is_the_tokens_and_a_header_chooses_among_several(outside: Outside, tenant: Tenant):
    other = await outside.tenant()
    both = token(outside.data_dir, (tenant.id, other.id), "tenant-admin")
    headers = {"Authorization": f"Bearer {both}"}
    body = {"name": "chosen", "definition": {"target": "t", "steps": []}}
    assert_problem(await outside.client.post(f"{API}/intents", json=body, headers=headers), 400)
    for one in (tenant, other):
        created = await outside.client.post(f"{API}/intents", json=body, headers={**headers, "X-Tenant-Id": one.id})
        assert created.status_code == 201
        assert created.json()["tenant_id"] == one.id
    uncovered = await outside.client.get(f"{API}/intents", headers={**headers, "X-Tenant-Id": "somebody-else"})
    assert_problem(uncovered, 403)


async def test_no_token_and_a_forged_one_get_401(outside: Outside):
    good = token(outside.data_dir, ("contractor",), "author")
    head, body, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for forged in (
        None,
        "",
        "Bearer",
        "Bearer x",
        "Basic dTpw",
        f"Bearer {head}.{body}.{signature[:-4]}AAAA",
        f"Bearer {none}.{body}.",
    ):
        headers = {} if forged is None else {"Authorization": forged}
        answer = await outside.client.get(f"{API}/intents", headers=headers)
        assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
