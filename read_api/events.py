# intent_ref: read-api.events
"""The tenant's feed for those who subscribe: everything that happened and happens, as CloudEvents, resumable from any point."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.gate import Gate
from access.http.operations import Answer
from access.http.presence import Places, unless_gone
from access.http.problems import Problem
from access.http.queries import Parameter, number, parse, text
from access.http.routing import GuardedRoutes
from access.principal import Access
from access.roles import EVENTS_READ
from domain.immutable import immutable
from domain.values import TenantId
from event_store.disclosure import disclosed
from event_store.records import RecordedEvent
from event_store.store import EventStore
from event_store.tokens import InvalidToken, decode_token, encode_token
from read_api.event_documents import CloudEvent, EventPage
from read_api.event_feed import EventFeed
from read_api.event_stream import EventStream
from read_api.feed_pages import Envelope, FeedPages, Filter
from read_api.reading import LINK, found, missing

FOLLOWERS_MAX: Final = 5_000
"""Streams and long polls a process serves at a time."""
TENANT_FOLLOWERS_MAX: Final = 2_000
LIMIT_MAX: Final = 1_000
LIMIT_DEFAULT: Final = 100
WAIT_SECONDS_MAX: Final = 60
PAGE_BYTES_MAX: Final = 4 << 20
"""A page ends behind the event that makes it larger than this."""
NOW: Final = "now"
_READ_AT_ONCE: Final = 200
_SCANS_MAX: Final = 20
_TYPES_MAX: Final = 100
_LAST_EVENT: Final = "Last-Event-ID"
_STREAM_WANTED: Final = re.compile(r"(?:^|,)\s*text/event-stream\b", re.IGNORECASE)


@immutable
class Outside:
    """How events look outside: the bytes of one, the name of a topic's type, a subject's stream, and the topics there are."""

    envelope: Envelope
    type_of: Callable[[str], str]
    stream_of: Callable[[str], str]
    topics: frozenset[str]

    def frame(self, event: RecordedEvent) -> bytes:
        """An event as a Server-Sent Event."""
        head = f"id: {encode_token(event.position)}\nevent: {self.type_of(event.topic)}\ndata: ".encode()
        return head + self.envelope(event) + b"\n\n"


def _time(value: str) -> datetime:
    sentence = "It must be an RFC 3339 time with its offset, such as 2026-11-21T09:30:00Z."
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError(sentence)
        return at.astimezone(UTC)
    except (ValueError, OverflowError) as fault:
        raise ValueError(sentence) from fault


_TIME_SCHEMA: Final = {"type": "string", "format": "date-time"}
_AFTER: Final = text("after", "Only events behind this token: an event's `position`, a page's `next`, or `now`.")
_CURSOR: Final = text("cursor", "The same as `after`.")
_SUBJECT: Final = text("subject", "Only events about this, such as `execution/01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11`.")
_SINCE: Final = Parameter("since", "Only events recorded at this time or later.", _TIME_SCHEMA, _time)
_UNTIL: Final = Parameter("until", "Only events recorded before this time; not for streams.", _TIME_SCHEMA, _time)
_LIMIT: Final = number("limit", "How many events a page has at most.", 1, LIMIT_MAX, LIMIT_DEFAULT)
_WAIT: Final = number("wait", "Seconds to wait for an event where there is none yet.", 0, WAIT_SECONDS_MAX, 0)
_FRAME: Final[dict[str, Any]] = {
    "type": "object",
    "description": "`event` is the type, `data` the CloudEvent as JSON, `id` the resume token.",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "examples": ["cTEuNDI"]},
        "event": {"type": "string", "examples": ["quantum.execution.completed.v1"]},
        "data": {"type": "string", "contentMediaType": "application/cloudevents+json"},
    },
}


def follower_places() -> Places:
    """The places of a process for those who follow: streams and long polls of all feeds."""
    return Places(FOLLOWERS_MAX, TENANT_FOLLOWERS_MAX)


def events_router(outside: Outside, gate: Gate, store: EventStore, feed: EventFeed, followers: Places | None = None) -> APIRouter:
    """The routes under `/events`; `followers` are the places there are."""
    followers = followers or follower_places()
    routes = GuardedRoutes(gate, "events")
    pages = FeedPages(store)
    parameters = (_AFTER, _types(outside), _SUBJECT, _SINCE, _UNTIL, _LIMIT, _WAIT, _CURSOR)

    @routes.tenant(
        "GET", "/events", EVENTS_READ, summary="Read or follow the tenant's events", query=parameters, headers=(_LAST_EVENT,),
        answers=(Answer(200, "Events in order.", EventPage, at_times=LINK, streams=("text/event-stream", _FRAME)),),
        refusals=(429,),
    )  # fmt: skip
    async def read_events(request: Request, access: Access) -> Response:
        """A list from the first event on, or behind `after`; with `wait` a long poll, which answers as soon as there is an
        event; with `Accept: text/event-stream` a stream that goes on live, and resumes with `Last-Event-ID`.

        Nothing is left out and nothing comes twice, whichever way it is read.
        """
        query = parse(request, parameters)
        wanted = _filter(query, outside)
        after = await _begin(request, query, store)
        position = await pages.start(access.tenant_id, after, wanted)
        if _STREAM_WANTED.search(request.headers.get("Accept", "")) is not None:
            _refuse_for_streams(query)
            return EventStream(
                store, feed, access.tenant_id, wanted, after=position, render=outside.frame,
                expires_at=access.principal.expires_at, done=followers.take(access.tenant_id),
            )  # fmt: skip
        limit, wait = query["limit"] or LIMIT_DEFAULT, query["wait"] or 0
        reading = _Reading(pages, access.tenant_id, wanted, outside.envelope, limit)
        page = await reading.page(position)
        if not page.items and wait:
            request.scope["quantum.is_stream"] = True  # nothing is lost when a server that stops cuts it
            with followers.taken(access.tenant_id):
                page = await unless_gone(request.receive, _waited(reading, page, feed, wait)) or page
        return _listed(request, page)

    @routes.tenant(
        "GET", "/events/{position}", EVENTS_READ, summary="Read an event",
        answers=(Answer(200, "The event.", CloudEvent),),
    )  # fmt: skip
    async def read_event(request: Request, access: Access) -> Response:
        """The event whose `position` that is."""
        parse(request, ())
        return found(outside.envelope(await _single(request, access.tenant_id, pages, store)))

    @routes.tenant(
        "GET", "/events/{position}/data", EVENTS_READ, summary="Read an event's data",
        answers=(Answer(200, "What its type's schema says, byte for byte as it was recorded."),),
    )  # fmt: skip
    async def read_data(request: Request, access: Access) -> Response:
        """Where `dataref` leads to, in events that were too large for a broker."""
        parse(request, ())
        event = await _single(request, access.tenant_id, pages, store)
        return found(disclosed(event.topic, event.payload))

    return routes.router


@dataclass(slots=True)
class _Page:
    items: list[bytes]
    next: int
    has_more: bool


@immutable
class _Reading:
    """Reads one request's pages."""

    pages: FeedPages
    tenant_id: TenantId
    wanted: Filter
    envelope: Envelope
    limit: int

    async def page(self, position: int) -> _Page:
        """Up to the limit, behind a position. May hold less although there is more: what one request reads is bounded."""
        found_page = _Page([], position, has_more=True)
        end = await self.pages.end(self.tenant_id, self.wanted)
        size = 0
        for _ in range(_SCANS_MAX + self.limit // _READ_AT_ONCE):
            left = self.limit - len(found_page.items)
            read = await self.pages.page(self.tenant_id, found_page.next, self.wanted, limit=min(left, _READ_AT_ONCE), up_to=end)
            found_page.next, found_page.has_more = read.next, not read.is_end
            for event in read.events:
                found_page.items.append(self.envelope(event))
                size += len(found_page.items[-1])
                if size > PAGE_BYTES_MAX:
                    found_page.has_more = found_page.has_more or event is not read.events[-1]
                    found_page.next = event.position if event is not read.events[-1] else read.next
                    return found_page
            if read.is_end or len(found_page.items) >= self.limit:
                break
        return found_page


async def _waited(reading: _Reading, page: _Page, feed: EventFeed, wait_seconds: int) -> _Page:
    """The first page that is not empty; the last empty one when the time is over."""
    try:
        async with asyncio.timeout(wait_seconds):
            while not page.items:
                follower = await feed.join(reading.tenant_id, reading.wanted)
                try:
                    page = await reading.page(page.next)
                    while not page.items and not follower.is_behind:
                        if not page.has_more:
                            await follower.take()
                        page = await reading.page(page.next)
                finally:
                    feed.leave(reading.tenant_id, follower)
    except TimeoutError:
        pass
    return page


def _types(outside: Outside) -> Parameter:
    names = {outside.type_of(topic): topic for topic in outside.topics}

    def read(value: str) -> frozenset[str]:
        topics: set[str] = set()
        parts = value.split(",")
        if len(parts) > _TYPES_MAX:
            raise ValueError(f"It may name {_TYPES_MAX} types at most.")
        for name in (part.strip() for part in parts):
            start = name.removesuffix("*")
            matching = {names[name]} if name in names else set()
            if start != name and start.endswith("."):
                matching = {topic for known, topic in names.items() if known.startswith(start)}
            if not matching:
                raise ValueError(f"There is no type {name[:100]!r}; `GET /api/v1/event-types` lists them.")
            topics |= matching
        return frozenset(topics)

    description = "Only events of these types, with commas between; `quantum.execution.*` stands for all that begin so."
    return Parameter("types", description, {"type": "string", "minLength": 1, "examples": sorted(names)[:1]}, read)


def _filter(query: dict[str, Any], outside: Outside) -> Filter:
    subject = query["subject"]
    return Filter(
        query["types"], None if subject is None else outside.stream_of(subject), query["since"], query["until"]
    )  # fmt: skip


async def _begin(request: Request, query: dict[str, Any], store: EventStore) -> int:
    """The position after which to read. A stream's `Last-Event-ID` comes before what the address says: it is later."""
    token = request.headers.get(_LAST_EVENT) or None
    if token is not None:
        try:
            return decode_token(token)
        except InvalidToken as fault:
            raise Problem("header-invalid", f"{_LAST_EVENT}: {fault}") from fault
    if query["after"] is not None and query["cursor"] is not None:
        raise Problem("request-invalid", "`after` and `cursor` mean the same: give one of them.")
    token = query["after"] or query["cursor"]
    if token is None:
        return 0
    if token == NOW:
        return await store.horizon()
    try:
        return decode_token(token)
    except InvalidToken as fault:
        raise Problem("cursor-invalid", str(fault)) from fault


def _refuse_for_streams(query: dict[str, Any]) -> None:
    for name in ("until", "limit", "wait"):
        if query[name] is not None:
            raise Problem("request-invalid", f"`{name}` is for lists: a stream goes on.")


def _listed(request: Request, page: _Page) -> Response:
    token = encode_token(page.next)
    cursor = orjson.dumps(token if page.has_more else None)
    body = b'{"items":[' + b",".join(page.items) + b'],"next":"' + token.encode() + b'","next_cursor":' + cursor + b"}"
    headers = {}
    if page.has_more:
        rest = [(name, value) for name, value in request.query_params.multi_items() if name not in ("after", "cursor")]
        headers["Link"] = f'<{request.url.path}?{urlencode([*rest, ("after", token)])}>; rel="next"'
    return Response(body, headers=headers, media_type="application/json")


async def _single(request: Request, tenant_id: TenantId, pages: FeedPages, store: EventStore) -> RecordedEvent:
    token = request.path_params["position"]
    try:
        position = decode_token(token)
    except InvalidToken:
        raise missing("event", token) from None
    up_to = min(position, await store.horizon())
    events = (await pages.page(tenant_id, position - 1, Filter(), limit=1, up_to=up_to)).events if position else []
    if not events or events[0].position != position:
        raise missing("event", token)
    return events[0]
