# intent_ref: tests.contract
"""The contract's rules for all of it: positions, idempotency keys, problem documents, limits, roles, health, OpenAPI."""

import asyncio
import re

import pytest

from tests.acceptance.outside import API, DEPLOY, Outside, Tenant, assert_problem

NOTHING = {"target": "t", "steps": []}


async def test_a_read_with_the_position_of_a_write_sees_it(tenant: Tenant):
    async def written_and_read(number: int) -> None:
        created = await tenant.intent([], f"seen-{number}")
        shown = await tenant.get(f"/intents/{created.json()['id']}", after=created)
        assert shown.json() == created.json()

    await asyncio.gather(*(written_and_read(number) for number in range(40)))


async def test_every_write_says_its_position(tenant: Tenant):
    created = await tenant.intent([{"action": "no-op", "sandbox": {"take": 600}}])
    path = f"/intents/{created.json()['id']}"
    answers = [
        created,
        await tenant.request("PUT", path, json={"definition": NOTHING}, headers={"If-Match": "*"}),
        await tenant.post(f"{path}/rollback", {"version": 1}),
        await tenant.post(f"{path}/deprecate"),
        await tenant.post(f"{path}/activate"),
    ]
    started = await tenant.post(f"{path}/execute")
    execution = f"/executions/{started.json()['execution_id']}"
    answers += [started, *[await tenant.post(f"{execution}/{what}") for what in ("pause", "resume", "cancel")]]
    answers.append(await tenant.request("DELETE", path))
    for answer in answers:
        assert answer.is_success, answer.text
        assert answer.headers["Quantum-Position"], str(answer.request.url)


async def test_a_position_that_is_not_reached_in_time_is_503_with_retry_after(outside: Outside, tenant: Tenant):
    created = await tenant.intent([])
    far = _later(created.headers["Quantum-Position"])
    answer = await tenant.get("/intents", headers={"Quantum-Min-Position": far})
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 0
    assert_problem(await tenant.get("/intents", headers={"Quantum-Min-Position": "made-up"}), 400)


def _later(token: str) -> str:
    from event_store.tokens import decode_token, encode_token  # opaque to clients; a position nobody has reached is not

    return encode_token(decode_token(token) + 1_000_000_000)


async def test_the_same_key_and_body_have_one_effect_and_one_answer(tenant: Tenant):
    body = {"name": "once", "definition": NOTHING}
    key = {"Idempotency-Key": "order-1"}
    answers = await asyncio.gather(*(tenant.post("/intents", body, headers=key) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers].count("true") == 9
    again = await tenant.post("/intents", body, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == answers[0].json()
    assert_problem(await tenant.post("/intents", {**body, "name": "other"}, headers=key), 422)
    assert_problem(await tenant.post("/intents", body, headers={"Idempotency-Key": "order-2"}), 409)


async def test_keys_hold_for_every_post(outside: Outside, tenant: Tenant):
    key = {"Idempotency-Key": "again"}
    intent = (await tenant.intent([{"action": "no-op", "sandbox": {"take": 600}}])).json()["id"]
    started = [await tenant.post(f"/intents/{intent}/execute", {}, headers=key) for _ in range(2)]
    execution = started[0].json()["execution_id"]
    pairs = [started]
    for path in (f"/executions/{execution}/pause", f"/executions/{execution}/cancel", f"/intents/{intent}/deprecate"):
        pairs.append([await tenant.post(path, headers=key) for _ in range(2)])
    module = {"name": "m", "actions": [{"name": "a"}], "transport": {"type": "http", "url": "http://h/"}}
    pairs.append([await tenant.post("/modules", module, headers=key) for _ in range(2)])
    body = {"id": f"{tenant.id}-sub", "name": "Sub"}
    admin = {**outside.admin(), **key}
    pairs.append([await outside.client.post(f"{API}/tenants", json=body, headers=admin) for _ in range(2)])
    for first, second in pairs:
        assert first.is_success, first.text
        assert "Idempotency-Replayed" not in first.headers
        assert (second.status_code, second.json()) == (first.status_code, first.json())
        assert second.headers["Idempotency-Replayed"] == "true"
        assert second.headers["Quantum-Position"] == first.headers["Quantum-Position"]
    assert len((await tenant.get("/executions", after=pairs[-1][0])).json()["items"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"\xff\xfe", 400), (b"[1]", 422), (b'"text"', 422), (b"{}", 422),
        (b'{"name": 1, "definition": {"target": "t", "steps": []}}', 422),
        (b'{"name": "n", "definition": {"target": "t", "steps": []}, "surprise": 1}', 422),
        (b'{"name": "n\\u0000", "definition": {"target": "t", "steps": []}}', 422),
        (b'{"name": "n", "definition": ' + b"[" * 100 + b"]" * 100 + b"}", 422),
        (b'{"name": "n", "definition": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
    ],
)  # fmt: skip
async def test_a_body_that_cannot_be_taken_gets_its_problem_and_changes_nothing(tenant: Tenant, body: bytes, status: int):
    answer = await tenant.request("POST", "/intents", content=body, headers={"Content-Type": "application/json"})
    problem = assert_problem(answer, status)
    assert problem.get("errors") or status == 400
    assert (await tenant.get("/intents")).json()["items"] == []


async def test_a_body_over_one_mebibyte_is_413(tenant: Tenant):
    big = {"name": "big", "definition": {"target": "t", "steps": [], "padding": "x" * (11 << 20)}}
    assert_problem(await tenant.post("/intents", big), 413)


async def test_limits_of_definitions_are_422(tenant: Tenant):
    many = {"name": "many", "definition": {"target": "t", "steps": [{"action": "no-op"}] * 501}}
    problem = assert_problem(await tenant.post("/intents", many), 422)
    assert "/definition/steps" in [fault["pointer"] for fault in problem["errors"]]
    most = {"name": "most", "definition": {"target": "t", "steps": [{"action": "no-op"}] * 500}}
    assert (await tenant.post("/intents", most)).status_code == 201


async def test_unknown_addresses_methods_and_parameters_are_problems(outside: Outside, tenant: Tenant):
    assert_problem(await tenant.get("/nowhere"), 404)
    wrong_method = await tenant.request("PATCH", "/intents")
    assert_problem(wrong_method, 405)
    assert {"GET", "POST"} <= set(re.split(r",\s*", wrong_method.headers["Allow"]))
    assert_problem(await tenant.get("/intents?limit=0"), 422)
    assert_problem(await tenant.get("/intents?surprise=1"), 422)
    assert_problem(await tenant.get("/intents/%00"), 404)


async def test_roles_hold_on_every_route(tenant: Tenant):
    intent = (await tenant.intent([{"action": "no-op"}])).json()["id"]
    may_write = {"tenant-admin", "author"}
    may_start = {"tenant-admin", "author", "operator", "service"}
    for role in ("tenant-admin", "author", "operator", "viewer", "auditor", "service"):
        written = await tenant.post("/intents", {"name": f"by-{role}", "definition": NOTHING}, role=role)
        assert written.status_code == (201 if role in may_write else 403)
        started = await tenant.post(f"/intents/{intent}/execute", role=role)
        assert started.status_code == (202 if role in may_start else 403)
        for path in ("/intents", f"/intents/{intent}", "/executions", "/modules"):
            assert (await tenant.get(path, role=role)).status_code == 200


async def test_health_and_metrics_stand_at_the_root_and_need_no_token(outside: Outside):
    for path in ("/health/live", "/health/ready"):
        answer = await outside.client.get(path)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"
    metrics = await outside.client.get("/metrics")
    assert metrics.status_code == 200
    assert metrics.headers["Content-Type"].startswith("text/plain")


async def test_the_api_describes_itself(outside: Outside):
    described = (await outside.client.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.")
    routes = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    one, execution = f"{API}/intents/{{intent_id}}", f"{API}/executions/{{execution_id}}"
    assert routes >= {
        ("POST", f"{API}/tenants"), ("GET", f"{API}/tenants"), ("GET", f"{API}/tenants/{{tenant_id}}"),
        ("POST", f"{API}/tenants/{{tenant_id}}/suspend"), ("POST", f"{API}/tenants/{{tenant_id}}/reactivate"),
        ("POST", f"{API}/intents"), ("GET", f"{API}/intents"), ("GET", one), ("PUT", one), ("DELETE", one),
        ("GET", f"{one}/versions"), ("GET", f"{one}/versions/{{version}}"), ("POST", f"{one}/rollback"),
        ("POST", f"{one}/deprecate"), ("POST", f"{one}/activate"), ("POST", f"{one}/execute"),
        ("GET", f"{API}/executions"), ("GET", execution), ("GET", f"{execution}/events"),
        ("POST", f"{execution}/cancel"), ("POST", f"{execution}/pause"), ("POST", f"{execution}/resume"),
        ("POST", f"{execution}/retry"), ("POST", f"{API}/modules"), ("GET", f"{API}/modules"),
        ("GET", f"{API}/modules/{{name}}"), ("DELETE", f"{API}/modules/{{name}}"),
        ("GET", "/health/live"), ("GET", "/health/ready"),
    }  # fmt: skip
    page = await outside.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")


async def test_the_first_example_of_the_contract_is_what_answers_carry(tenant: Tenant):
    answer = await tenant.post("/intents", DEPLOY)
    assert {"id", "name", "version", "tenant_id", "status", "definition", "created_at"} <= set(answer.json())
