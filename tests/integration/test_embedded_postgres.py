# intent_ref: ground.embedded-postgres
"""The embedded PostgreSQL keeps its data through restarts and kills, and belongs to one process at a time."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from quantum.embedded_postgres import (
    DatabaseUrls,
    DataDirectoryInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    running_database,
)
from tests.waiting import wait_until

_HOLD = """
import asyncio, sys
from pathlib import Path
from quantum.embedded_postgres import EmbeddedPostgres
async def main():
    await EmbeddedPostgres(Path(sys.argv[1]), durable=False).start()
    print("started", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def empty_data_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="quantum-embedded-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
async def started_once() -> AsyncIterator[Path]:
    """A data directory whose server has been started and stopped, to copy: quicker than a first start a test."""
    with tempfile.TemporaryDirectory(prefix="quantum-embedded-") as directory:
        async with EmbeddedPostgres(Path(directory), durable=False):
            pass
        yield Path(directory)


@pytest.fixture
def data_dir(started_once: Path, empty_data_dir: Path) -> Path:
    subprocess.run(["cp", "-a", f"{started_once}/.", str(empty_data_dir)], check=True)
    return empty_data_dir


@asynccontextmanager
async def platform_process(data_dir: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that has started the server of a data directory, and holds it."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _HOLD, str(data_dir), stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"started\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def query(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def remember(urls: DatabaseUrls) -> None:
    await query(urls.owner_dsn, "CREATE TABLE public.remembered AS SELECT 7 AS number")


async def remembered(urls: DatabaseUrls) -> object:
    return await query(urls.owner_dsn, "SELECT number FROM public.remembered")


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_each_url_logs_in_as_its_role(data_dir: Path):
    async with EmbeddedPostgres(data_dir, durable=False) as urls:
        assert await query(urls.owner_dsn, "SELECT current_user") == "postgres"
        assert await query(urls.app_dsn, "SELECT current_user") == "quantum_app"
        assert await query(urls.platform_dsn, "SELECT current_user") == "quantum_platform"


async def test_it_keeps_what_was_committed_on_disk_before_it_answers(data_dir: Path):
    async with EmbeddedPostgres(data_dir) as urls:
        assert await query(urls.app_dsn, "SHOW fsync") == "on"
        assert await query(urls.app_dsn, "SHOW synchronous_commit") == "on"


async def test_it_listens_on_no_network_address_and_lets_no_other_user_near(empty_data_dir: Path):
    async with EmbeddedPostgres(empty_data_dir, durable=False) as urls:
        assert await query(urls.owner_dsn, "SHOW listen_addresses") == ""
        assert (empty_data_dir / "run").stat().st_mode & 0o077 == 0
        assert (empty_data_dir / "postgres").stat().st_mode & 0o077 == 0
        assert await query(urls.owner_dsn, "SELECT bool_and(auth_method = 'peer') FROM pg_hba_file_rules") is True


async def test_data_survives_a_restart(data_dir: Path):
    async with EmbeddedPostgres(data_dir, durable=False) as urls:
        await remember(urls)
    async with EmbeddedPostgres(data_dir, durable=False) as urls:
        assert await remembered(urls) == 7


async def test_migrations_are_reported_once(empty_data_dir: Path):
    first: list[str] = []
    second: list[str] = []
    for names in (first, second):
        server = EmbeddedPostgres(empty_data_dir, durable=False)
        await server.start(report=names.append)
        await server.stop()
    assert first[0].startswith("0001")
    assert second == []


async def test_a_second_opener_is_told_the_directory_and_the_process_that_holds_it(data_dir: Path):
    async with platform_process(data_dir) as holder:
        with pytest.raises(DataDirectoryInUse, match=f"{data_dir} is in use by process {holder.pid}"):
            await EmbeddedPostgres(data_dir, durable=False).start()
        urls = running_database(data_dir)
        assert urls is not None
        assert await query(urls.app_dsn, "SELECT 1") == 1, "the refusal must not disturb the holder"
    async with EmbeddedPostgres(data_dir, durable=False):
        pass


async def test_the_same_directory_cannot_be_opened_twice_in_one_process_either(data_dir: Path):
    async with EmbeddedPostgres(data_dir, durable=False):
        with pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
            await EmbeddedPostgres(data_dir, durable=False).start()


@pytest.mark.chaos
async def test_the_server_of_a_killed_platform_is_adopted(data_dir: Path):
    async with platform_process(data_dir) as holder:
        server_pid = postmaster_pid(data_dir)
        holder.kill()
        await holder.wait()
        async with EmbeddedPostgres(data_dir, durable=False) as urls:
            assert postmaster_pid(data_dir) == server_pid
            assert await query(urls.app_dsn, "SELECT 1") == 1
    assert not is_alive(server_pid)


@pytest.mark.chaos
async def test_it_starts_after_platform_and_server_were_both_killed(data_dir: Path):
    async with platform_process(data_dir) as holder:
        urls = running_database(data_dir)
        assert urls is not None
        await remember(urls)
        holder.kill()
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        await holder.wait()
        async with EmbeddedPostgres(data_dir, durable=False) as urls:
            assert await remembered(urls) == 7


async def test_a_dead_servers_pid_that_is_another_processs_by_now_does_not_stop_the_start(data_dir: Path):
    async with EmbeddedPostgres(data_dir, durable=False) as urls:
        await remember(urls)
        before = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    (data_dir / "postgres" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *before[1:]]))
    async with EmbeddedPostgres(data_dir, durable=False) as urls:
        assert await remembered(urls) == 7


async def test_a_first_start_that_was_cut_short_is_done_again(empty_data_dir: Path):
    (empty_data_dir / "postgres.new" / "base").mkdir(parents=True)
    async with EmbeddedPostgres(empty_data_dir, durable=False) as urls:
        assert await query(urls.app_dsn, "SELECT 1") == 1
    assert not (empty_data_dir / "postgres.new").exists()


async def test_a_long_path_gets_a_short_socket_directory_which_is_cleared_away(data_dir: Path):
    long = data_dir / ("d" * 100)
    async with EmbeddedPostgres(long, durable=False) as urls:
        socket_directory = Path(str(await query(urls.owner_dsn, "SHOW unix_socket_directories")))
        assert len(os.fsencode(socket_directory)) < 90
        assert socket_directory.stat().st_mode & 0o077 == 0
    assert not socket_directory.exists()


async def test_a_server_that_does_not_start_is_explained_by_the_end_of_its_log(data_dir: Path):
    async with EmbeddedPostgres(data_dir, durable=False):
        pass
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)did not start.*pg_control"):
        await EmbeddedPostgres(data_dir, durable=False).start()
    with pytest.raises(EmbeddedPostgresError, match="did not start"):  # and the lock was given back
        await EmbeddedPostgres(data_dir, durable=False).start()


async def test_data_of_another_major_version_is_refused_with_a_way_out(data_dir: Path):
    async with EmbeddedPostgres(data_dir, durable=False):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match="written by PostgreSQL 17"):
        await EmbeddedPostgres(data_dir, durable=False).start()


async def test_a_connection_left_open_does_not_hold_up_the_end(data_dir: Path):
    server = EmbeddedPostgres(data_dir, durable=False)
    urls = await server.start()
    server_pid = postmaster_pid(data_dir)
    connection = await asyncpg.connect(urls.app_dsn)
    await connection.execute("BEGIN")
    await server.stop()
    await wait_until(lambda: not is_alive(server_pid), 10, what="the server to be gone")
    connection.terminate()


@pytest.mark.parametrize("orphan", [False, True], ids=["whole", "with a process that does not notice"])
async def test_a_server_that_dies_under_a_running_platform_is_started_again(tmp_path: Path, *, orphan: bool):
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    urls = await server.start()
    pid = postmaster_pid(server.data_dir)
    connection = await asyncpg.connect(urls.app_dsn)
    if orphan:
        # As one that waits for a lock of a process that was killed: it still has the shared memory.
        os.kill(connection.get_server_pid(), signal.SIGSTOP)
    watch = asyncio.create_task(server.keep_running())
    try:
        os.kill(pid, signal.SIGKILL)

        async def serves_again() -> bool:
            try:
                connection = await asyncpg.connect(urls.app_dsn, timeout=2)
            except (OSError, asyncpg.PostgresError):
                return False
            await connection.close()
            return postmaster_pid(server.data_dir) != pid

        await wait_until(serves_again, 30, what="the server to come back")
        assert not is_alive(connection.get_server_pid())
    finally:
        connection.terminate()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await server.stop()


async def test_a_platform_that_stops_leaves_no_process_of_a_dead_server(data_dir: Path):
    server = EmbeddedPostgres(data_dir, durable=False)
    urls = await server.start()
    connection = await asyncpg.connect(urls.app_dsn)
    try:
        os.kill(connection.get_server_pid(), signal.SIGSTOP)
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        await wait_until(lambda: not is_alive(postmaster_pid(data_dir)), what="the postmaster to be gone")
        await server.stop()
        await wait_until(lambda: not is_alive(connection.get_server_pid()), what="what was left of it to be gone")
    finally:
        connection.terminate()
    async with EmbeddedPostgres(data_dir, durable=False) as urls:
        assert await query(urls.app_dsn, "SELECT 1") == 1
