# intent_ref: modules.http
"""Modules reached over HTTP, and the built-in module `http` whose action `http.request` makes one request.

Built on httpcore, which httpx stands on: its network backend is where an address can be checked and used without a second
look-up, it follows no redirects, reads no proxy from the environment and unpacks nothing, all of which is wanted here.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore
import orjson

from domain.immutable import immutable
from domain.module import Action, Module, Transport
from domain.values import ActionName, ModuleName
from modules.addresses import AddressForbidden, CheckedNetwork
from modules.callbacks import Callbacks
from modules.contract import Deferred, Invocation, ModuleError
from modules.signing import signed

NAME = ModuleName("http")
REQUEST = ActionName("http.request")
RESPONSE_BYTES_MAX = 262_144
_URL_CHARS_MAX = 2_048
_CONNECTIONS_MAX = 200
_HEADERS_MAX = 50
_RETRYABLE = frozenset({408, 425, 429})
_RETRY_AFTER_SECONDS_MAX = 86_400
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect",
                   "keep-alive", "proxy-authorization", "proxy-connection", "accept-encoding"})  # fmt: skip
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_REQUEST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["url"],
    "properties": {
        "url": {"type": "string", "maxLength": _URL_CHARS_MAX},
        "method": {"enum": sorted(_METHODS)},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": _HEADERS_MAX},
        "body": {},
    },
}


@immutable
class Answer:
    """What came back, within the bounds of its `HttpModules`."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpModules:
    """One pool of connections for all of them. `allow_private` lets modules be reached inside the platform's network.

    With `callbacks`, a module may answer 202 and come back later. `answer_bytes_max` bounds what one answer may be.
    """

    def __init__(
        self, *, allow_private: bool = False, callbacks: Callbacks | None = None, answer_bytes_max: int = RESPONSE_BYTES_MAX
    ) -> None:
        self._callbacks, self._answer_bytes_max = callbacks, answer_bytes_max
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(), max_connections=_CONNECTIONS_MAX, max_keepalive_connections=50,
            keepalive_expiry=15, network_backend=CheckedNetwork(allow_private=allow_private),
        )  # fmt: skip
        action = Action(REQUEST, input_schema=_REQUEST_SCHEMA)
        self.module = Module(NAME, (action,), Transport("in-process", plugin=NAME), _EPOCH, _EPOCH)

    async def close(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()

    async def ask(self, url: str, invocation: Invocation, signing_secret: str | None = None) -> Any:
        """POSTs the invocation to a module and returns its JSON answer, or `Deferred`; raises `ModuleError`."""
        headers = {
            "Content-Type": "application/json", "Accept": "application/json", "Quantum-Tenant": invocation.tenant_id,
            **_provenance(invocation),
        }  # fmt: skip
        body = {
            "tenant_id": invocation.tenant_id, "execution_id": invocation.execution_id, "step": invocation.step,
            "action": invocation.action, "attempt": invocation.attempt, "target": invocation.target,
            "parameters": invocation.parameters, "inputs": invocation.inputs,
            "idempotency_key": invocation.idempotency_key, "deadline": invocation.deadline,
        }  # fmt: skip
        if self._callbacks is not None:
            offer = self._callbacks.issue(
                invocation.tenant_id, invocation.execution_id, invocation.step, invocation.attempt, invocation.deadline
            )  # fmt: skip
            body |= {"callback_url": offer.url, "callback_token": offer.token}
        content = orjson.dumps(body, option=orjson.OPT_UTC_Z)
        if signing_secret is not None:
            headers |= signed(signing_secret, invocation.idempotency_key, datetime.now(UTC), content)
        answer = await self._send("POST", url, headers, content, invocation.deadline)
        _check_status(answer)
        if answer.status == 202 and self._callbacks is not None:
            return Deferred("The module answered 202: it will say by callback what came of it.")
        if not answer.body:
            return None
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError as fault:
            raise ModuleError("answer-not-json", f"The module answered {answer.status} with a body that is not JSON.") from fault

    async def call(self, invocation: Invocation) -> dict[str, Any]:
        """The action `http.request`: status, headers and body (JSON where it says so, else text) of one request."""
        wanted = invocation.parameters
        method, body = str(wanted.get("method", "GET")), wanted.get("body")
        headers = {name: value for name, value in wanted.get("headers", {}).items() if name.lower() not in _OURS}
        named = {name.lower() for name in headers}
        headers.update({name: value for name, value in _provenance(invocation).items() if name.lower() not in named})
        content = b""
        if isinstance(body, str):
            content = body.encode("utf-8", "surrogatepass")
        elif body is not None:
            content = orjson.dumps(body)
            if "content-type" not in named:
                headers["Content-Type"] = "application/json"
        answer = await self._send(method, str(wanted["url"]), headers, content, invocation.deadline)
        _check_status(answer)
        return {"status": answer.status, "headers": answer.headers, "body": _body(answer)}

    async def _send(self, method: str, url: str, headers: Mapping[str, str], content: bytes, deadline: datetime) -> Answer:
        _check_url(url)
        seconds = max(0.001, (deadline - datetime.now(UTC)).total_seconds())
        limits = {"timeout": {"connect": min(seconds, 10.0), "read": seconds, "write": seconds, "pool": seconds}}
        try:
            sent: Sequence[tuple[bytes, bytes]] = [(k.encode("ascii"), v.encode("latin-1")) for k, v in headers.items()]
            async with (
                asyncio.timeout(seconds),
                self._pool.stream(method, url, headers=sent, content=content, extensions=limits) as response,
            ):
                return Answer(response.status, _readable(response.headers), await _bounded(response, self._answer_bytes_max))
        except AddressForbidden as fault:
            raise ModuleError("address-forbidden", str(fault), retryable=False) from fault
        except (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol, UnicodeError) as fault:
            raise ModuleError("request-invalid", f"The request cannot be sent as it is: {fault}", retryable=False) from fault
        except (TimeoutError, httpcore.TimeoutException) as fault:
            raise ModuleError("timeout", f"{_host(url)} did not answer in time.") from fault
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as fault:
            detail = str(fault) or type(fault).__name__
            raise ModuleError("unreachable", f"{_host(url)} could not be reached: {detail}") from fault


async def _bounded(response: httpcore.Response, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > bytes_max:
            raise ModuleError("result-too-large", f"The answer is longer than {bytes_max:,} bytes.", retryable=False)
    return bytes(body)


def _provenance(invocation: Invocation) -> dict[str, str]:
    headers = {"Idempotency-Key": invocation.idempotency_key, "User-Agent": "Quantum"}
    if invocation.traceparent:
        headers["traceparent"] = invocation.traceparent
    return headers


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or len(url) > _URL_CHARS_MAX:
        raise ModuleError("url-invalid", "A module's URL is an absolute http or https address.", retryable=False)
    if parts.username is not None or parts.password is not None:
        raise ModuleError("url-invalid", "A module's URL holds no user name or password.", retryable=False)


def _check_status(answer: Answer) -> None:
    if 200 <= answer.status < 300:
        return
    text = answer.body[:2_000].decode("utf-8", "replace").replace("\0", "\ufffd")
    if 300 <= answer.status < 400:
        message, retryable = f"The answer was a redirect ({answer.status}), and redirects are not followed.", False
    else:
        message, retryable = f"The answer was {answer.status}.", answer.status >= 500 or answer.status in _RETRYABLE
    details: dict[str, Any] = {"status": answer.status, "body": text}
    if retryable and (wait := answer.headers.get("retry-after", "")).isdecimal() and len(wait) < 10:
        details["retry_after_seconds"] = min(int(wait), _RETRY_AFTER_SECONDS_MAX)
    raise ModuleError("http-status", message, retryable=retryable, details=details)


def _readable(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """At most 50 headers, without those that carry credentials back."""
    plain = {name.decode("latin-1").lower(): value.decode("latin-1")[:1_000] for name, value in headers[:_HEADERS_MAX]}
    return {name: value for name, value in plain.items() if name not in ("set-cookie", "www-authenticate")}


def _body(answer: Answer) -> Any:
    if "json" in answer.headers.get("content-type", ""):
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            pass
    return answer.body.decode("utf-8", "replace").replace("\0", "\ufffd")


def _host(url: str) -> str:
    return urlsplit(url).hostname or "The module"
