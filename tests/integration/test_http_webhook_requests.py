# intent_ref: tests.http
"""Tests and repeats asked for under an idempotency key: one effect and the same answer, however often and however many at once;
and many subscriptions made at the same moment."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from event_store.tokens import decode_token
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.receivers import receiver
from tests.waiting import wait_until

HOOK = "https://hooks.example.com/quantum"


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data")), private_addresses=True) as running:
        yield running


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


async def subscribed(tenant: Tenant, url: str, types: str = "quantum.tenant.*") -> str:
    made = await tenant.post("/subscriptions", {"url": url, "types": [types]})
    return f"/subscriptions/{made.json()['id']}"


async def listed(tenant: Tenant, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await tenant.get(f"{path}/deliveries")).json()["items"]
    return items


async def test_a_test_under_a_key_is_sent_once_and_answered_the_same(http: Http):
    tenant = await http.tenant()
    async with receiver() as hook:
        path = await subscribed(tenant, hook.url)
        answers = await asyncio.gather(*(tenant.post(f"{path}/test", headers=key("one")) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["delivery_id"] for answer in answers}) == 1
        assert sorted("Idempotency-Replayed" in answer.headers for answer in answers) == [False, *[True] * 7]
        await wait_until(lambda: hook.received, what="the test")
        other = await tenant.post(f"{path}/test", headers=key("two"))
        assert other.json() != answers[0].json()
        without = [(await tenant.post(f"{path}/test")).json()["delivery_id"] for _ in range(2)]
        assert len(set(without)) == 2
        await wait_until(lambda: len(hook.received) == 4, what="the others")
        again = await tenant.post(f"{path}/test", headers=key("one"))
        assert (again.json(), again.headers["Idempotency-Replayed"]) == (answers[0].json(), "true")
        last = await tenant.post(f"{path}/test", headers=key("three"))
        await wait_until(lambda: any(got.id == last.json()["delivery_id"] for got in hook.received), what="the last")
        assert len(hook.received) == 5


async def test_a_repeat_under_a_key_is_made_once_and_another_body_is_refused(http: Http):
    tenant = await http.tenant()
    async with receiver() as hook:
        path = await subscribed(tenant, hook.url, "quantum.intent.created")
        intent = await tenant.intent("one")

        async def logged() -> bool:
            return bool(await listed(tenant, path))

        await wait_until(logged, what="the delivery")
        (delivery,) = await listed(tenant, path)
        body = {"event_id": delivery["event_id"]}
        answers = [await tenant.post(f"{path}/redeliver", body, headers=key("one")) for _ in range(3)]
        assert [answer.json() for answer in answers] == [{"delivery_id": delivery["id"]}] * 3
        assert ["Idempotency-Replayed" in answer.headers for answer in answers] == [False, True, True]
        await wait_until(lambda: len(hook.received) == 2, what="the repeat")
        reused = await tenant.post(f"{path}/redeliver", {"delivery_id": delivery["id"]}, headers=key("one"))
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
        since = {"since": intent.json()["created_at"]}
        rewinds = [await tenant.post(f"{path}/redeliver", since, headers=key("two")) for _ in range(2)]
        assert [answer.json() for answer in rewinds] == [{"delivery_id": None}] * 2
        await wait_until(lambda: len(hook.received) == 3, what="everything since")
        last = await tenant.post(f"{path}/test")
        await wait_until(lambda: any(got.id == last.json()["delivery_id"] for got in hook.received), what="the test behind")
        assert len(hook.received) == 4
        await tenant.intent("two")
        await wait_until(lambda: len(hook.received) == 5, what="another event")
        behind = {"position": intent.headers["Quantum-Position"]}
        assert (await tenant.post(f"{path}/redeliver", behind)).status_code == 202
        await wait_until(lambda: len(hook.received) == 6, what="everything behind the first")
        assert hook.received[5].id == hook.received[4].id


async def test_what_was_refused_is_not_remembered_and_keys_are_the_callers_own(http: Http):
    tenant, other = await http.tenant(), await http.tenant()
    async with receiver() as hook:
        path = await subscribed(tenant, hook.url)
        theirs = await subscribed(other, hook.url)
        body = {"delivery_id": "01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c12"}
        for _ in range(2):
            assert (await tenant.post(f"{path}/redeliver", body, headers=key("one"))).status_code == 404
        answers = [await one.post(f"{where}/test", headers=key("same")) for one, where in ((tenant, path), (other, theirs))]
        assert len({answer.json()["delivery_id"] for answer in answers}) == 2
        assert all("Idempotency-Replayed" not in answer.headers for answer in answers)
        for bad in ("", "ü", "x" * 256):
            assert (await tenant.post(f"{path}/test", headers={b"Idempotency-Key": bad.encode()})).status_code == 400  # type: ignore[dict-item]


@pytest.mark.parametrize("path", ["/subscriptions", "/pull-subscriptions"])
async def test_many_made_at_once_are_all_made(http: Http, path: str):
    tenant = await http.tenant()
    body = {"url": HOOK} if path == "/subscriptions" else {}
    answers = await asyncio.gather(*(tenant.post(path, body) for _ in range(64)))
    assert [answer.status_code for answer in answers] == [201] * 64
    last = max(answers, key=lambda answer: decode_token(answer.headers["Quantum-Position"]))
    shown = await tenant.get(path, after=last, params={"limit": 100} if path == "/subscriptions" else {})
    assert {one["id"] for one in shown.json()["items"]} == {answer.json()["id"] for answer in answers}


async def test_many_at_once_come_to_the_limit_and_not_beyond(http: Http):
    tenant = await http.tenant()
    answers = await asyncio.gather(*(tenant.post("/subscriptions", {"url": HOOK}) for _ in range(120)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(409)) == (100, 20)
