# intent_ref: tests.tenant-limits
"""Limits over HTTP: who sets them, who sees them, and what a tenant is told that has reached one."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.tenant_limits import COUNT_MAX
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until

NONE: dict[str, Any] = {
    "concurrent_steps": None, "concurrent_executions": None, "on_exceeded": None, "executions_a_minute": None,
    "queue_length": None, "weight": None,
}  # fmt: skip
SLOW = [{"action": "notify", "sandbox": {"take": 30}}]


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    folder: Path = tmp_path_factory.mktemp("limits")
    async with serving(database, folder, tenant_queue_length=500) as running:
        yield running


async def limit(tenant: Tenant, roles: tuple[str, ...] = ("platform-admin",), **limits: Any) -> httpx.Response:
    headers = tenant.http.bearer("platform" if roles == ("platform-admin",) else tenant.id, roles=roles)
    return await tenant.http.client.put(f"{API}/tenants/{tenant.id}/limits", json=limits, headers=headers)


async def known_to_sagas(tenant: Tenant) -> None:
    """Returns once the sagas have heard of the limits."""
    pool = tenant.http.platform.store.platform_pool

    async def known() -> bool:
        query = "SELECT last_limits > 0 FROM quantum.saga_tenants WHERE tenant_id = $1"
        return bool(await pool.fetchval(query, tenant.id))

    await wait_until(known, what="the sagas to know the limits")


async def test_a_platform_admin_sets_limits_and_the_tenant_sees_them(http: Http):
    tenant = await http.tenant()
    assert (await tenant.get(f"/tenants/{tenant.id}/limits")).json() == {
        "tenant_id": tenant.id, "set": NONE, "in_force": {**NONE, "queue_length": 500},
    }  # fmt: skip
    answer = await limit(tenant, concurrent_executions=3, on_exceeded="reject", weight=2.5)
    assert answer.status_code == 200
    wanted = {**NONE, "concurrent_executions": 3, "on_exceeded": "reject", "weight": 2.5}
    assert answer.json() == {"tenant_id": tenant.id, "set": wanted, "in_force": {**wanted, "queue_length": 500}}
    assert (await tenant.get(f"/tenants/{tenant.id}/limits", roles=["viewer"])).json() == answer.json()
    assert (await limit(tenant)).json()["set"] == NONE, "what is not said is not set any more"


async def test_others_neither_set_nor_see_them(http: Http):
    tenant, other = await http.tenant(), await http.tenant()
    assert (await limit(tenant, ("tenant-admin",), concurrent_steps=5)).status_code == 403
    assert (await other.get(f"/tenants/{tenant.id}/limits")).status_code == 404
    assert (await other.get("/tenants/nobody/limits")).status_code == 404
    admin = http.bearer("platform", roles=["platform-admin"])
    for name in ("nobody", "No%20slug"):
        assert (await http.client.put(f"{API}/tenants/{name}/limits", json={}, headers=admin)).status_code == 404
        assert (await http.client.get(f"{API}/tenants/{name}/limits", headers=admin)).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrent_steps": 0}, {"queue_length": COUNT_MAX + 1}, {"executions_a_minute": 1.5}, {"weight": 0},
        {"weight": 1e9}, {"on_exceeded": "explode"}, {"concurrent_execution": 3}, {"concurrent_executions": "3"},
    ],
)  # fmt: skip
async def test_limits_that_make_no_sense_are_refused(http: Http, wrong: dict[str, Any]):
    tenant = await http.tenant()
    answer = await limit(tenant, **wrong)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(wrong))}"


async def test_beyond_its_rate_a_tenant_gets_429_with_every_header_and_another_is_not_held_up(http: Http):
    tenant, other = await http.tenant(), await http.tenant()
    assert (await limit(tenant, executions_a_minute=2)).status_code == 200
    intent = (await tenant.intent(steps=[{"action": "notify"}])).json()["id"]
    first = await tenant.post(f"/intents/{intent}/execute", {}, headers={"Idempotency-Key": "one"})
    assert first.status_code == 202
    last = first
    while (answer := await tenant.post(f"/intents/{intent}/execute", {})).status_code == 202:
        last = answer  # the window of a minute may have moved on
    before = len((await tenant.get("/executions", after=last)).json()["items"])
    assert (before, answer.status_code) in {(2, 429), (3, 429)}
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["status"], problem["type"]) == ("limit-reached", 429, "/problems/limit-reached")
    again = int(answer.headers["Retry-After"])
    assert 1 <= again <= 60
    assert answer.headers["RateLimit-Policy"] == '"executions-a-minute";q=2;w=60'
    assert answer.headers["RateLimit"] == f'"executions-a-minute";r=0;t={again}'
    assert re.search(r"2 executions a minute.*try again in \d+ s", problem["detail"])
    assert len((await tenant.get("/executions", after=last)).json()["items"]) == before, "nothing was written"
    repeated = await tenant.post(f"/intents/{intent}/execute", {}, headers={"Idempotency-Key": "one"})
    assert repeated.status_code == 202, "what was accepted is answered again, whatever the rate"
    assert repeated.json()["execution_id"] == first.json()["execution_id"]
    assert repeated.headers["Idempotency-Replayed"] == "true"
    elsewhere = (await other.intent(steps=[{"action": "notify"}])).json()["id"]
    for _ in range(5):
        assert (await other.post(f"/intents/{elsewhere}/execute", {})).status_code == 202


async def test_an_execution_that_waits_for_its_turn_says_so_everywhere(http: Http):
    tenant = await http.tenant()
    assert (await limit(tenant, concurrent_executions=1)).status_code == 200
    await known_to_sagas(tenant)
    intent = (await tenant.intent(steps=SLOW)).json()["id"]
    running = await tenant.post(f"/intents/{intent}/execute", {})

    async def begun() -> bool:
        shown = (await tenant.get(f"/executions/{running.json()['execution_id']}")).json()
        return shown["queued"] is False and shown["steps"][0]["status"] == "running"

    await wait_until(begun, what="the first to begin")
    waiting = await tenant.post(f"/intents/{intent}/execute", {})
    assert waiting.status_code == 202
    assert waiting.json()["queued"] is True
    identity = waiting.json()["execution_id"]
    shown = (await tenant.get(f"/executions/{identity}", after=waiting)).json()
    assert (shown["status"], shown["queued"]) == ("running", True)

    async def explained() -> dict[str, Any] | None:
        said: dict[str, Any] = (await tenant.get(f"/executions/{identity}/explain")).json()
        return said if "under way, and" in said["sentence"] else None

    said = await wait_until(explained, what="its turn to be in line")
    assert said["sentence"].endswith("1 of 1 are under way, and 0 come before it.")
    assert said["steps"][0]["reason"] == "turn"
    assert (await tenant.post(f"/executions/{running.json()['execution_id']}/terminate", {})).status_code == 202

    async def its_turn() -> bool:
        return (await tenant.get(f"/executions/{identity}")).json()["queued"] is False

    await wait_until(its_turn, what="the second to begin")
    happened = await tenant.get(f"/executions/{identity}/events", headers={"Accept": "application/json"})
    types = [event["type"] for event in happened.json()["items"]]
    assert types[:4] == ["execution_started", "execution_queued", "execution_admitted", "step_started"]
    assert (await tenant.post(f"/executions/{identity}/terminate", {})).status_code == 202


async def test_what_would_be_one_too_many_is_refused_where_the_limit_says_so(http: Http):
    tenant = await http.tenant()
    assert (await limit(tenant, concurrent_executions=1, on_exceeded="reject")).status_code == 200
    await known_to_sagas(tenant)
    intent = (await tenant.intent(steps=SLOW)).json()["id"]
    running = await tenant.post(f"/intents/{intent}/execute", {})

    async def refused() -> httpx.Response | None:
        answer = await tenant.post(f"/intents/{intent}/execute", {})
        return answer if answer.status_code == 429 else None

    answer = await wait_until(refused, what="a refusal")
    assert answer.headers["RateLimit-Policy"] == '"concurrent-executions";q=1'
    assert answer.headers["RateLimit"] == '"concurrent-executions";r=0;t=5'
    assert answer.headers["Retry-After"] == "5"
    for one in (await tenant.get("/executions", after=running)).json()["items"]:
        await tenant.post(f"/executions/{one['execution_id']}/terminate", {})


async def test_an_action_says_its_limits_and_a_wrong_one_is_refused(http: Http):
    tenant = await http.tenant()
    module = {
        "name": "pourer", "transport": "http://127.0.0.1:9/actions",
        "actions": [{"name": "pour", "rate": {"max": 10, "per": "1m"}, "concurrency": 5}],
    }  # fmt: skip
    answer = await tenant.post("/modules", module)
    assert answer.status_code == 201, answer.text
    shown = (await tenant.get("/modules/pourer", after=answer)).json()["actions"][0]
    assert (shown["rate"], shown["concurrency"]) == ({"max": 10, "per": 60.0}, 5)
    sent_back = await tenant.request("PUT", "/modules/pourer", json={"actions": [shown], "transport": module["transport"]})
    assert sent_back.status_code == 200, sent_back.text
    for wrong, place in (
        ({"rate": {"max": 0, "per": 1}}, "/actions/0/rate/max"), ({"rate": {"max": 1, "per": "soon"}}, "/actions/0/rate/per"),
        ({"rate": {"max": 1, "per": 0.0001}}, "/actions/0/rate"), ({"rate": {"max": 1}}, "/actions/0/rate/per"),
        ({"concurrency": 0}, "/actions/0/concurrency"), ({"concurrency": 10**9}, "/actions/0/concurrency"),
    ):  # fmt: skip
        refused = await tenant.post("/modules", {**module, "name": "other", "actions": [{"name": "pour-other", **wrong}]})
        assert refused.status_code == 422, wrong
        assert refused.json()["errors"][0]["pointer"] == place
