# intent_ref: tests.modules
"""Modules over HTTP, against a server on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.catalogue import Caller, builtin, in_process
from modules.contract import Invocation, ModuleError
from modules.http import HttpModules


@dataclass
class Server:
    """Answers each request with `answer`, byte for byte, and keeps what it was asked."""

    port: int = 0
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
    hangs: bool = False
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/run"

    def says(self, status: int, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
        self.answer = "\r\n".join(lines).encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((first, headers, body))
                if self.hangs:
                    await asyncio.Event().wait()
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        made.hangs = False


@pytest.fixture
async def http() -> AsyncIterator[HttpModules]:
    modules = HttpModules(allow_private=True)
    yield modules
    await modules.close()


def asked(action: str = "do", **parameters: Any) -> Invocation:
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    return Invocation("tenant-1", "e", "s", action, 2, parameters, {"i": 1}, "production", "key-1", deadline, "00-a-b-01")


async def call(http: HttpModules, url: str, invocation: Invocation | None = None) -> Any:
    module = Module(
        ModuleName("remote"), (Action(ActionName("do")),), Transport("http", url=url), datetime.now(UTC), datetime.now(UTC)
    )
    return await Caller({}, http).call(module, invocation or asked(n=1))


async def failure(http: HttpModules, url: str) -> tuple[str, bool]:
    with pytest.raises(ModuleError) as raised:
        await call(http, url)
    return raised.value.code, raised.value.retryable


async def test_the_invocation_is_posted_with_its_key_trace_and_tenant(server: Server, http: HttpModules) -> None:
    server.says(200, b'{"done": [1, 2]}')
    assert await call(http, server.url) == {"done": [1, 2]}
    first, headers, body = server.requests[0]
    assert first == "POST /run HTTP/1.1"
    assert headers["idempotency-key"] == "key-1"
    assert headers["traceparent"] == "00-a-b-01"
    assert headers["quantum-tenant"] == "tenant-1"
    sent = orjson.loads(body)
    assert sent["deadline"].endswith("Z")
    assert sent == {
        "tenant_id": "tenant-1", "execution_id": "e", "step": "s", "action": "do", "attempt": 2, "parameters": {"n": 1},
        "inputs": {"i": 1}, "target": "production", "idempotency_key": "key-1", "deadline": sent["deadline"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (404, False), (409, False), (302, False), (408, True), (429, True), (500, True), (503, True)],
)
async def test_the_status_says_whether_another_attempt_can_help(
    server: Server, http: HttpModules, status: int, retryable: bool
) -> None:
    server.says(status, b"because", "Location: http://127.0.0.1:1/")
    assert await failure(http, server.url) == ("http-status", retryable)
    assert len(server.requests) == 1


async def test_an_empty_answer_is_no_result_and_one_that_is_not_json_is_an_error(server: Server, http: HttpModules) -> None:
    server.says(204)
    assert await call(http, server.url) is None
    server.says(200, b"<html>")
    assert await failure(http, server.url) == ("answer-not-json", True)


async def test_an_answer_that_is_too_long_is_given_up_while_reading(server: Server, http: HttpModules) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 300_000
    assert await failure(http, server.url) == ("result-too-large", False)


async def test_no_answer_before_the_deadline_is_a_timeout(server: Server, http: HttpModules) -> None:
    server.hangs = True
    late = replace(asked(), deadline=datetime.now(UTC) + timedelta(seconds=0.1))
    with pytest.raises(ModuleError) as raised:
        await call(http, server.url, late)
    assert (raised.value.code, raised.value.retryable) == ("timeout", True)


async def test_a_closed_port_a_broken_answer_and_an_unknown_name_are_worth_a_retry(server: Server, http: HttpModules) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await failure(http, f"http://127.0.0.1:{unused.getsockname()[1]}/") == ("unreachable", True)
    server.answer = b"this is not HTTP\r\n\r\n"
    assert await failure(http, server.url) == ("unreachable", True)
    assert await failure(http, "http://no-such-host.invalid/") == ("unreachable", True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
async def test_an_address_inside_is_refused_before_anything_is_sent(server: Server, host: str) -> None:
    guarded = HttpModules()
    assert await failure(guarded, f"http://{host}:{server.port}/") == ("address-forbidden", False)
    assert not server.requests
    await guarded.close()


async def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    server: Server, http: HttpModules, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["127.0.0.1", "127.0.0.2"])
    asked_for: list[str] = []

    async def rebinding(host: str, port: int, **_more: Any) -> Any:
        asked_for.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebinding)
    assert await call(http, f"http://rebind.example:{server.port}/run") == {}
    assert asked_for == ["rebind.example"]
    assert server.requests[0][1]["host"] == f"rebind.example:{server.port}"


async def test_a_name_with_one_address_inside_is_refused_whatever_the_others_are(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mixed(_host: str, port: int, **_more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("1.1.1.1", "169.254.169.254")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", mixed)
    guarded = HttpModules()
    assert await failure(guarded, f"http://mixed.example:{server.port}/") == ("address-forbidden", False)
    await guarded.close()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/", "http://", "http://u:p@x/", "http://x:99999/", "x", "http://[::"]
)
async def test_a_url_that_is_none_is_refused(http: HttpModules, url: str) -> None:
    assert await failure(http, url) == ("url-invalid", False)


async def test_the_built_in_action_makes_one_request_and_reports_it(server: Server, http: HttpModules) -> None:
    server.says(201, b'{"id": 7}', "Content-Type: application/json", "Set-Cookie: secret=1")
    running = in_process(http, sandbox=False)
    module = builtin(running).by_name["http"]
    result = await Caller(running, http).call(
        module, asked("http.request", url=server.url, method="PUT", headers={"X-One": "1", "Host": "evil"}, body={"a": 1})
    )
    assert result["status"] == 201
    assert result["body"] == {"id": 7}
    assert "set-cookie" not in result["headers"]
    first, headers, body = server.requests[0]
    assert (first, body) == ("PUT /run HTTP/1.1", b'{"a":1}')
    assert headers["x-one"] == "1"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "parameters", [{}, {"url": 1}, {"url": "http://x/", "method": "TRACE"}, {"url": "http://x/", "headers": {"a": 1}}]
)
async def test_a_request_that_makes_no_sense_is_refused_by_the_schema(http: HttpModules, parameters: dict[str, Any]) -> None:
    running = in_process(http, sandbox=False)
    with pytest.raises(ModuleError) as raised:
        await Caller(running, http).call(builtin(running).by_name["http"], asked("http.request", **parameters))
    assert (raised.value.code, raised.value.retryable) == ("input-invalid", False)


async def test_a_header_that_would_smuggle_another_is_refused(server: Server, http: HttpModules) -> None:
    running = in_process(http, sandbox=False)
    with pytest.raises(ModuleError) as raised:
        await Caller(running, http).call(
            builtin(running).by_name["http"], asked("http.request", url=server.url, headers={"X": "1\r\nY: 2"})
        )
    assert (raised.value.code, raised.value.retryable) == ("request-invalid", False)
    assert not server.requests
