# intent_ref: tests.database-restarts
"""PostgreSQL goes away under the platform and comes back: clients wait or are told 503, nothing accepted is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from quantum.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from tests.chaos.load import Load, promises_hold
from tests.platforms import API, Postgres, Served, external, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
FROZEN_SECONDS = 7.0


@dataclass(frozen=True)
class Separate:
    """A PostgreSQL and a directory for platforms that work on it."""

    postgres: Postgres
    urls: DatabaseUrls
    directory: Path

    def platform(self) -> Served:
        """Another platform on it; all of them share the issuer's keys."""
        served = Served(self.directory / "platform", settings=external(self.urls, log_level="warning"))
        served.data_dir.mkdir(exist_ok=True)
        return served


@pytest.fixture
async def separate() -> AsyncIterator[Separate]:
    with temporary_directory() as directory:
        postgres = Postgres(directory / "database")
        try:
            yield Separate(postgres, await postgres.start(), directory)
        finally:
            await postgres.kill()


async def test_a_database_restarted_and_killed_under_load_costs_time_and_nothing_else(separate: Separate):
    platform = separate.platform()
    try:
        await platform.start()
        load = Load([platform], intents=16, executions=96)
        await load.register()
        task = asyncio.create_task(load.run())
        for end in (separate.postgres.stop, separate.postgres.kill, separate.postgres.stop):
            load.release(24)
            seen = len(load.accepted)
            await wait_until(lambda seen=seen: len(load.accepted) >= seen + 12, 20, what="requests to be under way")
            await end()
            assert await _live(platform), "the process is to outlive its database"
            await separate.postgres.start()
            await platform.ready()
        load.release(24)
        async with asyncio.timeout(60):
            await task
        print(f"sent again after: {dict(load.sent_again)}")
        assert set(load.sent_again) <= {"store-unavailable", "not-caught-up", "busy", "ReadTimeout"}
        await promises_hold(load, platform, separate.urls)
    finally:
        print(platform.log_tail())
        platform.kill()


async def test_while_the_database_is_away_every_answer_is_a_503_that_says_when_to_come_back(separate: Separate):
    platform = separate.platform()
    try:
        await platform.start()
        load = Load([platform], intents=2, executions=2)
        await load.register()
        load.release(2)
        await load.run()
        await promises_hold(load, platform, separate.urls)
        await separate.postgres.kill()
        execution = next(one for one in load.accepted if one.path.endswith("/execute"))
        async with httpx.AsyncClient(base_url=platform.address, timeout=30, headers=load.bearers[execution.tenant]) as client:
            answers = await asyncio.gather(
                client.get("/health/ready"),
                *(client.get(f"{API}/{path}") for path in (
                    "intents", "executions", "modules", "tenants", f"executions/{execution.id}", "intents/any/versions",
                    f"executions/{execution.id}/events",
                )),
                *(client.post(f"{API}/{path}", json=body) for path, body in (
                    ("intents", {"name": "x", "definition": {"target": "t", "steps": []}}),
                    (f"executions/{execution.id}/cancel", {}),
                    (execution.path.removeprefix("/"), {}),
                )),
            )  # fmt: skip
            for answer in answers:
                assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), (answer.url, answer.text)
                assert "Traceback" not in answer.text
                assert "asyncpg" not in answer.text
            assert (await client.get("/health/live")).status_code == 200
            await separate.postgres.start()
            await platform.ready()
            for path in ("intents", "executions", "tenants"):
                assert (await client.get(f"{API}/{path}")).status_code == 200
    finally:
        print(platform.log_tail())
        platform.kill()


async def test_two_platforms_share_the_work_and_one_goes_on_when_the_other_is_killed(separate: Separate):
    first, second = separate.platform(), separate.platform()
    try:
        await first.start()
        await second.start()
        load = Load([first, second], intents=16, executions=96)
        await load.register()
        task = asyncio.create_task(load.run())
        load.release(48)
        await wait_until(lambda: len(load.accepted) >= 40, 20, what="requests to be under way")
        await wait_until(lambda: _has_called(first), 20, what="the first one's part of the work")
        await wait_until(lambda: _has_called(second), 20, what="the second one's part of the work")
        calls = await _calls(second)
        first.kill()
        load.release(48)
        async with asyncio.timeout(60):
            await task
        # A dead worker's heartbeat counts for 5 seconds; its steps are then made by the other.
        await promises_hold(load, second, separate.urls, timeout_seconds=30)
        assert await _calls(second) > calls
        print(f"sent again after: {dict(load.sent_again)}")
    finally:
        print(first.log_tail(), second.log_tail(), sep="\n----\n")
        first.kill()
        second.kill()


async def test_a_platform_that_was_frozen_until_the_other_took_its_work_records_nothing_twice(separate: Separate):
    """As a virtual machine is when it moves: it wakes up believing that all is as it was."""
    frozen, other = separate.platform(), separate.platform()
    try:
        await frozen.start()
        await other.start()
        load = Load([frozen, other], intents=16, executions=96, timeout_seconds=4)
        await load.register()
        task = asyncio.create_task(load.run())
        load.release(64)
        await wait_until(lambda: len(load.accepted) >= 30, 20, what="requests to be under way")
        await wait_until(lambda: _has_called(frozen), 20, what="its part of the work")
        calls = await _calls(other)
        assert frozen.process is not None
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            # Longer than its leases last: what it was doing is done again by the other.
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        load.release(32)
        async with asyncio.timeout(60):
            await task
        await promises_hold(load, other, separate.urls, timeout_seconds=30)
        assert await _calls(other) > calls
        print(f"sent again after: {dict(load.sent_again)}")
        await promises_hold(load, frozen, separate.urls)
    finally:
        print(frozen.log_tail(), other.log_tail(), sep="\n----\n")
        frozen.kill()
        other.kill()


async def test_a_directory_whose_permissions_were_tightened_meanwhile_still_starts():
    """`chmod` cuts the mask of an access control list, and with it the database's user off."""
    with temporary_directory() as directory:
        parent = directory / "parent"
        parent.mkdir(mode=0o700)
        for _ in range(2):
            parent.chmod(0o700)
            server = EmbeddedPostgres(parent / "data", durable=False)
            await server.start()
            await server.stop()


async def _live(platform: Served) -> bool:
    async with httpx.AsyncClient(base_url=platform.address, timeout=5) as client:
        return (await client.get("/health/live")).status_code == 200


async def _has_called(platform: Served) -> bool:
    return await _calls(platform) > 0


async def _calls(platform: Served) -> float:
    """Calls of modules that this process has made, by its own count."""
    async with httpx.AsyncClient(base_url=platform.address, timeout=5) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("quantum_saga_call_duration_seconds_count"))
