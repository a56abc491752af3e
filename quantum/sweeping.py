# intent_ref: quantum.sweeping
"""Once an hour: what the platform keeps for its own use, and nobody needs any more, is removed."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from event_store.faults import DATABASE_FAULTS
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from quantum import limits, request_keys
from quantum.settings import Settings
from streaming.dead_letters import DeadLetters
from streaming.waiting import first_of

SWEEP_SECONDS = 3_600.0
_FAULTS: tuple[type[Exception], ...] = (*DATABASE_FAULTS, StoreUnavailable)

log = structlog.get_logger(__name__)


async def sweep(settings: Settings, store: EventStore, stop: asyncio.Event) -> None:
    """Removes old redriven dead letters, counts of executions that are over, and old answers under keys, until `stop` is set."""
    letters, descendants, keys = DeadLetters(store), limits.descent(settings, store), request_keys.kept(store)
    while not stop.is_set():
        await _swept("redriven dead letters", lambda: letters.sweep(settings.dead_letter_days), stop)
        await _swept("descendants", descendants.sweep, stop)
        await _swept("request keys", keys.sweep, stop)
        await first_of(SWEEP_SECONDS, stop)


async def _swept(what: str, some: Callable[[], Awaitable[int]], stop: asyncio.Event) -> None:
    """Removes all there is to remove, piece by piece; what the database does not take now, it takes the next time."""
    count = 0
    try:
        while not stop.is_set() and (more := await some()):
            count += more
    except _FAULTS as fault:
        log.warning("what is old is removed later", what=what, fault=repr(fault))
    if count:
        log.info("what is old is removed", what=what, count=count)
