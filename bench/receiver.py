# intent_ref: bench.load
"""A receiver of webhooks that costs little: `python -m bench.receiver PORT`. `GET /stats` tells what came to each path.

What is POSTed below `/slow` is answered after `SLOW_SECONDS`.
"""

import asyncio
import sys
import time
from typing import Any

import orjson
import uvloop

SLOW_SECONDS = 2.0
_OK = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
_counts: dict[str, int] = {}
_times = [0.0, 0.0]


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at > 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._take(head.split(b" ", 2)[1].decode())

    def _take(self, path: str) -> None:
        if path == "/stats":
            body = orjson.dumps({"counts": _counts, "first": _times[0], "last": _times[1]})
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n" % len(body) + body
            )
            return
        _counts[path] = _counts.get(path, 0) + 1
        if path.startswith("/slow"):
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._answer)
            return
        _times[1] = time.time()
        _times[0] = _times[0] or _times[1]
        self._transport.write(_OK)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_OK)


async def main(port: int) -> None:
    """Serves until it is ended."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
