# intent_ref: quantum.server
"""Serves a platform's HTTP application until it is told to stop, and stops in order."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import uvicorn

from quantum.app import Platform, platform
from quantum.http_protocol import HttpProtocol
from quantum.open_files import allow_open_files
from quantum.settings import Settings
from streaming.waiting import first_of

_GC_THRESHOLDS = (20_000, 50, 20)
_DRAIN_SECONDS = 5
_IDLE_CONNECTION_SECONDS = 75


class PortInUse(Exception):
    """The address cannot be listened on."""


class ServerEnded(Exception):
    """The HTTP server ended although nobody had asked it to. The log says why."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class _Server(uvicorn.Server):
    """uvicorn without handlers of its own for signals: the platform's order of stopping is ours."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests under way get `_DRAIN_SECONDS`; streams, which might go on for hours, are cut, and clients resume them."""
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.scope.get("quantum.is_stream", False):
                connection.transport.close()
        await super().shutdown(sockets)


@asynccontextmanager
async def served(
    settings: Settings, report: Callable[[str], None] = lambda name: None
) -> AsyncIterator[tuple[Platform, str, asyncio.Event]]:
    """The platform, the address it is served at, and an event that is set when the server ends by itself.

    Raises `PortInUse`, and what `quantum.app.platform` raises.
    """
    # The port is taken before anything else starts: a wrong one costs no start of the database.
    with contextlib.closing(_bound(settings)) as listener:
        async with platform(settings, report) as running:
            config = uvicorn.Config(
                running.app, loop="none", http=HttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False,
                server_header=False, proxy_headers=False, timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
                timeout_graceful_shutdown=_DRAIN_SECONDS, backlog=2048,
            )  # fmt: skip
            server = _Server(config)
            collect_rarely()
            ended = asyncio.Event()
            task = asyncio.create_task(server.serve([listener]), name="http")
            task.add_done_callback(lambda _task: ended.set())
            await first_of(None, server.listening, ended)
            if task.done():
                await task
                raise ServerEnded
            try:
                yield running, _address(listener), ended
            finally:
                server.should_exit = True
                await asyncio.gather(task, return_exceptions=True)


def collect_rarely() -> None:
    """What the start has made stays: the collector need not walk it for every few hundred requests' leavings."""
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol named: asyncio turns Nagle's delay off on such sockets only, and it costs 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as fault:
        listener.close()
        raise PortInUse(
            f"Cannot listen on {settings.host}:{settings.port} ({fault.strerror or fault}): choose another address with --host "
            "and --port or QUANTUM_HOST and QUANTUM_PORT, or stop what uses it."
        ) from fault
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def serve(settings: Settings, ready: Callable[[Platform, str], Awaitable[None]], report: Callable[[str], None]) -> None:
    """Serves until a signal comes; `ready` is called with the platform and its address. Raises what `served` raises."""
    allow_open_files()
    async with stop_signals() as stop, served(settings, report) as (running, address, ended):
        await ready(running, address)
        await first_of(None, stop, ended)
        if not stop.is_set():
            raise ServerEnded
