# intent_ref: tests.saga-workers
"""`kill -9` of saga workers at random, under a thousand executions of ten steps: every one of them ends as it is written."""

import asyncio
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from commands.handle import Shell
from domain.execution_events import ENDS
from domain.values import TenantId, execution_stream
from event_store import codec
from event_store.records import RecordedEvent
from event_store.store import EventStore
from sagas.stalls import StallCheck
from tests.chaos.saga_worker import Notes, Workers
from tests.chaos.scripted import KINDS, Script, Starter, check_history, parts
from tests.conftest import Database
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
EXECUTIONS = 1_000
WORKERS = 3
ROUNDS = 20
GRACE_SECONDS = 45.0
"""A dead worker's partitions stand still for five seconds, and its successor may be the next to be killed, several times over:
longer than that, so that what is late is not taken for stalled. What is lost, stays so until the check finds it."""
ROUND_SECONDS_MAX = 60.0


async def test_a_thousand_executions_end_right_whoever_is_killed(store: EventStore, database: Database, tmp_path: Path) -> None:
    seed = int(os.environ.get("QUANTUM_TEST_SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    print(f"again with: QUANTUM_TEST_SEED={seed}")
    shell, _ = parts(store, Script())
    starter = Starter(shell, TenantId("killed"))
    stalls, stop = StallCheck(shell, grace_seconds=GRACE_SECONDS, round_seconds=1.0), asyncio.Event()
    checking = asyncio.create_task(stalls.run(stop))
    with Workers(database, tmp_path) as workers:
        notes = Notes(workers.notes_file)
        killed = 0
        try:
            await starter.create_intents()
            for _ in range(WORKERS):
                workers.start()
            for number in range(ROUNDS):
                before = len(notes.look())
                await starter.start(EXECUTIONS // ROUNDS, chance)
                until = before + chance.randrange(1, EXECUTIONS // ROUNDS * 8)
                await wait_until(lambda until=until: len(notes.look()) >= until, ROUND_SECONDS_MAX, what=f"call {until}")
                await asyncio.sleep(chance.uniform(0.0, 0.1))  # anywhere in what comes next
                # Mostly one of them; now and then all at once, the one that has just been started among them.
                for name in chance.sample(sorted(workers.running), chance.choice([1, 1, 1, 2, WORKERS])) if number else []:
                    workers.kill(name)
                    killed += 1
                while len(workers.running) < WORKERS:
                    workers.start()
            await wait_until(
                lambda: _have_ended(store, starter.tenant_id, EXECUTIONS), 120, what="all executions to end", every_seconds=0.2
            )
        finally:
            print(f"killed: {killed}; calls by worker: {dict(notes.by_worker())}\n{workers.log_tail()}")
            stop.set()
            await checking
    called = _by_execution(notes)
    histories = await _histories(store, starter.tenant_id)
    assert set(histories) == set(starter.started)
    for execution_id, kind in starter.started.items():
        try:
            check_history(KINDS[kind], histories[execution_id], called[execution_id])
        except AssertionError as fault:
            topics = [f"{event.version} {event.topic} {getattr(event.event, 'step', '')}" for event in histories[execution_id]]
            raise AssertionError(f"{kind} {execution_id}: {fault}\n" + "\n".join(topics)) from fault
    again = Counter(count for calls in called.values() for count in calls.values())
    print(f"calls made once, twice, …: {dict(sorted(again.items()))}; the check looked at {stalls.statistics.checked}")
    assert killed >= ROUNDS - 1
    assert stalls.statistics.stalled == 0
    await _nothing_stalls_now(shell, store)


async def _have_ended(store: EventStore, tenant_id: TenantId, executions: int) -> bool:
    topics = [codec.topic_of(event) for event in ENDS]
    count: int = await store.platform_pool.fetchval(
        "SELECT count(DISTINCT stream_id) FROM quantum.events WHERE tenant_id = $1 AND topic = ANY ($2)", tenant_id, topics
    )
    return count >= executions


async def _histories(store: EventStore, tenant_id: TenantId) -> dict[str, list[RecordedEvent]]:
    found: dict[str, list[RecordedEvent]] = defaultdict(list)
    position, prefix = 0, execution_stream_prefix()
    while (page := await store.read_log(position, limit=1_000)).events:
        for event in page.events:
            if event.tenant_id == tenant_id and event.stream_id.startswith(prefix):
                found[event.stream_id.removeprefix(prefix)].append(event)
        position = page.next
    return found


def execution_stream_prefix() -> str:
    """What the streams of executions begin with."""
    return execution_stream("")  # type: ignore[arg-type]


def _by_execution(notes: Notes) -> dict[str, dict[tuple[str, int], int]]:
    """How often each attempt was called, by execution, in the order of the first calls."""
    found: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    for call in notes.look():
        calls = found[call.execution_id]
        calls[call.run, call.attempt] = calls.get((call.run, call.attempt), 0) + 1
    return found


async def _nothing_stalls_now(shell: Shell, store: EventStore) -> None:
    """Looked at anew and without grace: nothing is left that would have to be looked at."""
    check = StallCheck(shell, grace_seconds=0.0)
    await check.follow()
    assert await check.check() == 0
    assert await store.platform_pool.fetchval("SELECT count(*) FROM quantum.saga_executions") == 0
