# intent_ref: tests.webhooks
"""Receivers of webhooks for tests: a real HTTP server on loopback that answers as it is told, and keeps what it got."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

_REASONS = {200: "OK", 204: "No Content", 301: "Moved", 410: "Gone", 429: "Too Many Requests", 500: "Error", 503: "Away"}


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The CloudEvent."""
        found: dict[str, Any] = orjson.loads(self.body)
        return found

    @property
    def id(self) -> str:
        """The webhook-id."""
        return self.headers["webhook-id"]


@dataclass
class Answer:
    """What to answer with; `wait` is set by the test when the answer may go."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    wait: asyncio.Event | None = None


@dataclass
class Receiver:
    """A receiver; `answer` decides, request by request."""

    answer: Callable[[Received], Answer]
    received: list[Received] = field(default_factory=list)
    port: int = 0
    open: int = 0
    open_most: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def subjects(self) -> list[tuple[str, int]]:
        """(subject, sequence) of what came in, in order."""
        return [(one.event["subject"], int(one.event["sequence"])) for one in self.received]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                got = Received(first.split()[1], headers, body)
                self.received.append(got)
                self.open += 1
                self.open_most = max(self.open_most, self.open)
                try:
                    said = self.answer(got)
                    if said.wait is not None:
                        await said.wait.wait()
                finally:
                    self.open -= 1
                lengths = {"Content-Length": str(len(said.body)), **said.headers}
                top = [
                    f"HTTP/1.1 {said.status} {_REASONS.get(said.status, 'Status')}",
                    *(f"{k}: {v}" for k, v in lengths.items()),
                ]
                writer.write("\r\n".join([*top, "", ""]).encode() + said.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiver(
    answer: Callable[[Received], Answer] | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:  # fmt: skip
    """A receiver that answers 200 unless told otherwise; over TLS with a context of a server."""
    made = Receiver(answer or (lambda _got: Answer()))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
