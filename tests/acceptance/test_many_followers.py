# intent_ref: tests.open-files
"""More followers of the stream than a login's limit of open files would let in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.platforms import API, Served, temporary_directory

resource = pytest.importorskip("resource", reason="this system has no limits of open files")
SOFT, FOLLOWERS = 256, 400


@contextlib.contextmanager
def limited(soft: int) -> Iterator[None]:
    """What is started here may have so many files open, until it helps itself."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4 * FOLLOWERS:
        pytest.skip("the hard limit of open files is too low here")
    with temporary_directory() as directory:
        served = Served(directory / "data")
        try:
            with limited(SOFT):
                served.spawn()
            await served.ready()
            yield served
        finally:
            await served.stop()


async def follow(served: Served, headers: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which events come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(served.address).port)
    lines = [f"GET {API}/events HTTP/1.1", f"Host: {urlsplit(served.address).netloc}", "Accept: text/event-stream"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()
    return reader, writer


@pytest.mark.slow
async def test_followers_beyond_the_soft_limit_are_let_in_and_get_their_events(served: Served):
    headers = served.bearer("crowd")
    intent = {"name": "noted", "definition": {"target": "t", "steps": [{"action": "no-op"}]}}
    writers: list[asyncio.StreamWriter] = []
    try:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=served.address) as client:
            made = await client.post(f"{API}/tenants", json={"id": "crowd", "name": "C"}, headers=headers)
            assert made.status_code == 201, made.text
            followers = []
            for _ in range(FOLLOWERS):
                reader, writer = await follow(served, headers)
                writers.append(writer)
                followers.append(reader)
            answers = [await reader.readline() for reader in followers]
            assert answers == [b"HTTP/1.1 200 OK\r\n"] * FOLLOWERS
            made = await client.post(f"{API}/intents", json=intent, headers=headers)
            assert made.status_code == 201, made.text
            for reader in followers:
                await reader.readuntil(b"intent.created")
    finally:
        for writer in writers:
            writer.transport.abort()
    assert "the limit of open files was raised" in served.log_file.read_text()
