# intent_ref: bench.orchestration
"""Executions of no-op steps, every step durable: throughput beside DBOS on the same PostgreSQL and beside Restate, and what size
and floods cost.

Each of our workers is a process that starts executions and takes part in the execution saga; a step is an in-process module's
action. DBOS runs in one process, as its users run it, with the pool it needs for 64 workflows. Restate runs with a server and
a store of its own, where Node.js is there to install it with, at the best of a few settings (`bench.peer_restate`).
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.ground import Figure, event_store, median_turn, postgres, repeated, tell
from bench.peer_restate import best_steps_a_second
from bench.peer_restate import steps_a_second as restate_steps_a_second
from commands.execution import StartExecution
from commands.handle import Envelope, Shell, handle
from commands.intent import CreateIntent
from domain.definition import Rules
from domain.execution_events import ExecutionCompleted
from domain.module import Action, Module, Transport
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, TenantId, execution_stream
from event_store import codec
from event_store.ids import uuid7
from event_store.records import NO_STREAM, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore
from modules.artifacts.files import FileArtifacts
from modules.artifacts.inputs import InputArtifacts
from modules.breaker import Breakers
from modules.catalogue import Caller, builtin
from modules.contract import InProcessModule, Invocation
from modules.http import HttpModules
from modules.secrets.environment import EnvironmentSecrets
from modules.secrets.resolving import Secrets
from quantum.embedded_postgres import DatabaseUrls
from quantum.server import collect_rarely
from quantum.telemetry import Telemetry
from sagas.execution import ExecutionSaga
from streaming.embedded import EmbeddedTransport

IN_FLIGHT = 64
STEPS = 5
TENANT = TenantId("tenant-1")
_SLOW_SECONDS = 0.2
_IDLE_SECONDS = 5.0
_STARTED_TOGETHER = 200
_PROBES = 300
_FLOODS = 5
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Nothing:
    """A module that does nothing (or takes its time for it), as a step to be orchestrated; it keeps when it was asked."""

    def __init__(self) -> None:
        actions = (Action(ActionName("nothing")), Action(ActionName("slowly")))
        self.module = Module(ModuleName("nothing"), actions, Transport("in-process", plugin="nothing"), _EPOCH, _EPOCH)
        self.asked_at: dict[str, float] = {}

    async def call(self, invocation: Invocation) -> Any:
        """Nothing."""
        if invocation.execution_id in self.asked_at:
            self.asked_at[invocation.execution_id] = time.perf_counter()
        if invocation.action == "slowly":
            await asyncio.sleep(_SLOW_SECONDS)
        return None


class Workbench:
    """A worker's parts, as `quantum serve` puts them together: the shell to start executions with, the saga that carries them out
    with all that stands around its calls: secrets, circuit breakers, artifacts, metrics, log lines that say whose they are."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self._http, self._telemetry = HttpModules(), Telemetry()
        self._folder = tempfile.TemporaryDirectory(prefix="quantum-bench-")
        self.nothing = Nothing()
        running: dict[str, InProcessModule] = {"nothing": self.nothing}
        artifacts = FileArtifacts(Path(self._folder.name))
        caller = Caller(
            running, self._http, secrets=Secrets([EnvironmentSecrets({})]), breakers=Breakers(), artifacts=artifacts
        )  # fmt: skip
        self.shell = Shell(store, builtin(running), Rules(), inputs=InputArtifacts(artifacts))
        self.saga = ExecutionSaga(self.shell, EmbeddedTransport(store), caller.call, trace=self._telemetry.attempt)
        self._telemetry.observe_store(store)
        self._telemetry.observe_saga(self.saga)
        self._ended: dict[str, asyncio.Future[None]] = {}

    @contextlib.asynccontextmanager
    async def working(self, *, has_saga: bool = True) -> AsyncIterator[None]:
        """The saga at work, where it is in this process, and a reader that hears of executions' ends."""
        stop = asyncio.Event()
        saga = asyncio.create_task(self.saga.run(stop) if has_saga else stop.wait())
        listener = asyncio.create_task(self._listen(await self.store.horizon()))
        try:
            yield
        finally:
            stop.set()
            await saga
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            await self._http.close()
            self._telemetry.close()
            self._folder.cleanup()

    async def _listen(self, after: int) -> None:
        topics = frozenset({codec.topic_of(ExecutionCompleted)})
        async for page in self.store.subscribe(after=after, topics=topics):
            for event in page.events:
                waiting = self._ended.pop(event.stream_id.removeprefix("execution-"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)

    async def intent(self, definition: dict[str, Any], tenant: TenantId = TENANT) -> IntentId:
        """An intent with this definition."""
        intent_id = IntentId(str(uuid7()))
        command = CreateIntent(intent_id=intent_id, name=str(intent_id), definition=definition, at=datetime.now(UTC))
        await handle(self.shell, command, _envelope(tenant))
        return intent_id

    async def start(self, intent_id: IntentId, tenant: TenantId = TENANT) -> ExecutionId:
        """Starts an execution."""
        envelope = _envelope(tenant)
        execution_id = ExecutionId(str(envelope.command_id))
        command = StartExecution(execution_id=execution_id, intent_id=intent_id, tenant_id=tenant, at=datetime.now(UTC))
        await handle(self.shell, command, envelope)
        return execution_id

    async def execution(self, intent_id: IntentId, tenant: TenantId = TENANT) -> None:
        """Starts an execution and returns when it has ended."""
        envelope = _envelope(tenant)
        execution_id = ExecutionId(str(envelope.command_id))
        self._ended[execution_id] = ended = asyncio.get_running_loop().create_future()
        command = StartExecution(execution_id=execution_id, intent_id=intent_id, tenant_id=tenant, at=datetime.now(UTC))
        await handle(self.shell, command, envelope)
        await ended

    async def latency(self, intent_id: IntentId, tenant: TenantId = TENANT) -> float:
        """Milliseconds from the start of an execution to the call of its first step's module."""
        envelope = _envelope(tenant)
        execution_id = ExecutionId(str(envelope.command_id))
        self.nothing.asked_at[execution_id] = 0.0
        self._ended[execution_id] = ended = asyncio.get_running_loop().create_future()
        command = StartExecution(execution_id=execution_id, intent_id=intent_id, tenant_id=tenant, at=datetime.now(UTC))
        began = time.perf_counter()
        await handle(self.shell, command, envelope)
        await ended
        return (self.nothing.asked_at.pop(execution_id) - began) * 1000


def _envelope(tenant: TenantId) -> Envelope:
    return Envelope(tenant, uuid7(), "bench", "bench")


def chain(steps: int) -> dict[str, Any]:
    """A definition of steps one after the other."""
    return {"target": "nowhere", "steps": [{"action": "nothing"} for _ in range(steps)]}


def layers(deep: int, wide: int) -> dict[str, Any]:
    """A definition of layers, each step of which waits for all of the layer before."""
    names = [[f"s{layer}-{number}" for number in range(wide)] for layer in range(deep)]
    return {
        "target": "nowhere",
        "steps": [
            {"id": name, "action": "nothing", "depends_on": names[layer - 1] if layer else []}
            for layer, row in enumerate(names)
            for name in row
        ],
    }


async def executions_in(
    store: EventStore, seconds: float, in_flight: int, definition: dict[str, Any] | None = None, *, has_saga: bool = True
) -> tuple[int, float]:
    """(executions carried out, seconds it took); of `STEPS` steps where nothing else is given."""
    bench = Workbench(store)
    async with bench.working(has_saga=has_saga):
        intent_id = await bench.intent(definition or chain(STEPS))
        return await repeated(lambda: bench.execution(intent_id), seconds, in_flight)


async def worker(app_dsn: str, platform_dsn: str, seconds: float, in_flight: int, role: str) -> None:
    """One process: `all` and `caller` print executions and seconds; a `saga` carries executions out until its input ends."""
    collect_rarely()
    store = await EventStore.connect(app_dsn=app_dsn, platform_dsn=platform_dsn)
    try:
        if role == "saga":
            async with Workbench(store).working():
                await asyncio.to_thread(sys.stdin.read)
            return
        count, took = await executions_in(store, seconds, in_flight, has_saga=role == "all")
    finally:
        await store.close()
    print(count, took)


_TURNS = 5
"""After each has been tried in every setting, the best ones are measured so often, in turns: the machine's speed changes."""
SHAPES = {"one process": ("all",), "two processes": ("all", "all"), "one calls, one carries out": ("caller", "saga")}
"""How the platform is spread: each of its processes may have every role, or one."""


async def steps_a_second(urls: DatabaseUrls, roles: tuple[str, ...], seconds: float) -> float:
    """Steps a second of processes with these roles; those that call share `IN_FLIGHT` executions."""
    in_flight = IN_FLIGHT // sum(role != "saga" for role in roles)
    words = (urls.app_dsn, urls.platform_dsn, str(seconds), str(in_flight))
    sagas = [await _started("bench.orchestration", *words, "saga", stdin=subprocess.PIPE) for role in roles if role == "saga"]
    calls = (_steps_of("bench.orchestration", *words, role) for role in roles if role != "saga")
    try:
        return sum(await asyncio.gather(*calls))
    finally:
        await asyncio.gather(*(saga.communicate(b"") for saga in sagas))


async def dbos_steps_a_second(owner_dsn: str, processes: int, seconds: float) -> float:
    """Steps a second of DBOS, the better of its two ways, in so many processes."""
    words = (owner_dsn, str(seconds / 2), str(IN_FLIGHT // processes))
    calls = (_steps_of("bench.peer_dbos", *words, f"p{number}") for number in range(processes))
    return sum(await asyncio.gather(*calls))


async def _started(module: str, *arguments: str, stdin: int | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


async def _steps_of(module: str, *arguments: str) -> float:
    output, _ = await (await _started(module, *arguments)).communicate()
    count, took = output.splitlines()[-1].split()
    return int(count) / float(took) * STEPS


async def measure(seconds: float) -> list[Figure]:
    """Steps a second beside DBOS, the latency of a dispatch, and what width, waiting and floods cost."""
    async with postgres() as (_, urls):
        beside_peers = await _beside_peers(urls, seconds)
        async with event_store(urls) as store:
            median, last = await _latencies(store, int(seconds * 40))
            tell(f"dispatch latency, idle: median {median:.1f} ms, p99 {last:.1f} ms")
            of_chain, of_layers = await _chains_and_layers(store, seconds)
            tell(f"500 steps, 100 wide: {of_layers:,.0f} steps/s; chains of 5: {of_chain:,.0f} steps/s")
            floods = [await _flood(store, int(seconds * 1_000)) for _ in range(_FLOODS)]
            idle, flooded = median_turn(floods, lambda one: one[1] / one[0])
            tell(f"p95 dispatch latency: {flooded:.1f} ms in a flood, {idle:.1f} ms idle; now executions that wait")
        async with event_store(urls) as store:
            few, many, memory = await _waiting(store, 1_000, 100_000 if seconds > 4 else 20_000)
    return [
        *beside_peers,
        Figure("dispatch latency, idle, median", f"{median:.1f} ms", "10 ms", median / 10, 1, at_most=True),
        Figure("dispatch latency, idle, p99", f"{last:.1f} ms", "30 ms", last / 30, 1, at_most=True),
        Figure(
            "500 steps, 100 wide, a step", f"{of_layers:,.0f} steps/s", f"chains of 5: {of_chain:,.0f} steps/s",
            of_layers / of_chain, 1,
        ),
        Figure(
            "a worker's processor time while 100 times as many wait", f"{many:.1f} ms/s, {memory:+.0f} MiB", f"{few:.1f} ms/s",
            many / few, 1.5, at_most=True,
        ),
        Figure("p95 dispatch latency in a flood", f"{flooded:.1f} ms", f"idle {idle:.1f} ms", flooded / idle, 2, at_most=True),
    ]  # fmt: skip


async def _beside_peers(urls: DatabaseUrls, seconds: float) -> list[Figure]:
    """Each at its best setting found, in turns; of each pair the turn with the median ratio."""
    dbos = {processes: await dbos_steps_a_second(urls.owner_dsn, processes, seconds / 2) for processes in (1, 2)}
    tell(f"DBOS in one process: {dbos[1]:,.0f} steps/s; in two: {dbos[2]:,.0f}")
    restate = await best_steps_a_second(seconds / 2)
    rates = {}
    for shape, roles in SHAPES.items():
        rates[shape] = await steps_a_second(urls, roles, seconds)
        tell(f"Quantum, {shape}: {rates[shape]:,.0f} steps/s")
    shape = max(rates, key=rates.__getitem__)
    beside_dbos, beside_restate = [], []
    for _ in range(_TURNS):
        ours = await steps_a_second(urls, SHAPES[shape], seconds / 2)
        beside_dbos.append((ours, await dbos_steps_a_second(urls.owner_dsn, max(dbos, key=dbos.__getitem__), seconds / 2)))
        tell(f"Quantum, {shape}: {ours:,.0f} steps/s; DBOS: {beside_dbos[-1][1]:,.0f}")
        if restate is not None:
            beside_restate.append((ours, await restate_steps_a_second(restate[0], seconds / 2)))
            tell(f"Restate with {restate[0]}: {beside_restate[-1][1]:,.0f} steps/s")
    peers = [("DBOS", beside_dbos, 10), ("Restate" if restate is None else f"Restate ({restate[0]})", beside_restate, 1)]
    what = f"chains of {STEPS} no-op steps, {IN_FLIGHT} in flight: {shape}"
    figures = []
    for peer, turns, reach in peers:
        if turns:
            ours, theirs = median_turn(turns, lambda one: one[0] / one[1])
            figures.append(Figure(what, f"{ours:,.0f} steps/s", f"{peer} {theirs:,.0f} steps/s", ours / theirs, reach))
    return figures


def _rate(carried_out: tuple[int, float], steps: int) -> float:
    return carried_out[0] * steps / carried_out[1]


async def _chains_and_layers(store: EventStore, seconds: float) -> tuple[float, float]:
    """Steps a second of chains and of wide layers, in turns: the machine's speed changes within seconds."""
    chains, wide = [], []
    for _ in range(4):
        chains.append(_rate(await executions_in(store, seconds / 2, IN_FLIGHT), STEPS))
        wide.append(_rate(await executions_in(store, seconds, 4, layers(5, 100)), 500))
    return statistics.median(chains), statistics.median(wide)


async def _latencies(store: EventStore, count: int) -> tuple[float, float]:
    """(median, p99) of dispatch latencies in milliseconds, one execution at a time."""
    bench = Workbench(store)
    async with bench.working():
        intent_id = await bench.intent(chain(1))
        await bench.latency(intent_id)
        found = sorted([await bench.latency(intent_id) for _ in range(count)])
    return found[len(found) // 2], found[len(found) * 99 // 100]


async def _waiting(store: EventStore, few: int, many: int) -> tuple[float, float, float]:
    """What a worker does for executions that wait for people: milliseconds of processor time a second (its own) with `few` and
    with `many` of them, and the memory in MiB that the `many` added."""
    bench = Workbench(store)
    definition = {"target": "nowhere", "steps": [{"approval": {}}]}
    async with bench.working():
        intent_id = await bench.intent(definition)
        seconds: list[float] = []
        memory: list[float] = []
        for count in (few, many - few):
            await _started_in_bulk(bench, intent_id, count)
            await _asleep(store, few if not seconds else many)
            began, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(_IDLE_SECONDS)
            seconds.append((time.process_time() - used) / (time.perf_counter() - began) * 1000)
            memory.append(psutil.Process().memory_info().rss / 2**20)
    return seconds[0], seconds[1], memory[1] - memory[0]


async def _started_in_bulk(bench: Workbench, intent_id: IntentId, count: int) -> None:
    """The events of `count` starts, many in one append."""
    first = await bench.start(intent_id)
    recorded = await bench.store.read_stream(TENANT, execution_stream(first))
    pattern: list[Any] = [event.event for event in recorded]
    for start in range(0, count - 1, _STARTED_TOGETHER):
        streams = []
        for _ in range(min(_STARTED_TOGETHER, count - 1 - start)):
            execution_id = ExecutionId(str(uuid7()))
            events = [codec.encode(replace(event, execution_id=execution_id)) for event in pattern]
            streams.append(StreamAppend(execution_stream(execution_id), [NewEvent(uuid7(), *one) for one in events], NO_STREAM))
        await bench.store.append(TENANT, streams, command_id=uuid7(), metadata=Metadata("bench", None, "bench", None))


async def _asleep(store: EventStore, count: int) -> None:
    asleep = "SELECT count(*) FROM quantum.saga_dispatches WHERE kind = 'gate'"
    while await store.platform_pool.fetchval(asleep) < count:  # noqa: ASYNC110 - a table has no event to wait for
        await asyncio.sleep(0.2)


async def _flood(store: EventStore, calls: int) -> tuple[float, float]:
    """p95 of one tenant's dispatch latencies in milliseconds: idle, and while another tenant has `calls` slow calls queued."""
    bench, other = Workbench(store), TenantId("tenant-2")
    wide = {"target": "nowhere", "steps": [{"id": f"s{n}", "action": "slowly", "depends_on": []} for n in range(500)]}
    async with bench.working():
        single, flood = await bench.intent(chain(1)), await bench.intent(wide, other)
        await bench.latency(single)
        idle = sorted([await bench.latency(single) for _ in range(_PROBES)])
        for _ in range(calls // 500):
            await bench.start(flood, other)
        queued = "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1"
        while await store.platform_pool.fetchval(queued, other) < calls * 0.7:  # noqa: ASYNC110 - a table has no event
            await asyncio.sleep(0.05)
        flooded = sorted([await bench.latency(single) for _ in range(_PROBES)])
        await store.platform_pool.execute("DELETE FROM quantum.saga_dispatches WHERE tenant_id = $1", other)
    return idle[_PROBES * 95 // 100 - 1], flooded[_PROBES * 95 // 100 - 1]


if __name__ == "__main__":
    import uvloop

    uvloop.run(worker(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
