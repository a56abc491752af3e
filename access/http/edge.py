# intent_ref: access.edge
"""What every request passes first: its correlation id, the limit of its body, and the headers every answer carries.

One ASGI middleware for all three, because each layer costs every request.
"""

import asyncio
import contextlib
import re
from typing import Any, Final, NoReturn

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.http.handlers import problem_of
from access.http.problems import Problem, response
from event_store.ids import uuid7

CORRELATION_HEADER: Final = b"quantum-correlation-id"
_CORRELATION_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_EVERYWHERE: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_NO_CONTENT_TO_RUN: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_NO_STORE: Final = (b"cache-control", b"no-store")
_DISCARDED_BYTES_MAX: Final = 64 << 20
_DISCARD_SECONDS_MAX: Final = 10.0

log = structlog.get_logger(__name__)


class Edge:
    """Wraps the application. `pages` are paths of HTML pages, which may load what they show."""

    def __init__(self, app: ASGIApp, *, request_bytes_max: int = 1 << 20, pages: frozenset[str] = frozenset({"/docs"})) -> None:
        self._app, self._request_bytes_max, self._pages = app, request_bytes_max, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request; one that fails in a way nobody foresaw is logged and answered with a 500 that tells nothing."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length, correlation_id = _look_at(scope)
        scope["quantum.correlation_id"] = correlation_id.decode("ascii")
        answer = _Answer(scope, send, correlation_id, has_page=scope["path"] in self._pages)
        body = _LimitedBody(receive, self._request_bytes_max)
        try:
            if length is not None and length > self._request_bytes_max:
                await body.refuse(scope)
            await self._app(scope, body.receive, answer.send)
        except Exception as fault:
            problem = problem_of(fault)
            if problem.code == "internal-error":
                route = getattr(scope.get("route"), "path", "none")  # the address itself may hold a token
                log.error("a request failed", route=route, method=scope["method"], exc_info=fault)
            if not answer.has_started:
                await response(HTTPConnection(scope), problem)(scope, receive, answer.send)
            elif not answer.has_ended:
                raise  # the client must not take a part for the whole: the server cuts the connection


class _Answer:
    """Adds the headers to an answer as it starts, and notes its status in the scope, for what measures requests."""

    __slots__ = ("_correlation_id", "_has_page", "_scope", "_send", "has_ended", "has_started")

    def __init__(self, scope: Scope, send: Send, correlation_id: bytes, *, has_page: bool) -> None:
        self._scope, self._send, self._correlation_id, self._has_page = scope, send, correlation_id, has_page
        self.has_started = self.has_ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self._scope["quantum.status"] = message["status"]
            headers: list[Any] = list(message.get("headers", ()))
            headers += _EVERYWHERE
            headers.append((CORRELATION_HEADER, self._correlation_id))
            if not self._has_page:
                headers.append(_NO_CONTENT_TO_RUN)
            if b"cache-control" not in [name for name, _ in headers]:
                headers.append(_NO_STORE)
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.has_ended = True
        await self._send(message)


class _LimitedBody:
    """Counts the body as it comes in, for those that do not say its length or say it wrong."""

    __slots__ = ("_bytes_max", "_receive", "_received")

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive, self._bytes_max, self._received = receive, bytes_max, 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._bytes_max:
                await self._discard(message.get("more_body", False))
                raise self._problem()
        return message

    async def refuse(self, scope: Scope) -> NoReturn:
        """Raises the problem at once where the client waits for leave to send, else when it has sent."""
        if not any(name == b"expect" for name, _ in scope["headers"]):
            await self._discard(True)
        raise self._problem()

    async def _discard(self, has_more: bool) -> None:
        """Reads on without keeping anything: a client that is still sending would lose the answer with the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS_MAX):
                while has_more and self._received < _DISCARDED_BYTES_MAX:
                    message = await self._receive()
                    self._received += len(message.get("body", b""))
                    has_more = message["type"] == "http.request" and message.get("more_body", False)

    def _problem(self) -> Problem:
        sentence = f"A request may have {self._bytes_max} bytes at most."
        return Problem("body-too-large", sentence, headers={"Connection": "close"})


def _look_at(scope: Scope) -> tuple[int | None, bytes]:
    """The length the request says it has, and its correlation id: the client's where it is fit to be logged and stored."""
    length: int | None = None
    correlation_id: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            length = int(value[:20])
        elif name == CORRELATION_HEADER and _CORRELATION_ID.fullmatch(value):
            correlation_id = value
    return length, correlation_id or str(uuid7()).encode("ascii")
