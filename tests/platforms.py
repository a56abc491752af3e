# intent_ref: tests.platforms
"""Platforms as users run them, for tests that kill them: `quantum serve` as a process, and a PostgreSQL to restart under it."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from access.issuer import LocalIssuer
from quantum.embedded_postgres import DatabaseUrls, EmbeddedPostgres, running_database
from quantum.issuing import keys_folder

API = "/api/v1"
_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 40.0


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory outside of pytest's own, whose permissions pytest tightens while others use them."""
    directory = Path(tempfile.mkdtemp(prefix="quantum-test-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Served:
    """`quantum serve` on a data directory, always at the same port: start it, kill it, start it again.

    `settings` are environment variables without their prefix. What it logs is in `log_file`.
    """

    data_dir: Path
    port: int = field(default_factory=free_port)
    settings: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """Where it listens while it runs."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """What it has written, over all its lives."""
        return self.data_dir.with_name(f"{self.data_dir.name}-{self.port}.log")

    def spawn(self) -> None:
        """Starts the process and does not wait for it."""
        assert self.process is None, "it runs already"
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("QUANTUM_")}
        environment |= {f"QUANTUM_{name.upper()}": value for name, value in self.settings.items()}
        environment |= {"QUANTUM_DATA_DIR": str(self.data_dir), "QUANTUM_PORT": str(self.port)}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("quantum")), "serve"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def ready(self) -> None:
        """Waits until it can do its work; fails with the end of its log when it ends instead."""
        assert self.process is not None
        deadline = time.monotonic() + _START_SECONDS_MAX
        async with httpx.AsyncClient(base_url=self.address, timeout=5) as client:
            while time.monotonic() < deadline:
                assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log_tail()}"
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/health/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.02)
        raise AssertionError(f"it was not ready within {_START_SECONDS_MAX} seconds:\n{self.log_tail()}")

    async def start(self) -> None:
        """`spawn` and `ready`."""
        self.spawn()
        await self.ready()

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def terminate(self) -> int:
        """SIGTERM, as a container's platform sends it; the status it ends with."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.process.wait, _STOP_SECONDS_MAX)
        self.process = None
        return status

    def kill_database(self) -> None:
        """SIGKILL to the embedded PostgreSQL: postmaster and children at once."""
        kill_postgres(self.data_dir)

    async def stop(self) -> None:
        """Ends whatever of it still runs, the database as well."""
        self.kill()
        if "database_url" not in self.settings:
            end_postgres(self.data_dir)

    def database(self) -> DatabaseUrls:
        """The embedded database of a platform that runs."""
        urls = running_database(self.data_dir)
        assert urls is not None, "its database does not run"
        return urls

    def token(self, *tenants: str, roles: tuple[str, ...] = ("platform-admin",), subject: str = "ada") -> str:
        """A token of its issuer, whether it runs or not."""
        return LocalIssuer.open(keys_folder(self.data_dir)).issue(tenants, roles, subject, 1)

    def bearer(self, *tenants: str, **options: Any) -> dict[str, str]:
        """The header that carries such a token."""
        return {"Authorization": f"Bearer {self.token(*tenants, **options)}"}

    def log_tail(self, lines: int = 40) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Postgres:
    """A PostgreSQL of the test's own, which a platform is pointed at by its URLs, so that it can be restarted under it."""

    data_dir: Path
    server: EmbeddedPostgres | None = None

    async def start(self) -> DatabaseUrls:
        """Starts it, or starts it again after `kill`; the URLs stay the same."""
        self.server = EmbeddedPostgres(self.data_dir)
        return await self.server.start()

    async def stop(self) -> None:
        """Shuts it down in order: connections are cut, nothing is lost."""
        if self.server is not None:
            await self.server.stop()
            self.server = None

    async def kill(self) -> None:
        """SIGKILL to postmaster and children at once."""
        kill_postgres(self.data_dir)
        await self.stop()


def kill_postgres(data_dir: Path) -> None:
    """SIGKILL to the PostgreSQL of a data directory, the postmaster first, so that it restarts nothing."""
    try:
        pid = int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        if postmaster.name() != "postgres":
            return
        family = [postmaster, *postmaster.children(recursive=True)]
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def end_postgres(data_dir: Path) -> None:
    """`kill_postgres`, and those of its processes that were started in that moment and may never notice."""
    kill_postgres(data_dir)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "postgres" and process.cwd() == str(data_dir / "postgres"):
                process.kill()


def external(urls: DatabaseUrls, **settings: str) -> dict[str, str]:
    """Settings of a platform on a database that is not its own."""
    return {"database_url": urls.app_dsn, "database_platform_url": urls.platform_dsn, "sandbox": "true", **settings}
