# intent_ref: tests.http
"""Subscriptions over HTTP: who may do what, what is told and what never, and deliveries from end to end."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.receivers import Answer, receiver
from tests.waiting import wait_until

HOOK = "https://hooks.example.com/quantum"


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data")), private_addresses=True) as running:
        yield running


async def subscribed(tenant: Tenant, url: str = HOOK, **more: Any) -> dict[str, Any]:
    answer = await tenant.post("/subscriptions", {"url": url, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ended(tenant: Tenant, id: str, count: int, **query: str) -> list[dict[str, Any]]:
    """The deliveries once there are so many."""

    async def listed() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await tenant.get(f"/subscriptions/{id}/deliveries", params=query)).json()["items"]
        return items if len(items) >= count else []

    return await wait_until(listed, what=f"{count} deliveries")


async def test_a_subscription_is_made_read_changed_paused_and_deleted(http: Http):
    tenant = await http.tenant()
    made = await tenant.post("/subscriptions", {"url": HOOK, "types": ["quantum.execution.*"], "headers": {"X-Team": "web"}})
    body = made.json()
    assert (made.status_code, made.headers["Location"]) == (201, f"{API}/subscriptions/{body['id']}")
    secret = body.pop("secret")
    assert secret.startswith("whsec_")
    assert (body["status"], body["order"], body["from"], body["max_in_flight"]) == ("active", "per-subject", "now", 10)
    path = f"/subscriptions/{body['id']}"
    assert (await tenant.get(path, after=made)).json() == body
    assert (await tenant.get("/subscriptions", after=made)).json()["items"] == [body]

    changed = await tenant.request("PATCH", path, json={"types": ["*"], "headers": None})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["types"], changed.json()["headers"], changed.json()["url"]) == (["*"], [], HOOK)
    assert (await tenant.get(path, after=changed)).json() == changed.json()
    paused = await tenant.post(f"{path}/pause")
    assert paused.json()["status"] == "paused"
    resumed = await tenant.post(f"{path}/resume", {})
    assert resumed.json()["status"] == "active"
    assert (await tenant.post(f"{path}/enable")).json()["status"] == "active"
    rotated = await tenant.post(f"{path}/rotate-secret", {"former_hours": 1})
    assert rotated.json()["secret"] not in (secret, None)
    assert rotated.json()["former_secret_until"] is not None
    shown = await tenant.get(path, after=rotated)
    assert shown.json() == {key: value for key, value in rotated.json().items() if key != "secret"}

    deleted = await tenant.request("DELETE", path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await tenant.get(path, after=deleted)).status_code == 404
    assert (await tenant.get(f"{path}/deliveries", after=deleted)).status_code == 404
    for again in (tenant.request("DELETE", path), tenant.post(f"{path}/pause"), tenant.post(f"{path}/test"),
                  tenant.post(f"{path}/rotate-secret"), tenant.request("PATCH", path, json={})):  # fmt: skip
        assert (await again).status_code == 404


async def test_the_secret_is_told_once_and_is_nowhere_in_clear_text(http: Http, database: Database):
    import asyncpg

    tenant = await http.tenant()
    headers = {"Idempotency-Key": "make"}
    made = await tenant.post("/subscriptions", {"url": HOOK}, headers=headers)
    again = await tenant.post("/subscriptions", {"url": HOOK}, headers=headers)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.json()["id"], again.json()["secret"]) == (made.json()["id"], None)
    id, secret = made.json()["id"], made.json()["secret"]
    key = {"Idempotency-Key": "rotate"}
    rotated = await tenant.post(f"/subscriptions/{id}/rotate-secret", headers=key)
    assert (await tenant.post(f"/subscriptions/{id}/rotate-secret", headers=key)).json()["secret"] is None
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        assert await owner.fetchval("SELECT count(*) FROM quantum.subscription_secrets WHERE tenant_id = $1", tenant.id) == 2
        tables = await owner.fetch(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname LIKE 'quantum%' AND c.relkind = 'r'"
        )
        for told in (secret, rotated.json()["secret"]):
            key_text = told.removeprefix("whsec_")
            marks = (key_text, key_text.encode().hex(), base64.b64decode(key_text).hex())
            for (table,) in tables:
                for (row,) in await owner.fetch(f"SELECT t::text FROM {table} AS t"):
                    assert not any(mark in row for mark in marks), table
    finally:
        await owner.close()


async def test_who_may_do_what(http: Http):
    tenant = await http.tenant()
    id = (await subscribed(tenant))["id"]
    writes = [("POST", "/subscriptions", {"url": HOOK}), ("PATCH", f"/subscriptions/{id}", {"max_in_flight": 2}),
              ("POST", f"/subscriptions/{id}/pause", None), ("POST", f"/subscriptions/{id}/resume", None),
              ("POST", f"/subscriptions/{id}/enable", None), ("POST", f"/subscriptions/{id}/rotate-secret", None),
              ("POST", f"/subscriptions/{id}/redeliver", {"since": "2026-11-21T09:30:00Z"})]  # fmt: skip
    for role in ("operator", "viewer", "auditor", "author"):
        for method, path, body in writes:
            options = {} if body is None else {"json": body}
            assert (await tenant.request(method, path, roles=[role], **options)).status_code == 403
        for path in ("/subscriptions", f"/subscriptions/{id}", f"/subscriptions/{id}/deliveries"):
            assert (await tenant.get(path, roles=[role])).status_code == 200
    for method, path, body in writes:
        options = {} if body is None else {"json": body}
        assert (await tenant.request(method, path, roles=["service"], **options)).status_code < 300


async def test_what_belongs_to_another_tenant_does_not_exist(http: Http):
    tenant, other = await http.tenant(), await http.tenant()
    async with receiver() as hook:
        made = await subscribed(tenant, hook.url)
        path = f"/subscriptions/{made['id']}"
        await tenant.execution()
        (delivery, *_) = await ended(tenant, made["id"], 1)
        assert (await other.get("/subscriptions")).json()["items"] == []
        asked: list[tuple[str, str, Any]] = [
            ("GET", path, None), ("GET", f"{path}/deliveries", None), ("PATCH", path, {"url": HOOK}), ("DELETE", path, None),
            ("POST", f"{path}/pause", None), ("POST", f"{path}/test", None), ("POST", f"{path}/rotate-secret", None),
            ("POST", f"{path}/redeliver", {"delivery_id": delivery["id"]}),
        ]  # fmt: skip
        for method, one, body in asked:
            answer = await other.request(method, one, **({} if body is None else {"json": body}))
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), (method, one)
        theirs = await subscribed(other, hook.url)
        refused = await other.post(f"/subscriptions/{theirs['id']}/redeliver", {"delivery_id": delivery["id"]})
        assert refused.status_code == 404


async def test_an_executions_events_are_delivered_and_logged_with_their_attempts(http: Http):
    tenant = await http.tenant()
    answers = iter([Answer(500, body=b"oops")])
    async with receiver(lambda _got: next(answers, Answer())) as hook:
        made = await subscribed(tenant, hook.url, types=["quantum.execution.started", "quantum.execution.completed"])
        execution = await tenant.execution()

        async def both() -> bool:
            listed = await tenant.get(f"/subscriptions/{made['id']}/deliveries", params={"status": "delivered"})
            return len(listed.json()["items"]) == 2

        await wait_until(both, 30, what="both deliveries")
        (completed, started) = await ended(tenant, made["id"], 2)
        assert (started["subject"], started["type"]) == (f"execution/{execution}", "quantum.execution.started.v1")
        assert [attempt["status"] for attempt in started["attempts"]] == [500, 200]
        assert (started["attempts"][0]["error"], started["attempts"][0]["response"]) == ("status-500", "oops")
        assert started["next_attempt_at"] is None
        for got in hook.received:
            Webhook(made["secret"]).verify(got.body, got.headers)
        pages = [(await ended(tenant, made["id"], 1, **query)) for query in (
            {"event_id": completed["event_id"]}, {"type": "quantum.execution.completed.v1"}, {"limit": "1"},
        )]  # fmt: skip
        assert pages == [[completed]] * 3
        none = await tenant.get(f"/subscriptions/{made['id']}/deliveries", params={"before": "2020-01-01T00:00:00Z"})
        assert none.json()["items"] == []
        first = await tenant.get(f"/subscriptions/{made['id']}/deliveries", params={"limit": 1})
        second = await http.client.get(first.links["next"]["url"], headers=http.bearer(tenant.id))
        assert second.json()["items"] == [started]


async def test_a_test_and_a_repeat_can_be_asked_for(http: Http):
    tenant = await http.tenant()
    async with receiver() as hook:
        made = await subscribed(tenant, hook.url, types=["quantum.execution.started"])
        path = f"/subscriptions/{made['id']}"
        tested = await tenant.post(f"{path}/test")
        assert tested.status_code == 202
        await wait_until(lambda: hook.received, what="the test")
        assert hook.received[0].id == tested.json()["delivery_id"]
        await tenant.execution()
        await wait_until(lambda: len(hook.received) == 2, what="the event")
        (event, *_) = await ended(tenant, made["id"], 2)
        asked = await tenant.post(f"{path}/redeliver", {"event_id": event["event_id"]})
        assert (asked.status_code, asked.json()) == (202, {"delivery_id": event["id"]})
        await wait_until(lambda: len(hook.received) == 3, what="the repeat")
        assert hook.received[2].id == hook.received[1].id
        assert (await tenant.post(f"{path}/redeliver", {"since": event["first_attempt_at"]})).status_code == 202
        assert (await tenant.post(f"{path}/redeliver", {"event_id": str(uuid4())})).status_code == 404
        for body, pointer in (({}, ""), ({"since": "x"}, "/since"), ({"since": "2026-11-21T09:30:00"}, "/since"),
                              ({"delivery_id": "x"}, "/delivery_id"), ({"event_id": None}, "/delivery_id"),
                              ({"position": "now"}, "/position"),
                              ({"since": "2026-11-21T09:30:00Z", "position": "x"}, "")):  # fmt: skip
            refused = await tenant.post(f"{path}/redeliver", body)
            assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer), body


async def test_history_can_be_asked_for_from_a_time_and_a_position(http: Http):
    tenant = await http.tenant()
    intent = await tenant.intent("first")
    position, at = intent.headers["Quantum-Position"], intent.json()["created_at"]
    await tenant.intent("second")
    for begins, count in (("beginning", 2), (position, 1), (at, 2), ("now", 0)):
        async with receiver() as hook:
            made = await subscribed(tenant, hook.url, types=["quantum.intent.created"], **{"from": begins})
            if count:
                await ended(tenant, made["id"], count, status="delivered")
            assert len(hook.received) == count, begins


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"url": 7}, "/url"), ({"url": None}, "/url"), ({"url": "ftp://x"}, "/url"), ({"types": []}, "/types"),
        ({"types": "quantum.*"}, "/types"), ({"from": "yesterday"}, "/from"), ({"from": "2026-11-21"}, "/from"),
        ({"order": "none"}, "/order"), ({"max_in_flight": 0}, "/max_in_flight"), ({"max_in_flight": "3"}, "/max_in_flight"),
        ({"headers": {"Host": "x"}}, "/headers/Host"), ({"headers": []}, "/headers"), ({"secret": "whsec_x"}, "/secret"),
        ({"description": "x" * 2001}, "/description"),
    ],
)  # fmt: skip
async def test_what_is_no_subscription_is_refused_with_the_place(http: Http, change: dict[str, Any], pointer: str):
    tenant = await http.tenant()
    answer = await tenant.post("/subscriptions", {"url": HOOK, **change})
    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert (await tenant.get("/subscriptions")).json()["items"] == []


async def test_metrics_count_and_name_no_tenant(http: Http):
    tenant = await http.tenant()
    async with receiver() as hook:
        made = await subscribed(tenant, hook.url)
        await tenant.intent("counted")
        await ended(tenant, made["id"], 1, status="delivered")
        async with httpx.AsyncClient(base_url=http.address) as client:
            text = (await client.get("/metrics")).text
        assert "quantum_webhooks_delivered_total" in text
        assert tenant.id not in text
        assert made["id"] not in text
