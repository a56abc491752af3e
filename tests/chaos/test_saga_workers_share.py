# intent_ref: tests.saga-workers
"""Saga workers in processes of their own share the work, and the share of one that is killed moves to the others."""

import random
from pathlib import Path

import pytest

from domain.values import TenantId
from event_store.store import EventStore
from tests.chaos.saga_worker import Notes, Workers
from tests.chaos.scripted import Script, Starter, parts
from tests.conftest import Database
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
CALLS_MAX = 8
STEPS = [{"id": f"s{number}", "action": "work", "script": {"take": 0.05}} for number in range(10)]
FAIR = 0.5
"""A fair part is at least this much of an equal one: partitions are whole, and executions differ."""


async def test_two_then_four_workers_share_and_a_killed_ones_share_moves(
    store: EventStore, database: Database, tmp_path: Path
) -> None:
    shell, _ = parts(store, Script())
    starter = Starter(shell, TenantId("shared"), {"steady": STEPS})
    with Workers(database, tmp_path, calls_max=CALLS_MAX) as workers:
        notes = Notes(workers.notes_file)
        try:
            await starter.create_intents()
            workers.start()
            workers.start()
            await _shared_fairly(starter, workers, notes)
            workers.start()
            workers.start()
            await _shared_fairly(starter, workers, notes)

            # The one that has most to do is killed in the middle of it.
            before = len(notes.look())
            await starter.start(60, random.Random(1))
            await wait_until(lambda: len(notes.look()) > before + 100, 30, what="work under way")
            part = notes.by_worker(before)
            victim = max(sorted(workers.running), key=lambda name: part[name])
            workers.kill(victim)
            unfinished = {call.execution_id for call in notes.look()[before:] if call.worker == victim}
            calls = len(notes.look())
            taken_over = lambda: {call.execution_id for call in notes.look()[calls:]} & unfinished  # noqa: E731
            await wait_until(taken_over, 15, what="another worker to go on with what the killed one had begun")
            await wait_until(starter.have_all_ended, 60, what="every execution to end", every_seconds=0.1)
            assert not notes.by_worker(calls)[victim]
            assert {(await starter.state(one)).status for one in starter.started} == {"completed"}
            # The share has moved: what comes now is shared by those that are left.
            await _shared_fairly(starter, workers, notes)
        finally:
            print(dict(notes.by_worker()), workers.log_tail(), sep="\n")


async def _shared_fairly(starter: Starter, workers: Workers, notes: Notes) -> None:
    """Executions are started until each worker has its fair part of those of one go."""

    async def is_fair() -> bool:
        before = len(notes.look())
        await starter.start(40, random.Random(0))
        await wait_until(starter.have_all_ended, 60, what="a go of executions to end", every_seconds=0.05)
        made = notes.by_worker(before)
        fair = sum(made.values()) / len(workers.running)
        seen.append(dict(made))
        return all(made[name] >= FAIR * fair for name in workers.running)

    seen: list[dict[str, int]] = []
    try:
        await wait_until(is_fair, 90, what="each worker to have a fair part", every_seconds=0.5)
    finally:
        print(f"{sorted(workers.running)} made {seen}")
