# intent_ref: tests.http
"""Headers of webhooks may be credentials: they reach the receiver, and nobody else ever sees more of them than their names."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from domain.values import StreamId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Metadata, NewEvent, StreamAppend
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.receivers import Answer, Received, receiver
from tests.waiting import wait_until

SECRET, LATER = "Bearer 8f2d41c09b7e6a35", "Bearer 0c1d2e3f4a5b6978"
HEADERS = {"Authorization": SECRET, "X-Team": "web"}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data")), private_addresses=True) as running:
        yield running


def echo(got: Received) -> Answer:
    """Answers with what it got, as some receivers do."""
    said = orjson.dumps({"headers": got.headers, "quoted": f'"{got.headers.get("authorization")}"'})
    return Answer(500 if got.event["type"].startswith("quantum.execution") else 200, body=said)


async def everything_shown(tenant: Tenant, id: str) -> str:
    """All that any role can read of a subscription, its deliveries and the tenant's events, by every way there is."""
    shown = []
    for role in ("tenant-admin", "viewer", "auditor", "service"):
        page = await tenant.get("/events", roles=[role], params={"limit": 1000})
        shown.append(page.text)
        shown += [(await tenant.get(f"/events/{one['position']}/data", roles=[role])).text for one in page.json()["items"]]
        shown += [(await tenant.get(path, roles=[role])).text
                  for path in ("/subscriptions", f"/subscriptions/{id}", f"/subscriptions/{id}/deliveries")]  # fmt: skip
    pull = (await tenant.post("/pull-subscriptions", {"from": "beginning", "order": "parallel"})).json()["id"]
    shown.append((await tenant.post(f"/pull-subscriptions/{pull}/pull", {"max": 1000})).text)
    url = f"{tenant.http.address}/api/v1/events"
    headers = {**tenant.http.bearer(tenant.id, roles=["viewer"]), "Accept": "text/event-stream"}
    async with tenant.http.client.stream("GET", url, headers=headers) as stream, asyncio.timeout(10):
        async for line in stream.aiter_lines():
            shown.append(line)
            if "pull_subscription.created" in line:
                break
    return "\n".join(shown)


async def delivered(tenant: Tenant, id: str, count: int = 1) -> None:
    async def some() -> bool:
        return len((await tenant.get(f"/subscriptions/{id}/deliveries")).json()["items"]) >= count

    await wait_until(some, 20, what="deliveries")


async def test_headers_reach_the_receiver_and_nobody_sees_more_than_their_names(http: Http, database: Database):
    tenant = await http.tenant()
    async with receiver(echo) as hook, receiver() as other:
        body = {"url": hook.url, "types": ["*"], "headers": HEADERS, "from": "beginning"}
        made = await tenant.post("/subscriptions", body, headers={"Idempotency-Key": "one"})
        assert made.status_code == 201, made.text
        assert made.json()["headers"] == ["Authorization", "X-Team"]
        id = made.json()["id"]
        watching = (await tenant.post("/subscriptions", {"url": other.url, "from": "beginning"})).json()["id"]
        await tenant.execution()
        await wait_until(lambda: hook.received, what="a delivery")
        assert {name: hook.received[0].headers[name.lower()] for name in HEADERS} == HEADERS
        changed = await tenant.request("PATCH", f"/subscriptions/{id}", json={"headers": {"Authorization": LATER}})
        assert (changed.status_code, changed.json()["headers"]) == (200, ["Authorization"])
        await tenant.post(f"/subscriptions/{id}/test")
        await wait_until(lambda: any(got.headers["authorization"] == LATER for got in hook.received), what="the new header")
        assert "x-team" not in next(got.headers for got in hook.received if got.headers["authorization"] == LATER)
        await delivered(tenant, id, 3)
        await delivered(tenant, watching, 3)
        shown = await everything_shown(tenant, id) + "".join(str(got.body) for got in other.received)
    for value in (SECRET, LATER, SECRET.split()[1], LATER.split()[1]):
        assert value not in shown
    assert "(redacted)" in shown
    assert "Authorization" in shown
    await _nowhere_in_clear_text(database, SECRET.split()[1], LATER.split()[1])


async def _nowhere_in_clear_text(database: Database, *values: str) -> None:
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        tables = await owner.fetch(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname LIKE 'quantum%' AND c.relkind = 'r'"
        )
        for (table,) in tables:
            for (row,) in await owner.fetch(f"SELECT t::text FROM {table} AS t"):
                assert not any(value in row or value.encode().hex() in row for value in values), table
    finally:
        await owner.close()


async def test_a_repeat_is_a_repeat_and_another_header_is_another_request(http: Http):
    tenant = await http.tenant()
    key = {"Idempotency-Key": "one"}
    body = {"url": "https://hooks.example.com/x", "headers": HEADERS}
    made = await tenant.post("/subscriptions", body, headers=key)
    again = await tenant.post("/subscriptions", body, headers=key)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json() == {**made.json(), "secret": None}
    other = await tenant.post("/subscriptions", {**body, "headers": {**HEADERS, "Authorization": LATER}}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    path = f"/subscriptions/{made.json()['id']}"
    change = {"headers": {"Authorization": LATER}}
    changed = await tenant.request("PATCH", path, json=change, headers=key)
    repeated = await tenant.request("PATCH", path, json=change, headers=key)
    assert (changed.status_code, repeated.json(), repeated.headers["Idempotency-Replayed"]) == (200, changed.json(), "true")


async def test_what_came_to_nothing_is_not_kept(http: Http, database: Database):
    tenant = await http.tenant()
    bad = {"url": "https://hooks.example.com/x", "headers": {**HEADERS, "Host": "x"}}
    assert (await tenant.post("/subscriptions", bad)).status_code == 422
    assert (await tenant.post("/subscriptions", {"url": "ftp://x", "headers": HEADERS})).status_code == 422
    assert (await tenant.request("PATCH", "/subscriptions/none", json={"headers": HEADERS})).status_code == 404
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        assert await owner.fetchval("SELECT count(*) FROM quantum.subscription_secrets WHERE tenant_id = $1", tenant.id) == 0
    finally:
        await owner.close()


async def _former(http: Http, tenant: Tenant, made: dict[str, Any], topic: str, **terms: Any) -> None:
    """What an earlier release stored for a subscription: headers in the event."""
    document = {
        "subscription_id": made["id"],
        "terms": {
            "url": made["url"], "types": ["*"], "subjects": [], "description": None, "order": "per-subject", "max_in_flight": 10,
            "headers": HEADERS, **terms,
        },
        "at": made["created_at"],
    }  # fmt: skip
    event = NewEvent(uuid7(), topic, orjson.dumps(document))
    await http.platform.store.append(
        TenantId(tenant.id), [StreamAppend(StreamId("subscriptions"), [event], ANY_VERSION)], command_id=uuid7(),
        metadata=Metadata("c", None, "ada", None),
    )  # fmt: skip


async def test_a_subscription_of_an_earlier_release_still_sends_its_headers_and_its_events_show_none(http: Http):
    tenant = await http.tenant()
    async with receiver(echo) as hook:
        made = (await tenant.post("/subscriptions", {"url": hook.url})).json()
        id = made["id"]
        await _former(http, tenant, made, "subscription.changed.v1")
        # A change of something else by this release leaves the headers as they are.
        changed = await tenant.request("PATCH", f"/subscriptions/{id}", json={"max_in_flight": 3})
        assert changed.json()["headers"] == ["Authorization", "X-Team"]

        async def sent() -> bool:
            await tenant.post(f"/subscriptions/{id}/test")
            return any("authorization" in got.headers for got in hook.received)

        await wait_until(sent, 20, what="a delivery with headers")
        got = next(got for got in hook.received if "authorization" in got.headers)
        assert (got.headers["authorization"], got.headers["x-team"]) == (SECRET, "web")
        shown = await everything_shown(tenant, id)
        assert SECRET.split()[1] not in shown
        assert '"Authorization":"(redacted)"' in shown
        taken_back = await tenant.request("PATCH", f"/subscriptions/{id}", json={"headers": None})
        assert taken_back.json()["headers"] == []


async def test_an_entity_tag_keeps_two_from_changing_the_same_version(http: Http):
    tenant = await http.tenant()
    made = await tenant.post("/subscriptions", {"url": "https://hooks.example.com/x"})
    path, first = f"/subscriptions/{made.json()['id']}", made.headers["ETag"]
    assert (await tenant.get(path, after=made)).headers["ETag"] == first
    assert (await tenant.get(path, headers={"If-None-Match": first})).status_code == 304
    changed = await tenant.request("PATCH", path, json={"max_in_flight": 2}, headers={"If-Match": first})
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    stale = await tenant.request("PATCH", path, json={"max_in_flight": 3}, headers={"If-Match": first})
    assert (stale.status_code, stale.json()["code"]) == (412, "subscription-version-stale")
    assert (await tenant.get(path, after=changed)).json()["max_in_flight"] == 2
    for tag, status in (("*", 200), ("nonsense", 400), ('W/"2"', 412)):
        answer = await tenant.request("PATCH", path, json={"max_in_flight": 5}, headers={"If-Match": tag})
        assert answer.status_code == status, tag
