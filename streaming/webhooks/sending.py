# intent_ref: streaming.webhooks-sending
"""One POST to a receiver, and what came of it. Redirects are not followed; no proxy of the environment is used.

Each subscription has connections of its own: no two of them, nor two tenants, ever share one, and none can use up another's.
They are httpcore's connections without its pool, which looks through all of them at every request. Where a name leads is the
business of the network backend that is given, which checks the address it then connects to.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import httpcore
import orjson

from streaming.webhooks.deliveries import Attempt, retry_after_seconds

Key = tuple[str, str]
"""(tenant, subscription)"""

EXCERPT_CHARS_MAX: Final = 512
RESPONSE_BYTES_MAX: Final = 16_384
_CONNECT_SECONDS_MAX: Final = 5.0
_CLOSE_SECONDS_MAX: Final = 2.0
_IDLE_SECONDS: Final = 20.0
_HEADERS_READ_MAX: Final = 100
_UNSAID_CHARS_MIN: Final = 6
_UNSAID: Final = "(redacted)"
_PORTS: Final = {b"http": 80, b"https": 443}


@dataclass(slots=True)
class _Endpoint:
    """A subscription's address, and its connections that nobody uses at the moment: the last used comes first."""

    text: str
    url: httpcore.URL
    host: bytes
    used_at: float
    idle: list["_Connection"] = field(default_factory=list)


@dataclass(slots=True)
class _Said:
    """What has come of a request so far."""

    status: int | None = None
    response: str = ""
    retry_after: float | None = None


class _InOnePiece(httpcore.AsyncNetworkStream):
    """Keeps what is written until an answer is read, so that a request goes out in one piece and not in four.

    `is_silent` until a byte of the answer to the last request has come.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._written: list[bytes] = []
        self.is_silent = True

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._written.append(buffer)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._written:
            request = b"".join(self._written)
            self._written.clear()
            self.is_silent = True
            # Who stops reading may have answered already: the answer counts, so it is read all the same.
            with contextlib.suppress(httpcore.WriteError):
                await self._stream.write(request, timeout)
        answer = await self._stream.read(max_bytes, timeout)
        self.is_silent = self.is_silent and not answer
        return answer

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Connection(httpcore.AsyncHTTP11Connection):
    """A connection that knows whether anything came back since the last request."""

    def __init__(self, origin: httpcore.Origin, stream: _InOnePiece) -> None:
        super().__init__(origin, stream, keepalive_expiry=_IDLE_SECONDS)
        self._own_stream = stream

    @property
    def is_silent(self) -> bool:
        """True where not a byte of an answer has come."""
        return self._own_stream.is_silent


class Sender:
    """Sends over HTTP/1.1. `forbidden` are what `network` raises for addresses that may not be reached.

    `tls` says whom to trust: the machine's certificate authorities unless given. The certificate has to be for the name in the
    URL, whichever address that led to.
    """

    def __init__(
        self, network: httpcore.AsyncNetworkBackend, forbidden: tuple[type[Exception], ...], *, timeout_seconds: float,
        clock: Callable[[], datetime], tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._network, self._forbidden, self._timeout, self._clock = network, forbidden, timeout_seconds, clock
        self._tls = tls or ssl.create_default_context()
        self._endpoints: dict[Key, _Endpoint] = {}

    async def send(self, key: Key, url: str, headers: Mapping[str, str], body: bytes, *, unsaid: Collection[str] = ()) -> Attempt:
        """POSTs `body`; ends within the timeout, and never raises but when it is cancelled.

        What is `unsaid` is not repeated in the attempt, though the receiver may say it: some answer with what they were sent.
        """
        loop = asyncio.get_running_loop()
        at, began, said, error = self._clock(), loop.time(), _Said(), None
        try:
            async with asyncio.timeout(self._timeout):
                endpoint = await self._endpoint(key, url)
                await self._post(endpoint, headers, body, said, at, unsaid)
        except Exception as fault:
            error = self._in_words(fault)
        if said.status is not None:
            # Whether it was taken was said with the status, whatever became of the answer's body.
            is_taken = 200 <= said.status < 300
            error = None if is_taken else "redirect-not-followed" if 300 <= said.status < 400 else f"status-{said.status}"
        return Attempt(at, loop.time() - began, said.status, error, said.response, said.retry_after)

    async def _post(
        self, endpoint: _Endpoint, headers: Mapping[str, str], body: bytes, said: _Said, at: datetime, unsaid: Collection[str]
    ) -> None:
        sent = [(b"Host", endpoint.host), (b"Content-Length", b"%d" % len(body))]
        sent += [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        request = httpcore.Request(b"POST", endpoint.url, headers=sent, content=body)
        connection, is_used = await self._connection(endpoint)
        try:
            try:
                answer = await connection.handle_async_request(request)
            except (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError):
                if not is_used or not connection.is_silent:
                    raise
                # The receiver has closed a connection that was kept for it: that says nothing about this request.
                await _close(connection)
                connection = await self._connect(endpoint)
                answer = await connection.handle_async_request(request)
            said.status = answer.status
            said.retry_after = _retry_after(answer, at)
            said.response = await _excerpt(answer, unsaid)
            await answer.aclose()
        finally:
            if connection.is_idle():
                endpoint.idle.append(connection)
            elif not connection.is_closed():
                await _close(connection)

    async def _connection(self, endpoint: _Endpoint) -> tuple[_Connection, bool]:
        """(connection, whether it was used before)"""
        while endpoint.idle:
            connection = endpoint.idle.pop()
            if not connection.has_expired():
                return connection, True
            await _close(connection)
        return await self._connect(endpoint), False

    async def _connect(self, endpoint: _Endpoint) -> _Connection:
        origin = endpoint.url.origin
        host = origin.host.decode("ascii")
        seconds = min(_CONNECT_SECONDS_MAX, self._timeout)
        stream = await self._network.connect_tcp(host, origin.port, timeout=seconds)
        if origin.scheme == b"https":
            try:
                stream = await stream.start_tls(self._tls, server_hostname=host, timeout=seconds)
            except BaseException:
                with contextlib.suppress(Exception):
                    await stream.aclose()
                raise
        return _Connection(origin, _InOnePiece(stream))

    async def _endpoint(self, key: Key, url: str) -> _Endpoint:
        found = self._endpoints.get(key)
        now = asyncio.get_running_loop().time()
        if found is None or found.text != url:
            parsed = httpcore.URL(url)
            port = parsed.port
            name = b"[%s]" % parsed.host if b":" in parsed.host else parsed.host
            host = name if port in (None, _PORTS.get(parsed.scheme)) else b"%s:%d" % (name, port)
            self._endpoints[key] = endpoint = _Endpoint(url, parsed, host, now)
            if found is not None:
                await _close_all(found)
            return endpoint
        found.used_at = now
        return found

    def _in_words(self, fault: Exception) -> str:
        """A short, stable word for what went wrong. Nothing of our own network is told: neither names nor addresses."""
        if isinstance(fault, self._forbidden):
            return "address-forbidden"
        if isinstance(fault, TimeoutError | httpcore.TimeoutException):
            return "timeout"
        if isinstance(fault, ssl.SSLError) or isinstance(fault.__cause__, ssl.SSLError) or "certificate" in str(fault).lower():
            return "tls-refused"
        if isinstance(fault, httpcore.ConnectError):
            return "unreachable"
        if isinstance(fault, httpcore.LocalProtocolError | httpcore.UnsupportedProtocol | UnicodeError):
            return "request-invalid"
        if isinstance(fault, httpcore.NetworkError | OSError):
            return "connection-lost"
        return "answer-not-http"

    async def tidy(self) -> None:
        """Closes connections that nobody has used for a while."""
        now = asyncio.get_running_loop().time()
        for key in [key for key, one in self._endpoints.items() if now - one.used_at > _IDLE_SECONDS + self._timeout]:
            await _close_all(self._endpoints.pop(key))

    async def close(self) -> None:
        """Closes everything."""
        while self._endpoints:
            await _close_all(self._endpoints.popitem()[1])


async def _close_all(endpoint: _Endpoint) -> None:
    while endpoint.idle:
        await _close(endpoint.idle.pop())


async def _close(connection: _Connection) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_SECONDS_MAX):
            await connection.aclose()


def _retry_after(answer: httpcore.Response, now: datetime) -> float | None:
    if answer.status < 300:
        return None
    for name, value in answer.headers[:_HEADERS_READ_MAX]:
        if name.lower() == b"retry-after":
            return retry_after_seconds(value.decode("latin-1"), now)
    return None


async def _excerpt(answer: httpcore.Response, unsaid: Collection[str]) -> str:
    """The beginning of the body. A longer one than `RESPONSE_BYTES_MAX` is not read to its end: that closes the connection."""
    body = bytearray()
    async for chunk in answer.aiter_stream():
        body += chunk
        if len(body) > RESPONSE_BYTES_MAX:
            break
    text = body.decode("utf-8", "replace")
    for value in sorted(unsaid, key=len, reverse=True):
        # Shorter ones are no credentials, and would be found in the middle of words.
        if len(value) >= _UNSAID_CHARS_MIN:
            for form in {value, orjson.dumps(value).decode()[1:-1]}:
                text = text.replace(form, _UNSAID)
    text = text[:EXCERPT_CHARS_MAX]
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
