# intent_ref: write-api.bulk
"""One thing done to many executions by a filter: bounded, with a cursor, an outcome for each, and once under a key."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from event_store.request_keys import RequestKeys
from tests.api_probe import assert_problem
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.waiting import wait_until

GATE: list[dict[str, Any]] = [{"id": "gate", "approval": {"roles": ["operator"]}}]
BROKEN: list[dict[str, Any]] = [{"action": "notify", "sandbox": {"fail": "no such room", "retryable": False}}]


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, tmp_path_factory.mktemp("bulk")) as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


async def bulk(tenant: Tenant, action: str, *, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body.setdefault("filter", {"status": "running"})
    return await tenant.post("/executions/bulk", {"action": action, **body}, roles=["operator"], headers=headers)


async def many(tenant: Tenant, count: int, steps: list[dict[str, Any]], *, status: str, name: str = "many") -> list[str]:
    """So many executions that are seen in that status, the newest first."""
    made = await tenant.intent(name, steps)
    assert made.status_code == 201, made.text
    started = [(await tenant.post(f"/intents/{made.json()['id']}/execute", {})).json()["execution_id"] for _ in range(count)]
    await settled(tenant, {"status": status, "intent_name": name}, count)
    return started[::-1]


async def settled(tenant: Tenant, query: dict[str, str], count: int) -> None:
    async def there() -> bool:
        return len((await tenant.get("/executions", params={**query, "limit": "200"})).json()["items"]) == count

    await wait_until(there, 30, what=f"{count} executions to be {query}")


def said(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_a_dry_run_counts_and_shows_and_does_nothing(tenant: Tenant):
    ids = await many(tenant, 5, GATE, status="running")
    told = said(await bulk(tenant, "cancel", dry_run=True, limit=2))
    assert (told["count"], told["count_is_exact"], told["done"], told["refused"], told["more"]) == (5, True, 0, 0, True)
    assert [(one["execution_id"], one["outcome"], one["status"]) for one in told["items"]] == [
        (ids[0], "found", "running"), (ids[1], "found", "running"),
    ]  # fmt: skip
    await settled(tenant, {"status": "running"}, 5)


async def test_pages_of_a_filter_cover_each_execution_once_whatever_becomes_of_it(tenant: Tenant):
    ids = await many(tenant, 7, BROKEN, status="failed")
    seen, cursor = [], None
    while True:
        body = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        told = said(await bulk(tenant, "retry", filter={"status": "failed"}, **body))
        seen += [one["execution_id"] for one in told["items"]]
        assert (told["done"], told["refused"], told["count"]) == (len(told["items"]), 0, None)
        cursor = told["next_cursor"]
        assert told["more"] is (cursor is not None)
        if cursor is None:
            break
    assert seen == ids


@pytest.mark.parametrize(("action", "status"), [("cancel", "cancelled"), ("terminate", "terminated")])
async def test_many_are_ended_with_the_reason(tenant: Tenant, action: str, status: str):
    ids = await many(tenant, 3, GATE, status="running")
    answer = await bulk(tenant, action, reason="superseded")
    told = said(answer)
    assert [(one["outcome"], one["problem"]) for one in told["items"]] == [("done", None)] * 3
    for execution_id in ids:
        document = (await tenant.get(f"/executions/{execution_id}", after=answer)).json()
        assert (document["status"], document["reason"]) == (status, "superseded")
    events = await tenant.get(f"/executions/{ids[0]}/events", headers={"Accept": "application/json"})
    assert events.json()["items"][-1]["type"] == f"execution_{status}"


async def test_many_are_paused_and_resumed(tenant: Tenant):
    await many(tenant, 3, GATE, status="running")
    paused = await bulk(tenant, "pause")
    assert said(paused)["done"] == 3
    assert {one["status"] for one in said(paused)["items"]} == {"paused"}
    again = said(await bulk(tenant, "resume", filter={"status": "paused", "intent_name": "many"}))
    assert [one["status"] for one in again["items"]] == ["running"] * 3


async def test_one_that_refuses_holds_up_no_other_and_says_why(tenant: Tenant):
    ended = await many(tenant, 2, [{"action": "notify"}], status="completed", name="over")
    waiting = await many(tenant, 2, GATE, status="running", name="waiting")
    told = said(await bulk(tenant, "cancel", filter={"started_after": "2020-01-01T00:00:00Z"}))
    assert (told["done"], told["refused"]) == (2, 2)
    by_id = {one["execution_id"]: one for one in told["items"]}
    assert {by_id[one]["outcome"] for one in waiting} == {"done"}
    for one in ended:
        assert by_id[one]["status"] == "completed"
        assert by_id[one]["problem"]["code"] == "execution-ended"
        assert "has ended" in by_id[one]["problem"]["title"]


async def test_the_same_key_gives_the_first_answer_and_has_one_effect(tenant: Tenant):
    await many(tenant, 3, BROKEN, status="failed")
    first = await bulk(tenant, "retry", filter={"status": "failed"}, key="a")
    assert said(first)["done"] == 3
    await settled(tenant, {"status": "failed"}, 3)
    again = await bulk(tenant, "retry", filter={"status": "failed"}, key="a")
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Quantum-Position"] == first.headers["Quantum-Position"]
    steps = [one["steps"][0]["attempts"] for one in (await tenant.get("/executions")).json()["items"]]
    assert steps == [2, 2, 2]
    other = await bulk(tenant, "retry", filter={"status": "failed"}, limit=1, key="a")
    assert_problem(other, 422)
    assert other.json()["code"] == "idempotency-key-reused"


async def test_the_same_key_at_the_same_time_has_one_effect(tenant: Tenant):
    ids = await many(tenant, 4, GATE, status="running")
    answers = await asyncio.gather(*[bulk(tenant, "cancel", key="together") for _ in range(4)])
    assert {answer.status_code for answer in answers} == {200}
    for execution_id in ids:
        events = await tenant.get(f"/executions/{execution_id}/events", headers={"Accept": "application/json"})
        types = [one["type"] for one in events.json()["items"]]
        assert types.count("execution_cancelled") == 1


async def test_a_request_that_was_interrupted_is_about_the_same_executions_when_it_comes_again(
    tenant: Tenant, database: Database
):  # fmt: skip
    ids = await many(tenant, 3, GATE, status="running")
    first = said(await bulk(tenant, "cancel", key="cut", limit=2))
    boss = await asyncpg.connect(database.owner_dsn)
    await boss.execute("ALTER TABLE quantum.request_keys NO FORCE ROW LEVEL SECURITY")
    cut = await boss.execute("UPDATE quantum.request_keys SET status = NULL, body = NULL WHERE tenant_id = $1", tenant.id)
    await boss.execute("UPDATE quantum.request_keys SET held_until = now() WHERE tenant_id = $1", tenant.id)
    await boss.execute("ALTER TABLE quantum.request_keys FORCE ROW LEVEL SECURITY")
    await boss.close()
    assert cut == "UPDATE 1"
    again = said(await bulk(tenant, "cancel", key="cut", limit=2))
    assert [(one["execution_id"], one["outcome"]) for one in again["items"]] == [(ids[0], "done"), (ids[1], "done")]
    assert again["next_cursor"] == first["next_cursor"]
    await settled(tenant, {"status": "running"}, 1)


async def test_another_tenants_executions_are_not_there(tenant: Tenant, http: Http):
    ids = await many(tenant, 2, GATE, status="running")
    stranger = await http.tenant()
    told = said(await bulk(stranger, "cancel", filter={"intent_name": "many"}))
    assert (told["items"], told["more"]) == ([], False)
    first = said(await bulk(tenant, "cancel", dry_run=True, limit=1))
    theirs = await bulk(stranger, "cancel", cursor=first["next_cursor"])
    assert_problem(theirs, 400)
    mine = await tenant.post("/executions/bulk", {"action": "pause", "filter": {"intent_id": ids[0]}}, roles=["operator"])
    assert said(mine)["items"] == []
    await settled(tenant, {"status": "running"}, 2)


@pytest.mark.parametrize("role", ["viewer", "auditor"])
async def test_who_may_only_look_may_not_steer(tenant: Tenant, role: str):
    answer = await tenant.post("/executions/bulk", {"action": "cancel", "filter": {"status": "running"}}, roles=[role])
    assert_problem(answer, 403)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/action"),
        ({"action": "cancel"}, "/filter"),
        ({"action": "cancel", "filter": {}}, "/filter"),
        ({"action": "cancel", "filter": {"status": None}}, "/filter"),
        ({"action": "rerun", "filter": {"status": "failed"}}, "/action"),
        ({"action": "cancel", "filter": {"status": "lost"}}, "/filter/status"),
        ({"action": "cancel", "filter": {"state": "failed"}}, "/filter/state"),
        ({"action": "cancel", "filter": {"intent_name": ""}}, "/filter/intent_name"),
        ({"action": "cancel", "filter": {"intent_name": "x" * 501}}, "/filter/intent_name"),
        ({"action": "cancel", "filter": {"intent_name": "a\0b"}}, "/filter/intent_name"),
        ({"action": "cancel", "filter": {"started_after": "yesterday"}}, "/filter/started_after"),
        ({"action": "cancel", "filter": {"started_after": 1}}, "/filter/started_after"),
        ({"action": "cancel", "filter": {"started_after": "2026-11-21T09:30:00"}}, "/filter/started_after"),
        ({"action": "cancel", "filter": {"needs_attention": "yes"}}, "/filter/needs_attention"),
        ({"action": "cancel", "filter": {"status": "failed"}, "limit": 201}, "/limit"),
        ({"action": "cancel", "filter": {"status": "failed"}, "limit": 0}, "/limit"),
        ({"action": "cancel", "filter": {"status": "failed"}, "limit": True}, "/limit"),
        ({"action": "cancel", "filter": {"status": "failed"}, "dry_run": 1}, "/dry_run"),
        ({"action": "retry", "filter": {"status": "failed"}, "reason": "x"}, ""),
        ({"action": "cancel", "filter": {"status": "failed"}, "reason": "x" * 2_001}, "/reason"),
        ({"action": "cancel", "filter": ["failed"]}, "/filter"),
    ],
)
async def test_what_is_said_wrong_is_named(tenant: Tenant, body: dict[str, Any], pointer: str):
    answer = await tenant.post("/executions/bulk", body, roles=["operator"])
    document = assert_problem(answer, 422)
    assert document["errors"][0]["pointer"] == pointer, document


async def test_a_cursor_that_is_none_or_of_another_filter_is_refused(tenant: Tenant):
    await many(tenant, 2, GATE, status="running")
    cursor = said(await bulk(tenant, "cancel", dry_run=True, limit=1))["next_cursor"]
    for wrong in ("x", "é" * 20, cursor[:-2] + "AA"):
        assert_problem(await bulk(tenant, "cancel", cursor=wrong), 400)
    assert_problem(await bulk(tenant, "cancel", cursor=cursor, filter={"status": "failed"}), 400)
    lone = await bulk(tenant, "cancel", filter={"intent_name": "\u2028'; DROP TABLE x"})
    assert said(lone)["items"] == []


async def test_a_secret_in_the_reason_is_refused_for_each_and_never_repeated(tenant: Tenant):
    await many(tenant, 1, GATE, status="running")
    secret = "ghp_" + "a1B2" * 9
    answer = await bulk(tenant, "cancel", reason=f"because of {secret}")
    told = said(answer)
    assert (told["done"], told["refused"]) == (0, 1)
    assert secret not in answer.text


async def test_old_requests_are_forgotten(http: Http, tenant: Tenant):
    await bulk(tenant, "cancel", key="old")
    keys = RequestKeys(http.platform.store.tenant_pool, http.platform.store.platform_pool)
    week = 7 * 86_400.0
    assert await keys.sweep(10.0 - week) == 0
    assert await keys.sweep(-week) >= 1
    assert "Idempotency-Replayed" not in (await bulk(tenant, "cancel", key="old")).headers


def test_the_filter_is_that_of_the_list() -> None:
    from read_api import executions as listing
    from write_api.bulk import ExecutionFilter

    names = {one.name for one in listing._FILTERS} - {"limit", "cursor"}
    assert set(ExecutionFilter.model_fields) == names
    from projections.execution_matches import FILTERS

    assert set(FILTERS) == names
