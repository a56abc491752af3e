# intent_ref: tests.abusive-clients
"""Clients that dawdle, never finish or just go away: they stop nobody else, and leave nothing behind."""

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from quantum import http_protocol
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import tasks_at_rest, wait_until

pytestmark = [pytest.mark.chaos]
CLIENTS = 200
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute's patience would make a slow test."""
    monkeypatch.setattr(http_protocol, "ARRIVAL_SECONDS_MAX", 0.5)


async def test_requests_that_never_end_stop_nobody_and_are_cut_off(http: Http, impatient: None):
    tenant = await http.tenant()
    bearer = http.bearer(tenant.id)["Authorization"].encode()
    head = b"POST /api/v1/intents HTTP/1.1\r\nHost: x\r\nAuthorization: " + bearer + b"\r\n"
    halves = [b"", b"G", b"GET /api/v1/intents HTTP/1.1\r\n", head, head + b"X-A: ", head + b"Content-Length: 100\r\n\r\n{",
              head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"]  # fmt: skip
    connections = [await _sent(http, half) for half in halves * (CLIENTS // len(halves))]
    for _ in range(20):
        assert (await tenant.get("/intents")).status_code == 200
    for reader, writer in connections:
        async with asyncio.timeout(10):
            came = await reader.read()
        assert came == b"" or came.startswith(b"HTTP/1.1 408 "), came[:200]
        assert came == b"" or b"application/problem+json" in came
        await _left(writer)
    assert (await tenant.intent("after")).status_code == 201


async def test_a_client_that_sends_one_byte_now_and_then_gains_no_time(http: Http, impatient: None):
    reader, writer = await _sent(http, b"GET /health/live HTTP/1.1\r\nX: ")
    with contextlib.suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(b"a")
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    if (await reader.read(100)).startswith(b"HTTP/1.1 408 "):
                        break
    await _left(writer)


async def test_a_connection_that_was_used_before_gets_the_same_time_again(http: Http, impatient: None):
    reader, writer = await _sent(http, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
    writer.write(b"GET /health/live HTTP/1.1\r\n")
    async with asyncio.timeout(10):
        while b"HTTP/1.1 408 " not in (line := await reader.readline()):
            assert not line.startswith(b"HTTP/1.1 200")
    await _left(writer)


async def test_a_slow_answer_is_no_slow_request(http: Http, impatient: None):
    """The time is for requests to arrive: a stream may go on for as long as its execution does."""
    tenant = await http.tenant()
    execution_id = await tenant.execution([{"action": "wait", "seconds": 1.5}])
    answer = await tenant.get(f"/executions/{execution_id}/events", headers={"Accept": "text/event-stream"})
    assert "event: execution_completed" in answer.text


async def test_a_head_without_end_is_refused_before_it_fills_the_memory(http: Http):
    before = psutil.Process().memory_info().rss
    reader, writer = await _sent(http, b"GET /health/live HTTP/1.1\r\n")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 200 << 20 and not writer.transport.is_closing():
            writer.write(b"X-A: " + b"a" * 60_000 + b"\r\n")
            await writer.drain()
            sent += 60_000
            if reader._buffer:  # type: ignore[attr-defined]
                break
        assert (await reader.read(20)).startswith(b"HTTP/1.1 431 ")
    assert sent < 20 << 20
    assert psutil.Process().memory_info().rss - before < 50 << 20
    await _left(writer)
    assert (await http.client.get("/health/live")).status_code == 200


async def test_an_offer_to_upgrade_the_connection_is_passed_over_with_or_without_a_body(http: Http):
    """Some clients offer HTTP/2 on each first request of a connection."""
    tenant = await http.tenant()
    body = b'{"name":"upgraded","definition":{"target":"t","steps":[]}}'
    for upgrade in (b"h2c", b"websocket", b"x"):
        head = b"POST /api/v1/intents HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"
        head += b"Upgrade: " + upgrade + b"\r\nAuthorization: " + http.bearer(tenant.id)["Authorization"].encode()
        head += b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        reader, writer = await _sent(http, head + body)
        async with asyncio.timeout(5):
            line = await reader.readline()
        assert line.split()[1] in (b"201", b"409"), line
        await _left(writer)


async def test_followers_that_go_away_leave_no_task_no_connection_and_no_memory(http: Http):
    tenant = await http.tenant()
    execution_id = await tenant.execution([{"action": "wait", "seconds": 600}])
    tasks, connections = await tasks_at_rest(), _connections()
    objects = []
    for _ in range(4):
        await _followed_and_left(http, tenant, execution_id)
        await wait_until(lambda: len(asyncio.all_tasks()) <= tasks + 5, 15, what="the followers' tasks to end")
        await wait_until(lambda: _connections() <= connections, 15, what="the followers' connections to be closed")
        gc.collect()
        objects.append(len(gc.get_objects()))
    # Caches grow now and then; what each follower left behind would be there after every round.
    growth = min(after - before for before, after in itertools.pairwise(objects))
    assert growth < CLIENTS, f"each follower leaves something behind: {objects}"
    pool = http.platform.store.tenant_pool
    assert pool.get_idle_size() == pool.get_size(), "a connection to the database is still held"
    # Each open stream is counted against a limit: were any still counted, as many as are allowed could not be opened again.
    cancelled = await tenant.post(f"/executions/{execution_id}/cancel", {})
    assert cancelled.status_code == 202
    assert "execution_cancelled" in (await tenant.get(f"/executions/{execution_id}/events")).text


async def _followed_and_left(http: Http, tenant: Tenant, execution_id: str) -> None:
    """All clients see the first event; then half of them hang up and half just vanish."""
    bearer = http.bearer(tenant.id)["Authorization"]
    request = (
        f"GET {API}/executions/{execution_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n"
        "Accept: text/event-stream\r\n\r\n"
    )
    connections = await asyncio.gather(*(_sent(http, request.encode()) for _ in range(CLIENTS)))
    for reader, _ in connections:
        async with asyncio.timeout(20):
            await reader.readuntil(b"event: execution_started")
    for number, (_, writer) in enumerate(connections):
        if number % 2:
            writer.transport.abort()
        await _left(writer)


async def _sent(http: Http, data: bytes) -> Connection:
    address = urlsplit(http.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(data)
    return reader, writer


async def _left(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def _connections() -> int:
    """Of clients, both ends of which are in this process; the database is reached in another way."""
    return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process().net_connections("tcp"))
