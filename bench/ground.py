# intent_ref: bench.benchmarks
"""What the benchmarks stand on: a durable PostgreSQL of their own, platforms as processes, and figures beside their peers."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import orjson

from access.issuer import LocalIssuer
from event_store.store import EventStore
from quantum.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from quantum.issuing import keys_folder

T = TypeVar("T")
TENANT = "tenant-1"
WARM_UP_SECONDS = 1.0
"""How long each does its work before it is measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `ratio` is held against `reach`: at least that, or at most where `at_most`."""

    what: str
    ours: str
    beside: str
    ratio: float
    reach: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is where it should be."""
        return self.ratio <= self.reach if self.at_most else self.ratio >= self.reach


def tell(line: str) -> None:
    """Says at once, on standard error and with the time, what is being measured or was found: a run takes minutes."""
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


@asynccontextmanager
async def postgres() -> AsyncIterator[tuple[Path, DatabaseUrls]]:
    """A fresh, durable embedded PostgreSQL with the platform's schema, and the data directory it is in."""
    folder = Path(tempfile.mkdtemp(prefix="quantum-bench-"))
    server = EmbeddedPostgres(folder)
    try:
        yield folder, await server.start()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def event_store(urls: DatabaseUrls) -> AsyncIterator[EventStore]:
    """An event store of this process."""
    store = await EventStore.connect(app_dsn=urls.app_dsn, platform_dsn=urls.platform_dsn)
    try:
        yield store
    finally:
        await store.close()


async def repeated(do: Callable[[], Awaitable[object]], seconds: float, in_flight: int) -> tuple[int, float]:
    """(how often `do` was done, seconds it took) with so many under way at a time, after `WARM_UP_SECONDS` of the same."""
    count = 0

    async def caller(ends: float) -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await do()
            count += 1

    for period in (WARM_UP_SECONDS, seconds):
        began, count = time.perf_counter(), 0
        await asyncio.gather(*(caller(began + period) for _ in range(in_flight)))
    return count, time.perf_counter() - began


def median_turn(turns: Sequence[T], ratio: Callable[[T], float]) -> T:
    """Of measurements in turns the one whose ratio is the median: a machine's speed changes within minutes."""
    return sorted(turns, key=ratio)[len(turns) // 2]


@dataclass(frozen=True, slots=True)
class Served:
    """A running platform: its processes and ports by role, and a token for `TENANT`."""

    ports: dict[str, list[int]]
    processes: dict[str, list[subprocess.Popen[bytes]]]
    token: str

    def of(self, *roles: str) -> list[int]:
        """Ports of the processes in these roles."""
        return [port for role in roles for port in self.ports.get(role, [])]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, urls: DatabaseUrls, roles: Sequence[str]) -> Iterator[Served]:
    """The platform with one process for each of `roles` on a database that runs already; `TENANT` is registered."""
    environment = {
        **os.environ, "QUANTUM_DATABASE_URL": urls.app_dsn, "QUANTUM_DATABASE_PLATFORM_URL": urls.platform_dsn,
        "QUANTUM_DATA_DIR": str(folder), "QUANTUM_SANDBOX": "true", "QUANTUM_LOG_LEVEL": "error",
    }  # fmt: skip
    token = LocalIssuer.open(keys_folder(folder)).issue([TENANT], ["platform-admin"], "bench", 24)
    ports: dict[str, list[int]] = {}
    processes: dict[str, list[subprocess.Popen[bytes]]] = {}
    try:
        for role in roles:
            port = free_port()
            command = [sys.executable, "-m", "quantum", "serve", "--role", role, "--port", str(port)]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ports.setdefault(role, []).append(port)
            processes.setdefault(role, []).append(process)
        for port in (port for found in ports.values() for port in found):
            wait_for(f"http://127.0.0.1:{port}/health/ready")
        subprocess.run(
            [sys.executable, "-m", "quantum", "tenant", "create", TENANT],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # a second platform on the same database finds it registered
        )
        yield Served(ports, processes, token)
    finally:
        running = [process for found in processes.values() for process in found]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(30)


@contextmanager
def peer_api() -> Iterator[int]:
    """The empty FastAPI routes; yields their port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.peer_api", str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/openapi.json")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, timeout_seconds: float = 60) -> None:
    """Returns when `url` answers 200."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def load(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the load generator in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate(orjson.dumps(job))
    result: dict[str, Any] = orjson.loads(out)
    if result["failed"]:
        raise RuntimeError(f"The load met errors: {result['failed'][0]}")
    return result


async def fetch(port: int, path: str, token: str) -> Any:
    """A JSON answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    return await asyncio.to_thread(lambda: orjson.loads(urllib.request.urlopen(request, timeout=30).read()))


async def caught_up(urls: DatabaseUrls, timeout_seconds: float = 300) -> None:
    """Returns when every projection has come to the log's end."""
    connection = await asyncpg.connect(urls.platform_dsn)
    deadline = time.monotonic() + timeout_seconds
    try:
        while not await connection.fetchval("SELECT min(position) >= quantum.log_horizon() FROM quantum.projections"):
            if time.monotonic() > deadline:
                raise TimeoutError("The projections do not catch up.")
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
