# intent_ref: bench.benchmarks
"""A thousand followers of the feed on one process: how late an event reaches them, and what each costs in memory.

`python -m bench.subscribers` alone is the followers' side, a process of its own that takes its job on stdin.
"""

import asyncio
import contextlib
import re
import sys
import time
from datetime import datetime
from typing import Any

import orjson
import psutil
import uvloop

from access.issuer import LocalIssuer
from bench.ground import Figure, event_store, postgres, serving
from domain.execution_events import ExecutionPaused
from domain.refusals import TenantExists
from domain.values import ExecutionId, StreamId, TenantId
from event_store import codec
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore
from quantum.issuing import keys_folder
from quantum.tenants import register

FOLLOWERS = 1_000
EVENTS_A_SECOND = 200
REACH_MS = 250.0
_SAMPLED = 10
"""One follower in so many looks at the time of each event; the others count."""
_TIME = re.compile(rb'"time":"([^"]+)"')
_METADATA = Metadata("bench", None, "bench", None)


async def measure(seconds: float) -> list[Figure]:
    """p99 in ms from the recording of an event to its arrival, and KiB a follower."""
    figures = []
    for tenants in (100, 1):
        async with postgres() as (folder, urls), event_store(urls) as store:
            names = [f"tenant-{number}" for number in range(1, tenants + 1)]
            with serving(folder, urls, ("read-api",)) as served:
                for name in names:
                    with contextlib.suppress(TenantExists):
                        await register(store, TenantId(name), name)
                issuer = LocalIssuer.open(keys_folder(folder))
                tokens = [issuer.issue([name], ["viewer"], "bench", 1) for name in names]
                process = psutil.Process(served.processes["read-api"][0].pid)
                figures += await _followed(store, names, tokens, served.of("read-api")[0], process, max(seconds, 5.0))
    return figures


async def _followed(
    store: EventStore, tenants: list[str], tokens: list[str], port: int, server: psutil.Process, seconds: float
) -> list[Figure]:
    before = server.memory_info().rss
    followers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.subscribers", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert followers.stdin is not None
    assert followers.stdout is not None
    job = {"port": port, "tokens": tokens, "followers": FOLLOWERS, "seconds": seconds}
    followers.stdin.write(orjson.dumps(job) + b"\n")
    await followers.stdin.drain()
    assert (await followers.stdout.readline()).strip() == b"all follow"
    each_kib = (server.memory_info().rss - before) / FOLLOWERS / 1024
    cpu = server.cpu_times()
    written = await _write(store, tenants, seconds)
    used = server.cpu_times()
    busy = (used.user + used.system - cpu.user - cpu.system) / seconds
    result = orjson.loads(await followers.stdout.read())
    await followers.wait()
    after_kib = (server.memory_info().rss - before) / FOLLOWERS / 1024
    expected = written * FOLLOWERS // len(tenants)
    if result["events"] != expected:
        raise RuntimeError(f"{result['events']} events came, of {expected}.")
    whose = f"{FOLLOWERS:,} followers, {len(tenants)} tenant{'s' * (len(tenants) > 1)}"
    late = f"p50 {result['p50_ms']:.0f} ms, p99 {result['p99_ms']:.0f} ms, {busy:.0%} of a core, {written / seconds:.0f} events/s"
    return [
        Figure(f"{whose}: recorded to delivered", late, f"{REACH_MS:.0f} ms", result["p99_ms"], REACH_MS, at_most=True),
        Figure(
            f"{whose}: memory each", f"{each_kib:.0f} KiB idle, {after_kib:.0f} after", "100 KiB", after_kib, 100, at_most=True
        ),
    ]


async def _write(store: EventStore, tenants: list[str], seconds: float) -> int:
    """Appends one event at a time, evenly; the number of events."""
    began, written = time.monotonic(), 0
    total = int(seconds * EVENTS_A_SECOND)
    pending: set[asyncio.Task[Any]] = set()
    while written < total:
        due = int((time.monotonic() - began) * EVENTS_A_SECOND)
        for _ in range(min(due, total) - written):
            task = asyncio.create_task(_append(store, tenants[written % len(tenants)], written))
            pending.add(task)
            task.add_done_callback(pending.discard)
            written += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*pending)
    return written


async def _append(store: EventStore, tenant: str, number: int) -> None:
    topic, payload = codec.encode(ExecutionPaused(ExecutionId(f"e-{number}"), datetime.fromisoformat("2026-11-21T08:00:00Z")))
    stream = StreamAppend(StreamId(f"execution-e-{number % 50}"), [NewEvent(uuid7(), topic, payload)], ANY_VERSION)
    await store.append(TenantId(tenant), [stream], command_id=uuid7(), metadata=_METADATA)


class _Follower(asyncio.Protocol):
    """One connection, read as it comes."""

    def __init__(self, token: str, late: list[float] | None, follows: asyncio.Event) -> None:
        self._token, self._late, self._follows = token, late, follows
        self.events = 0
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        """Asks for what is to come."""
        transport.write(
            b"GET /api/v1/events?after=now HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n"
            + f"Authorization: Bearer {self._token}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Counts events; a sampled follower also looks at the clock."""
        if not self._follows.is_set() and b": events follow" in data:
            self._follows.set()
        if self._late is not None:
            data, now = self._rest + data, time.time()
            found = _TIME.findall(data)
            self._late += [now - datetime.fromisoformat(one.decode()).timestamp() for one in found]
            self.events += len(found)
            end = data.rfind(b'"time":"')
            self._rest = b"" if end < 0 or _TIME.match(data, end) else data[end:]
            self._rest = self._rest or data[-7:]
        else:
            data = self._rest + data
            self.events += data.count(b"\ndata: {")
            self._rest = data[-8:] if not data.endswith(b"\ndata: {") else b""


async def _follow(job: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    late: list[float] = []
    followers: list[_Follower] = []
    for number in range(job["followers"]):
        follows = asyncio.Event()
        token, sampled = job["tokens"][number % len(job["tokens"])], late if number % _SAMPLED == 0 else None
        follower = _Follower(token, sampled, follows)
        await loop.create_connection(lambda one=follower: one, "127.0.0.1", job["port"])  # type: ignore[misc]
        await follows.wait()
        followers.append(follower)
    sys.stdout.write("all follow\n")
    sys.stdout.flush()
    await asyncio.sleep(job["seconds"] + 3)
    late.sort()
    events = sum(follower.events for follower in followers)
    return {"events": events, "p50_ms": late[len(late) // 2] * 1e3, "p99_ms": late[int(len(late) * 0.99)] * 1e3}


def main() -> None:
    """Follows as the job on stdin says, and prints what was seen."""
    job = orjson.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(orjson.dumps(runner.run(_follow(job))).decode())


if __name__ == "__main__":
    main()
