# intent_ref: tests.contract
"""The contract's modules: registered over HTTP, then carrying out what executions ask of them."""

from typing import Any

from tests.acceptance.http_modules import http_module
from tests.acceptance.outside import API, Outside, Tenant, assert_problem


def module(url: str, name: str = "builder", **action: Any) -> dict[str, Any]:
    return {"name": name, "actions": [{"name": "build-image", **action}], "transport": {"type": "http", "url": url}}


async def test_a_module_is_registered_shown_listed_and_removed(tenant: Tenant):
    body = module("http://127.0.0.1:9/actions", input_schema={"type": "object", "required": ["image"]}, timeout=30, retry=3)
    created = await tenant.post("/modules", body)
    assert created.status_code == 201
    assert created.headers["Quantum-Position"]
    shown = await tenant.get("/modules/builder", after=created)
    assert shown.status_code == 200
    assert shown.json() == created.json()
    assert shown.json()["name"] == "builder"
    (action,) = shown.json()["actions"]
    assert action["name"] == "build-image"
    assert action["input_schema"] == body["actions"][0]["input_schema"]
    assert "transport" in shown.json()
    listed = await tenant.get("/modules", after=created)
    assert set(listed.json()) == {"items", "next_cursor"}
    assert {"builder", "sandbox"} <= {item["name"] for item in listed.json()["items"]}
    assert_problem(await tenant.post("/modules", body), 409)
    gone = await tenant.request("DELETE", "/modules/builder")
    assert gone.status_code == 204
    assert_problem(await tenant.get("/modules/builder", after=gone), 404)
    assert_problem(await tenant.request("DELETE", "/modules/builder"), 404)


async def test_an_action_is_carried_out_by_the_module_that_has_it(tenant: Tenant):
    with http_module(lambda asked: (200, {"digest": f"sha256:{asked['parameters']['image']}"})) as builder:
        assert (await tenant.post("/modules", module(builder.url))).status_code == 201
        execution_id = await tenant.start(
            [{"action": "build-image", "image": "shop", "id": "build"}, {"action": "notify"}], {"inputs": {"ticket": "OPS-1"}}
        )
        ended = await tenant.ended(execution_id)
        assert ended["status"] == "completed"
        assert ended["steps"][0]["result"] == {"digest": "sha256:shop"}
        (asked,) = builder.asked
    expected = {
        "tenant_id": tenant.id, "execution_id": execution_id, "step": "build", "action": "build-image", "attempt": 1,
        "target": "production", "parameters": {"image": "shop"}, "inputs": {"ticket": "OPS-1"},
    }  # fmt: skip
    assert asked.body.items() >= expected.items()
    assert asked.headers["idempotency-key"] == asked.body["idempotency_key"]
    assert asked.headers["quantum-tenant"] == tenant.id
    assert "authorization" not in asked.headers


async def test_a_modules_refusal_fails_the_step_and_its_own_policy_retries(tenant: Tenant):
    with http_module(lambda asked: (503 if asked["attempt"] < 3 else 200, {"attempt": asked["attempt"]})) as builder:
        retry = {"max_attempts": 3, "initial_interval": 0.05}
        await tenant.post("/modules", module(builder.url, retry=retry))
        ended = await tenant.ended(await tenant.start([{"action": "build-image"}]))
        assert (ended["status"], ended["steps"][0]["attempts"]) == ("completed", 3)
        assert len({one.body["idempotency_key"] for one in builder.asked}) == 3
    with http_module(lambda asked: (422, {"why": "no such image"})) as refusing:
        await tenant.post("/modules", {**module(refusing.url, "refuser"), "actions": [{"name": "refuse", "retry": 3}]})
        ended = await tenant.ended(await tenant.start([{"action": "refuse"}]))
        assert (ended["status"], ended["steps"][0]["attempts"]) == ("failed", 1)
        assert ended["steps"][0]["error"]["code"] == "http-status"


async def test_schemas_hold_what_goes_in_and_what_comes_out(tenant: Tenant):
    number = {"type": "object", "required": ["count"], "properties": {"count": {"type": "integer"}}}
    with http_module(lambda asked: (200, {"count": "many"})) as counter:
        await tenant.post("/modules", module(counter.url, input_schema=number, output_schema=number))
        wrong_in = await tenant.ended(await tenant.start([{"action": "build-image", "count": "none"}]))
        assert wrong_in["steps"][0]["error"]["code"] == "input-invalid"
        assert counter.asked == []
        wrong_out = await tenant.ended(await tenant.start([{"action": "build-image", "count": 1}]))
        assert wrong_out["steps"][0]["error"]["code"] == "output-invalid"


async def test_a_module_belongs_to_its_tenant(outside: Outside, tenant: Tenant):
    created = await tenant.post("/modules", module("http://127.0.0.1:9/"))
    other = await outside.tenant()
    assert_problem(await other.get("/modules/builder"), 404)
    refused = await other.post("/intents", {"name": "n", "definition": {"target": "t", "steps": [{"action": "build-image"}]}})
    assert_problem(refused, 422)
    assert "builder" not in [item["name"] for item in (await other.get("/modules", after=created)).json()["items"]]


async def test_what_is_no_module_is_refused_with_its_place(tenant: Tenant):
    for body in (
        {}, {"name": "x"}, module("ftp://x/"), module("http://u:p@h/"), module("http://h/", name="Not A Name"),
        module("http://h/", timeout="soon"), module("http://h/", input_schema={"type": "no-such-type"}),
        {"name": "m", "actions": [], "transport": {"type": "http", "url": "http://h/"}},
    ):  # fmt: skip
        problem = assert_problem(await tenant.post("/modules", body), 422)
        assert problem["errors"], body
    # The built-in actions are spoken for.
    taken = await tenant.post("/modules", {**module("http://h/"), "actions": [{"name": "no-op"}]})
    assert taken.status_code in (409, 422)


async def test_only_administrators_register_modules(tenant: Tenant):
    for role in ("author", "operator", "viewer", "auditor", "service"):
        assert_problem(await tenant.post("/modules", module("http://h/"), role=role), 403)
    headers = tenant.headers("viewer")
    assert (await tenant.outside.client.get(f"{API}/modules", headers=headers)).status_code == 200
