# intent_ref: tests.pull-subscriptions
"""A pull subscription's terms are changed: who may, from when on they hold, and what stays as it was."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.waiting import wait_until

INTENTS = {"types": ["quantum.intent.created"], "from": "beginning", "order": "parallel"}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


async def subscribed(tenant: Tenant, **terms: Any) -> str:
    made = await tenant.post("/pull-subscriptions", {**INTENTS, **terms})
    assert made.status_code == 201, made.text
    return f"/pull-subscriptions/{made.json()['id']}"


async def pulled(tenant: Tenant, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = await tenant.post(f"{path}/pull", body)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_terms_are_changed_one_by_one_and_the_rest_stays(tenant: Tenant):
    made = await tenant.post("/pull-subscriptions", {**INTENTS, "lease": 60, "description": "x"})
    before, path = made.json(), f"/pull-subscriptions/{made.json()['id']}"
    assert (made.headers["ETag"], before["version"]) == ('"1"', 1)
    key = {"Idempotency-Key": "one"}
    change = {"lease": 120, "max_deliveries": 9, "subjects": ["intent/*"], "description": None}
    changed = await tenant.request("PATCH", path, json=change, headers=key)
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    after = changed.json()
    assert after == {**before, **change, "version": 2, "updated_at": after["updated_at"]}
    again = await tenant.request("PATCH", path, json=change, headers=key)
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (after, "true")
    same = await tenant.request("PATCH", path, json=change)
    assert (same.json(), same.headers["ETag"]) == (after, '"2"')
    shown = await tenant.get(path, after=changed)
    assert (shown.headers["ETag"], {key: shown.json()[key] for key in after}) == ('"2"', after)
    events = (await tenant.get("/events", params={"types": "quantum.pull_subscription.*"})).json()["items"]
    assert [one["type"].split(".")[2] for one in events] == ["created", "changed"]
    assert events[1]["data"]["terms"]["lease_seconds"] == 120


async def test_an_entity_tag_keeps_two_from_changing_the_same_version(tenant: Tenant):
    path = await subscribed(tenant)
    answers = await asyncio.gather(
        *(tenant.request("PATCH", path, json={"lease": 10 + n}, headers={"If-Match": '"1"'}) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 7]
    stale = next(answer for answer in answers if answer.status_code == 412)
    assert stale.json()["code"] == "subscription-version-stale"


async def test_a_filter_holds_for_what_is_given_out_from_then_on_and_leases_stay(tenant: Tenant):
    path = await subscribed(tenant)
    await tenant.intent("one")
    (first,) = await pulled(tenant, path, max=10)
    intent = (await tenant.intent("two")).json()["id"]
    changed = await tenant.request("PATCH", path, json={"types": ["quantum.intent.deprecated"], "max_unacknowledged": 5})
    assert changed.status_code == 200, changed.text
    await tenant.post(f"/intents/{intent}/deprecate")
    items = await pulled(tenant, path, max=10)
    assert [item["event"]["type"] for item in items] == ["quantum.intent.deprecated.v1"]
    done = await tenant.post(f"{path}/ack", {"ids": [first["lease"], items[0]["lease"]]})
    assert len(done.json()["acknowledged"]) == 2


async def test_a_shorter_way_to_the_dead_letters_counts_what_was_given_out_before(tenant: Tenant):
    path = await subscribed(tenant, max_deliveries=10)
    await tenant.intent("one")
    for _ in range(2):
        (item,) = await pulled(tenant, path)
        assert (await tenant.post(f"{path}/nack", {"id": item["lease"], "delay": 0})).json()["dead_letter"] is False
    await tenant.request("PATCH", path, json={"max_deliveries": 3})
    (item,) = await pulled(tenant, path)
    assert (await tenant.post(f"{path}/nack", {"id": item["lease"]})).json()["dead_letter"] is True


async def test_a_pull_that_waits_answers_when_the_terms_change(tenant: Tenant):
    path = await subscribed(tenant, types=["quantum.execution.completed"])
    waiting = asyncio.create_task(pulled(tenant, path, wait=60))

    async def waits() -> bool:
        return (await tenant.get(path)).json()["position"] is not None

    await wait_until(waits, what="the pull")
    await tenant.intent("one")
    assert not waiting.done()
    await tenant.request("PATCH", path, json={"types": ["quantum.intent.created"]})
    async with asyncio.timeout(20):
        assert await waiting == []
    # Whether the pull had passed the intent before it was wanted is open; `seek` goes back for it.
    assert (await tenant.post(f"{path}/seek", {"from": "beginning"})).status_code == 204
    assert len(await pulled(tenant, path)) == 1


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"lease": 0}, "/lease"), ({"lease": "60"}, "/lease"), ({"types": []}, "/types"),
        ({"max_deliveries": 101}, "/max_deliveries"),
        ({"order": "parallel"}, "/order"), ({"from": "now"}, "/from"), ({"description": "x" * 2001}, "/description"),
        ({"subjects": None}, "/subjects"), ({"max_unacknowledged": 0}, "/max_unacknowledged"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_by_its_place(tenant: Tenant, change: dict[str, Any], pointer: str):
    path = await subscribed(tenant)
    answer = await tenant.request("PATCH", path, json=change)
    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert (await tenant.get(path)).headers["ETag"] == '"1"'


async def test_others_may_not_and_another_tenants_does_not_exist(http: Http, tenant: Tenant):
    path, other = await subscribed(tenant), await http.tenant()
    for role in ("viewer", "operator", "auditor", "author"):
        assert (await tenant.request("PATCH", path, json={"lease": 5}, roles=[role])).status_code == 403
    assert (await tenant.request("PATCH", path, json={"lease": 5}, roles=["service"])).status_code == 200
    assert (await other.request("PATCH", path, json={"lease": 5})).status_code == 404
