# intent_ref: tests.event-hubs-stand-in
"""The stand-in as a process of its own, for tests that want its time not to be theirs."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_ANSWER_SECONDS_MAX = 30.0


class EventHubsProcess:
    """A running stand-in: where it is, and what it can be told."""

    def __init__(self, process: asyncio.subprocess.Process, connection_string: str) -> None:
        self._process, self.connection_string = process, connection_string
        self._turn = asyncio.Lock()

    async def tell(self, command: str) -> str:
        """Gives a command (see `__main__`) and returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn, asyncio.timeout(_ANSWER_SECONDS_MAX):
            self._process.stdin.write(f"{command}\n".encode())
            await self._process.stdin.drain()
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def event_hubs_process(*, partitions: int = 4) -> AsyncIterator[EventHubsProcess]:
    """One process, ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.event_hubs", "--partitions", str(partitions), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_ANSWER_SECONDS_MAX):
            connection_string = (await process.stdout.readline()).decode().strip()
        yield EventHubsProcess(process, connection_string)
    finally:
        process.kill()
        await process.wait()
