# intent_ref: quantum.circuits
"""Wires what tells of circuit breakers: the rows of this process, under a name that the log explains."""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable

import structlog

from event_store.store import EventStore
from modules.breaker import Breakers
from sagas.circuit_rows import CircuitRows

Workers = Callable[[str, Callable[[], Awaitable[None]]], None]

log = structlog.get_logger(__name__)


def keep_rows(store: EventStore, breakers: Breakers, workers: Workers, stop: asyncio.Event) -> None:
    """This process's breakers can be seen until `stop` is set, under a name that tells tenants nothing of its machine."""
    process = secrets.token_hex(4)
    log.info("circuit breakers are shown", process=process, host=socket.gethostname(), pid=os.getpid())
    rows = CircuitRows(store.platform_pool, breakers, process)
    workers("circuits", lambda: rows.run(stop))
