# intent_ref: tests.http
"""Executions over HTTP: starting, following, steering; and streams that end, resume and leave nothing behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from access.http.documents import ExecutionEventType
from domain.execution_events import ExecutionEvent
from read_api.execution_events import TYPES
from read_api.executions import STREAMS_MAX
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import tasks_at_rest, wait_until

SLOW = [{"action": "build-docker-image", "image": "i", "sandbox": {"take": 300}}]
FAILING = [{"action": "build-docker-image", "image": "i", "sandbox": {"fail": "no space left", "retryable": False}}]


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


class Stream:
    """An open stream: its frames, one after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self.response, self._lines = response, response.aiter_lines()

    async def next(self) -> dict[str, Any] | None:
        """The next event with its `id` and `event`, or None at the end."""
        frame: dict[str, Any] = {}
        async with asyncio.timeout(20):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if not line and frame:
                    return frame
                name, _, value = line.partition(": ")
                frame[name] = json.loads(value) if name == "data" else value
        return None

    async def rest(self) -> list[dict[str, Any]]:
        """All events to the end."""
        found = []
        while (frame := await self.next()) is not None:
            found.append(frame)
        return found


def open_stream(tenant: Tenant, execution_id: str, **headers: str) -> Any:
    path = f"{API}/executions/{execution_id}/events"
    return tenant.http.client.stream("GET", path, headers={**tenant.http.bearer(tenant.id), **headers})


async def follow(tenant: Tenant, execution_id: str, **headers: str) -> list[dict[str, Any]]:
    async with open_stream(tenant, execution_id, **headers) as response:
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (200, "text/event-stream")
        return await Stream(response).rest()


def types(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["data"]["type"] for frame in frames]


async def test_an_execution_is_accepted_followed_to_its_end_and_read(http: Http):
    tenant = await http.tenant()
    intent = (await tenant.intent()).json()
    started = await tenant.post(f"/intents/{intent['id']}/execute", {"inputs": {"a": 1}, "version": 1})
    receipt = started.json()
    assert started.status_code == 202
    assert receipt == {"execution_id": receipt["execution_id"], "intent_id": intent["id"], "version": 1, "status": "running"}
    frames = await follow(tenant, receipt["execution_id"])
    assert types(frames) == [
        "execution_started", "step_started", "step_completed", "step_started", "step_completed", "execution_completed",
    ]  # fmt: skip
    assert all(frame["event"] == frame["data"]["type"] and frame["id"] for frame in frames)
    assert all(frame["data"]["execution_id"] == receipt["execution_id"] and frame["data"]["at"].endswith("Z") for frame in frames)
    assert frames[2]["data"]["step"] == "build-docker-image"
    assert frames[2]["data"]["result"]
    read = await tenant.get(f"/executions/{receipt['execution_id']}", headers={"Quantum-Min-Position": frames[-1]["id"]})
    body = read.json()
    assert (body["status"], body["inputs"]) == ("completed", {"a": 1})
    assert [step["status"] for step in body["steps"]] == ["completed", "completed"]
    assert {"id", "action", "status", "attempts", "result", "error", "started_at", "completed_at"} <= set(body["steps"][0])


async def test_the_list_of_events_holds_what_the_stream_holds(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution()
    frames = await follow(tenant, execution_id)
    path = f"/executions/{execution_id}/events"
    for accept in ("application/json", "application/json;q=0.9, text/html", "application/problem+json,application/json"):
        listed = await tenant.get(path, headers={"Accept": accept})
        assert listed.json() == {"items": [frame["data"] for frame in frames], "next_cursor": None}
    seen: list[Any] = []
    address = f"{API}{path}?limit=4"
    while address:
        page = await http.client.get(address, headers={**http.bearer(tenant.id), "Accept": "application/json"})
        seen += page.json()["items"]
        address = page.links["next"]["url"] if "next" in page.links else ""
    assert seen == [frame["data"] for frame in frames]


async def test_a_stream_resumes_after_any_event_it_has_given(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution()
    frames = await follow(tenant, execution_id)
    for index, frame in enumerate(frames):
        assert await follow(tenant, execution_id, **{"Last-Event-ID": frame["id"]}) == frames[index + 1 :]


@pytest.mark.parametrize("token", ["x", "42", "%00", "\xe9" * 7])
async def test_an_id_that_no_stream_gave_is_refused(http: Http, token: str):
    tenant = await http.tenant()
    path = f"{API}/executions/{await tenant.execution()}/events"
    headers = {**http.bearer(tenant.id), "Last-Event-ID": token.encode("latin-1")}
    answer = await http.client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "header-invalid")


async def test_a_stream_is_live(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution(SLOW)
    async with open_stream(tenant, execution_id) as response:
        stream = Stream(response)
        assert [(await stream.next() or {})["event"] for _ in range(2)] == ["execution_started", "step_started"]
        paused = await tenant.post(f"/executions/{execution_id}/pause")
        assert (paused.status_code, paused.json()["status"]) == (202, "paused")
        assert (await stream.next() or {})["event"] == "execution_paused"
        assert (await tenant.post(f"/executions/{execution_id}/resume")).json()["status"] == "running"
        assert (await stream.next() or {})["event"] == "execution_resumed"
        cancelled = await tenant.post(f"/executions/{execution_id}/cancel", {"reason": "superseded"})
        assert cancelled.json()["status"] == "cancelled"
        last = await stream.next()
        assert last is not None
        assert (last["event"], last["data"]["reason"]) == ("execution_cancelled", "superseded")
        assert await stream.next() is None


async def test_a_stream_of_a_retried_execution_goes_on_past_its_first_end(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution(FAILING)
    first = await follow(tenant, execution_id)
    assert types(first) == ["execution_started", "step_started", "step_failed", "execution_failed"]
    assert first[2]["data"]["error"]["message"] == "no space left"
    assert (await tenant.post(f"/executions/{execution_id}/retry")).status_code == 202
    whole = await follow(tenant, execution_id)
    assert types(whole)[:5] == [*types(first), "execution_retried"]
    assert types(whole)[-1] == "execution_failed"
    assert types(whole).count("execution_failed") == 2


async def test_steering_what_cannot_be_steered_is_refused_with_the_reason(http: Http):
    tenant = await http.tenant()
    running = await tenant.execution(SLOW)
    ended = await tenant.execution()
    await follow(tenant, ended)
    for execution_id, action, code in [
        (running, "resume", "execution-not-paused"), (running, "retry", "execution-not-failed"),
        (ended, "cancel", "execution-ended"), (ended, "pause", "execution-ended"),
        (ended, "resume", "execution-ended"), (ended, "retry", "execution-not-failed"),
    ]:  # fmt: skip
        answer = await tenant.post(f"/executions/{execution_id}/{action}")
        assert (answer.status_code, answer.json()["code"]) == (409, code), (action, answer.text)
    await tenant.post(f"/executions/{running}/cancel")


async def test_executing_needs_no_body_and_refuses_a_wrong_one(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}/execute"
    assert (await tenant.post(path)).status_code == 202
    for body, pointer in [
        ({"inputs": []}, "/inputs"), ({"version": 0}, "/version"), ({"version": "1"}, "/version"), ({"x": 1}, "/x"),
        ({"version": True}, "/version"), ({"version": 2**40}, "/version"),
    ]:  # fmt: skip
        answer = await tenant.post(path, body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert (await tenant.post(path, {"version": 7})).status_code == 404
    assert (await tenant.post(path, content=b"{")).status_code == 400


async def test_an_intent_without_steps_is_kept_and_not_executed(http: Http):
    tenant = await http.tenant()
    created = await tenant.intent("empty", [])
    assert created.status_code == 201
    answer = await tenant.post(f"/intents/{created.json()['id']}/execute")
    assert (answer.status_code, answer.json()["code"]) == (422, "intent-not-executable")
    assert answer.json()["errors"][0]["pointer"] == "/definition/steps"


async def test_a_key_starts_one_execution(http: Http):
    tenant = await http.tenant()
    path = f"/intents/{(await tenant.intent()).json()['id']}/execute"
    answers = await asyncio.gather(*(tenant.post(path, {}, headers={"Idempotency-Key": "go"}) for _ in range(20)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    execution_id = answers[0].json()["execution_id"]
    frames = await follow(tenant, execution_id)
    assert types(frames).count("execution_started") == 1
    again = await tenant.post(path, {}, headers={"Idempotency-Key": "go"})
    assert (again.content, again.headers["Idempotency-Replayed"]) == (answers[0].content, "true")
    assert (await tenant.post(path, {"version": 1}, headers={"Idempotency-Key": "go"})).status_code == 422


async def test_executions_are_listed_by_status_intent_and_time(http: Http):
    tenant = await http.tenant()
    done, running = await tenant.execution(), await tenant.execution(SLOW)
    last = (await follow(tenant, done))[-1]["id"]
    intent_id = (await tenant.get(f"/executions/{done}", headers={"Quantum-Min-Position": last})).json()["intent_id"]
    for query, found in [
        ("", {done, running}), ("status=completed", {done}), ("status=running", {running}), (f"intent_id={intent_id}", {done}),
        ("started_after=2020-01-01T00:00:00Z", {done, running}), ("started_before=2020-01-01T00:00:00%2B02:00", set()),
    ]:  # fmt: skip
        listed = await tenant.get(f"/executions?{query}", headers={"Quantum-Min-Position": last})
        assert {item["id"] for item in listed.json()["items"]} == found, query
    for query in ("started_after=yesterday", "started_after=2020-01-01T00:00:00", "started_after=0001-01-01T00:00:00%2B23:59"):
        assert (await tenant.get(f"/executions?{query}")).status_code == 422
    await tenant.post(f"/executions/{running}/cancel")


async def test_a_client_that_goes_away_leaves_nothing_behind(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution(SLOW)
    before = await tasks_at_rest()
    for _ in range(30):
        async with open_stream(tenant, execution_id) as response:
            assert (await Stream(response).next() or {})["event"] == "execution_started"
    await wait_until(lambda: len(asyncio.all_tasks()) <= before + 5, what="the streams' tasks to end")
    await tenant.post(f"/executions/{execution_id}/cancel")


async def test_a_silent_stream_shows_that_it_lives(http: Http, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("read_api.execution_events.HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr("read_api.execution_events._POLL_SECONDS", 0.05)
    tenant = await http.tenant()
    execution_id = await tenant.execution(SLOW)
    async with asyncio.timeout(20), open_stream(tenant, execution_id) as response:
        comments = 0
        async for line in response.aiter_lines():
            comments += line.startswith(":")
            if comments == 2:
                break
    await tenant.post(f"/executions/{execution_id}/cancel")


async def test_a_stream_ends_with_its_token_and_goes_on_with_a_new_one(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution(SLOW)
    short = {"Authorization": f"Bearer {http.platform.issuer.issue([tenant.id], ['viewer'], 'ada', 1.2 / 3600)}"}
    async with http.client.stream("GET", f"{API}/executions/{execution_id}/events", headers=short) as response:
        frames = await Stream(response).rest()
    assert types(frames) == ["execution_started", "step_started"]
    await tenant.post(f"/executions/{execution_id}/cancel")
    assert types(await follow(tenant, execution_id, **{"Last-Event-ID": frames[-1]["id"]})) == ["execution_cancelled"]


async def test_streams_are_bounded(http: Http, monkeypatch: pytest.MonkeyPatch):
    assert STREAMS_MAX == 2000
    monkeypatch.setattr("read_api.executions.STREAMS_MAX", 1)
    tenant = await http.tenant()
    execution_id = await tenant.execution(SLOW)
    async with open_stream(tenant, execution_id) as response:
        assert response.status_code == 200
        async with open_stream(tenant, execution_id) as refused:
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    await tenant.post(f"/executions/{execution_id}/cancel")
    assert types(await follow(tenant, execution_id))[-1] == "execution_cancelled"


async def test_a_long_history_is_streamed_whole(http: Http):
    """More events than one page of the log, so that none may be lost at a seam."""
    tenant = await http.tenant()
    steps = [{"action": "wait", "id": f"w{number}", "depends_on": [], "seconds": 0} for number in range(300)]
    execution_id = await tenant.execution(steps)
    frames = await follow(tenant, execution_id)
    assert len(frames) == 2 + 2 * len(steps)
    middle = frames[len(frames) // 2]["id"]
    assert await follow(tenant, execution_id, **{"Last-Event-ID": middle}) == frames[len(frames) // 2 + 1 :]
    listed = await tenant.get(f"/executions/{execution_id}/events?limit=200", headers={"Accept": "application/json"})
    assert listed.json()["items"] == [frame["data"] for frame in frames[:200]]


def test_every_event_of_an_execution_has_a_name_outside():
    assert set(TYPES) == set(get_args(ExecutionEvent))
    assert set(TYPES.values()) == set(get_args(ExecutionEventType))
