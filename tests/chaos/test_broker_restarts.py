# intent_ref: tests.broker-restarts
"""Everything that carries the stream is killed, again and again, while 100,000 events go through it: none is lost.

The broker is killed and started again 10 times (where the engine has one). One group's members are processes that are killed at
random; another's are cancelled at random. Two relays compete, and the one that leads is killed. At the end each group has
every event, for the first time in order by key, and a repeat is the same event at the same position.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from domain.values import StreamId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, StreamAppend
from event_store.store import EventStore
from streaming.transport import Message
from tests.chaos.stream_worker import note, open_notes
from tests.conftest import Database
from tests.streams import METADATA, new_events
from tests.transport_engines import ENGINES, SLOW_ENGINES, Engine
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
STREAMS, EACH, ROUNDS, RESTARTS = 200, 10, 50, 10
EVENTS = STREAMS * EACH * ROUNDS
STANDSTILL_SECONDS_MAX = 60.0


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.endurance] * (name in SLOW_ENGINES)) for name in sorted(ENGINES)],
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param]()
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


Process = asyncio.subprocess.Process


@dataclass
class Chaos:
    """The processes and tasks of one run, and what kills them."""

    engine: Engine
    database: Database
    store: EventStore
    directory: Path
    group: str
    chance: random.Random = field(default_factory=lambda: random.Random(20261121))
    relays: dict[str, Process] = field(default_factory=dict)
    consumers: list[Process] = field(default_factory=list)
    members: list[asyncio.Task[None]] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)

    def notes(self, group: str) -> Path:
        """Where the members of a group note what they have handled."""
        return self.directory / group

    async def start(self) -> None:
        for _ in range(2):
            await self._start_relay()
            self._start_member()
        for _ in range(3):
            await self._start_consumer()

    async def stop(self) -> None:
        for process in (*self.relays.values(), *self.consumers):
            await _kill(process)
        for task in self.members:
            task.cancel()
        await asyncio.gather(*self.members, return_exceptions=True)

    async def strike(self, number: int) -> None:
        """One blow of each kind, in turns for those that take their time to recover from it."""
        if "lose its broker" not in self.engine.cannot:
            self.engine.kill_broker()
            await asyncio.sleep(self.chance.random())
            await self.engine.restart_broker()
            self.killed["broker"] += 1
        if number % 3 == 0:
            await self._kill_the_leading_relay()
        if number % 2 == 0:
            await _kill(self.consumers.pop(self.chance.randrange(len(self.consumers))))
            self.killed["consumer"] += 1
            await self._start_consumer()
        else:
            task = self.members.pop(self.chance.randrange(len(self.members)))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.killed["member"] += 1
            self._start_member()

    async def _kill_the_leading_relay(self) -> None:
        """The one whose connection holds the lock; the other takes over."""
        name = await wait_until(lambda: _leader(self.database), 30, what="a relay to lead")
        await _kill(self.relays.pop(name))
        self.killed["relay"] += 1
        await self._start_relay()

    async def _start_relay(self) -> None:
        name = f"relay-{len(self.relays) + self.killed['relay'] + 1}"
        self.relays[name] = await self._spawn("relay", f"{self.database.platform_dsn}&application_name={name}")

    async def _start_consumer(self) -> None:
        group = f"{self.group}-killed"
        self.consumers.append(await self._spawn("consume", self.database.platform_dsn, group, str(self.notes(group))))

    async def _spawn(self, role: str, platform_dsn: str, *more: str) -> Process:
        arguments = (role, self.engine.name, self.engine.address, self.database.app_dsn, platform_dsn, *more)
        with (self.directory / "workers.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.stream_worker", *arguments, cwd=ROOT, stdout=log, stderr=log
            )  # fmt: skip

    def _start_member(self) -> None:
        group = f"{self.group}-cancelled"
        file = open_notes(self.notes(group))

        async def handle(messages: Sequence[Message]) -> None:
            await asyncio.sleep(0)  # a place to be cancelled at
            note(file, messages)

        async def consume() -> None:
            transport = self.engine.transport(self.store)
            try:
                await transport.consume(group, handle, stop=asyncio.Event())
            finally:
                await transport.close()
                os.close(file)

        self.members.append(asyncio.create_task(consume()))


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.wait()


async def _leader(database: Database) -> str | None:
    """The name of the relay that leads."""
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        name: str | None = await connection.fetchval(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND classid = 20826 AND granted AND application_name LIKE 'relay-%'"
            "   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return name
    finally:
        await connection.close()


@pytest.fixture
async def chaos(engine: Engine, database: Database, store: EventStore) -> AsyncIterator[Chaos]:
    with tempfile.TemporaryDirectory(prefix="quantum-chaos-") as directory:
        chaos = Chaos(engine, database, store, Path(directory), f"chaos-{engine.name}")
        try:
            await chaos.start()
            yield chaos
        finally:
            await chaos.stop()
            print((Path(directory) / "workers.log").read_text(errors="replace")[-3_000:])


async def test_everything_may_be_killed_and_every_group_still_gets_every_event_in_order(chaos: Chaos) -> None:
    tenant, began = f"chaos-{chaos.engine.name}", time.monotonic()
    log = await _positions(chaos.store, tenant)
    assert log == {}
    rounds = iter(range(ROUNDS))
    for number in range(RESTARTS):
        for _ in range(ROUNDS // RESTARTS):
            await _append_round(chaos.store, tenant, next(rounds))
        await chaos.strike(number)
    appended = time.monotonic()
    log = await _positions(chaos.store, tenant)
    assert len(log) == EVENTS
    for end in ("killed", "cancelled"):
        path = chaos.notes(f"{chaos.group}-{end}")
        seen, repeats = await _caught_up(path, tenant)
        assert seen == log
        print(f"{path.name}: {len(seen)} events, {repeats} repeats")
    print(f"killed {dict(chaos.killed)}; {appended - began:.0f} s of blows, {time.monotonic() - began:.0f} s in all")


async def _append_round(store: EventStore, tenant: str, number: int) -> None:
    parts = [
        StreamAppend(StreamId(f"s{stream}"), new_events(EACH, f"{number}-{stream}"), ANY_VERSION) for stream in range(STREAMS)
    ]
    await store.append(TenantId(tenant), parts, command_id=uuid7(), metadata=METADATA)


async def _positions(store: EventStore, tenant: str) -> dict[tuple[str, int], tuple[int, str]]:
    """The tenant's events in the log: (key, version) to (position, event id)."""
    rows = await store.platform_pool.fetch(
        "SELECT stream_id, version, position, event_id FROM quantum.events WHERE tenant_id = $1", tenant
    )
    return {(f"{tenant}/{row['stream_id']}", row["version"]): (row["position"], str(row["event_id"])) for row in rows}


async def _caught_up(path: Path, tenant: str) -> tuple[dict[tuple[str, int], tuple[int, str]], int]:
    """What a group has handled, once that is everything; fails where nothing new has come for a long time."""
    known, since = 0, time.monotonic()
    while True:
        seen, repeats = _noted(path, tenant)
        if len(seen) >= EVENTS:
            return seen, repeats
        if len(seen) > known:
            known, since = len(seen), time.monotonic()
        assert time.monotonic() - since < STANDSTILL_SECONDS_MAX, f"{path.name} stands still at {known} of {EVENTS} events"
        await asyncio.sleep(1)


def _noted(path: Path, tenant: str) -> tuple[dict[tuple[str, int], tuple[int, str]], int]:
    """What a group has handled, and how many repeats were among it. Fails where the order of a key is broken."""
    seen: dict[tuple[str, int], tuple[int, str]] = {}
    last: dict[str, int] = defaultdict(int)
    repeats = 0
    for line in (path.read_text(encoding="utf-8") if path.exists() else "").split("\n"):
        fields = line.split(" ")
        if len(fields) != 5 or fields[4] != "." or not fields[2].startswith(f"{tenant}/"):
            continue
        position, event_id, key, version = int(fields[0]), fields[1], fields[2], int(fields[3])
        if (key, version) in seen:
            assert seen[key, version] == (position, event_id), "a repeat is the same event"
            repeats += 1
            continue
        assert version == last[key] + 1, f"{key} skipped from {last[key]} to {version}"
        last[key] = version
        seen[key, version] = (position, event_id)
    return seen, repeats
