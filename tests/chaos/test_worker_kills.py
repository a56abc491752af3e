# intent_ref: tests.worker-kills
"""`kill -9` of workers that fetch their work, and of the platform between: every execution completes, each outcome once."""

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.execution_events import StepCompleted
from event_store.store import EventStore
from tests.acceptance.outside import Outside, Tenant, token
from tests.platforms import Served, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.endurance]
EXECUTIONS = 60
WORKERS = 3
KILLS = 20
STEPS: list[dict[str, Any]] = [
    {"action": "dig", "heartbeat": 1}, {"action": "fill", "heartbeat": 1},
    {"action": "dig", "heartbeat": 1, "foreach": [1, 2], "depends_on": []},
]  # fmt: skip
UNITS = 4


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with temporary_directory() as directory:
        platform = Served(directory / "data", settings={"log_level": "warning"})
        platform.data_dir.mkdir()
        try:
            await platform.start()
            yield platform
        finally:
            print(platform.log_tail())
            await platform.stop()


async def test_workers_killed_at_random_lose_no_work_and_record_nothing_twice(served: Served, tmp_path: Path):
    seed = int(os.environ.get("QUANTUM_TEST_SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    print(f"again with: QUANTUM_TEST_SEED={seed}")
    notes = tmp_path / "notes"
    async with httpx.AsyncClient(base_url=served.address, timeout=30) as client:
        tenant = await Outside(served, client).tenant()
        module = {"name": "garden", "actions": [{"name": "dig"}, {"name": "fill"}], "transport": "pull"}
        assert (await tenant.post("/modules", module)).status_code == 201
        intent = (await tenant.intent(STEPS)).json()["id"]
        words = [served.address, token(served.data_dir, (tenant.id,), "service"), str(notes)]
        workers = [await _worker(words) for _ in range(WORKERS)]
        try:
            started = await _started(tenant, intent)
            for number in range(KILLS):
                await asyncio.sleep(chance.uniform(0.1, 0.6))  # wherever they are by then
                if number % 8 == 7:
                    served.kill()
                    await served.start()
                else:
                    place = chance.randrange(WORKERS)
                    await _killed(workers[place])
                    workers[place] = await _worker(words)
            for execution in started:
                await wait_until(lambda one=execution: _has_completed(tenant, one), 60, every_seconds=0.05)
        finally:
            for worker in workers:
                await _killed(worker)
    await _nothing_twice(served, tenant, started, notes)


async def _started(tenant: Tenant, intent: str) -> list[str]:
    answers = [await tenant.post(f"/intents/{intent}/execute", {}) for _ in range(EXECUTIONS)]
    return [str(answer.json()["execution_id"]) for answer in answers]


async def _has_completed(tenant: Tenant, execution: str) -> bool:
    status = (await tenant.get(f"/executions/{execution}")).json()["status"]
    assert status in ("running", "completed"), status
    return bool(status == "completed")


async def _nothing_twice(served: Served, tenant: Tenant, started: list[str], notes: Path) -> None:
    urls = served.database()
    store = await EventStore.connect(app_dsn=urls.app_dsn, platform_dsn=urls.platform_dsn)
    try:
        page = await store.read_log(0, limit=100_000)
        results = [
            (event.stream_id, event.event.step, event.event.result) for event in page.events
            if event.tenant_id == tenant.id and isinstance(event.event, StepCompleted) and event.event.step != "dig-2"
        ]  # fmt: skip
        assert len(results) == len({(stream, step) for stream, step, _ in results}) == UNITS * EXECUTIONS
        done = Counter(line.removesuffix(" .") for line in notes.read_text().splitlines() if line.endswith(" ."))
        recorded = Counter(result for _, _, result in results)
        assert set(recorded) <= set(done), "what is recorded was done"
        assert set(recorded.values()) == {1}, "each attempt has a key of its own"
        print(f"{len(started)} executions, {sum(done.values())} units carried out for {len(recorded)} recorded")
        left = await store.platform_pool.fetchval("SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1", tenant.id)
        assert left == 0
    finally:
        await store.close()


async def _worker(words: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.chaos.noting_worker", *words)


async def _killed(worker: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()
