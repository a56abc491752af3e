# intent_ref: sagas.pull-work
"""Tells those who wait for work that some is offered: at once in the process, by LISTEN/NOTIFY between processes.

A ring is a hint, never the only way to work: who waits also looks now and then.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import structlog

from event_store.faults import DATABASE_FAULTS

_CHANNEL: Final = "quantum_work"
_TENANTS_AT_ONCE: Final = 100
_UNTOLD_MAX: Final = 10_000
_INTERVAL_SECONDS: Final = 0.003
_RECONNECT_SECONDS_MAX: Final = 5.0
_QUIET_SECONDS: Final = 10.0

Heard = Callable[[str | None], None]
"""Called with a tenant that has new work; with None when any may have, because rings may have been missed."""

log = structlog.get_logger(__name__)


class WorkBell:
    """Rings for tenants. `direct_dsn` must reach PostgreSQL itself: LISTEN does not work through a pooler."""

    def __init__(self, direct_dsn: str) -> None:
        self._dsn = direct_dsn
        self._identity = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._listeners: list[Heard] = []
        self._untold: dict[str, None] = {}
        self._has_untold = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.offered = 0
        """How many units of work this process has offered."""

    def start(self) -> None:
        """Begins to listen and to tell others, until `close`."""
        self._task = asyncio.create_task(self._run(), name="work bell")

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def listen(self, heard: Heard) -> None:
        """Calls `heard` at every ring of any process."""
        self._listeners.append(heard)

    def offer(self, tenant_id: str) -> None:
        """One more unit of work is there to be fetched."""
        self.offered += 1
        self.ring(tenant_id)

    def ring(self, tenant_id: str) -> None:
        """The tenant has new work: tells this process now, the others soon."""
        self._hear(tenant_id)
        if len(self._untold) < _UNTOLD_MAX:
            self._untold[tenant_id] = None
        self._has_untold.set()

    def _hear(self, tenant_id: str | None) -> None:
        for heard in self._listeners:
            heard(tenant_id)

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        identity, *tenants = str(payload).split(" ")
        if identity != self._identity:
            for tenant_id in tenants:
                self._hear(tenant_id)

    async def _run(self) -> None:
        pause = 0.1
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(self._dsn, timeout=10)
                await connection.add_listener(_CHANNEL, self._heard)
                self._hear(None)
                pause = 0.1
                await self._tell(connection)
            except DATABASE_FAULTS as fault:
                log.warning("rings are lost until the database answers; workers look by themselves meanwhile", fault=repr(fault))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_SECONDS_MAX)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _tell(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._has_untold.wait()
            if not self._has_untold.is_set():
                await connection.fetchval("SELECT 1", timeout=10)
                continue
            self._has_untold.clear()
            while self._untold:
                some = list(self._untold)[:_TENANTS_AT_ONCE]
                for tenant_id in some:
                    del self._untold[tenant_id]
                await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, " ".join([self._identity, *some]), timeout=10)
                await asyncio.sleep(_INTERVAL_SECONDS)
