# intent_ref: tests.relay
"""The relay's leader dies, stands still, or is cut off: another one leads within seconds, and nothing is skipped."""

import asyncio
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest

from event_store.store import EventStore
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub
from streaming.relay import Relay
from streaming.relay_lead import SILENCE_SECONDS_MAX
from streaming.transport import Handler, Message
from tests.conftest import Database
from tests.consumers import Seen, assert_in_order, consuming, relaying
from tests.event_hubs import EventHubsServer
from tests.streams import append
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
AT_ONCE_SECONDS_MAX = 10.0
"""For a leader that died: the others ask five times a second, but the machine may be busy."""
SILENT_SECONDS_MAX = SILENCE_SECONDS_MAX + AT_ONCE_SECONDS_MAX


@pytest.fixture
async def hub() -> AsyncIterator[EventHubsServer]:
    hub = EventHubsServer(partitions=4)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


@asynccontextmanager
async def relay_process(database: Database, hub: EventHubsServer) -> AsyncIterator[asyncio.subprocess.Process]:
    """A relay that can be killed and frozen."""
    platform_dsn = f"{database.platform_dsn}&application_name=relay-one"
    words = ("relay", "event-hubs", hub.connection_string, database.app_dsn, platform_dsn)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.chaos.stream_worker", *words, cwd=ROOT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def leaders(database: Database) -> list[str]:
    """The names of the connections that hold the lock."""
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        rows = await connection.fetch(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
            " AND classid = 20826 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()


def led_by(database: Database, name: str) -> Any:
    async def is_led() -> bool:
        return await leaders(database) == [name]

    return is_led


@pytest.mark.slow
@pytest.mark.parametrize(("how", "seconds_max"), [("SIGKILL", AT_ONCE_SECONDS_MAX), ("SIGSTOP", SILENT_SECONDS_MAX)])
async def test_a_leader_that_dies_or_stands_still_is_succeeded_within_seconds(
    how: str, seconds_max: float, store: EventStore, database: Database, hub: EventHubsServer
) -> None:
    tenant = f"failover-{how.lower()}"
    seen, streams = Seen(tenant), {f"s{n}": 0 for n in range(10)}

    async def write(rounds: int) -> None:
        for _ in range(rounds):
            for stream in streams:
                await append(store, tenant, stream)
                streams[stream] += 1

    transport = EventHubsTransport(store, EventHub(hub.connection_string), PostgresCheckpointStore(store.platform_pool))
    second = Relay(store, transport, name="chaos", batch_max=20)
    try:
        async with consuming(transport, tenant, seen.handle), relay_process(database, hub) as first:
            await wait_until(led_by(database, "relay-one"), 20, what="the process to lead")
            async with relaying(second):
                await write(3)
                await wait_until(lambda: seen.has_all(streams), 20, what="the first events")
                writing = asyncio.create_task(write(20))
                await wait_until(lambda: len(seen.messages) > 60, 20, what="events to be under way")
                first.send_signal(getattr(signal, how))
                await wait_until(lambda: second.statistics.leads, seconds_max, what="the other one to lead")
                await writing
                await wait_until(lambda: seen.has_all(streams), 20, what="the events behind the leader's end")
                if how == "SIGSTOP":
                    first.send_signal(signal.SIGCONT)
                    await write(5)
                    await wait_until(lambda: seen.has_all(streams), 20, what="the events behind its return")
                    assert second.statistics.leads
                    assert "relay-one" not in await leaders(database)
    finally:
        await transport.close()
    assert_in_order(seen, streams)


TENANT = "line"


class Broker:
    """One in memory, that several relays write to."""

    reads_the_log = False

    def __init__(self, kept: list[Message]) -> None:
        self.kept = kept

    async def publish(self, messages: Sequence[Message]) -> None:
        self.kept += [message for message in messages if message.tenant_id == TENANT]

    async def consume(self, group: str, handler: Handler, **more: Any) -> None:
        raise NotImplementedError("this broker is only written to")

    async def close(self) -> None: ...


class Line:
    """A way to PostgreSQL's socket that can be blocked: connections stay, and nothing comes through any more."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._target = next(Path(query["host"]).glob(".s.PGSQL.*[0-9]"))
        self.folder = Path(tempfile.mkdtemp(prefix="quantum-line-"))
        self.dsn = urlunsplit(parts._replace(query=urlencode(query | {"host": str(self.folder)})))
        self.open = asyncio.Event()
        self.open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._connected, self.folder / self._target.name)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._copy(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self.open.wait()
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.slow
async def test_a_leader_that_is_cut_off_gives_up_and_another_one_leads(store: EventStore, database: Database) -> None:
    line = Line(database.platform_dsn)
    kept: list[Message] = []
    server = await line.serve()
    cut_off = await EventStore.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn, direct_dsn=line.dsn)
    first, second = Relay(cut_off, Broker(kept), name="line"), Relay(store, Broker(kept), name="line")
    try:
        async with relaying(first):
            await wait_until(lambda: first.statistics.leads, 10, what="the first to lead")
            async with relaying(second):
                await append(store, TENANT, "s", 5)
                await wait_until(lambda: len(kept) >= 5, 10, what="the first events")
                line.open.clear()
                await append(store, TENANT, "s", 5)
                await wait_until(lambda: second.statistics.leads, SILENT_SECONDS_MAX, what="the second to lead")
                await wait_until(lambda: not first.statistics.leads, SILENT_SECONDS_MAX, what="the first to give up")
                await append(store, TENANT, "s", 5)
                await wait_until(lambda: max(one.version for one in kept) == 15, 10, what="the later events")
                line.open.set()
                await append(store, TENANT, "s", 5)
                await wait_until(lambda: max(one.version for one in kept) == 20, 10, what="the rest")
                assert second.statistics.leads
                assert not first.statistics.leads
    finally:
        line.open.set()
        await cut_off.close()
        server.close()
        await line.close()
    last: dict[str, int] = defaultdict(int)
    for message in kept:
        assert message.version <= last[message.key] + 1, "a version was skipped"
        last[message.key] = max(last[message.key], message.version)
