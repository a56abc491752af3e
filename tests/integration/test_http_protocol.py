# intent_ref: quantum.http-protocol
"""How answers leave: what uvicorn would send, head and body together, and no header that smuggles another one in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quantum.http_protocol import HttpProtocol, _Joining


async def pieces() -> AsyncIterator[bytes]:
    """A body of unknown length."""
    yield b"one"
    yield b"two"


ANSWERS: dict[str, Any] = {
    "/plain": lambda: Response(b"hello", headers={"X-One": "1", "X-Two": "a\tb, c"}, media_type="application/json"),
    "/empty": lambda: Response(status_code=204),
    "/unchanged": lambda: Response(status_code=304, headers={"ETag": '"1"'}),
    "/stream": lambda: StreamingResponse(pieces()),
    "/last": lambda: Response(b"bye", headers={"Connection": "close"}),
    "/smuggled": lambda: Response(b"", headers={"X-One": "1\r\nX-Evil: yes"}),
    "/smuggled-line": lambda: Response(b"", headers={"X-One": "1\nX-Evil: yes"}),
    "/smuggled-name": lambda: Response(b"", headers={"X-One\r\nX-Evil": "yes"}),
    "/control": lambda: Response(b"", headers={"X-One": "a\0b"}),
    "/bodies": lambda: Response(b"longer than it says", headers={"Content-Length": "3"}),
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers by its address, once it has the body."""
    await Request(scope, receive).body()
    await ANSWERS[scope["path"]]()(scope, receive, send)


@asynccontextmanager
async def served(protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    """`app` behind a protocol; the port."""
    config = uvicorn.Config(
        app, port=0, http=protocol, ws="none", lifespan="off", log_config=None, server_header=False, date_header=False
    )  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def said(port: int, request: bytes) -> bytes:
    """Everything that comes until the server closes, after `request` and a last one that asks for that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def asked(path: str, method: str = "GET", version: str = "1.1", more: str = "") -> bytes:
    """A request."""
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{more}\r\n".encode()


LAST = asked("/last")
CONVERSATIONS = [
    asked("/plain") + LAST, asked("/plain", "HEAD") + LAST, asked("/empty") + LAST, asked("/unchanged") + LAST,
    asked("/stream") + LAST, asked("/plain", version="1.0"), asked("/plain", more="Connection: close\r\n"),
    asked("/plain") * 3 + LAST, asked("/bodies"), asked("/plain", "POST", more="Content-Length: 2\r\n") + b"{}" + LAST,
    asked("/plain", "POST", more="Content-Length: 2\r\nExpect: 100-continue\r\n") + b"{}" + LAST,
]  # fmt: skip


async def test_what_leaves_is_what_uvicorn_would_send():
    async with served(HttpProtocol) as ours, served(HttpToolsProtocol) as theirs:
        for conversation in CONVERSATIONS:
            answer = await said(ours, conversation)
            assert answer == await said(theirs, conversation), conversation
            assert answer


@pytest.mark.parametrize("path", ["/smuggled", "/smuggled-line", "/smuggled-name", "/control"])
async def test_no_header_smuggles_another_one_in(path: str):
    async with served(HttpProtocol) as port:
        answer = await said(port, asked(path))
    assert answer == b""  # uvicorn cuts the connection


async def test_head_and_body_leave_together():
    class Recorder:
        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.written.append(data)

        def close(self) -> None:
            self.written.append(b"closed")

    recorder = Recorder()
    transport = _Joining(recorder, asyncio.get_running_loop())
    transport.write(b"head ")
    transport.write(b"body")
    assert recorder.written == []
    await asyncio.sleep(0)
    assert recorder.written == [b"head body"]
    transport.write(b"last")
    transport.close()
    assert recorder.written == [b"head body", b"last", b"closed"]
