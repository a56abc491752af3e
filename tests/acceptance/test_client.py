# intent_ref: tests.client
"""The contract's Python client: the tutorial's code as written, errors that say what the platform said, streams that resume."""

from typing import Any

import httpx
import pytest

from quantum.client import Client, QuantumError
from tests.acceptance.cutting_proxy import cutting_proxy
from tests.acceptance.outside import API, DEPLOY, Outside, Tenant, token


def client_of(tenant: Tenant, address: str | None = None) -> Client:
    """A client whose token covers several tenants, so that `set_tenant` matters."""
    covering = token(tenant.outside.data_dir, (tenant.id, "somebody-else"), "tenant-admin")
    return Client(address or tenant.outside.address, covering)


async def test_the_tutorials_code_runs_as_written(tenant: Tenant):
    client = client_of(tenant)
    client.set_tenant(tenant.id)
    response = await client.post("/api/v1/intents", json=DEPLOY)
    assert response.status_code == 201
    intent_id = response.json()["id"]
    assert response["id"] == intent_id
    execution = await client.post(f"/api/v1/intents/{intent_id}/execute", json={})
    seen: list[dict[str, Any]] = []
    async for event in client.stream(f"/api/v1/executions/{execution['execution_id']}/events"):
        seen.append(event)
    assert all(isinstance(event, dict) for event in seen)
    assert seen[0]["type"] == "execution_started"
    assert seen[-1]["type"] == "execution_completed"
    assert seen == await tenant.events(execution["execution_id"])
    await client.aclose()


async def test_every_method_is_there_and_an_answer_is_an_httpx_response_too(tenant: Tenant):
    async with client_of(tenant) as client:
        client.set_tenant(tenant.id)
        created = await client.post("/api/v1/intents", json=DEPLOY)
        path = f"/api/v1/intents/{created['id']}"
        after = {"Quantum-Min-Position": created.headers["Quantum-Position"]}
        assert (await client.get(path, headers=after))["name"] == "deploy-web-app"
        revised = await client.put(path, json={"definition": DEPLOY["definition"]}, headers={"If-Match": '"1"'})
        assert revised["version"] == 2
        assert "version" in revised
        assert "no-such-key" not in revised
        assert (await client.delete(path)).status_code == 204
        assert created.is_success
        assert created.url.path == "/api/v1/intents"


async def test_reading_a_member_of_a_refusal_says_what_was_refused(tenant: Tenant):
    async with client_of(tenant) as client:
        client.set_tenant(tenant.id)
        refused = await client.post(
            "/api/v1/intents", json={"name": "n", "definition": {"target": "t", "steps": [{"action": "x"}]}}
        )
        assert refused.status_code == 422
        assert refused.json()["status"] == 422
        with pytest.raises(QuantumError, match="/definition/steps/0/action") as fault:
            refused["id"]
        assert (fault.value.status, fault.value.problem["status"]) == (422, 422)
        with pytest.raises(QuantumError) as missing:
            async for _ in client.stream("/api/v1/executions/nobody/events"):
                pass
        assert missing.value.status == 404


async def test_a_stream_survives_connections_that_are_cut_and_repeats_nothing(tenant: Tenant):
    execution_id = await tenant.start([{"action": "no-op", "sandbox": {"take": 0.01}}] * 15)
    async with (
        cutting_proxy(tenant.outside.served.port, after_bytes=[1, 900, 1300, 2100]) as proxy,
        client_of(tenant, proxy.address) as client,
    ):
        client.set_tenant(tenant.id)
        seen = [event async for event in client.stream(f"{API}/executions/{execution_id}/events")]
    assert seen == await tenant.events(execution_id)
    assert seen[-1]["type"] == "execution_completed"
    assert proxy.cuts > 4


async def test_a_stream_can_begin_after_an_event_that_was_seen_before(tenant: Tenant):
    execution_id = await tenant.start([{"action": "no-op"}])
    await tenant.ended(execution_id)
    ids = []
    async with tenant.outside.client.stream("GET", f"{API}/executions/{execution_id}/events", headers=tenant.headers()) as answer:
        ids += [line.removeprefix("id: ") async for line in answer.aiter_lines() if line.startswith("id: ")]
    async with client_of(tenant) as client:
        client.set_tenant(tenant.id)
        rest = [event async for event in client.stream(f"{API}/executions/{execution_id}/events", last_event_id=ids[1])]
    assert rest == (await tenant.events(execution_id))[2:]


async def test_characters_that_end_lines_elsewhere_do_not_end_an_event(tenant: Tenant):
    text = "one\u2028two\u2029three\u0085four\r\nfive\x0bsix"
    execution_id = await tenant.start([{"action": "notify", "channel": text}])
    await tenant.ended(execution_id)
    async with client_of(tenant) as client:
        client.set_tenant(tenant.id)
        seen = [event async for event in client.stream(f"{API}/executions/{execution_id}/events")]
    completed = next(event for event in seen if event["type"] == "step_completed")
    assert completed["result"]["channel"] == text


async def test_a_platform_that_is_not_there_ends_a_request_with_httpxs_own_error(outside: Outside):
    async with Client("http://127.0.0.1:9", "token") as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/api/v1/intents")
