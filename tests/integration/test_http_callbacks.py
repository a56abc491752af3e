# intent_ref: tests.modules
"""The whole way of modules that answer later, of signed requests, and of results too large for the log."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.secrets.files import SecretFiles
from tests.acceptance.http_modules import HttpModule, http_module
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.waiting import wait_until

CANARY = "canary-of-a-callback-9"
SIGNING = "whsec_" + base64.b64encode(b"signing-key-of-the-module-1234").decode()


@dataclass
class Later:
    """A module that takes work on, and how to answer for it."""

    module: HttpModule
    answers: list[tuple[int, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.module.asked[-1].body


@pytest.fixture
def later() -> Iterator[Later]:
    with http_module(lambda body: held.answers.pop(0) if held.answers else (202, {})) as module:
        held = Later(module)
        yield held


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    data_dir = tmp_path_factory.mktemp("callbacks")
    async with serving(database, data_dir, private_addresses=True, public_url="http://quantum.example") as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


async def started(tenant: Tenant, later: Later, step: dict[str, Any] | None = None, **transport: Any) -> str:
    """An execution whose one step the module has been asked for."""
    action: dict[str, Any] = {"name": "slowly", "output_schema": {"type": ["object", "array"]}}
    body = {"name": "later", "actions": [action], "transport": {"type": "http", "url": later.module.url, **transport}}
    registered = await tenant.post("/modules", body)
    assert registered.status_code == 201, registered.text
    count = len(later.module.asked)
    execution = await tenant.execution([{"action": "slowly", **(step or {})}])
    await wait_until(lambda: len(later.module.asked) > count)
    return execution


async def answer(http: Http, token: str, body: Any) -> httpx.Response:
    """What the platform says to a callback, without any bearer token."""
    return await http.client.post(f"/api/v1/callbacks/{token}", json=body)


async def ended(tenant: Tenant, execution: str) -> dict[str, Any]:
    """The execution once it has ended."""
    document: dict[str, Any] = {}

    async def is_over() -> bool:
        nonlocal document
        document = (await tenant.get(f"/executions/{execution}")).json()
        return document.get("status") in ("completed", "failed", "cancelled")

    await wait_until(is_over)
    return document


async def test_a_step_waits_for_the_callback_and_takes_its_result_once(http: Http, tenant: Tenant, later: Later):
    execution = await started(tenant, later)
    asked = later.last
    assert asked["callback_url"] == f"http://quantum.example/api/v1/callbacks/{asked['callback_token']}"
    assert (await answer(http, asked["callback_token"], {"heartbeat": True})).status_code == 200
    assert (await tenant.get(f"/executions/{execution}")).json()["steps"][0]["status"] in ("running", "waiting")
    first = await answer(http, asked["callback_token"], {"result": {"done": 1}})
    assert first.status_code == 200, first.text
    assert first.json() == {"execution_id": execution, "step": "slowly", "attempt": 1, "recorded": "result"}
    again = await answer(http, asked["callback_token"], {"result": {"done": 1}})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    other = await answer(http, asked["callback_token"], {"result": {"done": 2}})
    assert (other.status_code, other.json()["code"]) == (409, "callback-answered")
    failed = await answer(http, asked["callback_token"], {"error": {"code": "x", "message": "y"}})
    assert failed.status_code == 409
    late = await answer(http, asked["callback_token"], {"heartbeat": True})
    assert late.status_code == 409
    assert (await ended(tenant, execution))["steps"][0]["result"] == {"done": 1}
    events = (await tenant.get(f"/executions/{execution}/events", headers={"Accept": "application/json"})).json()["items"]
    assert [one["type"] for one in events].count("step_completed") == 1


async def test_an_error_by_callback_is_retried_as_the_policy_says(http: Http, tenant: Tenant, later: Later):
    execution = await started(tenant, later, {"retry": {"max_attempts": 2, "initial_interval": "10ms"}})
    first = later.last["callback_token"]
    sent = {"error": {"code": "not-yet", "message": "Later.", "retryable": True}}
    assert (await answer(http, first, sent)).status_code == 200
    await wait_until(lambda: later.last["attempt"] == 2)
    too_late = await answer(http, first, {"result": {}})
    assert too_late.status_code == 409
    final = {"error": {"code": "broken", "message": "Never.", "retryable": False, "details": {"why": "so"}}}
    assert (await answer(http, later.last["callback_token"], final)).status_code == 200
    document = await ended(tenant, execution)
    assert document["status"] == "failed"
    assert document["steps"][0]["error"]["code"] == "broken"


async def test_a_token_that_is_none_changed_or_of_a_cancelled_execution_is_refused(http: Http, tenant: Tenant, later: Later):
    execution = await started(tenant, later)
    token = later.last["callback_token"]
    for wrong in ("x", token[:-1], token.replace(tenant.id, "tenant-other"), "a" * 255, token.replace("~1~", "~2~")):
        refused = await answer(http, wrong, {"result": {}})
        assert (refused.status_code, refused.json()["code"]) == (401, "callback-token-invalid")
    assert (await tenant.post(f"/executions/{execution}/cancel")).status_code == 202
    await ended(tenant, execution)
    over = await answer(http, token, {"result": {}})
    assert over.status_code == 409, over.text


@pytest.mark.parametrize(
    "body",
    [{}, {"result": 1, "error": {"code": "a", "message": "b"}}, {"heartbeat": False}, {"heartbeat": None}, {"error": None},
     {"error": {"code": "", "message": "b"}}, {"error": {"code": "a"}}, {"result": 1, "more": 2}, {"error": "no"}],
    ids=json.dumps,
)  # fmt: skip
async def test_a_body_that_is_not_one_of_the_three_is_refused_and_changes_nothing(
    http: Http, tenant: Tenant, later: Later, body: Any
):
    execution = await started(tenant, later)
    refused = await answer(http, later.last["callback_token"], body)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation-failed")
    assert (await answer(http, later.last["callback_token"], {"result": {}})).status_code == 200
    assert (await ended(tenant, execution))["status"] == "completed"


async def test_what_is_no_json_or_too_large_is_refused_before_it_is_looked_at(http: Http, tenant: Tenant, later: Later):
    await started(tenant, later)
    address = f"/api/v1/callbacks/{later.last['callback_token']}"
    for content, status in (
        (b"{", 400),
        (b"[]", 422),
        (b'{"result":"' + b"x" * (1 << 20) + b'"}', 413),
        (b'{"result":"\\u0000"}', 422),
    ):
        refused = await http.client.post(address, content=content)
        assert refused.status_code == status, refused.text
    assert (await http.client.get(address)).status_code == 405
    assert (await http.client.post(address, json={"result": {}})).status_code == 200


async def test_secrets_reach_the_module_and_nothing_that_is_stored_or_answered(http: Http, tenant: Tenant, later: Later):
    store = SecretFiles(http.platform.settings.data_dir / "secrets")
    store.write(tenant.id, "db", CANARY)
    store.write(tenant.id, "signing", SIGNING)
    step = {"password": "secret://db", "header": "Bearer ${secret://db}"}
    execution = await started(tenant, later, step, secret="secret://signing")
    asked = later.module.asked[-1]
    assert asked.body["parameters"] == {"password": CANARY, "header": f"Bearer {CANARY}"}
    assert asked.headers["webhook-signature"].startswith("v1,")
    sent = {"result": {"echo": CANARY, "basic": base64.b64encode(f"ab:{CANARY}".encode()).decode()}}
    assert (await answer(http, asked.body["callback_token"], sent)).status_code == 200
    document = await ended(tenant, execution)
    assert document["steps"][0]["result"]["echo"] == "[secret:db]"
    events = (await tenant.get(f"/executions/{execution}/events", headers={"Accept": "application/json"})).text
    log = await http.platform.store.platform_pool.fetch("SELECT payload FROM quantum.events WHERE tenant_id = $1", tenant.id)
    everything = b"\n".join([events.encode(), json.dumps(document).encode(), *(bytes(row["payload"]) for row in log)])
    for value in (CANARY, SIGNING, base64.b64encode(CANARY.encode()).decode()[:16]):
        assert value.encode() not in everything
    modules = await tenant.get("/modules/later")
    assert modules.json()["transport"]["secret"] == "secret://signing"
    assert SIGNING not in modules.text


async def test_a_result_too_large_for_the_log_is_an_artifact_of_the_tenant(http: Http, tenant: Tenant, later: Later):
    large = {"rows": ["0123456789" * 10] * 5_000}
    later.answers.append((200, large))
    execution = await started(tenant, later)
    document = await ended(tenant, execution)
    assert document["status"] == "completed", document
    claim = document["steps"][0]["result"]["$artifact"]
    found = await tenant.get(f"/artifacts/{claim['id']}", roles=["viewer"])
    assert (found.status_code, found.json()) == (200, large)
    assert found.headers["ETag"] == f'"{claim["sha256"]}"'
    assert found.headers["Content-Disposition"] == "attachment"
    stranger = await http.tenant()
    for where in (claim["id"], "0" * 64, "x", "..%2f" + claim["id"]):
        assert (await stranger.get(f"/artifacts/{where}")).status_code == 404
    assert (await http.client.get(f"/api/v1/artifacts/{claim['id']}")).status_code == 401


async def test_a_damaged_artifact_is_never_given_as_whole(http: Http, tenant: Tenant, later: Later):
    later.answers.append((200, {"rows": ["0123456789" * 10] * 5_000}))
    claim = (await ended(tenant, await started(tenant, later)))["steps"][0]["result"]["$artifact"]
    path = Path(http.platform.settings.data_dir / "artifacts" / tenant.id / claim["id"][:2] / claim["id"])
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"wrong")
    with pytest.raises(httpx.RemoteProtocolError):
        await tenant.get(f"/artifacts/{claim['id']}")


async def test_silence_ends_an_attempt_whose_step_asks_for_signs_of_life(http: Http, tenant: Tenant, later: Later):
    execution = await started(tenant, later, {"heartbeat": "300ms"})
    document = await ended(tenant, execution)
    assert document["status"] == "failed"
    assert document["steps"][0]["error"]["code"] == "timeout"


async def test_signs_of_life_keep_an_attempt_going_beyond_its_first_silence(http: Http, tenant: Tenant, later: Later):
    execution = await started(tenant, later, {"heartbeat": "2s"})
    token = later.last["callback_token"]
    ends = asyncio.get_running_loop().time() + 3.0

    async def beaten_long_enough() -> bool:
        assert (await answer(http, token, {"heartbeat": True})).status_code == 200
        return asyncio.get_running_loop().time() > ends

    await wait_until(beaten_long_enough)
    assert (await answer(http, token, {"result": {"done": 1}})).status_code == 200
    assert (await ended(tenant, execution))["status"] == "completed"
