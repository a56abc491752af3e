# intent_ref: tests.client
"""A TCP proxy that cuts connections in the middle of an answer, as bad networks do."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class CuttingProxy:
    """Where to connect instead, and how many connections have been cut so far."""

    address: str = ""
    cuts: int = 0


@asynccontextmanager
async def cutting_proxy(port: int, after_bytes: Sequence[int]) -> AsyncIterator[CuttingProxy]:
    """Forwards to 127.0.0.1:`port`; the nth connection is cut once the nth number of bytes has come back, over and over."""
    proxy = CuttingProxy()
    allowances = itertools.cycle(after_bytes)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        requests = asyncio.create_task(_copied(reader, inner_writer))
        left = next(allowances)
        try:
            while chunk := await inner_reader.read(65536):
                writer.write(chunk[:left])
                await writer.drain()
                left -= len(chunk)
                if left <= 0:
                    proxy.cuts += 1
                    break
        except ConnectionError:
            pass
        finally:
            requests.cancel()
            inner_writer.transport.abort()
            writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
