# intent_ref: tests.workers
"""Workers made with the Python SDK, against a platform that really runs: they share, survive, stop in order, and lose nothing."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from quantum.client import QuantumError
from quantum.worker import Task, TaskFailed, Worker
from tests.acceptance.outside import Outside, Tenant, token
from tests.platforms import Served, temporary_directory

ROOT = Path(__file__).parents[2]


def bearer(outside: Outside, tenant: Tenant, role: str = "service") -> str:
    return tenant.headers(role)["Authorization"].removeprefix("Bearer ")


def worker_for(outside: Outside, tenant: Tenant, **options: Any) -> Worker:
    return Worker(outside.address, bearer(outside, tenant), tenant_id=tenant.id, **options)


@asynccontextmanager
async def at_work(*workers: Worker) -> AsyncIterator[None]:
    """Workers that run, and stop at the end; none may have failed."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)


@pytest.fixture
async def shop(tenant: Tenant) -> Tenant:
    """A tenant with a module whose workers fetch its work."""
    module = {"name": "laundry", "actions": [{"name": "wash"}, {"name": "press"}], "transport": "pull"}
    registered = await tenant.post("/modules", module)
    assert registered.status_code == 201, registered.text
    return tenant


async def test_async_and_plain_functions_carry_out_their_actions(outside: Outside, shop: Tenant):
    worker = worker_for(outside, shop)
    seen: list[Task] = []

    @worker.action("wash")
    async def wash(task: Task) -> dict[str, Any]:
        seen.append(task)
        return {"washed": task.parameters["shirts"]}

    @worker.action("press")
    def press(task: Task) -> int:
        assert not task.cancelled.wait_in_thread(0.01)
        return int(task.parameters["count"]) * 2

    async with at_work(worker):
        execution = await shop.start(
            [{"action": "wash", "shirts": ["a"]}, {"action": "press", "count": 4}], {"inputs": {"by": 1}}
        )
        ended = await shop.ended(execution)
    assert [step["result"] for step in ended["steps"]] == [{"washed": ["a"]}, 8]
    (task,) = seen
    assert (task.execution_id, task.step, task.attempt, task.target, task.inputs) == (
        execution,
        "wash",
        1,
        "production",
        {"by": 1},
    )
    assert task.deadline.tzinfo is not None
    assert task.idempotency_key


@pytest.mark.parametrize(
    ("answer", "code"),
    [(TaskFailed("stain", "It stays.", retryable=False, details={"where": "collar"}), "stain"),
     (ZeroDivisionError("x"), "worker-crashed"), ({"not": {1, 2}}, "result-invalid"), (float("nan"), "result-invalid"),
     ("\ud800", "result-invalid"), ("x" * (1 << 20), "result-too-large"), (TaskFailed("", ""), "failed"),
     (TaskFailed("a", "b", details={"x": object()}), "error-invalid"), (TaskFailed("a", "nul \0"), "error-invalid")],
    ids=["failed", "crashed", "no-json", "nan", "surrogate", "too-large", "nameless", "error-no-json", "error-nul"],
)  # fmt: skip
async def test_what_goes_wrong_in_a_function_is_the_steps_error(outside: Outside, shop: Tenant, answer: Any, code: str):
    worker = worker_for(outside, shop)

    @worker.action("wash")
    async def wash(task: Task) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with at_work(worker):
        ended = await shop.ended(await shop.start([{"action": "wash"}]))
    assert (ended["status"], ended["steps"][0]["error"]["code"]) == ("failed", code)


async def test_two_workers_share_the_work_and_nothing_is_done_twice(outside: Outside, shop: Tenant):
    done: dict[int, list[str]] = {0: [], 1: []}
    workers = [worker_for(outside, shop, concurrency=2) for _ in done]
    both = asyncio.Event()
    for number, worker in enumerate(workers):

        @worker.action("wash")
        async def wash(task: Task, number: int = number) -> int:
            done[number].append(task.execution_id)
            if all(done.values()):
                both.set()
            await both.wait()  # nobody does it all before the other has begun
            return number

    async with at_work(*workers):
        started = [await shop.start([{"action": "wash"}]) for _ in range(12)]
        for execution in started:
            assert (await shop.ended(execution))["status"] == "completed"
    assert sorted(done[0] + done[1]) == sorted(started)


async def test_a_long_task_is_kept_by_its_heartbeats(outside: Outside, shop: Tenant):
    attempts: list[str] = []
    workers = [worker_for(outside, shop, concurrency=1) for _ in range(2)]
    for worker in workers:

        @worker.action("wash")
        async def wash(task: Task) -> str:
            attempts.append(task.execution_id)
            await asyncio.wait([asyncio.ensure_future(task.cancelled.wait())], timeout=2.0)  # four times the lease
            return "done"

    async with at_work(*workers):
        ended = await shop.ended(await shop.start([{"action": "wash", "heartbeat": 0.5}]))
    assert ended["steps"][0]["result"] == "done"
    assert len(attempts) == 1


async def test_a_worker_killed_in_the_midst_of_a_task_loses_it_to_another(outside: Outside, shop: Tenant):
    execution = await shop.start([{"action": "press", "heartbeat": 1}])
    words = [sys.executable, str(Path(__file__).with_name("stuck_worker.py")), outside.address, bearer(outside, shop), shop.id]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).decode().strip() == execution
    finally:
        process.kill()
        await process.wait()
    worker = worker_for(outside, shop)

    @worker.action("press")
    async def press(task: Task) -> dict[str, Any]:
        return {"attempt": task.attempt}

    async with at_work(worker):
        ended = await shop.ended(execution)
    assert ended["steps"][0]["result"] == {"attempt": 1}, "the same attempt, by another"


async def test_a_function_learns_that_nobody_wants_its_work_any_more(outside: Outside, shop: Tenant):
    worker = worker_for(outside, shop)
    begun, told = asyncio.Event(), asyncio.Event()

    @worker.action("wash")
    async def wash(task: Task) -> None:
        begun.set()
        await task.cancelled.wait()
        assert await task.heartbeat() is False
        told.set()

    async with at_work(worker):
        execution = await shop.start([{"action": "wash", "heartbeat": 0.6}])
        await begun.wait()
        assert (await shop.post(f"/executions/{execution}/cancel")).status_code == 202
        async with asyncio.timeout(10):
            await told.wait()


async def test_a_function_that_takes_too_long_is_stopped_and_its_attempt_fails(outside: Outside, shop: Tenant):
    worker = worker_for(outside, shop)
    stopped = asyncio.Event()

    @worker.action("wash")
    async def wash(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with at_work(worker):
        ended = await shop.ended(await shop.start([{"action": "wash", "timeout": 0.5}]))
        async with asyncio.timeout(10):
            await stopped.wait()
    assert ended["steps"][0]["error"]["code"] == "timeout"


async def test_a_worker_that_stops_ends_what_it_has_begun(outside: Outside, shop: Tenant):
    worker = worker_for(outside, shop)
    begun, finish = asyncio.Event(), asyncio.Event()

    @worker.action("wash")
    async def wash(task: Task) -> str:
        begun.set()
        await finish.wait()
        return "to the end"

    running = asyncio.create_task(worker.run())
    execution = await shop.start([{"action": "wash"}])
    await begun.wait()
    worker.stop()
    finish.set()
    await running
    assert (await shop.ended(execution))["steps"][0]["result"] == "to the end"
    assert worker.running == 0


async def test_what_a_worker_cannot_end_in_its_grace_is_given_back_at_once(outside: Outside, shop: Tenant):
    first, second = worker_for(outside, shop, grace_seconds=0.1), worker_for(outside, shop)
    begun = asyncio.Event()

    @first.action("wash")
    async def never(task: Task) -> None:
        begun.set()
        await asyncio.Event().wait()

    @second.action("wash")
    async def wash(task: Task) -> str:
        return "the second one"

    running = asyncio.create_task(first.run())
    execution = await shop.start([{"action": "wash"}])  # with the usual lease of half a minute
    await begun.wait()
    first.stop()
    await running
    async with at_work(second):
        ended = await shop.ended(execution)
    assert (ended["steps"][0]["result"], ended["steps"][0]["attempts"]) == ("the second one", 1)


async def test_a_worker_gets_a_new_token_when_the_old_one_is_not_taken_any_more(outside: Outside, shop: Tenant):
    given = iter(["not-a-token", bearer(outside, shop)])
    worker = Worker(outside.address, lambda: next(given), tenant_id=shop.id)

    @worker.action("wash")
    async def wash(task: Task) -> int:
        return 1

    async with at_work(worker):
        assert (await shop.ended(await shop.start([{"action": "wash"}])))["status"] == "completed"


@pytest.mark.parametrize("role", ["viewer", "tenant-admin"])
async def test_a_worker_that_is_refused_says_so_and_ends(outside: Outside, shop: Tenant, role: str):
    worker = Worker(outside.address, bearer(outside, shop, role), tenant_id=shop.id)
    worker.action("wash")(lambda task: None)
    with pytest.raises(QuantumError) as refused:
        await worker.run()
    assert refused.value.status == 403


def test_an_action_has_one_function():
    worker = Worker("http://127.0.0.1:1", "token")
    worker.action("wash")(lambda task: None)
    with pytest.raises(ValueError, match="wash"):
        worker.action("wash")


def documented(language: str) -> str:
    """The first block of a language on docs/workers.md."""
    block = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / "workers.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return block[1]


@pytest.mark.parametrize("place", ["examples/worker.py", "docs/workers.md"])
async def test_the_workers_of_the_documentation_carry_out_their_actions(outside: Outside, tenant: Tenant, place: str):
    registered = await tenant.post("/modules", json.loads(documented("json")))
    assert registered.status_code == 201, registered.text
    with temporary_directory() as folder:
        script = ROOT / place
        if place.endswith(".md"):
            script = folder / "worker.py"
            script.write_text(documented("python"), encoding="utf-8")
        words = [sys.executable, str(script), outside.address, token(outside.data_dir, (tenant.id,), "service")]
        process = await asyncio.create_subprocess_exec(*words)
        try:
            steps = [{"action": "resize-image", "width": 640}, {"action": "count-words", "text": "one two three"}]
            ended = await tenant.ended(await tenant.start(steps))
            assert [step["status"] for step in ended["steps"]] == ["completed", "completed"]
            assert ended["steps"][0]["result"]["width"] == 640
            assert ended["steps"][1]["result"] == {"words": 3}
            wide = await tenant.ended(await tenant.start([{"action": "resize-image", "width": 20_000}]))
            assert wide["steps"][0]["error"]["code"] == "too-wide"
            process.terminate()
            async with asyncio.timeout(20):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.slow
async def test_a_worker_survives_the_platforms_restarts_in_the_midst_of_its_tasks():
    with temporary_directory() as directory:
        served = Served(directory / "data")
        try:
            await served.start()
            async with httpx.AsyncClient(base_url=served.address, timeout=30) as client:
                tenant = await Outside(served, client).tenant()
                module = {"name": "laundry", "actions": [{"name": "wash"}], "transport": "pull"}
                assert (await tenant.post("/modules", module)).status_code == 201
                worker = worker_for(Outside(served, client), tenant, concurrency=2)
                begun, finish = asyncio.Event(), asyncio.Event()

                @worker.action("wash")
                async def wash(task: Task) -> str:
                    begun.set()
                    await finish.wait()
                    return "through it all"

                async with at_work(worker):
                    execution = await tenant.start([{"action": "wash"}])
                    await begun.wait()
                    await served.terminate()
                    await served.start()
                    served.kill()
                    finish.set()  # its answer has to wait for the platform
                    await served.start()
                    ended = await tenant.ended(execution)
                    again = await tenant.ended(await tenant.start([{"action": "wash"}]))
            assert (ended["steps"][0]["result"], ended["steps"][0]["attempts"]) == ("through it all", 1)
            assert again["status"] == "completed"
        finally:
            await served.stop()
