# intent_ref: read-api.execution-events
"""An execution's events as the outside sees them, in a list and as a stream (Server-Sent Events) that ends with the execution.

Both read the log itself, so they show an event as soon as it is stored.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from domain import execution_events
from domain.documents import timestamp
from domain.values import ExecutionId, TenantId, execution_stream
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.store import EventStore
from event_store.tokens import encode_token

HEARTBEAT_SECONDS: Final = 15.0
PAGE_EVENTS_MAX: Final = 500
TYPES: Final[Mapping[type[Any], str]] = {
    execution_events.ExecutionStarted: "execution_started",
    execution_events.StepStarted: "step_started",
    execution_events.StepRetrying: "step_retrying",
    execution_events.StepCompleted: "step_completed",
    execution_events.StepFailed: "step_failed",
    execution_events.ExecutionCompleted: "execution_completed",
    execution_events.ExecutionFailed: "execution_failed",
    execution_events.ExecutionCancelled: "execution_cancelled",
    execution_events.ExecutionPaused: "execution_paused",
    execution_events.ExecutionResumed: "execution_resumed",
    execution_events.ExecutionRetried: "execution_retried",
    execution_events.StepSkipped: "step_skipped",
    execution_events.StepWaiting: "step_waiting",
    execution_events.StepApproved: "step_approved",
    execution_events.StepRejected: "step_rejected",
    execution_events.StepExpanded: "step_expanded",
    execution_events.StepFallingBack: "step_falling_back",
    execution_events.StepCancelled: "step_cancelled",
    execution_events.StepCompensated: "step_compensated",
    execution_events.SignalReceived: "signal_received",
    execution_events.ResourceProvisioned: "resource_provisioned",
    execution_events.ResourceReleased: "resource_released",
    execution_events.CancellationRequested: "cancellation_requested",
    execution_events.CompensationStarted: "compensation_started",
    execution_events.CompensationFailed: "compensation_failed",
    execution_events.ExecutionFailing: "execution_failing",
    execution_events.ExecutionTerminated: "execution_terminated",
    execution_events.ExecutionRerun: "execution_rerun",
    execution_events.ExecutionStalled: "execution_stalled",
    execution_events.ExecutionQueued: "execution_queued",
    execution_events.ExecutionAdmitted: "execution_admitted",
}
_INTERNAL: Final = frozenset({"options", "limits"})
_FIELDS: Final = {kind: tuple(field.name for field in fields(kind) if field.name not in _INTERNAL) for kind in TYPES}
_OPTIONS: Final = ("priority", "business_key", "deadline_at", "parent", "started_by")
# After a wake-up that brought nothing for this execution, the next look comes later, up to the longest pause: the log of a busy
# platform grows all the time, and each stream would ask the database each time.
_PAUSE_SECONDS_MIN: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.2
_POLL_SECONDS: Final = 1.0


def document(event: Any) -> dict[str, Any]:
    """An execution's event: its type and the keys that apply to it."""
    found: dict[str, Any] = {"type": TYPES[type(event)]}
    for name in _FIELDS[type(event)]:
        value = getattr(event, name)
        found[name] = timestamp(value) if isinstance(value, datetime) else value
    if isinstance(event, execution_events.ExecutionStarted):
        found["steps"] = [step.id for step in event.steps]
        if event.options is not None:
            found |= {name: getattr(event.options, name) for name in _OPTIONS}
    return found


def as_json(recorded: RecordedEvent) -> bytes:
    """The document as it goes into lists and streams."""
    return orjson.dumps(document(recorded.event), option=orjson.OPT_UTC_Z)


def is_end(recorded: RecordedEvent) -> bool:
    """True for an event that ends the execution; a retry may still follow."""
    return isinstance(recorded.event, execution_events.ENDS)


class ExecutionStream(Response):
    """The answer that streams an execution's events after a position: history, then live, to the last event of its end.

    Ends too when `expires_at` (Unix seconds) is past: the client comes again with a new token and the id of its last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        store: EventStore,
        tenant_id: TenantId,
        execution_id: ExecutionId,
        *,
        after: int,
        first: list[RecordedEvent],
        expires_at: float,
        done: Callable[[], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._store, self._tenant_id, self._stream_id = store, tenant_id, execution_stream(execution_id)
        self._after, self._first, self._expires_at, self._done = after, first, expires_at, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Writes until the end, or until the client has gone; then nothing of it is left."""
        scope["quantum.is_stream"] = True  # a server that stops cuts it at once
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._done()
            for task in (writing, leaving):
                task.cancel()
            results = await asyncio.gather(writing, leaving, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
            raise results[0]

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        page, version, has_ended, pause = self._first, 0, False, 0.0
        generation = self._store.wakeups.generation
        last_sent = time.monotonic()
        while True:
            if page:
                version, has_ended, pause = page[-1].version, is_end(page[-1]), 0.0
                chunk = b"".join(_frame(event) for event in page if event.position > self._after)
                if chunk:
                    await send(_body(chunk))
                    last_sent = time.monotonic()
            if len(page) < PAGE_EVENTS_MAX and (has_ended or time.time() >= self._expires_at):
                break
            if not page:
                await self._store.wakeups.wait(_POLL_SECONDS, since=generation)
                await asyncio.sleep(pause)
                pause = min(max(pause * 2, _PAUSE_SECONDS_MIN), _PAUSE_SECONDS_MAX)
            if time.monotonic() - last_sent >= HEARTBEAT_SECONDS:
                await send(_body(b": still here\n\n"))
                last_sent = time.monotonic()
            generation = self._store.wakeups.generation
            page = await self._read(version)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, version: int) -> list[RecordedEvent]:
        try:
            return await self._store.read_stream(self._tenant_id, self._stream_id, after=version, limit=PAGE_EVENTS_MAX)
        except StoreUnavailable:
            return []  # the client waits, as it would for an event; the heartbeat goes on


def _frame(recorded: RecordedEvent) -> bytes:
    kind = TYPES[type(recorded.event)]
    head = f"id: {encode_token(recorded.position)}\nevent: {kind}\ndata: ".encode()
    return head + as_json(recorded) + b"\n\n"


def _body(chunk: bytes) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": True}


async def _gone(receive: Receive) -> None:
    with contextlib.suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass
