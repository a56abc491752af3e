# intent_ref: tests.start-rate
"""A real Redis for tests: Debian's `redis-server`, at a socket of its own, with nothing kept on disk."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.waiting import wait_until

PROGRAM = os.environ.get("QUANTUM_TEST_REDIS_SERVER") or shutil.which("redis-server")


class RedisServer:
    """A server that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Returns once it answers."""
        assert PROGRAM is not None, "the test is skipped where there is none"
        self._process = await asyncio.create_subprocess_exec(
            PROGRAM, "--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no",
            "--dir", str(self._socket.parent), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await wait_until(self._answers, what="Redis to answer")

    async def stop(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _answers(self) -> bool:
        async with Redis.from_url(self.url) as client:
            with contextlib.suppress(RedisError):
                return bool(await client.ping())
        return False


@asynccontextmanager
async def redis_server() -> AsyncIterator[RedisServer]:
    """A running server."""
    with tempfile.TemporaryDirectory(prefix="quantum-redis-") as folder:
        server = RedisServer(Path(folder))
        try:
            await server.start()
            yield server
        finally:
            await server.stop()
