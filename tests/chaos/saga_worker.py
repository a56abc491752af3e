# intent_ref: tests.saga-workers
"""A saga's worker as a process of its own, for tests to kill. It notes each call of its module in a file that all of them share.

`python -m tests.chaos.saga_worker NAME APP_DSN PLATFORM_DSN FILE [CALLS_MAX]`
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from event_store.store import EventStore
from modules.contract import Invocation
from sagas.execution import ExecutionSaga, Limits
from streaming.embedded import EmbeddedTransport
from tests.chaos.scripted import Script, parts
from tests.chaos.stream_worker import open_notes
from tests.conftest import Database

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Noted:
    """A call: by which worker, of which run of which execution."""

    worker: str
    execution_id: str
    run: str
    attempt: int


class Notes:
    """The calls that all workers have noted so far, in their order. Reads what has been added since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[Noted] = []
        self._read, self._rest = 0, ""
        path.touch()

    def look(self) -> list[Noted]:
        """All of them by now."""
        with self.path.open() as file:
            file.seek(self._read)
            added = file.read()
            self._read = file.tell()
        *lines, self._rest = (self._rest + added).split("\n")
        for line in lines:
            # The end mark tells a whole line from one whose writer was killed in the middle.
            if len(words := line.split(" ")) == 5 and words[4] == ".":
                self.calls.append(Noted(words[0], words[1], words[2], int(words[3])))
        return self.calls

    def by_worker(self, since: int = 0) -> Counter[str]:
        """How many calls each worker has made since that many."""
        return Counter(call.worker for call in self.look()[since:])


@dataclass
class Workers:
    """Processes that carry out executions on one database. Started, killed, and ended at the latest with the test."""

    database: Database
    directory: Path
    calls_max: int = 64
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    started: int = 0

    @property
    def notes_file(self) -> Path:
        """Where they note their calls."""
        return self.directory / "calls"

    def start(self) -> str:
        """Another one; its name."""
        self.started += 1
        name = f"w{self.started}"
        arguments = [name, self.database.app_dsn, self.database.platform_dsn, str(self.notes_file), str(self.calls_max)]
        with (self.directory / "log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.saga_worker", *arguments],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return name

    def kill(self, name: str) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        process = self.running.pop(name)
        assert process.poll() is None, f"{name} has ended by itself with {process.returncode}:\n{self.log_tail()}"
        process.kill()
        process.wait()

    def __enter__(self) -> "Workers":
        """Nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends whatever still runs."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def log_tail(self, lines: int = 40) -> str:
        """The end of what all of them wrote."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-lines:])
        return ""


async def main(name: str, app_dsn: str, platform_dsn: str, path: str, calls_max: str) -> None:
    """Works until SIGTERM."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    file = open_notes(Path(path))

    def note(invocation: Invocation) -> None:
        os.write(file, f"\n{name} {invocation.execution_id} {invocation.step} {invocation.attempt} .\n".encode())

    store = await EventStore.connect(app_dsn=app_dsn, platform_dsn=platform_dsn)
    try:
        shell, caller = parts(store, Script(note))
        most = int(calls_max)
        saga = ExecutionSaga(shell, EmbeddedTransport(store), caller.call, limits=Limits(most, most))
        await saga.run(stop)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
