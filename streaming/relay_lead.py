# intent_ref: streaming.relay
"""Which of the relays of a name is at work: the one whose connection holds an advisory lock, while it shows that it lives.

A process that dies takes its connection with it, and the next one leads at once. One that only stands still, or whose
network lets nothing through, keeps its connection; so the leader says something every second, PostgreSQL ends a leading
connection that was silent for `SILENCE_SECONDS_MAX`, and a leader that gets no answer gives up before that. Only the
leader's connection moves the checkpoint.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from streaming.waiting import first_of

T = TypeVar("T")
SILENCE_SECONDS_MAX = 6.0
"""After so long without a word from the leader, another one may lead."""
_BEAT_SECONDS = 1.0
_STAND_BY_SECONDS = 0.2
"""How often those that stand by ask for the lock. A wait for it could outlast the connection that it came on."""
_ANSWER_SECONDS_MAX = 4.0
_CONNECT_SECONDS_MAX = 10.0
_END_SECONDS_MAX = 10.0
_LOCK = "SELECT pg_try_advisory_lock(20826, hashtext($1))"
_CHECKPOINT = "SELECT position FROM quantum.relay_checkpoints WHERE relay = $1"
_FIRST_CHECKPOINT = "INSERT INTO quantum.relay_checkpoints (relay, position) VALUES ($1, 0) ON CONFLICT DO NOTHING"
_MOVE = "UPDATE quantum.relay_checkpoints SET position = $3, published_at = now() WHERE relay = $1 AND position = $2"
_SESSION = {
    "idle_session_timeout": f"{round(SILENCE_SECONDS_MAX * 1000)}",
    "tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "4",
}  # fmt: skip


class LostLead(ConnectionError):
    """Another relay leads, or may do so by now."""


class Lead:
    """The lead of a relay's name, and its checkpoint."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self._name = connection, name
        self._turn = asyncio.Lock()
        self.position = 0

    async def begin(self) -> None:
        """Reads the checkpoint, which is 0 for a new name."""
        await self._ask(lambda: self._connection.execute(_FIRST_CHECKPOINT, self._name))
        self.position = await self._ask(lambda: self._connection.fetchval(_CHECKPOINT, self._name))

    async def move(self, position: int) -> None:
        """Moves the checkpoint; raises `LostLead` where somebody else has moved it, and what the driver raises."""
        moved = await self._ask(lambda: self._connection.execute(_MOVE, self._name, self.position, position))
        if moved != "UPDATE 1":
            raise LostLead(f"the checkpoint is no longer at {self.position}")
        self.position = position

    async def beat(self) -> None:
        """Shows that this relay lives, until the connection ends or does not answer; then raises what that is."""
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            await self._ask(lambda: self._connection.execute("SELECT 1"))

    async def while_it_lasts(self, work: Awaitable[None]) -> None:
        """Does the work, and ends it where the lead is lost meanwhile; raises what either raises."""
        working, beating = asyncio.ensure_future(work), asyncio.create_task(self.beat(), name="relay-heartbeat")
        try:
            await asyncio.wait((working, beating), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                beating.result()
            else:
                working.result()
        finally:
            for task in (working, beating):
                task.cancel()
            done, _ = await asyncio.wait((working, beating), timeout=_END_SECONDS_MAX)
            for task in done:
                if not task.cancelled():
                    task.exception()  # what was raised first is on its way already

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        async with self._turn:
            return await _answer(question)


@contextlib.asynccontextmanager
async def leadership(dsn: str, name: str, stop: asyncio.Event) -> AsyncIterator[Lead | None]:
    """The lead, as soon as nobody else has it; None when stopped before. Raises what the driver raises."""
    connection = await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS_MAX, server_settings=_SESSION)
    try:
        while not stop.is_set():
            if await _answer(lambda: connection.fetchval(_LOCK, name)):
                yield Lead(connection, name)
                return
            await first_of(_STAND_BY_SECONDS, stop)
        yield None
    finally:
        connection.terminate()


async def _answer(question: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS_MAX):
            return await question()
    except TimeoutError as fault:
        raise LostLead(f"PostgreSQL did not answer within {_ANSWER_SECONDS_MAX} seconds") from fault


async def checkpoint(pool: Any, name: str) -> int:
    """How far a relay's name has come, whoever leads. Raises what the driver raises."""
    found: int | None = await pool.fetchval(_CHECKPOINT, name)
    return found or 0
