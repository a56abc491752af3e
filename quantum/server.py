# intent_ref: quantum.server
"""Serves a platform's HTTP application until it is told to stop, and stops in order."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import uvicorn

from quantum.app import Platform, platform
from quantum.settings import Settings

_DRAIN_SECONDS = 5
_IDLE_CONNECTION_SECONDS = 75


class PortInUse(Exception):
    """The address cannot be listened on."""


class _Server(uvicorn.Server):
    """uvicorn without handlers of its own for signals: the platform's order of stopping is ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(
    settings: Settings, report: Callable[[str], None] = lambda name: None
) -> AsyncIterator[tuple[Platform, str, asyncio.Event]]:
    """The platform, the address it is served at, and an event that is set when the server ends by itself.

    Raises `PortInUse`, and what `quantum.app.platform` raises.
    """
    async with platform(settings, report) as running:
        config = uvicorn.Config(
            running.app, host=settings.host, port=settings.port, loop="none", http="httptools", ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False, timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS, backlog=2048,
        )  # fmt: skip
        server = _Server(config)
        ended = asyncio.Event()
        task = asyncio.create_task(_serve(server), name="http")
        task.add_done_callback(lambda _task: ended.set())
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn tells by a flag
            await asyncio.sleep(0.005)
        if task.done():
            fault = task.exception()
            raise PortInUse(
                f"Cannot listen on {settings.host}:{settings.port}: choose another with --port or "
                "QUANTUM_PORT, or stop what uses it."
            ) from fault
        try:
            yield running, _address(server, settings), ended
        finally:
            server.should_exit = True
            await asyncio.gather(task, return_exceptions=True)


async def _serve(server: _Server) -> None:
    try:
        await server.serve()
    except SystemExit as fault:
        raise PortInUse(str(fault)) from fault


def _address(server: uvicorn.Server, settings: Settings) -> str:
    port = server.servers[0].sockets[0].getsockname()[1] if server.servers else settings.port
    host = settings.host if ":" not in settings.host else f"[{settings.host}]"
    return f"http://{host}:{port}"


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


async def serve(settings: Settings, ready: Callable[[Platform, str], None], report: Callable[[str], None]) -> None:
    """Serves until a signal comes; `ready` is called with the platform and its address."""
    async with stop_signals() as stop, served(settings, report) as (running, address, ended):
        ready(running, address)
        waits = [asyncio.create_task(event.wait()) for event in (stop, ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
