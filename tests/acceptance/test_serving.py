# intent_ref: tests.serving
"""`quantum serve` as a process: what it prints, how it stops, that it survives being killed, and what it refuses to do."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from quantum.client import Client
from quantum.embedded_postgres import running_database
from tests.acceptance.outside import API, DEPLOY, command
from tests.platforms import Served, free_port, temporary_directory
from tests.waiting import wait_until

LONG: dict[str, Any] = {
    "name": "long", "definition": {"target": "t", "steps": [{"action": "no-op", "sandbox": {"take": 600}}]},
}  # fmt: skip
SLOW: dict[str, Any] = {
    "name": "slow", "definition": {"target": "t", "steps": [{"action": "no-op", "sandbox": {"take": 0.5}}] * 3},
}  # fmt: skip


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    """A platform that may be stopped and killed; each test leaves it running, with the tenant `t`."""
    with temporary_directory() as directory:
        served = Served(directory / "data")
        try:
            await served.start()
            headers = served.bearer("operations")
            async with httpx.AsyncClient(base_url=served.address) as client:
                created = await client.post(f"{API}/tenants", json={"id": "t", "name": "T"}, headers=headers)
            assert created.status_code == 201
            yield served
        finally:
            await served.stop()


def spawned(data_dir: Path, port: int) -> "subprocess.Popen[str]":
    """`quantum serve`, with stdout and stderr apart."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("quantum")), "serve", "--port", str(port), "--data-dir", str(data_dir)],
        env={name: value for name, value in os.environ.items() if not name.upper().startswith("QUANTUM_")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def client_of(served: Served) -> Client:
    return Client(served.address, served.token("t", roles=("tenant-admin",)))


async def started(client: Client, body: dict[str, Any]) -> str:
    listed = await client.get(f"{API}/intents", params={"name": body["name"], "status": "active"})
    found = listed["items"] or [(await client.post(f"{API}/intents", json=body)).json()]
    accepted = await client.post(f"{API}/intents/{found[0]['id']}/execute")
    return str(accepted["execution_id"])


async def test_the_first_start_prints_address_page_and_a_token_that_works_at_once():
    with temporary_directory() as directory:
        port = free_port()
        process = spawned(directory / "data", port)
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or not lines[-1].startswith("Ctrl-C"):
                line = await asyncio.to_thread(process.stdout.readline)
                assert line, process.communicate()[1]
                lines.append(line)
            printed = "".join(lines)
            address = f"http://127.0.0.1:{port}"
            assert address in printed
            assert f"{address}/docs" in printed
            (token,) = re.findall(r"\beyJ[\w.-]+", printed)
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=address, headers=headers) as client:
                assert (await client.get("/docs")).status_code == 200
                assert (await client.get(f"{API}/intents")).status_code == 200
                created = await client.post(f"{API}/intents", json=DEPLOY)
                assert created.status_code == 201
                assert (await client.post(f"{API}/intents/{created.json()['id']}/execute")).status_code == 202
                tenant = await client.post(f"{API}/tenants", json={"id": "tenant-123", "name": "Acme"})
                assert tenant.status_code == 201
            process.send_signal(signal.SIGINT)
            _, logged = await asyncio.to_thread(process.communicate)
            assert process.returncode == 0
            assert all(json.loads(line) for line in logged.splitlines()), "stderr is log lines and nothing else"
            assert token not in logged
            assert running_database(directory / "data") is None
        finally:
            process.kill()
            await Served(directory / "data").stop()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_everything_also_with_a_stream_open(served: Served, number: signal.Signals):
    async with client_of(served) as client:
        execution_id = await started(client, LONG)
        async with aclosing(client.stream(f"{API}/executions/{execution_id}/events")) as events:
            assert (await anext(events))["type"] == "execution_started"
            assert served.process is not None
            served.process.send_signal(number)
            assert await asyncio.to_thread(served.process.wait, 20) == 0
            served.process = None
            assert running_database(served.data_dir) is None
            assert "Traceback" not in served.log_tail()
            assert '"error"' not in served.log_tail(5)
            await served.start()
            assert (await anext(events))["type"] == "step_started", "the stream goes on where it was"
        cancelled = await client.post(f"{API}/executions/{execution_id}/cancel")
        assert cancelled["status"] == "cancelled"


@pytest.mark.slow
async def test_a_stream_goes_on_over_a_kill_and_a_restart_and_repeats_nothing(served: Served):
    async with client_of(served) as client:
        execution_id = await started(client, SLOW)
        path = f"{API}/executions/{execution_id}/events"
        seen = []
        async for event in client.stream(path):
            seen.append(event)
            if event["type"] == "step_completed" and event["step"] == "no-op":
                before = running_database(served.data_dir)
                served.kill()
                assert running_database(served.data_dir) == before, "the database outlives the platform"
                postmaster = (served.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]
                restarting = asyncio.create_task(served.start())
        await restarting
        assert (served.data_dir / "postgres" / "postmaster.pid").read_text().split()[0] == postmaster, "it was adopted"
        assert seen[-1]["type"] == "execution_completed"
        listed = await client.get(path, headers={"Accept": "application/json"})
        assert seen == listed["items"]
        completed = [event["step"] for event in seen if event["type"] == "step_completed"]
        assert completed == ["no-op", "no-op-2", "no-op-3"]


async def test_a_port_in_use_is_said_before_anything_starts(served: Served):
    with temporary_directory() as directory:
        done = command("serve", "--port", str(served.port), data_dir=directory / "data")
        assert done.returncode == 1
        assert f"127.0.0.1:{served.port}" in done.stderr
        assert "--port" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (directory / "data" / "postgres").exists()


async def test_a_data_directory_in_use_is_named_with_its_holder(served: Served):
    done = command("serve", "--port", "0", data_dir=served.data_dir)
    assert done.returncode == 1
    assert served.process is not None
    assert f"in use by process {served.process.pid}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        (["serve", "--role", "emperor"], {}, "QUANTUM_ROLE should be"),
        (["serve"], {"port": "http"}, "QUANTUM_PORT should be"),
        (["serve"], {"prot": "8000"}, "QUANTUM_PROT is not a setting: did you mean QUANTUM_PORT?"),
        (["serve"], {"stream": "kafka"}, "QUANTUM_KAFKA_BOOTSTRAP is missing"),
        (["serve", "--host", "256.1.1.1"], {}, "256.1.1.1"),
        (["serve", "--data-dir", "/proc/nowhere"], {"port": "0"}, "/proc/nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(words: list[str], settings: dict[str, str], sentence: str):
    with temporary_directory() as directory:
        done = command(*words, data_dir=directory, **settings)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_login_that_is_too_strong_is_refused_in_a_sentence(postgres: Any):
    with temporary_directory() as directory:
        strong = {"database_url": postgres.owner_dsn, "database_platform_url": postgres.platform_dsn}
        done = command("serve", "--port", "0", data_dir=directory, **strong)
        assert done.returncode == 1
        assert "QUANTUM_DATABASE_URL logs in as postgres, a superuser" in done.stderr
        away = {"database_url": "postgresql://quantum_app@127.0.0.1:9/q", "database_platform_url": "postgresql://p@127.0.0.1:9/q"}
        done = command("serve", "--port", "0", data_dir=directory, **away)
        assert done.returncode == 1
        assert "QUANTUM_DATABASE_URL does not let us in" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
async def test_one_role_serves_its_part_alone(postgres: Any):
    with temporary_directory() as directory:
        login = {"database_url": postgres.app_dsn, "database_platform_url": postgres.platform_dsn}
        served = Served(directory / "data", settings={**login, "role": "read-api"})
        try:
            await served.start()
            async with httpx.AsyncClient(base_url=served.address, headers=served.bearer("operations")) as client:
                assert (await client.get(f"{API}/tenants")).status_code == 200
                assert (await client.post(f"{API}/tenants", json={"id": "x", "name": "X"})).status_code == 405
                assert (await client.get("/metrics")).status_code == 200
            assert "eyJ" not in served.log_tail(), "no token in the logs of a platform with a database of its own"
            assert await served.terminate() == 0
        finally:
            await served.stop()


@pytest.mark.slow
async def test_a_platform_that_loses_its_embedded_database_lives_on_and_starts_it_again(served: Served):
    async with httpx.AsyncClient(base_url=served.address, headers=served.bearer("t"), timeout=15) as client:
        assert (await client.get("/health/ready")).status_code == 200
        served.kill_database()
        assert (await client.get("/health/live")).status_code == 200

        async def works() -> bool:
            ready = await client.get("/health/ready")
            assert ready.status_code in (200, 503)
            return ready.status_code == 200 and (await client.get(f"{API}/intents")).status_code == 200

        await wait_until(works, 30, what="the database to be back")
        assert served.process is not None
        assert served.process.poll() is None
