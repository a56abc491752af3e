# intent_ref: quantum.client
"""A small async client of the HTTP API: requests as they are, events as dicts, lost connections taken up again."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx
import orjson

ENDING = frozenset({"execution_completed", "execution_failed", "execution_cancelled", "execution_terminated"})
RECONNECTS_MAX = 60
_PAUSE_SECONDS_MAX = 5.0
_PAUSE_SECONDS_MIN = 0.1
_SILENCE_SECONDS_MAX = 60.0
_TRY_AGAIN = frozenset({502, 503, 504})


class QuantumError(Exception):
    """The platform answered with an error. `problem` is its RFC 9457 document, where it sent one."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        try:
            body = response.json()
        except ValueError:
            body = None
        self.problem: dict[str, Any] = body if isinstance(body, dict) else {}
        said = self.problem.get("detail") or self.problem.get("title") or response.reason_phrase
        faults = "".join(f"\n  {e.get('pointer', '')}: {e.get('detail', '')}" for e in self.problem.get("errors") or ())
        super().__init__(f"{self.status}: {said}{faults}")


class Response:
    """An `httpx.Response` whose JSON members can be read directly: `response["id"]`.

    Reading a member of an error's answer raises `QuantumError` with what the platform said.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def __getitem__(self, key: Any) -> Any:
        if self._response.is_error:
            raise QuantumError(self._response)
        return self._response.json()[key]

    def __contains__(self, key: object) -> bool:
        return not self._response.is_error and key in self._response.json()

    def __repr__(self) -> str:
        return f"<Response [{self._response.status_code}]>"


class Client:
    """Talks to the platform at `base_url` with a bearer `token`. Close it, or use it as an async context manager.

    `timeout_seconds` holds for each request, not for streams.
    """

    def __init__(self, base_url: str, token: str, *, timeout_seconds: float = 30.0, **httpx_options: Any) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_seconds,
            **httpx_options,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def set_tenant(self, tenant_id: str) -> None:
        """Speaks for this tenant from now on; the token must cover it."""
        self._http.headers["X-Tenant-Id"] = tenant_id

    async def request(self, method: str, path: str, **options: Any) -> Response:
        """Any request; options are those of `httpx.AsyncClient.request`. Error statuses are answers, not exceptions."""
        return Response(await self._http.request(method, path, **options))

    async def get(self, path: str, **options: Any) -> Response:
        """GET `path`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Response:
        """POST to `path`, with `json=` as the body."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> Response:
        """PUT to `path`, with `json=` as the body."""
        return await self.request("PUT", path, **options)

    async def delete(self, path: str, **options: Any) -> Response:
        """DELETE `path`."""
        return await self.request("DELETE", path, **options)

    async def stream(self, path: str, *, last_event_id: str | None = None) -> AsyncGenerator[dict[str, Any]]:
        """The events of `path` as dicts: history, then live, to the end of the stream.

        A lost connection is taken up again after the last event that came, so each event comes once. Raises `QuantumError`
        when the platform refuses, and the last `httpx` error when it cannot be reached for some minutes.
        """
        failures = 0
        ended = False
        while not ended:
            came = False
            try:
                async with aclosing(self._connection(path, last_event_id)) as events:
                    async for token, event in events:
                        came, failures = True, 0
                        last_event_id = token or last_event_id
                        ended = event.get("type") in ENDING
                        yield event
                # The platform has closed the stream. Ask once more unless it said that this was the end.
                ended = ended or not came
            except httpx.TransportError:
                ended = False
                failures += 1
                if failures > RECONNECTS_MAX:
                    raise
                pause = min(_PAUSE_SECONDS_MAX, 0.1 * 2 ** min(failures, 10))
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads reconnects, no secret

    async def events(
        self, *, after: str | None = None, since: str | None = None, types: Sequence[str] = (), subject: str | None = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """The tenant's events as CloudEvents, from the first one (or behind a token, or from a time) on, and then live, for ever.

        `after="now"` leaves history out. A lost connection is taken up again, so each event comes once; its `position` is the
        token with which another call goes on behind it. A token that has expired ends it with `QuantumError` (401).
        """
        given = {"after": after, "since": since, "types": ",".join(types), "subject": subject}
        if after == "now":  # fixed here, so that a connection lost before the first event does not lose what came meanwhile
            page = await self.get("/api/v1/events", params={"after": after, "limit": 1})
            given["after"] = page["next"]
        query = urlencode({name: value for name, value in given.items() if value})
        path = f"/api/v1/events?{query}" if query else "/api/v1/events"
        last_event_id = None
        while True:
            async with aclosing(self.stream(path, last_event_id=last_event_id)) as events:
                async for event in events:
                    last_event_id = event["position"]
                    yield event
            await asyncio.sleep(_PAUSE_SECONDS_MIN)  # the platform has ended a stream without an event on it

    async def _connection(self, path: str, last_event_id: str | None) -> AsyncGenerator[tuple[str | None, dict[str, Any]]]:
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        timeout = httpx.Timeout(30.0, read=_SILENCE_SECONDS_MAX)
        async with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.status_code in _TRY_AGAIN:
                raise httpx.ConnectError(f"The platform answers {response.status_code}.")
            if response.is_error:
                await response.aread()
                raise QuantumError(response)
            async with aclosing(_messages(response.aiter_bytes())) as messages:
                async for message in messages:
                    yield message


async def _messages(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str | None, dict[str, Any]]]:
    """(id, data) of each Server-Sent Event. A message that the connection's end cuts off is none."""
    token: str | None = None
    data: list[bytes] = []
    rest = b""
    async for chunk in chunks:
        # Only line feeds end lines: text may hold other characters that Unicode counts as line ends.
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if name == b"id":
                token = value.decode()
            elif name == b"data":
                data.append(value)
            elif not name and not value and data:
                yield token, orjson.loads(b"\n".join(data))
                data = []
