# intent_ref: tests.work
"""Work that workers fetch, over HTTP on a real platform: leased, kept, answered for once, handed on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from domain.values import ExecutionId, StepId
from domain.work import Lease
from modules.secrets.files import SecretFiles
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until

CANARY = "canary-of-a-worker-7"
_STORED = (
    "tenant_id, execution_id, step, attempt, due_at, command_id, event_id, correlation_id, kind, priority, action, lease_token,"
    " lease_until, lease_seconds, work_seconds, offered_at"
)
ENDED = ("completed", "failed", "cancelled", "terminated")


def assert_problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document of an answer."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    document: dict[str, Any] = answer.json()
    assert code in (None, document["code"]), document
    return document


@dataclass(frozen=True)
class Shop:
    """A tenant with a module whose workers fetch its work."""

    tenant: Tenant

    async def start(self, *steps: dict[str, Any], **step: Any) -> str:
        """An execution of these steps; of one step `cut` where none is given."""
        return await self.tenant.execution(list(steps) or [{"action": "cut", **step}])

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A request of a worker."""
        return await self.tenant.post(f"/work/{path}", body, roles=["service"], **options)

    async def poll(self, **body: Any) -> list[dict[str, Any]]:
        """What a worker gets."""
        answer = await self.post("poll", {"actions": ["cut"], "max": 1, "wait": 10, **body})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def one(self, **body: Any) -> dict[str, Any]:
        """The one unit of work there is."""
        (unit,) = await self.poll(**body)
        return unit

    async def execution(self, execution_id: str) -> dict[str, Any]:
        """The execution as the API shows it."""
        document: dict[str, Any] = (await self.tenant.get(f"/executions/{execution_id}")).json()
        return document

    async def ended(self, execution_id: str) -> dict[str, Any]:
        """The execution once it has ended."""
        found: dict[str, Any] = {}

        async def is_over() -> bool:
            nonlocal found
            found = await self.execution(execution_id)
            return found.get("status") in ENDED

        await wait_until(is_over, 20)
        return found


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture
async def shop(http: Http) -> Shop:
    return await opened(http)


async def opened(http: Http, **action: Any) -> Shop:
    tenant = await http.tenant()
    module = {"name": "tailor", "actions": [{"name": "cut", **action}, {"name": "sew"}], "transport": {"type": "pull"}}
    registered = await tenant.post("/modules", module)
    assert registered.status_code == 201, registered.text
    return Shop(tenant)


async def test_one_unit_is_polled_and_completed(shop: Shop):
    execution = await shop.start(cloth="red")
    unit = await shop.one()
    assert (unit["execution_id"], unit["step"], unit["action"], unit["attempt"]) == (execution, "cut", "cut", 1)
    assert (unit["parameters"], unit["inputs"], unit["target"]) == ({"cloth": "red"}, {}, "production")
    done = await shop.post(f"{unit['lease_token']}/complete", {"result": {"pieces": 2}})
    assert (done.status_code, done.json()) == (
        200, {"execution_id": execution, "step": "cut", "attempt": 1, "recorded": "result", "error": None}
    )  # fmt: skip
    assert done.headers["Quantum-Position"]
    ended = await shop.ended(execution)
    assert (ended["status"], ended["steps"][0]["result"]) == ("completed", {"pieces": 2})


async def test_the_same_answer_twice_is_recorded_once_and_another_one_is_refused(shop: Shop):
    execution = await shop.start()
    token = (await shop.one())["lease_token"]
    first = await shop.post(f"{token}/complete", {"result": 1})
    again = await shop.post(f"{token}/complete", {"result": 1})
    assert (again.status_code, again.json(), again.headers["Idempotency-Replayed"]) == (200, first.json(), "true")
    for path, body in (("complete", {"result": 2}), ("fail", {"error": {"code": "a", "message": "b"}})):
        assert_problem(await shop.post(f"{token}/{path}", body), 409, "lease-lost")
    assert_problem(await shop.post(f"{token}/heartbeat"), 409, "lease-lost")
    assert_problem(await shop.post(f"{token}/release"), 409, "lease-lost")
    assert (await shop.ended(execution))["steps"][0]["result"] == 1


async def test_a_failure_is_retried_as_the_policy_says_and_its_last_is_final(shop: Shop):
    execution = await shop.start(retry={"max_attempts": 2, "initial_interval": "10ms"})
    first = await shop.one()
    error = {"code": "scissors-blunt", "message": "They do not cut.", "details": {"since": "May"}}
    failed = await shop.post(f"{first['lease_token']}/fail", {"error": error, "retryable": True})
    assert (failed.status_code, failed.json()["recorded"], failed.json()["error"]["code"]) == (200, "error", "scissors-blunt")
    repeated = await shop.post(f"{first['lease_token']}/fail", {"error": error, "retryable": True})
    assert (repeated.status_code, repeated.json()) == (200, failed.json())
    second = await shop.one()
    assert (second["attempt"], second["idempotency_key"] != first["idempotency_key"]) == (2, True)
    assert (await shop.post(f"{second['lease_token']}/fail", {"error": error})).status_code == 200
    ended = await shop.ended(execution)
    assert (ended["status"], ended["steps"][0]["error"]["code"]) == ("failed", "scissors-blunt")


async def test_a_failure_that_is_not_retryable_is_final_at_once(shop: Shop):
    execution = await shop.start(retry={"max_attempts": 5})
    unit = await shop.one()
    body = {"error": {"code": "no-cloth", "message": "None."}, "retryable": False}
    assert (await shop.post(f"{unit['lease_token']}/fail", body)).status_code == 200
    assert (await shop.ended(execution))["steps"][0]["attempts"] == 1


async def test_a_silent_workers_unit_goes_to_another_and_its_late_answer_is_refused(shop: Shop):
    execution = await shop.start(heartbeat=0.3)
    silent = await shop.one()
    other = await shop.one()
    assert (other["execution_id"], other["attempt"], other["idempotency_key"]) == (
        execution, silent["attempt"], silent["idempotency_key"]
    )  # fmt: skip
    assert other["lease_token"] != silent["lease_token"]
    assert other["claims"] > silent["claims"]
    assert other["deadline"] == silent["deadline"], "the attempt's time does not begin again"
    for path, body in (("complete", {"result": "late"}), ("fail", {"error": {"code": "a", "message": "b"}}), ("heartbeat", None)):
        assert_problem(await shop.post(f"{silent['lease_token']}/{path}", body), 409, "lease-lost")
    assert_problem(await shop.post(f"{silent['lease_token']}/release"), 409, "lease-lost")
    done = await shop.post(f"{other['lease_token']}/complete", {"result": "in time"})
    assert done.status_code == 200, done.text
    assert (await shop.ended(execution))["steps"][0]["result"] == "in time"


async def test_an_expired_lease_is_as_good_as_ever_while_nobody_else_has_the_unit(shop: Shop):
    execution = await shop.start(heartbeat=0.05)
    unit = await shop.one()
    await wait_until(lambda: datetime.now(UTC) > datetime.fromisoformat(unit["lease_until"]))
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": "slow"})).status_code == 200
    assert (await shop.ended(execution))["status"] == "completed"


async def test_heartbeats_keep_a_unit_from_others(shop: Shop):
    await shop.start(heartbeat=1)
    unit = await shop.one()
    others = asyncio.create_task(shop.poll(wait=3))
    while not others.done():
        beat = await shop.post(f"{unit['lease_token']}/heartbeat")
        assert (beat.status_code, beat.json()["cancelled"], beat.json()["lease_seconds"]) == (200, False, 1)
        await asyncio.wait([others], timeout=0.2)
    assert others.result() == []
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).status_code == 200


async def test_work_that_is_given_back_goes_to_another_at_once(shop: Shop):
    await shop.start()
    unit = await shop.one()
    waiting = asyncio.create_task(shop.poll())
    assert (await shop.post(f"{unit['lease_token']}/release")).status_code == 204
    (other,) = await waiting
    assert (other["attempt"], other["idempotency_key"]) == (unit["attempt"], unit["idempotency_key"])
    assert_problem(await shop.post(f"{unit['lease_token']}/complete", {"result": 1}), 409, "lease-lost")
    assert (await shop.post(f"{other['lease_token']}/complete", {"result": 1})).status_code == 200


async def test_a_worker_is_told_that_its_execution_was_cancelled(shop: Shop):
    execution = await shop.start()
    unit = await shop.one()
    assert (await shop.tenant.post(f"/executions/{execution}/cancel")).status_code == 202
    beat = await shop.post(f"{unit['lease_token']}/heartbeat")
    assert (beat.status_code, beat.json()["cancelled"]) == (200, True)
    assert_problem(await shop.post(f"{unit['lease_token']}/complete", {"result": 1}), 409)
    assert await shop.poll(wait=0) == []
    assert (await shop.ended(execution))["status"] == "cancelled"


async def test_what_may_have_to_be_undone_is_waited_for_although_it_is_cancelled(shop: Shop):
    execution = await shop.start({"action": "cut", "compensate": {"action": "sew"}})
    unit = await shop.one()
    assert (await shop.tenant.post(f"/executions/{execution}/cancel")).status_code == 202
    beat = await shop.post(f"{unit['lease_token']}/heartbeat")
    assert (beat.json()["cancelled"], beat.json()["lease_until"] is not None) == (True, True)
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).status_code == 200
    undoing = await shop.one(actions=["sew"])
    assert (undoing["step"], undoing["action"]) == ("~cut", "sew")
    beat = await shop.post(f"{undoing['lease_token']}/heartbeat")
    assert (beat.status_code, beat.json()["cancelled"]) == (200, False)
    assert (await shop.post(f"{undoing['lease_token']}/complete", {"result": None})).status_code == 200
    assert (await shop.ended(execution))["status"] == "cancelled"


async def test_a_paused_execution_lets_begun_steps_end_and_no_other_begin(shop: Shop):
    execution = await shop.start({"action": "cut"}, {"action": "sew"})
    unit = await shop.one()
    assert (await shop.tenant.post(f"/executions/{execution}/pause")).status_code == 202
    assert (await shop.post(f"{unit['lease_token']}/heartbeat")).json()["cancelled"] is False
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).status_code == 200
    assert await shop.poll(actions=["sew"], wait=1) == []
    assert (await shop.tenant.post(f"/executions/{execution}/resume")).status_code == 202
    assert (await shop.one(actions=["sew"]))["step"] == "sew"


async def test_another_tenant_sees_nothing_and_can_do_nothing_with_the_token(http: Http, shop: Shop):
    execution = await shop.start()
    stranger = await opened(http)
    assert await stranger.poll(wait=0) == []
    unit = await shop.one()
    assert await stranger.poll(wait=0, actions=["cut", "sew"]) == []
    for path, body in (
        ("heartbeat", None), ("release", None), ("complete", {"result": "theirs"}),
        ("fail", {"error": {"code": "a", "message": "b"}}),
    ):  # fmt: skip
        told = assert_problem(await stranger.post(f"{unit['lease_token']}/{path}", body), 404, "not-found")
        nonsense = Lease(ExecutionId("none"), StepId("cut"), 1, UUID(int=1)).written()
        assert told["title"] == assert_problem(await stranger.post(f"{nonsense}/{path}", body), 404, "not-found")["title"]
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": "ours"})).status_code == 200
    assert_problem(await stranger.post(f"{unit['lease_token']}/complete", {"result": "ours"}), 404, "not-found")
    assert (await shop.ended(execution))["steps"][0]["result"] == "ours"


async def test_a_token_made_up_for_a_unit_somebody_has_is_refused(shop: Shop):
    execution = await shop.start()
    unit = await shop.one()
    guessed = Lease(ExecutionId(execution), StepId("cut"), 1, UUID(int=7)).written()
    for path, body in (("heartbeat", None), ("release", None), ("complete", {"result": "guessed"})):
        assert_problem(await shop.post(f"{guessed}/{path}", body), 409, "lease-lost")
    ahead = Lease(ExecutionId(execution), StepId("cut"), 2, UUID(int=7)).written()
    assert_problem(await shop.post(f"{ahead}/complete", {"result": "guessed"}), 404)
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": "true"})).status_code == 200


@pytest.mark.parametrize("token", ["x", "a" * 254, "A" * 22, "%00", "..", "cut", "-" * 40, "%F0%9F%92%A9" * 10, "_" * 22 + "MQo"])
async def test_what_is_no_token_is_nothing(shop: Shop, token: str):
    for path in ("heartbeat", "release", "complete"):
        answer = await shop.post(f"{token}/{path}", {"result": 1} if path == "complete" else None)
        assert answer.status_code in (404, 405), answer.text


@pytest.mark.parametrize(
    "body",
    [{}, {"actions": []}, {"actions": ["a"], "module": "tailor"}, {"actions": "cut"}, {"actions": ["a b"]}, {"actions": [1]},
     {"actions": ["a"] * 101}, {"actions": ["a"], "max": 0}, {"actions": ["a"], "max": 101}, {"actions": ["a"], "wait": 31},
     {"actions": ["a"], "wait": -1}, {"actions": ["a"], "wait": "1"}, {"actions": ["a"], "more": 1}, {"module": ""},
     {"actions": ["\u0000"]}],
    ids=str,
)  # fmt: skip
async def test_a_poll_that_makes_no_sense_is_refused(shop: Shop, body: Any):
    assert_problem(await shop.post("poll", body), 422, "validation-failed")


@pytest.mark.parametrize(
    ("path", "body"),
    [("complete", {"results": 1}), ("fail", {}), ("fail", {"error": {"code": "", "message": "b"}}), ("fail", {"error": "no"}),
     ("fail", {"error": {"code": "a", "message": "b" * 2_001}}), ("fail", {"error": {"code": "a"}, "retryable": True}),
     ("fail", {"error": {"code": "a", "message": "b"}, "retryable": 1}), ("heartbeat", {"more": 1}), ("release", {"more": 1})],
    ids=str,
)  # fmt: skip
async def test_an_answer_that_makes_no_sense_is_refused_and_changes_nothing(shop: Shop, path: str, body: Any):
    await shop.start()
    token = (await shop.one())["lease_token"]
    assert_problem(await shop.post(f"{token}/{path}", body), 422, "validation-failed")
    assert (await shop.post(f"{token}/complete", {"result": 1})).status_code == 200


async def test_only_services_carry_out_work(shop: Shop):
    for role in ("viewer", "author", "operator", "tenant-admin", "auditor"):
        answer = await shop.tenant.post("/work/poll", {"actions": ["cut"]}, roles=[role])
        assert_problem(answer, 403, "role-missing")
    assert (await shop.tenant.http.client.post(f"{API}/work/poll", json={"actions": ["cut"]})).status_code == 401


async def test_a_module_stands_for_its_actions_and_has_to_be_there(shop: Shop):
    await shop.start({"action": "sew"})
    answer = await shop.post("poll", {"module": "tailor", "wait": 10})
    assert [unit["action"] for unit in answer.json()["items"]] == ["sew"]
    problem = assert_problem(await shop.post("poll", {"module": "cobbler"}), 422, "validation-failed")
    assert [fault["pointer"] for fault in problem["errors"]] == ["/module"]


async def test_the_most_urgent_comes_first_then_the_oldest(shop: Shop):
    created = await shop.tenant.intent("hurry", [{"action": "cut"}])
    started = []
    for priority in (3, 5, 1, 3):
        answer = await shop.tenant.post(f"/intents/{created.json()['id']}/execute", {"priority": priority})
        assert answer.status_code == 202, answer.text
        started.append(answer.json()["execution_id"])
        await waiting(shop, len(started))
    units = await shop.poll(max=10)
    assert [unit["execution_id"] for unit in units] == [started[2], started[0], started[3], started[1]]


async def test_no_more_are_handed_out_than_a_concurrency_key_allows(shop: Shop):
    for _ in range(4):
        await shop.start(concurrency={"key": "the-table", "max": 2})
    await shop.start(cloth="elsewhere")
    units: list[dict[str, Any]] = []
    while len(units) < 3:
        units += await shop.poll(max=10)
    keyed = [unit for unit in units if unit["parameters"] == {}]
    assert (len(keyed), len(units)) == (2, 3)
    for unit in keyed:
        assert await shop.poll(max=10, wait=0) == []
        waits = asyncio.create_task(shop.poll(max=10, wait=8))  # sooner than it would look again by itself
        await asyncio.wait([waits], timeout=0.2)
        assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).status_code == 200
        assert len(await waits) == 1


async def test_what_nobody_fetches_in_its_time_for_queueing_fails(shop: Shop):
    execution = await shop.start(timeouts={"queue": 0.2})
    ended = await shop.ended(execution)
    assert (ended["status"], ended["steps"][0]["error"]["code"]) == ("failed", "queue-timeout")
    assert await shop.poll(wait=0) == []


async def test_an_attempts_time_begins_when_it_is_fetched_and_then_ends_it(shop: Shop):
    execution = await shop.start(timeout=0.6)
    unit = await shop.one()
    assert 0 < unit["timeout_seconds"] <= 0.6
    ended = await shop.ended(execution)
    assert ended["steps"][0]["error"]["code"] == "timeout"
    assert_problem(await shop.post(f"{unit['lease_token']}/complete", {"result": 1}), 409)


async def test_parameters_that_break_the_actions_schema_fail_the_step_and_reach_nobody(http: Http):
    shop = await opened(http, input_schema={"type": "object", "required": ["cloth"]})
    execution = await shop.start({"action": "cut"}, {"action": "sew"})
    assert await shop.poll(wait=1) == []
    ended = await shop.ended(execution)
    assert (ended["status"], ended["steps"][0]["error"]["code"]) == ("failed", "input-invalid")


async def test_a_result_that_breaks_the_actions_schema_is_recorded_as_a_failure_and_the_worker_is_told(http: Http):
    shop = await opened(http, output_schema={"type": "object", "required": ["pieces"]})
    execution = await shop.start()
    unit = await shop.one()
    told = await shop.post(f"{unit['lease_token']}/complete", {"result": {}})
    assert (told.status_code, told.json()["recorded"], told.json()["error"]["code"]) == (200, "error", "output-invalid")
    assert (await shop.ended(execution))["steps"][0]["error"]["code"] == "output-invalid"


async def test_templates_are_evaluated_when_the_work_is_handed_out(shop: Shop):
    execution = await shop.start({"action": "cut"}, {"action": "sew", "pieces": "${{ steps.cut.result.pieces }}"})
    unit = await shop.one()
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": {"pieces": [1, 2]}})).status_code == 200
    assert (await shop.one(actions=["sew"]))["parameters"] == {"pieces": [1, 2]}
    failing = await shop.start({"action": "cut"}, {"action": "sew", "pieces": "${{ steps.cut.result.pieces }}"})
    unit = await shop.one()
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": {}})).status_code == 200
    assert await shop.poll(actions=["sew"], wait=1) == []
    assert (await shop.ended(failing))["steps"][1]["error"]["code"] == "expression-failed"
    assert (await shop.execution(execution))["status"] == "running"


async def test_secrets_reach_the_worker_and_nothing_that_is_stored(http: Http, shop: Shop):
    SecretFiles(http.platform.settings.data_dir / "secrets").write(shop.tenant.id, "key", CANARY)
    execution = await shop.start(key="secret://key")
    unit = await shop.one()
    assert unit["parameters"] == {"key": CANARY}
    query = "SELECT * FROM quantum.saga_dispatches WHERE tenant_id = $1"
    rows = await http.platform.store.platform_pool.fetch(query, shop.tenant.id)
    assert rows
    assert CANARY not in str(rows)
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": {"echo": CANARY}})).status_code == 200
    assert (await shop.ended(execution))["steps"][0]["result"] == {"echo": "[secret:key]"}
    missing = await shop.start(key="secret://none")
    assert await shop.poll(wait=1) == []
    assert (await shop.ended(missing))["steps"][0]["error"]["code"] == "secret-unknown"


async def test_a_result_too_large_for_the_log_becomes_an_artifact_and_one_too_large_for_a_request_is_refused(shop: Shop):
    execution = await shop.start()
    unit = await shop.one()
    too_large = await shop.post(f"{unit['lease_token']}/complete", {"result": "x" * (1 << 20)})
    assert_problem(too_large, 413, "body-too-large")
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": "x" * 300_000})).status_code == 200
    result = (await shop.ended(execution))["steps"][0]["result"]
    assert result["$artifact"]["size"] == 300_002


async def test_the_items_of_a_loop_are_units_of_their_own(shop: Shop):
    execution = await shop.start({"action": "cut", "foreach": ["a", "b", "c"], "piece": "${{ item }}"})
    for _ in range(3):
        unit = await shop.one()
        assert unit["step"].startswith("cut[")
        assert (await shop.post(f"{unit['lease_token']}/complete", {"result": unit["parameters"]["piece"]})).status_code == 200
    assert (await shop.ended(execution))["steps"][0]["result"] == ["a", "b", "c"]


async def test_many_workers_share_the_work_and_none_is_done_twice(shop: Shop):
    started = [await shop.start() for _ in range(20)]
    done: list[str] = []

    async def worker() -> None:
        while units := await shop.poll(max=3, wait=2):
            for unit in units:
                assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).status_code == 200
                done.append(unit["execution_id"])

    await asyncio.gather(*(worker() for _ in range(5)))
    assert sorted(done) == sorted(started)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.003])
async def test_work_is_offered_however_the_saga_comes_to_its_row(shop: Shop, monkeypatch: pytest.MonkeyPatch, seconds: float):
    monkeypatch.setattr("sagas.execution._QUICK_SECONDS_MAX", seconds)  # calls without a row get one while they are under way
    started = await asyncio.gather(*(shop.start() for _ in range(30)))
    fetched: list[str] = []
    while len(fetched) < len(started) and (units := await shop.poll(max=7)):
        fetched += [unit["execution_id"] for unit in units]
    assert sorted(fetched) == sorted(started)


async def test_a_poll_that_waits_is_answered_as_soon_as_there_is_work(shop: Shop):
    polls = [asyncio.create_task(shop.poll(wait=30)) for _ in range(3)]
    await asyncio.wait(polls, timeout=0.3)
    assert not any(poll.done() for poll in polls)
    execution = await shop.start()
    done, pending = await asyncio.wait(polls, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert [unit["execution_id"] for poll in done for unit in poll.result()] == [execution]
    for poll in pending:
        poll.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def test_a_client_that_goes_away_leaves_nothing_leased(shop: Shop):
    for _ in range(3):
        gone = asyncio.create_task(shop.poll(wait=30))
        await asyncio.wait([gone], timeout=0.1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    execution = await shop.start()
    assert (await shop.one())["execution_id"] == execution


async def test_too_many_who_wait_are_told_to_come_back(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("write_api.work.TENANT_POLLS_MAX", 3)
    polls = [asyncio.create_task(shop.post("poll", {"actions": ["cut"], "wait": 30})) for _ in range(8)]
    done, pending = await asyncio.wait(polls, timeout=2)
    assert len(pending) == 3
    for poll in done:
        problem = poll.result()
        assert_problem(problem, 503, "busy")
        assert problem.headers["Retry-After"]
    for poll in pending:
        poll.cancel()
    await asyncio.gather(*pending, return_exceptions=True)

    async def is_room_again() -> bool:
        return (await shop.post("poll", {"actions": ["cut"]})).status_code == 200

    await wait_until(is_room_again)


async def test_what_is_in_the_log_is_never_handed_out_again(http: Http, shop: Shop):
    execution = await shop.start()
    unit = await shop.one()
    pool = http.platform.store.platform_pool
    (row,) = await pool.fetch(f"SELECT {_STORED} FROM quantum.saga_dispatches WHERE execution_id = $1", execution)
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).status_code == 200
    await shop.ended(execution)
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    restore = f"INSERT INTO quantum.saga_dispatches ({_STORED}) VALUES ({places})"
    await pool.execute(restore, *row.values())  # as a platform leaves it that dies between the record and the row
    release = "UPDATE quantum.saga_dispatches SET lease_until = NULL WHERE execution_id = $1"
    await pool.execute(release, execution)
    assert await shop.poll(wait=0) == []
    assert not await pool.fetchval("SELECT count(*) FROM quantum.saga_dispatches WHERE execution_id = $1", execution)


async def test_a_module_that_is_gone_fails_its_work(shop: Shop):
    execution = await shop.start()
    await waiting(shop, 1)
    assert (await shop.tenant.request("DELETE", "/modules/tailor")).status_code == 204
    assert await shop.poll(wait=1) == []
    assert (await shop.ended(execution))["steps"][0]["error"]["code"] == "module-unavailable"


@pytest.mark.parametrize("more", [{"url": "http://example.com"}, {"plugin": "x"}, {"secret": "secret://x"}])
async def test_a_pull_module_says_nothing_else_about_its_transport(http: Http, more: dict[str, str]):
    tenant = await http.tenant()
    module = {"name": "tailor", "actions": [{"name": "cut"}], "transport": {"type": "pull", **more}}
    assert_problem(await tenant.post("/modules", module), 422, "validation-failed")
    plain = await tenant.post("/modules", {**module, "transport": "pull"})
    assert (plain.status_code, plain.json()["transport"]["kind"]) == (201, "pull")


async def test_row_level_security_keeps_leases_within_the_tenant_and_off_what_is_not_fetched(
    http: Http, shop: Shop, database: Database
):
    execution = await shop.start()
    await waiting(shop, 1)
    connection = await asyncpg.connect(database.app_dsn)
    touch = "UPDATE quantum.saga_dispatches SET claims = claims WHERE execution_id = $1"
    drop = "DELETE FROM quantum.saga_dispatches WHERE execution_id = $1"
    try:
        own = shop.tenant.id
        for tenant_id, kind, count in ((None, "pull", 0), ("tenant-other", "pull", 0), (own, "call", 0), (own, "pull", 1)):
            await http.platform.store.platform_pool.execute(
                "UPDATE quantum.saga_dispatches SET kind = $2, due_at = now() + interval '1 day' WHERE execution_id = $1",
                execution, kind,
            )  # fmt: skip
            for statement in (touch, drop):
                transaction = connection.transaction()
                await transaction.start()
                if tenant_id is not None:
                    await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
                assert (await connection.execute(statement, execution)).split()[1] == str(count)
                await transaction.rollback()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE quantum.saga_dispatches SET tenant_id = 'x'")
    finally:
        await connection.close()


async def waiting(shop: Shop, count: int) -> None:
    """Waits until so many units are offered."""
    query = "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1 AND kind = 'pull'"
    pool = shop.tenant.http.platform.store.platform_pool

    async def are_offered() -> bool:
        return bool(await pool.fetchval(query, shop.tenant.id) == count)

    await wait_until(are_offered)
