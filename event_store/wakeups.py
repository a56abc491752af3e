# intent_ref: event-store.wakeups
"""Tells readers that the log has grown: at once inside the process, by LISTEN/NOTIFY between processes.

A NOTIFY takes a lock of the whole cluster until its transaction has committed, so it never rides on an append: it is sent
after the commit, on its own connection, at most one at a time. If the process dies in between, readers see the events at
their next poll; a wake-up is a hint, never the only way to an event.
"""

import asyncio
import contextlib
import os
import secrets
from typing import Any

import asyncpg
import structlog

from event_store.faults import DATABASE_FAULTS

_CHANNEL = "quantum_log"
_SIGNAL_INTERVAL_SECONDS = 0.01
WAKE_INTERVAL_SECONDS = 0.001
_RECONNECT_SECONDS_MAX = 5.0

log = structlog.get_logger(__name__)


class Wakeups:
    """Waiting for the log to grow. `direct_dsn` must reach PostgreSQL itself: LISTEN does not work through a pooler."""

    def __init__(self, direct_dsn: str) -> None:
        self._dsn = direct_dsn
        self._identity = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._generation = 0
        self._waiting: asyncio.Future[None] | None = None
        self._woken_at = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._unsignalled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def generation(self) -> int:
        """Grows with every wake-up. Take it before you read; pass it to `wait`, and nothing in between is missed."""
        return self._generation

    def start(self) -> None:
        """Begins to listen and to signal, until `close`."""
        self._task = asyncio.create_task(self._run(), name="wakeups")

    async def close(self) -> None:
        """Stops; whoever waits is woken."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._wake()

    async def wait(self, timeout_seconds: float, since: int | None = None) -> bool:
        """True when the log grew (or had grown after generation `since`), False after `timeout_seconds`."""
        if since is not None and since != self._generation:
            return True
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait((self._waiting,), timeout=timeout_seconds)
        return bool(done)

    def appended(self) -> None:
        """Something was committed by this process: wake its own readers now, and the others' soon."""
        self._grown()
        self._unsignalled.set()

    def _grown(self) -> None:
        """Wakes at once where the last time is a moment ago, else when it is: under load, readers then find more at a time."""
        if self._later is not None:
            return
        loop = asyncio.get_running_loop()
        if (left := self._woken_at + WAKE_INTERVAL_SECONDS - loop.time()) > 0:
            self._later = loop.call_later(left, self._wake)
        else:
            self._wake()

    def _wake(self) -> None:
        self._woken_at = asyncio.get_running_loop().time()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._generation += 1
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.set_result(None)

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload != self._identity:
            self._grown()

    async def _run(self) -> None:
        pause = 0.1
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(self._dsn, timeout=10)
                await connection.add_listener(_CHANNEL, self._heard)
                self._wake()
                pause = 0.1
                await self._signal(connection)
            except DATABASE_FAULTS as fault:
                log.warning("wake-ups are lost until the database answers; readers poll meanwhile", fault=repr(fault))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_SECONDS_MAX)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _signal(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            # Not asyncio.wait_for: before Python 3.12 it may swallow the cancellation that `close` sends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await self._unsignalled.wait()
            if self._unsignalled.is_set():
                self._unsignalled.clear()
                await connection.execute(f"NOTIFY {_CHANNEL}, '{self._identity}'", timeout=10)
                await asyncio.sleep(_SIGNAL_INTERVAL_SECONDS)
            else:
                await connection.fetchval("SELECT 1", timeout=10)
