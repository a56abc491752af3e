# intent_ref: tests.http
"""What is kept of requests under idempotency keys, for how long, and what becomes of those that are cut, killed or refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from starlette.responses import Response

from access.http.headers import CommandIdentity
from access.http.problems import Problem
from access.http.request_keys import MAY_CHANGE_NOTHING, STORES_AN_EVENT, KeyedAnswers, Recorded
from event_store.ids import uuid7
from event_store.request_keys import ANSWER_BYTES_MAX, KEPT_SECONDS, RequestKeys
from event_store.store import EventStore
from tests.api_probe import assert_problem
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until

REPLAYED = "Idempotency-Replayed"
GATE: list[dict[str, Any]] = [{"action": "approval", "id": "gate"}]
NIGHTLY = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


@pytest.fixture
def keys(store: EventStore) -> RequestKeys:
    return RequestKeys(store.tenant_pool, store.platform_pool)


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


def identity(request_hash: str = "a") -> CommandIdentity:
    return CommandIdentity(uuid7(), request_hash)


async def rows(http: Http, tenant: Tenant) -> int:
    query = "SELECT count(*) FROM quantum.request_keys WHERE tenant_id = $1"
    return int(await http.platform.store.platform_pool.fetchval(query, tenant.id))


async def pull_subscription(tenant: Tenant, *names: str) -> str:
    made = await tenant.post("/pull-subscriptions", {"types": ["quantum.intent.created"], "order": "parallel"})
    for name in names:
        await tenant.intent(name)
    return f"/pull-subscriptions/{made.json()['id']}"


def saying(text: str, calls: list[str], status: int = 200) -> Callable[[], Awaitable[Response]]:
    async def act() -> Response:
        calls.append(text)
        return Response(text, status)

    return act


async def test_a_late_repeat_of_what_changed_nothing_changes_nothing_later_either(http: Http, tenant: Tenant):
    execution = f"/executions/{await tenant.execution(GATE)}"
    assert (await tenant.post(f"{execution}/pause")).status_code == 202
    first = await tenant.post(f"{execution}/pause", headers=key("late"))
    assert REPLAYED not in first.headers
    assert (await tenant.post(f"{execution}/resume")).json()["status"] == "running"
    late = await tenant.post(f"{execution}/pause", headers=key("late"))
    assert (late.content, late.headers[REPLAYED]) == (first.content, "true")
    assert late.headers["Quantum-Position"] == first.headers["Quantum-Position"]
    assert (await tenant.get(execution)).json()["status"] == "running"


async def test_a_deduplicated_start_is_answered_the_same_when_the_other_has_ended(http: Http, tenant: Tenant):
    intent = (await tenant.intent("one", GATE)).json()["id"]
    path, body = f"/intents/{intent}/execute", {"business_key": "order-1"}
    running = (await tenant.post(path, body)).json()["execution_id"]
    first = await tenant.post(path, body, headers=key("again"))
    assert (first.json()["execution_id"], first.json()["deduplicated"]) == (running, True)
    assert (await tenant.post(f"/executions/{running}/terminate")).status_code == 202
    late = await tenant.post(path, body, headers=key("again"))
    assert (late.content, late.headers[REPLAYED]) == (first.content, "true")
    assert len((await tenant.get("/executions", after=late)).json()["items"]) == 1
    other = await tenant.post(path, {"business_key": "order-2"}, headers=key("again"))
    assert assert_problem(other, 422)["code"] == "idempotency-key-reused"


async def test_a_run_out_of_turn_is_answered_the_same_when_the_schedule_is_gone(http: Http, tenant: Tenant):
    definition = {"target": "production", "steps": [{"action": "no-op"}]}
    made = await tenant.post("/intents", {"name": "nightly", "definition": {**definition, "schedule": NIGHTLY}})
    path = f"/intents/{made.json()['id']}"
    first = await tenant.post(f"{path}/schedule/run-now", headers=key("one"))
    assert (await tenant.request("PUT", path, json={"definition": definition}, headers={"If-Match": "*"})).status_code == 200
    again = await tenant.post(f"{path}/schedule/run-now", headers=key("one"))
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (202, first.content, "true")


async def test_what_was_refused_is_not_kept_and_its_key_is_free(http: Http, tenant: Tenant):
    path = await pull_subscription(tenant, "one")
    unknown = str(uuid7())
    for _ in range(2):
        assert_problem(await tenant.post(f"{path}/nack", {"id": unknown}, headers=key("one")), 404)
    (item,) = (await tenant.post(f"{path}/pull", {"wait": 5})).json()["items"]
    given_back = await tenant.post(f"{path}/nack", {"id": item["id"]}, headers=key("one"))
    assert (given_back.status_code, REPLAYED in given_back.headers) == (200, False)
    intent = (await tenant.intent("two")).json()["id"]
    assert_problem(await tenant.post(f"/intents/{intent}/deprecate", {"x": 1}, headers=key("two")), 422)
    assert (await tenant.post(f"/intents/{intent}/deprecate", headers=key("two"))).status_code == 200
    for bad in ("", "ü", "x" * 256):
        assert_problem(await tenant.post(f"{path}/ack", {"ids": [unknown]}, headers={b"Idempotency-Key": bad.encode()}), 400)  # type: ignore[dict-item]


async def test_a_pull_is_repeated_with_its_leases_for_as_long_as_they_last(http: Http, tenant: Tenant):
    path = await pull_subscription(tenant, "one", "two")
    body = {"max": 1, "wait": 5, "lease": 1}
    first = await tenant.post(f"{path}/pull", body, headers=key("batch"))
    again = await tenant.post(f"{path}/pull", body, headers=key("batch"))
    assert (again.content, again.headers[REPLAYED]) == (first.content, "true")
    assert (await tenant.get(path)).json()["leased"] == 1

    async def fresh() -> Any:
        answer = await tenant.post(f"{path}/pull", body, headers=key("batch"))
        return answer.json() if REPLAYED not in answer.headers else None

    (item,) = (await wait_until(fresh, what="the lease to be over"))["items"]
    assert item["lease"] != first.json()["items"][0]["lease"]


async def test_a_pull_whose_client_has_gone_frees_its_key(http: Http, tenant: Tenant):
    path = await pull_subscription(tenant)
    headers = {**http.bearer(tenant.id), **key("gone")}
    with pytest.raises(httpx.ReadTimeout):
        await http.client.post(f"{API}{path}/pull", json={"wait": 60}, headers=headers, timeout=0.3)

    async def is_free() -> bool:
        return await rows(http, tenant) == 0

    await wait_until(is_free, what="the key to be free")
    assert REPLAYED not in (await tenant.post(f"{path}/pull", {"wait": 0}, headers=key("gone"))).headers


async def test_a_request_that_was_killed_is_carried_out_by_the_next_one_once_its_time_is_over(
    http: Http, tenant: Tenant, database: Database
):  # fmt: skip
    path = await pull_subscription(tenant, "one")
    first = await tenant.post(f"{path}/seek", {"from": "beginning"}, headers=key("killed"))
    assert first.status_code == 204
    owner = await asyncpg.connect(database.owner_dsn)
    await owner.execute("ALTER TABLE quantum.request_keys NO FORCE ROW LEVEL SECURITY")
    await owner.execute("UPDATE quantum.request_keys SET status = NULL, held_until = now() WHERE tenant_id = $1", tenant.id)
    await owner.execute("ALTER TABLE quantum.request_keys FORCE ROW LEVEL SECURITY")
    await owner.close()
    other = await tenant.post(f"{path}/seek", {"from": "now"}, headers=key("killed"))
    assert assert_problem(other, 422)["code"] == "idempotency-key-reused"
    again = await tenant.post(f"{path}/seek", {"from": "beginning"}, headers=key("killed"))
    assert (again.status_code, REPLAYED in again.headers) == (204, False)
    assert (await tenant.post(f"{path}/seek", {"from": "beginning"}, headers=key("killed"))).headers[REPLAYED] == "true"


async def test_whoever_finds_the_same_under_way_is_told_when_to_come_again(keys: RequestKeys):
    which, calls = identity(), list[str]()
    assert which.request_hash is not None
    assert await keys.begin("t", which.command_id, which.request_hash, uuid7(), 60.0) is None
    answers = KeyedAnswers(keys, wait_seconds_max=0.1)
    with pytest.raises(Problem) as refused:
        await answers.once("t", which, saying("no", calls))
    assert (refused.value.code, refused.value.headers["Retry-After"], calls) == ("busy", "2", [])
    answered = await answers.once("other", which, saying("yes", calls))
    assert (answered.body, calls) == (b"yes", ["yes"])


async def test_of_many_at_once_one_acts_and_the_others_have_its_answer(keys: RequestKeys):
    which, calls, go = identity(), list[str](), asyncio.Event()

    async def act() -> Response:
        calls.append("acted")
        await go.wait()
        return Response("done", 201, {"X-Told": "once"})

    waiting = [asyncio.create_task(KeyedAnswers(keys).once("t", which, act)) for _ in range(5)]
    await wait_until(lambda: calls, what="one to act")
    go.set()
    answers = await asyncio.gather(*waiting)
    assert calls == ["acted"]
    assert {(one.status_code, bytes(one.body), one.headers["X-Told"]) for one in answers} == {(201, b"done", "once")}
    assert [REPLAYED in one.headers for one in answers].count(False) == 1


async def test_what_takes_too_long_or_is_cancelled_or_fails_frees_its_key(keys: RequestKeys):
    answers, calls = KeyedAnswers(keys, wait_seconds_max=0.1), list[str]()

    async def never_ends() -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def breaks() -> Response:
        raise ZeroDivisionError

    slow, cut, broken = identity(), identity(), identity()
    with pytest.raises(Problem) as refused:
        await answers.once("t", slow, never_ends, seconds_max=0.05)
    assert refused.value.code == "busy"
    task = asyncio.create_task(answers.once("t", cut, never_ends))
    await wait_until(lambda: _is_known(keys, cut.command_id), what="the request to be put down")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ZeroDivisionError):
        await answers.once("t", broken, breaks)
    for which in (slow, cut, broken):
        assert REPLAYED not in (await answers.once("t", which, saying("now", calls))).headers
    assert calls == ["now"] * 3


async def _is_known(keys: RequestKeys, command_id: UUID) -> bool:
    return await keys.find("t", command_id) is not None


async def test_an_answer_too_large_to_be_kept_is_given_once_and_never_acted_on_again(keys: RequestKeys):
    answers, which, calls = KeyedAnswers(keys), identity(), list[str]()
    text = "x" * (ANSWER_BYTES_MAX + 1)
    assert len((await answers.once("t", which, saying(text, calls))).body) == len(text)
    with pytest.raises(Problem) as refused:
        await answers.once("t", which, saying(text, calls))
    assert (refused.value.code, len(calls)) == ("answer-not-kept", 1)


async def test_old_answers_are_swept_and_count_for_nothing(keys: RequestKeys):
    answers, which, calls = KeyedAnswers(keys), identity(), list[str]()
    await answers.once("t", which, saying("first", calls))
    await keys.sweep()  # of what other tests have left, and not of this
    assert REPLAYED in (await answers.once("t", which, saying("again", calls))).headers
    assert await keys.sweep(-KEPT_SECONDS - 10.0) >= 1
    assert REPLAYED not in (await answers.once("t", which, saying("second", calls))).headers
    assert calls == ["first", "second"]


async def test_a_command_that_stores_an_event_costs_no_query_and_leaves_no_row(http: Http, tenant: Tenant):
    nowhere = KeyedAnswers(RequestKeys(None, None))  # whoever asks it anything fails

    async def recorded() -> Response:
        return Recorded("stored")

    def unasked() -> CommandIdentity:
        raise AssertionError

    assert (await nowhere.answer(STORES_AN_EVENT, b"{}", "t", unasked, recorded)).body == b"stored"
    with pytest.raises(AttributeError):
        await nowhere.answer(MAY_CHANGE_NOTHING, b"{}", "t", identity, recorded)
    intent = await tenant.post(
        "/intents", {"name": "one", "definition": {"target": "t", "steps": [{"action": "no-op"}]}}, headers=key("a")
    )  # fmt: skip
    assert (await tenant.post(f"/intents/{intent.json()['id']}/execute", headers=key("a"))).status_code == 202
    assert (await tenant.post(f"/intents/{intent.json()['id']}/deprecate", headers=key("a"))).status_code == 200
    assert await rows(http, tenant) == 0
    assert (await tenant.post(f"/intents/{intent.json()['id']}/deprecate", headers=key("b"))).status_code == 200
    assert await rows(http, tenant) == 1
