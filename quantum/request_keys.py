# intent_ref: quantum.request-keys
"""Wires what is kept of requests under idempotency keys."""

from access.http.request_keys import KeyedAnswers
from event_store.request_keys import RequestKeys
from event_store.store import EventStore


def answers(store: EventStore) -> KeyedAnswers:
    """What answers requests under keys, in this process."""
    return KeyedAnswers(kept(store))


def kept(store: EventStore) -> RequestKeys:
    """The keys and answers themselves."""
    return RequestKeys(store.tenant_pool, store.platform_pool)
