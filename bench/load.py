# intent_ref: bench.load
"""A load generator that costs little: raw HTTP/1.1 over kept-alive connections, one request at a time on each.

Run as its own process: `python -m bench.load` with a JSON document on stdin; prints a JSON document.
"""

import asyncio
import itertools
import sys
import time
from typing import Any

import orjson
import uvloop


class _Connection(asyncio.Protocol):
    """One connection: sends the next request as soon as the answer to the last is whole."""

    def __init__(
        self, requests: Any, deadline: float, latencies: list[float], statuses: dict[int, int], failed: list[str]
    ) -> None:
        self._requests, self._deadline, self._latencies, self._statuses = requests, deadline, latencies, statuses
        self._failed = failed
        self._buffer = b""
        self._missing = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._deadline:
            self._transport.close()
            return
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            if self._missing <= 0:
                self._answered()
            return
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = self._buffer[:head].lower()
        place = headers.find(b"content-length:")
        length = (
            int(headers[place + 15 : headers.find(b"\r\n", place) if headers.find(b"\r\n", place) > 0 else head])
            if place > 0
            else 0
        )
        self._status = int(self._buffer[9:12])
        if self._status >= 300 and len(self._failed) < 3:
            self._failed.append(self._buffer.decode(errors="replace")[:800])
        self._missing = length - (len(self._buffer) - head - 4)
        if self._missing <= 0:
            self._answered()

    def _answered(self) -> None:
        self._missing, self._buffer = 0, b""
        self._latencies.append(time.perf_counter() - self._sent)
        self._statuses[self._status] = self._statuses.get(self._status, 0) + 1
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def request(method: str, path: str, token: str | None, body: bytes = b"") -> bytes:
    """One request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines.append("Content-Type: application/json")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _requests(job: dict[str, Any]) -> Any:
    token = job.get("token")
    if job["kind"] == "get":
        return itertools.cycle([request("GET", path, token) for path in job["paths"]])
    template = orjson.dumps(job["body"]).decode()
    path, method = job["path"], "POST"
    counter = itertools.count()
    run = job.get("run", "run")
    return (
        request(method, path, token, template.replace("$N", f"{run}-{next(counter)}").encode()) for _ in itertools.repeat(None)
    )


async def _run(job: dict[str, Any]) -> dict[str, Any]:
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    failed: list[str] = []
    requests = _requests(job)
    ports = job["ports"]
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    deadline = began + job["seconds"]
    connections = []
    for number in range(job["connections"]):
        _, connection = await loop.create_connection(
            lambda: _Connection(requests, deadline, latencies, statuses, failed), "127.0.0.1", ports[number % len(ports)]
        )
        connections.append(connection)
    await asyncio.gather(*(connection.done for connection in connections))
    seconds = time.perf_counter() - began
    latencies.sort()

    def at(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1e3 if latencies else 0.0

    return {
        "rate": len(latencies) / seconds, "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99),
        "statuses": {str(k): v for k, v in statuses.items()}, "failed": failed,
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(uvloop.run(_run(orjson.loads(sys.stdin.buffer.read())))).decode())
