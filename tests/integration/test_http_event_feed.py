# intent_ref: tests.events
"""The tenant's feed over HTTP: lists, long polls and streams, from any point, without a gap or a repeat."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from event_store.tokens import encode_token
from read_api import events
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until

Frame = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    data_dir: Path = tmp_path_factory.mktemp("event-feed")
    async with serving(database, data_dir, event_source="quantum://tests") as platform:
        yield platform


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


async def intents(tenant: Tenant, number: int, start: int = 0) -> list[str]:
    """Creates intents, each of which is one event."""
    made = [await tenant.intent(f"intent-{index}") for index in range(start, start + number)]
    assert [one.status_code for one in made] == [201] * number, made[0].text
    return [one.json()["id"] for one in made]


async def pages(tenant: Tenant, **params: Any) -> list[dict[str, Any]]:
    """All events there are now, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await tenant.get("/events", params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        assert ("Link" in answer.headers) == (page["next_cursor"] is not None)
        if page["next_cursor"] is None:
            return found
        assert page["next_cursor"] == page["next"]
        params["after"] = page["next"]


@asynccontextmanager
async def following(
    tenant: Tenant, *, last: str | None = None, token: dict[str, str] | None = None, **params: Any
) -> AsyncIterator[AsyncIterator[Frame]]:
    """A stream's frames as they come; its connection is gone afterwards."""
    headers = {"Accept": "text/event-stream", **(token or tenant.http.bearer(tenant.id, roles=["viewer"]))}
    if last is not None:
        headers["Last-Event-ID"] = last
    async with (
        httpx.AsyncClient(base_url=tenant.http.address, timeout=20) as client,
        client.stream("GET", f"{API}/events", headers=headers, params=params) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield frames(answer)


async def frames(answer: httpx.Response) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            fields[name] = value
        elif not line and "data" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


async def take(stream: AsyncIterator[Frame], number: int) -> list[Frame]:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(number)]


async def test_the_list_holds_everything_that_happened_in_order_as_cloudevents(tenant: Tenant) -> None:
    made = await intents(tenant, 3)
    found = await pages(tenant, limit=2)
    assert [one["type"] for one in found] == ["quantum.tenant.registered.v1", *["quantum.intent.created.v1"] * 3]
    assert [one["subject"] for one in found] == [f"tenant/{tenant.id}", *(f"intent/{one}" for one in made)]
    assert {one["tenantid"] for one in found} == {tenant.id}
    assert {one["source"] for one in found} == {"quantum://tests"}
    types = {one["type"]: one for one in (await tenant.get("/event-types")).json()["items"]}
    for one in found:
        parsed = from_structured_event(
            HTTPMessage(headers={"content-type": "application/cloudevents+json"}, body=json.dumps(one).encode())
        )
        assert parsed.get_id() == one["id"]
        schema = types[one["type"]]["schema"]
        assert schema["$id"] == one["dataschema"]
        assert list(jsonschema_rs.validator_for(schema).iter_errors(one["data"])) == []


async def test_an_event_is_read_by_its_position_and_its_data_byte_for_byte(tenant: Tenant) -> None:
    await intents(tenant, 1)
    event = (await pages(tenant))[-1]
    assert (await tenant.get(f"/events/{event['position']}")).json() == event
    data = await tenant.get(f"/events/{event['position']}/data")
    assert data.json() == event["data"]
    assert data.content == json.dumps(event["data"], separators=(",", ":"), ensure_ascii=False).encode()


async def test_what_is_another_tenants_does_not_exist(http: Http, tenant: Tenant) -> None:
    other = await http.tenant()
    await intents(other, 2)
    theirs = await pages(other)
    for event in theirs:
        assert (await tenant.get(f"/events/{event['position']}")).status_code == 404
        assert (await tenant.get(f"/events/{event['position']}/data")).status_code == 404
    # A token is a place in the log, not a right: with theirs one's own events come, and none of theirs.
    await intents(tenant, 1)
    assert {one["tenantid"] for one in await pages(tenant, after=theirs[0]["position"])} == {tenant.id}
    assert {one["tenantid"] for one in await pages(tenant)} == {tenant.id}
    assert await pages(tenant, subject=theirs[-1]["subject"]) == []
    async with following(tenant, after=theirs[0]["position"]) as stream:
        await intents(other, 3, start=10)
        await intents(tenant, 2, start=10)
        assert {event["tenantid"] for _, _, event in await take(stream, 3)} == {tenant.id}
    refused = await tenant.get("/events", headers={"X-Tenant-Id": other.id})
    assert refused.status_code == 403


async def test_filters_hold_together(tenant: Tenant) -> None:
    first, _second = await intents(tenant, 2)
    assert (await tenant.post(f"/intents/{first}/deprecate")).status_code == 200
    everything = await pages(tenant)
    assert [one["type"] for one in await pages(tenant, types="quantum.intent.created.v1")] == ["quantum.intent.created.v1"] * 2
    assert await pages(tenant, types="quantum.intent.*", limit=1) == everything[1:]
    assert await pages(tenant, types="quantum.tenant.*,quantum.intent.deprecated.v1") == [everything[0], everything[-1]]
    assert await pages(tenant, subject=f"intent/{first}") == [everything[1], everything[3]]
    assert await pages(tenant, subject=f"intent/{first}", types="quantum.intent.deprecated.v1") == [everything[3]]
    assert await pages(tenant, subject="intent/none-such") == []
    [only] = await pages(tenant, subject=f"intent/{first}", after=everything[1]["position"])
    assert only["sequence"] == "0000000002"


async def test_time_filters_include_the_beginning_and_exclude_the_end(tenant: Tenant) -> None:
    await intents(tenant, 4)
    found = await pages(tenant)
    assert await pages(tenant, since=found[2]["time"]) == found[2:]
    assert await pages(tenant, until=found[2]["time"]) == found[:2]
    assert await pages(tenant, since=found[1]["time"], until=found[3]["time"], limit=1) == found[1:3]
    assert await pages(tenant, since="0001-01-01T00:00:00Z", until="9999-12-31T23:59:59Z") == found
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert await pages(tenant, since=tomorrow) == []


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"after": "rubbish"}, 400, "cursor-invalid"),
        ({"after": "cTEuLTE"}, 400, "cursor-invalid"),
        ({"after": "'; DROP TABLE events; --"}, 400, "cursor-invalid"),
        ({"cursor": "rubbish"}, 400, "cursor-invalid"),
        ({"after": "now", "cursor": "now"}, 400, "request-invalid"),
        ({"limit": "-1"}, 422, "validation-failed"),
        ({"limit": "0"}, 422, "validation-failed"),
        ({"limit": "1e3"}, 422, "validation-failed"),
        ({"limit": "1001"}, 422, "validation-failed"),
        ({"wait": "-1"}, 422, "validation-failed"),
        ({"wait": "61"}, 422, "validation-failed"),
        ({"types": "quantum.nothing.v1"}, 422, "validation-failed"),
        ({"types": "*"}, 422, "validation-failed"),
        ({"types": ""}, 422, "validation-failed"),
        ({"types": ",".join(["quantum.intent.created.v1"] * 101)}, 422, "validation-failed"),
        ({"since": "yesterday"}, 422, "validation-failed"),
        ({"since": "2026-11-21T09:30:00"}, 422, "validation-failed"),
        ({"since": "0001-01-01T00:00:00+23:59"}, 422, "validation-failed"),
        ({"subject": "a\0b"}, 422, "validation-failed"),
        ({"subject": "x" * 501}, 422, "validation-failed"),
        ({"nonsense": "1"}, 422, "validation-failed"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(tenant: Tenant, params: dict[str, str], status: int, code: str) -> None:
    for headers in ({}, {"Accept": "text/event-stream"}):
        answer = await tenant.get("/events", params=params, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_a_stream_takes_no_filters_of_lists_and_no_token_that_is_none(tenant: Tenant) -> None:
    for name, value in (("limit", "5"), ("wait", "5"), ("until", "2026-11-21T09:30:00Z")):
        answer = await tenant.get("/events", params={name: value}, headers={"Accept": "text/event-stream"})
        assert (answer.status_code, answer.json()["code"]) == (400, "request-invalid")
    answer = await tenant.get("/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "rubbish"})
    assert (answer.status_code, answer.json()["code"]) == (400, "header-invalid")


async def test_nobody_reads_events_without_a_token(http: Http) -> None:
    for path in ("/events", "/events/cTEuNDI", "/events/cTEuNDI/data", "/event-types", "/event-types/x"):
        assert (await http.client.get(API + path)).status_code == 401


async def test_tokens_beyond_the_log_are_waited_for_and_show_nothing(tenant: Tenant) -> None:
    token = encode_token((1 << 48) - 1)
    page = (await tenant.get("/events", params={"after": token})).json()
    assert page == {"items": [], "next": token, "next_cursor": None}
    assert (await tenant.get(f"/events/{token}")).status_code == 404
    assert (await tenant.get("/events/rubbish")).status_code == 404
    assert (await tenant.get(f"/events/{encode_token(0)}")).status_code == 404


async def test_a_long_poll_answers_when_something_happens(tenant: Tenant) -> None:
    start = (await tenant.get("/events", params={"after": "now"})).json()
    assert start["items"] == []
    waiting = asyncio.create_task(tenant.get("/events", params={"after": start["next"], "wait": 20}))
    await intents(tenant, 1)
    page = (await waiting).json()
    assert [one["type"] for one in page["items"]] == ["quantum.intent.created.v1"]
    assert await pages(tenant, after=page["next"]) == []


async def test_a_long_poll_that_brings_nothing_moves_its_token_along(http: Http, tenant: Tenant) -> None:
    start = (await tenant.get("/events", params={"after": "now"})).json()
    await http.tenant()
    page = (await tenant.get("/events", params={"after": start["next"], "wait": 1})).json()
    assert page["items"] == []
    assert page["next"] != start["next"]


async def test_a_stream_shows_history_then_what_happens(tenant: Tenant) -> None:
    await intents(tenant, 2)
    async with following(tenant) as stream:
        history = await take(stream, 3)
        await intents(tenant, 2, start=2)
        seen = history + await take(stream, 2)
    assert [event for _, _, event in seen] == await pages(tenant)
    assert [(id, kind) for id, kind, _ in seen] == [(event["position"], event["type"]) for _, _, event in seen]


async def test_a_stream_resumes_behind_the_last_event_seen(tenant: Tenant) -> None:
    await intents(tenant, 3)
    async with following(tenant) as stream:
        seen = await take(stream, 2)
    await intents(tenant, 1, start=3)
    # The header comes before the address: it is what the browser sends when it connects again.
    async with following(tenant, last=seen[-1][0], after="now") as stream:
        seen += await take(stream, 3)
    assert [event for _, _, event in seen] == await pages(tenant)


async def test_a_stream_from_now_on_holds_nothing_older(tenant: Tenant) -> None:
    await intents(tenant, 2)
    async with following(tenant, after="now", types="quantum.intent.*") as stream:
        made = await intents(tenant, 2, start=2)
        assert [event["subject"] for _, _, event in await take(stream, 2)] == [f"intent/{one}" for one in made]


async def test_a_streams_filters_hold_in_history_and_live(tenant: Tenant) -> None:
    first, second = await intents(tenant, 2)
    async with following(tenant, subject=f"intent/{first}") as stream:
        await take(stream, 1)
        await tenant.post(f"/intents/{second}/deprecate")
        await tenant.post(f"/intents/{first}/deprecate")
        await tenant.post(f"/intents/{first}/activate")
        kinds = [kind for _, kind, _ in await take(stream, 2)]
    assert kinds == ["quantum.intent.deprecated.v1", "quantum.intent.activated.v1"]


async def test_a_stream_ends_with_its_token(http: Http, tenant: Tenant) -> None:
    expiring = http.platform.issuer.issue([tenant.id], ["viewer"], "ada", 2 / 3600)
    async with following(tenant, token={"Authorization": f"Bearer {expiring}"}) as stream:
        await take(stream, 1)
        async with asyncio.timeout(60):
            assert [frame async for frame in stream] == []


async def test_every_type_is_described(tenant: Tenant) -> None:
    listed = (await tenant.get("/event-types")).json()["items"]
    for one in listed:
        assert (await tenant.get(f"/event-types/{one['type']}")).json() == one
    assert (await tenant.get("/event-types/quantum.nothing.v1")).status_code == 404


async def test_the_asyncapi_document_is_open_to_all(http: Http) -> None:
    answer = await http.client.get("/asyncapi.json")
    assert answer.status_code == 200
    assert answer.json()["asyncapi"] == "3.0.0"


async def open_followers(http: Http) -> int:
    text = (await http.client.get(f"{http.address}/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("quantum_events_followers")]
    return int(float(line.rpartition(" ")[2]))


async def test_open_streams_and_waiting_polls_are_counted(http: Http, tenant: Tenant) -> None:
    async def are_open(count: int) -> bool:
        return await open_followers(http) == count

    await wait_until(lambda: are_open(0), what="that nobody follows")
    async with following(tenant), following(tenant, after="now"):
        await wait_until(lambda: are_open(2), what="two streams")
        poll = asyncio.create_task(tenant.get("/events", params={"after": "now", "wait": 60}))
        await wait_until(lambda: are_open(3), what="a poll beside them")
        await tenant.intent("one")
        assert (await poll).status_code == 200
        await wait_until(lambda: are_open(2), what="the end of the poll")
    await wait_until(lambda: are_open(0), what="the end of all")


async def test_a_tenant_has_so_many_streams_and_a_process_so_many_for_all(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FOLLOWERS_MAX", 3)
    monkeypatch.setattr(events, "TENANT_FOLLOWERS_MAX", 2)
    async with serving(database, tmp_path) as http:
        one, other, third = await http.tenant(), await http.tenant(), await http.tenant()
        stream = {"Accept": "text/event-stream"}
        async with following(one), following(one):
            for refused in (
                await one.get("/events", headers=stream),
                await one.get("/events", params={"after": "now", "wait": 9}),
            ):
                assert (refused.status_code, refused.json()["code"]) == (429, "limit-reached")
                assert int(refused.headers["Retry-After"]) > 0
                assert refused.headers["RateLimit-Policy"] == '"open-requests";q=2'
            assert (await one.get("/events")).status_code == 200
            async with following(other):
                full = await third.get("/events", headers=stream)
                assert (full.status_code, full.json()["code"]) == (503, "busy")
                assert int(full.headers["Retry-After"]) > 0

            async def is_free() -> bool:
                try:
                    async with following(third):
                        return True
                except AssertionError:
                    return False

            await wait_until(is_free, what="the place of the one who has gone")
