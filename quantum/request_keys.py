# intent_ref: quantum.request-keys
"""Wires what is kept of requests under idempotency keys, and takes away what is old."""

import asyncio

import structlog

from access.http.request_keys import KeyedAnswers
from event_store.records import StoreUnavailable
from event_store.request_keys import RequestKeys
from event_store.store import EventStore
from streaming.waiting import first_of

SWEEP_SECONDS = 3_600.0

log = structlog.get_logger(__name__)


def answers(store: EventStore) -> KeyedAnswers:
    """What answers requests under keys, in this process."""
    return KeyedAnswers(_keys(store))


async def sweep(store: EventStore, stop: asyncio.Event) -> None:
    """Once an hour removes what need not be kept any longer, until `stop` is set."""
    while not stop.is_set():
        try:
            while await _keys(store).sweep():
                pass
        except StoreUnavailable as fault:
            log.warning("old request keys are removed later", fault=str(fault))
        await first_of(SWEEP_SECONDS, stop)


def _keys(store: EventStore) -> RequestKeys:
    return RequestKeys(store.tenant_pool, store.platform_pool)
