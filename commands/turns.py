# intent_ref: commands.turns
"""Lines of those who want to write to the same stream, so that none of them is crowded out.

An append names the version it was decided on, so of many at once one gets through and the others begin anew. Left to chance, the
unlucky ones run out of tries. Here whoever has met a conflict queues, first come first served, and whoever comes while there is
a line joins it; a stream that nobody fights over costs one look into a table. The line is the process's: against other processes
the one who is first in it tries again as before.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

from event_store.records import StreamBusy

WAITING_MAX: Final = 512
"""How many may wait for one stream. One more is told that it is busy."""
WAIT_SECONDS_MAX: Final = 10.0


class _Line:
    """Those who wait for a stream, and the one who has it."""

    __slots__ = ("lock", "members")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.members = 0


class Turns:
    """The lines of a process."""

    def __init__(self, *, waiting_max: int = WAITING_MAX, wait_seconds_max: float = WAIT_SECONDS_MAX) -> None:
        self._waiting_max, self._wait_seconds_max = waiting_max, wait_seconds_max
        self._lines: dict[tuple[str, str], _Line] = {}

    def __len__(self) -> int:
        """How many streams have a line."""
        return len(self._lines)

    def turn(self, tenant_id: str, stream_id: str) -> "Turn":
        """One command's turn at a stream."""
        return Turn(self, (tenant_id, stream_id))

    async def join(self, key: tuple[str, str]) -> _Line:
        """Returns when it is one's turn. Raises `StreamBusy` where too many wait, or it takes too long."""
        line = self._lines.setdefault(key, _Line())
        if line.members > self._waiting_max:
            raise StreamBusy(key[1], 0.0)
        line.members += 1
        try:
            async with asyncio.timeout(self._wait_seconds_max):
                await line.lock.acquire()
        except TimeoutError:
            self._leave(key, line)
            raise StreamBusy(key[1], self._wait_seconds_max) from None
        except BaseException:
            self._leave(key, line)
            raise
        return line

    def has_line(self, key: tuple[str, str]) -> bool:
        """True where somebody waits for the stream, or has it."""
        return key in self._lines

    def end(self, key: tuple[str, str], line: _Line) -> None:
        """The turn is over: the next one's begins."""
        line.lock.release()
        self._leave(key, line)

    def _leave(self, key: tuple[str, str], line: _Line) -> None:
        line.members -= 1
        if not line.members:
            del self._lines[key]


class Turn:
    """Where nobody waits, nothing is to be done to have it; where there is a line, or one is needed, `wait` joins it. Its end is
    the end of the `with`."""

    __slots__ = ("_key", "_line", "_turns")

    def __init__(self, turns: Turns, key: tuple[str, str]) -> None:
        self._turns, self._key = turns, key
        self._line: _Line | None = None

    async def wait(self) -> None:
        """Returns when it is one's turn, which then lasts until the end; at once where it is already. Raises `StreamBusy`."""
        if self._line is None:
            self._line = await self._turns.join(self._key)

    @property
    def has_line(self) -> bool:
        """True where somebody waits for the stream, or has it."""
        return self._turns.has_line(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if self._line is not None:
            self._turns.end(self._key, self._line)
