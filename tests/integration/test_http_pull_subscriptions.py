# intent_ref: tests.pull-subscriptions
"""Pull subscriptions over HTTP: what is answered, who may do what, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from event_store.ids import uuid7
from event_store.tokens import encode_token
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until

ONLY_INTENTS = {"types": ["quantum.intent.created"]}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data")), event_source="quantum://tests") as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


async def subscribed(tenant: Tenant, **terms: Any) -> str:
    made = await tenant.post("/pull-subscriptions", {**ONLY_INTENTS, **terms})
    assert made.status_code == 201, made.text
    return f"/pull-subscriptions/{made.json()['id']}"


async def intents(tenant: Tenant, *names: str) -> list[str]:
    return [(await tenant.intent(name)).json()["id"] for name in names]


async def pulled(tenant: Tenant, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = await tenant.post(f"{path}/pull", body, roles=["service"])
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_one_is_made_listed_read_and_deleted(tenant: Tenant):
    body = {
        "types": ["quantum.execution.*"], "subjects": ["execution/*"], "from": "beginning", "description": "to the ledger",
        "order": "parallel", "lease": 60, "max_deliveries": 3, "max_unacknowledged": 10,
    }  # fmt: skip
    made = await tenant.post("/pull-subscriptions", body, headers={"Idempotency-Key": "one"})
    shown = made.json()
    assert (made.status_code, made.headers["Location"]) == (201, f"{API}/pull-subscriptions/{shown['id']}")
    assert {key: shown[key] for key in body if key != "from"} == {key: value for key, value in body.items() if key != "from"}
    again = await tenant.post("/pull-subscriptions", body, headers={"Idempotency-Key": "one"})
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (shown, "true")
    path = f"/pull-subscriptions/{shown['id']}"
    assert (await tenant.get("/pull-subscriptions", after=made)).json() == {"items": [shown], "next_cursor": None}
    standing = {"position": None, "leased": 0, "waiting": 0, "dead_letters": 0}
    assert (await tenant.get(path, after=made)).json() == {**shown, **standing}

    deleted = await tenant.request("DELETE", path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method, below, sent in (
        ("GET", "", None), ("GET", "/dead-letters", None), ("DELETE", "", None), ("POST", "/pull", {}),
        ("POST", "/ack", {"up_to": encode_token(1)}), ("POST", "/nack", {"id": str(uuid7())}),
        ("POST", "/extend", {"ids": [str(uuid7())]}), ("POST", "/seek", {"from": "now"}),
        ("POST", "/dead-letters/redrive", {}), ("POST", "/dead-letters/discard", {}),
    ):  # fmt: skip
        answer = await tenant.request(method, path + below, **({} if sent is None else {"json": sent}))
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), (method, below)


async def test_an_event_is_pulled_as_the_feed_shows_it_and_acknowledged(tenant: Tenant):
    await intents(tenant, "before")
    path = await subscribed(tenant)
    first, second = await intents(tenant, "one", "two")
    items = await pulled(tenant, path, max=10)
    assert [item["event"]["subject"] for item in items] == [f"intent/{first}", f"intent/{second}"]
    feed = (await tenant.get("/events", params={"types": "quantum.intent.created.v1"})).json()["items"]
    assert [item["event"] for item in items] == feed[1:]
    assert [(item["id"], item["delivery"], item["lease"]) for item in items] == [
        (event["id"], 1, f"{event['id']}/1") for event in feed[1:]
    ]
    stray = str(uuid7())
    done = await tenant.post(f"{path}/ack", {"ids": [items[0]["lease"], stray]})
    assert done.json() == {"acknowledged": [items[0]["id"]], "unknown": [stray]}
    done = await tenant.post(f"{path}/ack", {"up_to": items[1]["event"]["position"]})
    assert done.json() == {"acknowledged": [items[1]["id"]], "unknown": []}
    shown = (await tenant.get(path)).json()
    assert (shown["leased"], shown["waiting"]) == (0, 0)
    assert await pulled(tenant, path) == []


async def test_giving_back_extending_dead_letters_and_redriving(tenant: Tenant):
    path = await subscribed(tenant, max_deliveries=2)
    await intents(tenant, "one")
    (one,) = await pulled(tenant, path)
    longer = await tenant.post(f"{path}/extend", {"ids": [one["lease"], str(uuid7())], "lease": 600})
    assert longer.json()["items"][0]["leased_until"] > one["leased_until"]
    assert len(longer.json()["unknown"]) == 1
    back = await tenant.post(f"{path}/nack", {"id": one["lease"], "reason": "The ledger is locked.", "delay": 0})
    assert back.json() == {"id": one["id"], "dead_letter": False}
    lost = await tenant.post(f"{path}/nack", {"id": one["lease"]})
    assert (lost.status_code, lost.json()["code"]) == (409, "lease-lost")
    (two,) = await pulled(tenant, path)
    assert two["delivery"] == 2
    back = await tenant.post(f"{path}/nack", {"id": two["id"], "reason": "It is locked for good."})
    assert back.json() == {"id": one["id"], "dead_letter": True}
    gone = await tenant.post(f"{path}/nack", {"id": two["id"]})
    assert (gone.status_code, gone.json()["code"]) == (404, "not-found")
    (letter,) = (await tenant.get(f"{path}/dead-letters", roles=["viewer"])).json()["items"]
    assert (letter["id"], letter["deliveries"], letter["reason"]) == (one["id"], 2, "It is locked for good.")
    assert (await tenant.get(f"/events/{letter['position']}")).json() == one["event"]
    assert (await tenant.post(f"{path}/dead-letters/redrive", {"ids": [letter["id"]]})).json() == {"count": 1}
    (again,) = await pulled(tenant, path)
    assert (again["id"], again["delivery"]) == (one["id"], 1)
    assert (await tenant.get(f"{path}/dead-letters")).json()["items"] == []
    for _ in range(2):
        await tenant.post(f"{path}/nack", {"id": one["id"]})
        await pulled(tenant, path)
    assert (await tenant.post(f"{path}/dead-letters/discard")).json() == {"count": 1}
    assert (await tenant.get(path)).json()["dead_letters"] == 0


async def test_dead_letters_are_listed_page_by_page(tenant: Tenant):
    path = await subscribed(tenant, max_deliveries=1)
    made = await intents(tenant, "one", "two", "three")
    for one in await pulled(tenant, path):
        assert (await tenant.post(f"{path}/nack", {"id": one["id"]})).json()["dead_letter"]
    first = await tenant.get(f"{path}/dead-letters", params={"limit": 2})
    second = await tenant.get(f"{path}/dead-letters", params={"limit": 2, "cursor": first.json()["next_cursor"]})
    items = first.json()["items"] + second.json()["items"]
    assert [item["subject"] for item in items] == [f"intent/{id}" for id in made]
    assert second.json()["next_cursor"] is None
    assert (await tenant.get(f"{path}/dead-letters", params={"cursor": "nonsense"})).status_code == 400


async def test_a_long_poll_answers_when_an_event_comes_and_at_the_end_of_its_time(tenant: Tenant):
    path = await subscribed(tenant)
    assert await pulled(tenant, path, wait=1) == []
    waiting = asyncio.create_task(pulled(tenant, path, wait=30))
    assert (await asyncio.wait([waiting], timeout=0.2))[0] == set()
    await intents(tenant, "one")
    (one,) = await waiting
    waiting = asyncio.create_task(pulled(tenant, path, wait=30))
    await tenant.post(f"{path}/nack", {"id": one["id"]})
    (again,) = await waiting
    assert (again["id"], again["delivery"]) == (one["id"], 2)


async def test_a_reader_that_goes_away_while_it_waits_takes_nothing_with_it(http: Http, tenant: Tenant):
    path = await subscribed(tenant)
    with pytest.raises(httpx.ReadTimeout):
        await tenant.post(f"{path}/pull", {"wait": 30}, timeout=0.3)
    await intents(tenant, "one")

    async def comes() -> list[dict[str, Any]]:
        return await pulled(tenant, path)

    # The connection is gone before the server knows it: at worst the event was leased to it, and comes after that.
    (one,) = await wait_until(comes, what="the event")
    assert one["delivery"] == 1


async def test_history_is_read_again_from_anywhere(tenant: Tenant):
    path = await subscribed(tenant)
    first, second = await intents(tenant, "one", "two")
    items = await pulled(tenant, path)
    await tenant.post(f"{path}/ack", {"ids": [item["id"] for item in items]})
    for begins, expected in (
        ("beginning", [first, second]), (items[0]["event"]["position"], [second]), (items[1]["event"]["time"], [second]),
        ("now", []),
    ):  # fmt: skip
        assert (await tenant.post(f"{path}/seek", {"from": begins})).status_code == 204
        assert [one["event"]["subject"] for one in await pulled(tenant, path)] == [f"intent/{id}" for id in expected]


async def test_the_limit_of_what_is_unacknowledged_is_told(tenant: Tenant):
    path = await subscribed(tenant, max_unacknowledged=1)
    await intents(tenant, "one", "two")
    answer = await tenant.post(f"{path}/pull", {})
    assert (len(answer.json()["items"]), answer.json()["unacknowledged"], answer.json()["max_unacknowledged"]) == (1, 1, 1)
    answer = await tenant.post(f"{path}/pull")
    assert answer.json() == {"items": [], "unacknowledged": 1, "max_unacknowledged": 1}


async def test_who_may_do_what(tenant: Tenant):
    path = await subscribed(tenant)
    writes = [
        ("/pull-subscriptions", ONLY_INTENTS), (f"{path}/pull", {}), (f"{path}/ack", {"ids": [str(uuid7())]}),
        (f"{path}/extend", {"ids": [str(uuid7())]}), (f"{path}/seek", {"from": "now"}),
        (f"{path}/dead-letters/redrive", {}), (f"{path}/dead-letters/discard", {}),
    ]  # fmt: skip
    for role in ("operator", "viewer", "auditor", "author"):
        for where, body in writes:
            assert (await tenant.post(where, body, roles=[role])).status_code == 403
        for where in ("/pull-subscriptions", path, f"{path}/dead-letters"):
            assert (await tenant.get(where, roles=[role])).status_code == 200
    for where, body in writes:
        assert (await tenant.post(where, body, roles=["service"])).status_code < 300


async def test_what_belongs_to_another_tenant_does_not_exist(http: Http, tenant: Tenant):
    path, other = await subscribed(tenant), await http.tenant()
    await intents(tenant, "one")
    (one,) = await pulled(tenant, path)
    for method, below, body in (
        ("GET", "", None), ("GET", "/dead-letters", None), ("DELETE", "", None), ("POST", "/pull", {}),
        ("POST", "/ack", {"ids": [one["id"]]}), ("POST", "/nack", {"id": one["id"]}), ("POST", "/extend", {"ids": [one["id"]]}),
        ("POST", "/seek", {"from": "now"}), ("POST", "/dead-letters/redrive", {}), ("POST", "/dead-letters/discard", {}),
    ):  # fmt: skip
        answer = await other.request(method, path + below, **({} if body is None else {"json": body}))
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), (method, below)
    assert (await other.get("/pull-subscriptions")).json()["items"] == []
    theirs = await subscribed(other)
    done = await other.post(f"{theirs}/ack", {"ids": [one["id"]]})
    assert done.json() == {"acknowledged": [], "unknown": [one["id"]]}
    assert (await tenant.post(f"{path}/ack", {"ids": [one["id"]]})).json()["acknowledged"] == [one["id"]]


async def test_what_cannot_be_is_refused_by_its_place(tenant: Tenant):
    path = await subscribed(tenant)
    id = str(uuid7())
    for where, body, pointer in (
        ("/pull-subscriptions", {"types": []}, "/types"), ("/pull-subscriptions", {"from": "yesterday"}, "/from"),
        ("/pull-subscriptions", {"lease": 0}, "/lease"), ("/pull-subscriptions", {"order": "none"}, "/order"),
        ("/pull-subscriptions", {"url": "https://example.com"}, "/url"),
        ("/pull-subscriptions", {"types": ["nonsense"]}, "/types/0"),
        (f"{path}/pull", {"max": 0}, "/max"), (f"{path}/pull", {"max": 1_001}, "/max"), (f"{path}/pull", {"wait": 61}, "/wait"),
        (f"{path}/pull", {"lease": 1e9}, "/lease"), (f"{path}/ack", {}, ""), (f"{path}/ack", {"ids": [id], "up_to": "x"}, ""),
        (f"{path}/ack", {"ids": []}, "/ids"), (f"{path}/ack", {"ids": [id, "x"]}, "/ids/1"),
        (f"{path}/ack", {"up_to": "x"}, "/up_to"),
        (f"{path}/nack", {"id": "x/1"}, "/id"), (f"{path}/nack", {"id": id, "delay": -1}, "/delay"),
        (f"{path}/nack", {"id": id, "reason": "\0"}, "/reason"), (f"{path}/extend", {"ids": [id] * 1_001}, "/ids"),
        (f"{path}/seek", {}, "/from"), (f"{path}/dead-letters/discard", {"ids": ["x"]}, "/ids/0"),
    ):  # fmt: skip
        answer = await tenant.post(where, body)
        assert (answer.status_code, [one["pointer"] for one in answer.json()["errors"]]) == (422, [pointer]), (where, body)


async def test_a_suspended_tenant_can_look_and_not_pull(http: Http, tenant: Tenant):
    path = await subscribed(tenant)
    admin = http.bearer("platform", roles=["platform-admin"])
    suspended = await http.client.post(f"{API}/tenants/{tenant.id}/suspend", json={"reason": "unpaid"}, headers=admin)
    assert suspended.status_code == 200

    async def is_refused() -> bool:
        return (await tenant.post(f"{path}/pull", {})).status_code == 403

    await wait_until(is_refused, what="the suspension to be known")
    assert (await tenant.get(path)).status_code == 200


async def test_answers_are_what_the_description_says(http: Http, tenant: Tenant):
    document = (await http.client.get("/openapi.json")).json()
    path = await subscribed(tenant, max_deliveries=1)
    await intents(tenant, "one", "two")
    one, two = await pulled(tenant, path)
    answers = {
        "post_pull_subscriptions_subscription_id_pull": await tenant.post(f"{path}/pull", {}),
        "post_pull_subscriptions_subscription_id_extend": await tenant.post(f"{path}/extend", {"ids": [one["id"]]}),
        "post_pull_subscriptions_subscription_id_nack": await tenant.post(f"{path}/nack", {"id": one["id"]}),
        "post_pull_subscriptions_subscription_id_ack": await tenant.post(f"{path}/ack", {"ids": [two["id"]]}),
        "get_pull_subscriptions_subscription_id": await tenant.get(path),
        "get_pull_subscriptions": await tenant.get("/pull-subscriptions"),
        "get_pull_subscriptions_subscription_id_dead_letters": await tenant.get(f"{path}/dead-letters"),
        "post_pull_subscriptions_subscription_id_dead_letters_redrive": await tenant.post(f"{path}/dead-letters/redrive"),
    }
    operations = {one["operationId"]: one for methods in document["paths"].values() for one in methods.values()}
    for name, answer in answers.items():
        schema = operations[name]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema_rs.validate({**schema, "components": document["components"]}, answer.json())
