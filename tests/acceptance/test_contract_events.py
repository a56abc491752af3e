# intent_ref: tests.contract
"""The contract's rows on events: the feed as list, long poll and stream, the types, the program and the client."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from quantum.client import Client, QuantumError
from tests.acceptance.cutting_proxy import cutting_proxy
from tests.acceptance.outside import API, Outside, Tenant, assert_problem, command, sent_events, token

STEPS = [{"action": "build-docker-image", "image": "myapp:latest"}, {"action": "notify", "channel": "#deploys"}]


async def feed(tenant: Tenant, **params: Any) -> list[dict[str, Any]]:
    """Everything there is now."""
    found: list[dict[str, Any]] = []
    while True:
        page = (await tenant.get("/events", params=params)).json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        params["after"] = page["next_cursor"]


async def history(tenant: Tenant) -> list[dict[str, Any]]:
    """The events of a tenant in which an execution has come to its end."""
    await tenant.ended(await tenant.start(STEPS))
    return await feed(tenant)


async def test_the_feed_lists_a_whole_execution_page_by_page(tenant: Tenant) -> None:
    everything = await history(tenant)
    kinds = [one["type"] for one in everything]
    assert kinds[0] == "quantum.tenant.registered.v1"
    assert any(kind.startswith("quantum.execution.started.") for kind in kinds)
    assert kinds[-1].startswith("quantum.execution.completed.")
    assert await feed(tenant, limit=3) == everything
    assert await feed(tenant, types="quantum.intent.*") == [
        one for one in everything if one["type"].startswith("quantum.intent.")
    ]
    page = await tenant.get("/events", params={"limit": 2})
    assert page.headers["Link"] == f'<{API}/events?limit=2&after={page.json()["next"]}>; rel="next"'


async def test_sequences_of_a_subject_have_no_gaps(tenant: Tenant) -> None:
    by_subject: dict[str, list[int]] = {}
    for event in await history(tenant):
        by_subject.setdefault(event["subject"], []).append(int(event["sequence"]))
    for sequence in by_subject.values():
        assert sequence == list(range(1, len(sequence) + 1))


async def test_the_feed_waits_for_what_comes(tenant: Tenant) -> None:
    start = (await tenant.get("/events", params={"after": "now"})).json()["next"]
    waiting = asyncio.create_task(tenant.get("/events", params={"after": start, "wait": 20}))
    await tenant.intent(STEPS)
    assert [one["type"] for one in (await waiting).json()["items"]] == ["quantum.intent.created.v1"]


async def test_the_feed_streams_and_resumes(tenant: Tenant) -> None:
    everything = await history(tenant)

    async def first(number: int, **headers: str) -> list[Any]:
        options = {"headers": {**tenant.headers("viewer"), "Accept": "text/event-stream", **headers}, "timeout": 20}
        async with tenant.outside.client.stream("GET", f"{API}/events", **options) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            events = sent_events(answer.aiter_lines())
            return [await anext(events) for _ in range(number)]

    start = await first(4)
    rest = await first(len(everything) - 4, **{"Last-Event-ID": start[-1].id})
    assert [one.data for one in start + rest] == everything
    assert [(one.id, one.event) for one in start + rest] == [(one["position"], one["type"]) for one in everything]


async def test_every_role_of_the_tenant_reads_and_nobody_else(outside: Outside, tenant: Tenant) -> None:
    for role in ("tenant-admin", "author", "operator", "viewer", "auditor", "service"):
        assert (await tenant.get("/events", role=role)).status_code == 200
    other = await outside.tenant()
    [registered] = await feed(other)
    assert_problem(await tenant.get(f"/events/{registered['position']}"), 404, "not-found")
    assert registered["id"] not in {one["id"] for one in await feed(tenant, after=registered["position"])}
    assert_problem(await outside.client.get(f"{API}/events"), 401)


async def test_event_types_carry_the_schemas_that_the_asyncapi_document_shows(outside: Outside, tenant: Tenant) -> None:
    types = (await tenant.get("/event-types")).json()["items"]
    assert {one["type"] for one in await history(tenant)} <= {one["type"] for one in types}
    assert all(one["description"] and one["schema"]["$id"].endswith(one["type"]) for one in types)
    document = (await outside.client.get("/asyncapi.json")).json()
    assert document["asyncapi"] == "3.0.0"
    assert set(document["components"]["messages"]) == {one["type"] for one in types}


def client_of(tenant: Tenant, address: str | None = None) -> Client:
    client = Client(address or tenant.outside.address, token(tenant.outside.data_dir, (tenant.id, "somebody-else"), "viewer"))
    client.set_tenant(tenant.id)
    return client


async def taken(events: AsyncIterator[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(number)]


async def test_the_client_follows_over_connections_that_are_cut_and_repeats_nothing(tenant: Tenant) -> None:
    everything = await history(tenant)
    cuts = [1, 900, 1500, 2600, 4000]
    async with cutting_proxy(tenant.outside.served.port, after_bytes=cuts) as proxy, client_of(tenant, proxy.address) as client:
        events = client.events()
        assert await taken(events, len(everything)) == everything
        await tenant.intent(STEPS)
        [live] = await taken(events, 1)
        await events.aclose()
    assert live["type"] == "quantum.intent.created.v1"
    assert proxy.cuts > 2


async def test_the_client_begins_where_it_is_told_to(tenant: Tenant) -> None:
    everything = await history(tenant)
    async with client_of(tenant) as client:
        assert await taken(client.events(after=everything[2]["position"]), 2) == everything[3:5]
        assert await taken(client.events(since=everything[1]["time"], types=["quantum.intent.*"]), 1) == [everything[1]]
        subject = everything[-1]["subject"]
        expected = [one for one in everything if one["subject"] == subject]
        assert await taken(client.events(subject=subject), len(expected)) == expected
        with pytest.raises(QuantumError) as refused:
            await taken(client.events(after="rubbish"), 1)
        assert refused.value.status == 400


def lines(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def events_command(outside: Outside, *words: str) -> "subprocess.CompletedProcess[str]":
    return command("events", *words, "--url", outside.address, data_dir=outside.data_dir)


async def test_the_program_tails_and_replays(outside: Outside, tenant: Tenant, tmp_path: Path) -> None:
    everything = await history(tenant)
    who = ("--tenant", tenant.id)
    tailed = await asyncio.to_thread(events_command, outside, "tail", *who, "--from-start", "-n", "3", "--json")
    assert lines(tailed) == everything[:3]
    shown = await asyncio.to_thread(events_command, outside, "tail", *who, "--from-start", "-n", "2")
    assert "intent.created.v1" in shown.stdout
    replayed = await asyncio.to_thread(events_command, outside, "replay", *who)
    assert lines(replayed) == everything
    assert everything[-1]["position"] in replayed.stderr
    words = ("--after", everything[0]["position"], "--type", "quantum.intent.*", "--rate", "1000")
    assert lines(await asyncio.to_thread(events_command, outside, "replay", *who, *words)) == everything[1:2]
    since, until = everything[1]["time"], everything[-1]["time"]
    between = [one for one in everything if since <= one["time"] < until]  # events of one command have one time
    words = ("--since", since, "--until", until)
    assert lines(await asyncio.to_thread(events_command, outside, "replay", *who, *words)) == between
    file = tmp_path / "token"
    file.write_text(token(outside.data_dir, (tenant.id,), "auditor") + "\n")
    assert lines(await asyncio.to_thread(events_command, outside, "replay", "--token-file", str(file))) == everything


@asynccontextmanager
async def receiver(statuses: list[int]) -> AsyncIterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """An address that takes events: the first answers have these statuses, the others 204."""
    got: list[tuple[str, dict[str, Any]]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                status = statuses.pop(0) if statuses else 204
                if status < 300:
                    got.append((headers["content-type"], json.loads(body)))
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/events", got
    finally:
        server.close()


async def test_a_replay_to_an_address_goes_on_after_failures_and_stops_at_a_refusal(outside: Outside, tenant: Tenant) -> None:
    everything = await history(tenant)
    who = ("--tenant", tenant.id)
    async with receiver([503, 204, 429]) as (address, got):
        done = await asyncio.to_thread(events_command, outside, "replay", *who, "--to", address)
        assert done.returncode == 0, done.stderr
        assert [event for _, event in got] == everything
        assert {kind for kind, _ in got} == {"application/cloudevents+json; charset=utf-8"}
    async with receiver([204, 204, 400]) as (address, got):
        done = await asyncio.to_thread(events_command, outside, "replay", *who, "--to", address)
        assert done.returncode == 1
        assert f"--after {everything[1]['position']}" in done.stderr
        assert "Traceback" not in done.stderr
        done = await asyncio.to_thread(
            events_command, outside, "replay", *who, "--to", address, "--after", everything[1]["position"]
        )
        assert done.returncode == 0, done.stderr
        assert [event for _, event in got] == everything


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("tail",), "--tenant"),
        (("tail", "--tenant", "acme-1", "--url", "http://127.0.0.1:9"), "quantum serve"),
        (("replay", "--tenant", "acme-1", "--token-file", "no-such-file"), "no-such-file"),
        (("replay", "--tenant", "nobody-registered"), "nobody-registered"),
    ],
)
def test_the_program_says_what_is_wrong_in_a_sentence(outside: Outside, words: tuple[str, ...], sentence: str) -> None:
    where = () if "--url" in words else ("--url", outside.address)
    done = command("events", *words, *where, data_dir=outside.data_dir)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_of_the_programs_output_may_leave_early(outside: Outside) -> None:
    shell = f"{Path(sys.executable).with_name('quantum')} events replay --help | head -1"
    assert subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=False).stderr == ""
