# intent_ref: quantum.http-protocol
"""What arrives on a connection before it is a request: bounded in size and time, and refused with a problem document.

uvicorn's own protocol waits for ever for a request that never ends, keeps heads of any size, and answers what is not HTTP with
a line of text.
"""

import asyncio
import re
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from access.http.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX
from event_store.ids import uuid7

HEAD_BYTES_MAX: Final = 128 << 10
"""The request line with all headers; more than any client of ours needs, and room to say that a token is too long."""
ARRIVAL_SECONDS_MAX: Final = 60.0
"""From the first byte of a request to its last, or from the connection to the end of its first request."""
_UPGRADE: Final = re.compile(rb"^upgrade(?=[ \t]*:)", re.IGNORECASE | re.MULTILINE)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MALFORMED: Final = "What came is not an HTTP/1.1 request."


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits. Between requests its own limit for idle connections holds."""

    _has_arrived = False
    _is_in_head = True
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The time for the first request begins."""
        joining: Any = _Joining(transport, self.loop)
        super().connection_made(joining)
        self._deadline = self.loop.call_later(ARRIVAL_SECONDS_MAX, self._is_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._has_arrived, self._is_in_head, self._head_bytes = False, True, 0

    def on_headers_complete(self) -> None:
        """The request can be answered from here on; its body is bounded elsewhere."""
        self._is_in_head = False
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _Cycle

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._has_arrived = True
        if self._deadline is not None:
            self._stop_waiting()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Most requests come whole, in one piece; only what is in pieces is counted and timed."""
        if (b"pgrade" in data or b"PGRADE" in data) and (self._has_arrived or self._is_in_head):
            data = _without_upgrade(data)
        super().data_received(data)
        if self._has_arrived or self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse("head-too-large", f"Address and headers may have {HEAD_BYTES_MAX} bytes at most.")
                return
        if self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_SECONDS_MAX, self._is_too_slow)

    def send_400_response(self, msg: str) -> None:
        """For what the parser does not take."""
        self._refuse("request-invalid", _MALFORMED)

    def _is_too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self._refuse("request-too-slow", f"A request must have arrived within {ARRIVAL_SECONDS_MAX:.0f} seconds.")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, code: str, detail: str) -> None:
        """Answers, unless another answer is under way on the connection, and closes it."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            kind, correlation_id = KINDS[code], str(uuid7())
            document = {
                "type": TYPE_PREFIX + code, "title": kind.title, "status": kind.status, "detail": detail, "instance": "/",
                "trace_id": correlation_id, "code": code,
            }  # fmt: skip
            body = orjson.dumps(document)
            head = (
                f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nquantum-correlation-id: {correlation_id}\r\n"
                "x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[kind.status] + head.encode("ascii") + body)
        self.transport.close()


class _Cycle(RequestResponseCycle):
    """uvicorn's, for which the head of an answer is put together and looked at as a whole. It holds each name and value against
    an expression of its own, which takes 15 µs for the dozen headers that ours have."""

    async def send(self, message: Any) -> None:
        """As `RequestResponseCycle.send`, which still does what is not plain: streams, last answers of a connection, faults."""
        if self.response_started or not self.keep_alive or self.disconnected or self.flow.write_paused:
            await super().send(message)
            return
        headers = [*self.default_headers, *message.get("headers", ())]
        found = dict(headers)
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        is_plain = b"content-length" in found and b"connection" not in found and b"transfer-encoding" not in found
        if not is_plain or not len(headers) == head.count(b"\r") == head.count(b"\n") or _CONTROL.search(head) is not None:
            await super().send(message)
            return
        self.response_started, self.waiting_for_100_continue, self.chunked_encoding = True, False, False
        self.expected_content_length = int(found[b"content-length"])
        self.transport.write(STATUS_LINE[message["status"]] + head + b"\r\n")


class _Joining:
    """A transport that sends what is written in one round of the loop together: an answer's head and body cost one call of the
    system, and its reader one packet."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends `data` soon, behind what was written before."""
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)

    def close(self) -> None:
        """Sends what is written, then closes."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._transport.write(written[0] if len(written) == 1 else b"".join(written))


def _without_upgrade(data: bytes) -> bytes:
    """Takes an offer of another protocol (HTTP/2, say) out of a head: the parser would drop the body of such a request."""
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"x-offer", head) + end + body
