# intent_ref: tests.http
"""For every POST of the API a place where it is accepted, with two bodies that say different things."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.acceptance.http_modules import HttpModule
from tests.http_platform import API, Http, Tenant
from tests.receivers import Receiver
from tests.waiting import wait_until

GATE: list[dict[str, Any]] = [{"action": "approval", "id": "gate"}]
BROKEN: list[dict[str, Any]] = [{"action": "notify", "sandbox": {"fail": "broken", "retryable": False}}]
SHORT: list[dict[str, Any]] = [{"action": "no-op"}]
NIGHTLY = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
FAILURE = {"code": "broken", "message": "It is broken."}
LETTER = "01980c5e-6c1a-7d33-8c5c-2d8b7e1f4a12"


@dataclass(frozen=True)
class Post:
    """A request that is accepted. `body` None: none is sent; `other`: another one; `bearer`: who asks, else the tenant's own."""

    path: str
    body: Any = None
    other: Any = None
    roles: Sequence[str] = ("tenant-admin",)
    tenant: Tenant | None = None

    async def sent(
        self, http: Http, key: str, *, other: bool = False, subject: str = "ada", tenant: str = ""
    ) -> httpx.Response:  # fmt: skip
        """The answer to it under a key."""
        owner = tenant or ("platform" if self.tenant is None else self.tenant.id)
        headers = {**http.bearer(owner, roles=self.roles, subject=subject), "Idempotency-Key": key}
        body = self.other if other else self.body
        return await http.client.post(API + self.path, headers=headers, **({} if body is None else {"json": body}))


@dataclass(frozen=True)
class Places:
    """What the requests are about: a module over HTTP, and a receiver of webhooks."""

    module: HttpModule
    hook: Receiver


Case = Callable[[Tenant, Places], Awaitable[Post]]
ADMIN = ("platform-admin",)


async def _of_intent(tenant: Tenant, path: str, body: Any = None, other: Any = None, **definition: Any) -> Post:
    made = await tenant.post(
        "/intents", {"name": "one", "definition": {"target": "production", "steps": SHORT, **definition}}
    )  # fmt: skip
    assert made.status_code == 201, made.text
    return Post(path.replace("{intent_id}", made.json()["id"]), body, other, tenant=tenant)


async def _of_execution(
    tenant: Tenant, path: str, body: Any, other: Any, steps: Sequence[dict[str, Any]] = GATE, status: str = "running"
) -> Post:  # fmt: skip
    execution = await tenant.execution(steps)

    async def stands() -> bool:
        shown = (await tenant.get(f"/executions/{execution}")).json()
        waits = status != "running" or shown["steps"][0]["status"] == "waiting"
        return shown.get("status") == status and waits

    await wait_until(stands, 20, what=f"the execution to be {status}")
    return Post(path.replace("{execution_id}", execution), body, other, tenant=tenant)


async def _of_subscription(tenant: Tenant, places: Places, path: str, body: Any = None, other: Any = None) -> Post:
    made = await tenant.post("/subscriptions", {"url": places.hook.url, "types": ["quantum.intent.created"]})
    id = made.json()["id"]
    if path == "resume":
        assert (await tenant.post(f"/subscriptions/{id}/pause")).status_code == 200
    return Post(f"/subscriptions/{id}/{path}", body, {} if other is None else other, tenant=tenant)


async def _of_pull(tenant: Tenant, path: str, body: Any, other: Any) -> Post:
    """About a pull subscription with three events, of which the third has been fetched and is a dead letter."""
    made = await tenant.post("/pull-subscriptions", {"types": ["quantum.intent.created"], "order": "parallel"})
    base = f"/pull-subscriptions/{made.json()['id']}"
    for number in range(2):
        await tenant.intent(f"event-{number}")
    first: list[str] = []
    if path in ("ack", "nack", "extend"):
        pulled = await tenant.post(f"{base}/pull", {"max": 2, "wait": 5})
        first = [one["id"] for one in pulled.json()["items"]]
    filled = {
        "ack": ({"ids": first[:1]}, {"ids": first}), "extend": ({"ids": first[:1]}, {"ids": first}),
        "nack": ({"id": first[0], "delay": 5} if first else None, {"id": first[0]} if first else None),
    }.get(path, (body, other))  # fmt: skip
    return Post(f"{base}/{path}", *filled, tenant=tenant)


async def _work(tenant: Tenant) -> None:
    module = {"name": "tailor", "actions": [{"name": "cut"}], "transport": {"type": "pull"}}
    assert (await tenant.post("/modules", module)).status_code == 201
    await tenant.execution([{"action": "cut"}])


async def _of_lease(tenant: Tenant, path: str, body: Any, other: Any) -> Post:
    await _work(tenant)
    polled = await tenant.post("/work/poll", {"actions": ["cut"], "wait": 10}, roles=["service"])
    (unit,) = polled.json()["items"]
    return Post(f"/work/{unit['lease_token']}/{path}", body, other, ("service",), tenant)


async def _poll(tenant: Tenant, places: Places) -> Post:
    await _work(tenant)
    body = {"actions": ["cut"], "wait": 1}
    return Post("/work/poll", body, {**body, "max": 2}, ("service",), tenant)


async def _callback(tenant: Tenant, places: Places) -> Post:
    action = {"name": "slowly"}
    body = {"name": "later", "actions": [action], "transport": {"type": "http", "url": places.module.url}}
    assert (await tenant.post("/modules", body)).status_code == 201
    count = len(places.module.asked)
    await tenant.execution([{"action": "slowly"}])
    await wait_until(lambda: len(places.module.asked) > count, what="the module to be asked")
    token = places.module.asked[-1].body["callback_token"]
    return Post(f"/callbacks/{token}", {"result": {"n": 1}}, {"result": {"n": 2}}, tenant=tenant)


async def _suspended(tenant: Tenant, places: Places) -> Post:
    admin = tenant.http.bearer("platform", roles=ADMIN)
    assert (await tenant.http.client.post(f"{API}/tenants/{tenant.id}/suspend", headers=admin)).status_code == 200
    return Post(f"/tenants/{tenant.id}/reactivate", None, {}, ADMIN)


async def _redelivery(tenant: Tenant, places: Places) -> Post:
    made = await _of_subscription(tenant, places, "redeliver")
    at = (await tenant.intent("told")).json()["created_at"]
    return Post(made.path, {"since": at}, {"since": "2026-11-21T09:30:00Z"}, tenant=tenant)


async def _failed(tenant: Tenant, places: Places) -> Post:
    return await _of_execution(tenant, "/executions/{execution_id}/retry", None, {}, BROKEN, "failed")


async def _over(tenant: Tenant, places: Places) -> Post:
    path = "/executions/{execution_id}/rerun"
    return await _of_execution(tenant, path, {"step": "one"}, {"step": "two"}, [*_NAMED], "completed")


async def _paused(tenant: Tenant, places: Places) -> Post:
    made = await _of_execution(tenant, "/executions/{execution_id}/pause", None, {})
    assert (await tenant.post(made.path)).status_code == 202
    return Post(made.path.replace("/pause", "/resume"), None, {}, tenant=tenant)


def _plain(path: str, body: Any, other: Any, roles: Sequence[str] = ("tenant-admin",)) -> Case:
    async def case(tenant: Tenant, places: Places) -> Post:
        return Post(path, body, other, roles, None if roles == ADMIN else tenant)

    return case


def _named(path: str, body: dict[str, Any], other: dict[str, Any]) -> Case:
    async def case(tenant: Tenant, places: Places) -> Post:
        return Post(path, body, other, tenant=tenant)

    return case


async def _rolled_back(tenant: Tenant, places: Places) -> Post:
    made = await _of_intent(tenant, "/intents/{intent_id}/rollback", {"version": 1}, {"version": 2})
    changed = {"definition": {"target": "production", "steps": []}}
    path = made.path.removesuffix("/rollback")
    assert (await tenant.request("PUT", path, json=changed, headers={"If-Match": "*"})).status_code == 200
    return made


async def _new_tenant(tenant: Tenant, places: Places) -> Post:
    id = f"new-{tenant.id}"
    return Post("/tenants", {"id": id, "name": "New"}, {"id": id, "name": "Newer"}, ADMIN)


async def _suspension(tenant: Tenant, places: Places) -> Post:
    return Post(f"/tenants/{tenant.id}/suspend", None, {"reason": "so"}, ADMIN)


_NAMED = [{"action": "no-op", "id": "one"}, {"action": "no-op", "id": "two"}]
_DEFINITION = {"target": "production", "steps": SHORT}
_LETTERS: tuple[Any, Any] = ({}, {"event_ids": [LETTER]})
_PULL_LETTERS: tuple[Any, Any] = ({}, {"ids": [LETTER]})
_MODULE = {"name": "docker", "actions": [{"name": "build"}], "transport": "https://builds.example.com"}
_BULK = {"action": "cancel", "filter": {"status": "running"}}


def _intent(path: str, body: Any = None, other: Any = None, **definition: Any) -> Case:
    return lambda tenant, places: _of_intent(tenant, f"/intents/{{intent_id}}/{path}", body, other, **definition)


def _execution(path: str, body: Any = None, other: Any = None, steps: Sequence[dict[str, Any]] = GATE) -> Case:
    return lambda tenant, places: _of_execution(tenant, f"/executions/{{execution_id}}/{path}", body, other, steps)


def _subscription(path: str, body: Any = None, other: Any = None) -> Case:
    return lambda tenant, places: _of_subscription(tenant, places, path, body, other)


def _pull(path: str, body: Any = None, other: Any = None) -> Case:
    return lambda tenant, places: _of_pull(tenant, path, body, other)


def _lease(path: str, body: Any = None, other: Any = None) -> Case:
    return lambda tenant, places: _of_lease(tenant, path, body, other)


CASES: dict[str, Case] = {
    "/tenants": _new_tenant,
    "/tenants/{tenant_id}/suspend": _suspension,
    "/tenants/{tenant_id}/reactivate": _suspended,
    "/intents": _plain("/intents", {"name": "a", "definition": _DEFINITION}, {"name": "b", "definition": _DEFINITION}),
    "/intents/{intent_id}/rollback": _rolled_back,
    "/intents/{intent_id}/deprecate": _intent("deprecate", None, {}),
    "/intents/{intent_id}/activate": _intent("activate", None, {}),
    "/intents/{intent_id}/execute": _intent("execute", {}, {"priority": 1}),
    "/intents/{intent_id}/plan": _intent("plan", {}, {"version": 1}),
    "/intents/{intent_id}/schedule/pause": _intent("schedule/pause", None, {}, schedule=NIGHTLY),
    "/intents/{intent_id}/schedule/resume": _intent("schedule/resume", None, {}, schedule=NIGHTLY),
    "/intents/{intent_id}/schedule/run-now": _intent("schedule/run-now", None, {}, schedule=NIGHTLY),
    "/intents/{intent_id}/trigger/dead-letters/retry": _intent("trigger/dead-letters/retry", *_LETTERS),
    "/intents/{intent_id}/trigger/dead-letters/discard": _intent("trigger/dead-letters/discard", *_LETTERS),
    "/workflows": _plain("/workflows", {"name": "a", "steps": SHORT}, {"name": "b", "steps": SHORT}),
    "/modules": _plain("/modules", _MODULE, {**_MODULE, "name": "podman"}),
    "/executions/bulk": _plain("/executions/bulk", _BULK, {**_BULK, "dry_run": True}),
    "/executions/{execution_id}/cancel": _execution("cancel", None, {"reason": "so"}),
    "/executions/{execution_id}/terminate": _execution("terminate", None, {"reason": "so"}),
    "/executions/{execution_id}/pause": _execution("pause", None, {}),
    "/executions/{execution_id}/resume": _paused,
    "/executions/{execution_id}/retry": _failed,
    "/executions/{execution_id}/rerun": _over,
    "/executions/{execution_id}/steps/{step}/approve": _execution("steps/gate/approve", {}, {"comment": "so"}),
    "/executions/{execution_id}/steps/{step}/reject": _execution("steps/gate/reject", {}, {"comment": "so"}),
    "/executions/{execution_id}/signals/{signal}": _execution("signals/go", {"n": 1}, {"n": 2}),
    "/subscriptions": _plain("/subscriptions", {"url": "https://a.example.com"}, {"url": "https://b.example.com"}),
    "/subscriptions/{subscription_id}/rotate-secret": _subscription("rotate-secret"),
    "/subscriptions/{subscription_id}/pause": _subscription("pause"),
    "/subscriptions/{subscription_id}/resume": _subscription("resume"),
    "/subscriptions/{subscription_id}/enable": _subscription("enable"),
    "/subscriptions/{subscription_id}/test": _subscription("test"),
    "/subscriptions/{subscription_id}/redeliver": _redelivery,
    "/pull-subscriptions": _plain("/pull-subscriptions", {}, {"lease": 60}),
    "/pull-subscriptions/{subscription_id}/seek": _pull("seek", {"from": "beginning"}, {"from": "now"}),
    "/pull-subscriptions/{subscription_id}/pull": _pull("pull", {"max": 1, "wait": 5}, {"max": 2}),
    "/pull-subscriptions/{subscription_id}/ack": _pull("ack"),
    "/pull-subscriptions/{subscription_id}/nack": _pull("nack"),
    "/pull-subscriptions/{subscription_id}/extend": _pull("extend"),
    "/pull-subscriptions/{subscription_id}/dead-letters/redrive": _pull("dead-letters/redrive", *_PULL_LETTERS),
    "/pull-subscriptions/{subscription_id}/dead-letters/discard": _pull("dead-letters/discard", *_PULL_LETTERS),
    "/work/poll": _poll,
    "/work/{lease_token}/heartbeat": _lease("heartbeat", None, {}),
    "/work/{lease_token}/release": _lease("release", None, {}),
    "/work/{lease_token}/complete": _lease("complete", {"result": 1}, {"result": 2}),
    "/work/{lease_token}/fail": _lease("fail", {"error": FAILURE}, {"error": FAILURE, "retryable": False}),
    "/callbacks/{token}": _callback,
}
