# intent_ref: bench.peer-restate
"""Restate carrying out handlers of five no-op steps, as its documentation has them: `python -m bench.peer_restate SECONDS`.

Its server is the binary that npm installs into the user's cache, a single node on loopback with an empty data folder that goes
away afterwards, every step on disk before it counts (its default). The service is Restate's Python SDK under granian over HTTP/2
without TLS, so that steps stream through one request. Callers wait at the ingress for the answer of each execution.
"""

import asyncio
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from platformdirs import user_cache_path

from bench.ground import WARM_UP_SECONDS, free_port, load, tell, wait_for

VERSION = "1.7.12"
IN_FLIGHT = 64
STEPS = 5
_SERVICE, _HANDLER = "chain", "five_steps"
_INSTALL_SECONDS_MAX = 300.0
_STOP_SECONDS_MAX = 15.0
_PROCESSORS = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_PUBLISHED = {"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"}


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run it: the server's partitions, the service's processes, and how many requests share an HTTP/2 connection."""

    partitions: int
    workers: int
    streams: int = 128

    def __str__(self) -> str:
        return f"{_counted(self.partitions, 'partition')}, {_counted(self.workers, 'granian worker')}"


SETTINGS = (Setting(4, 1), Setting(4, 2, streams=8), Setting(1, 1))
"""Those measured; the best one counts. Connections of few requests spread over the workers, those of 128 all go to one."""


class RestateFault(Exception):
    """Restate is there and does not do what is asked of it."""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def service() -> Any:
    """The service as an ASGI application, for granian: one handler of `STEPS` steps that do nothing."""
    import restate
    from restate.serde import BytesSerde, JsonSerde

    chain = restate.Service(_SERVICE)
    nothing_at_all: JsonSerde[None] = JsonSerde()  # given, so that the SDK need not look at the step's signature each time

    async def nothing() -> None:
        """A step."""

    @chain.handler(_HANDLER, input_serde=BytesSerde(), output_serde=BytesSerde())
    async def five_steps(ctx: restate.Context, _given: bytes) -> bytes:
        """Five steps, one after the other."""
        for _ in range(STEPS):
            await ctx.run("nothing", nothing, serde=nothing_at_all)
        return b""

    return restate.app([chain])


def package_of(system: str, machine: str) -> str | None:
    """The npm package with the server's binary for a system and processor, as `platform` names them; None where there is none."""
    name = f"{system.lower()}-{_PROCESSORS.get(machine.lower(), machine.lower())}"
    return f"@restatedev/restate-server-{name}" if name in _PUBLISHED else None


def why_not() -> str | None:
    """What is missing for Restate to run here, by name; None when nothing is."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    missing += [f"the Python package {name}" for name in ("granian", "restate") if find_spec(name) is None]
    if package_of(platform.system(), platform.machine()) is None:
        missing.append(f"a server for {platform.system()} on {platform.machine()}")
    return f"no Restate: {' and '.join(missing)} missing" if missing else None


def program() -> Path:
    """The server's binary, installed at first use into the user's cache. Raises `RestateFault` where npm cannot."""
    package = package_of(platform.system(), platform.machine())
    if package is None:
        raise RestateFault(f"There is no Restate server for {platform.system()} on {platform.machine()}.")
    folder = user_cache_path("quantum-tests") / f"restate-{VERSION}"
    binary = folder / "node_modules" / package / "bin" / "restate-server"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _install(folder)
            if not binary.exists():
                raise RestateFault(f"npm installed Restate's server {VERSION} without {package}.")
            (folder / "complete").touch()
    return binary


def _install(folder: Path) -> None:
    command = [
        "npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved",
        "--no-package-lock", "--ignore-scripts", f"@restatedev/restate-server@{VERSION}",
    ]  # fmt: skip
    try:
        installed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_INSTALL_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired as fault:
        raise RestateFault(f"npm did not install Restate's server {VERSION} within {_INSTALL_SECONDS_MAX:.0f} s.") from fault
    if installed.returncode != 0:
        raise RestateFault(f"npm cannot install Restate's server {VERSION}: {installed.stderr[-300:]}")


def environment_of(setting: Setting, ports: Sequence[int], given: Mapping[str, str]) -> dict[str, str]:
    """What the server's process is told: `ports` are of ingress, admin and node; nothing leaves the machine, by proxy or as
    telemetry, and what `given` has of Restate's own settings or of proxies is left out."""
    ingress, admin, node = ports
    kept = {name: text for name, text in given.items() if not name.startswith("RESTATE_") and not name.upper().endswith("_PROXY")}
    return {
        **kept,
        "RESTATE_DEFAULT_NUM_PARTITIONS": str(setting.partitions),
        "RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT": str(setting.streams),
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_ADMIN__DISABLE_WEB_UI": "true",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_LOG_DISABLE_ANSI_CODES": "true",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def serving(setting: Setting) -> Iterator[int]:
    """The server and its service, registered; yields the ingress' port. Raises `RestateFault` where either does not come up."""
    binary = program()
    folder = Path(tempfile.mkdtemp(prefix="quantum-bench-restate-"))
    ingress, admin, node, serves = (free_port() for _ in range(4))
    server_log, service_log = folder / "server.log", folder / "service.log"
    server = _spawned(
        [str(binary), "--no-logo", "--node-name", "bench", "--base-dir", str(folder / "data")],
        server_log, environment_of(setting, (ingress, admin, node), os.environ),
    )  # fmt: skip
    # The SDK takes SIGTERM from granian's workers once they have served, so granian has to kill them.
    handler = _spawned(
        [sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--http", "2", "--no-ws", "--loop", "uvloop",
         "--host", "127.0.0.1", "--port", str(serves), "--workers", str(setting.workers), "--workers-kill-timeout", "1",
         "--log-level", "warning", "bench.peer_restate:service"],
        service_log, dict(os.environ),
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{admin}/health")
        _register(admin, f"http://127.0.0.1:{serves}")
        yield ingress
    except (OSError, RuntimeError) as fault:
        logs = "\n".join(log.read_text(errors="replace")[-500:] for log in (server_log, service_log))
        raise RestateFault(f"Restate with {setting} failed: {fault}\n{logs}") from fault
    finally:
        _stop(server, handler)
        shutil.rmtree(folder, ignore_errors=True)


def _spawned(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def _stop(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _register(admin: int, service_url: str, timeout_seconds: float = 60) -> None:
    """Tells the server where the service is; the service may not listen yet."""
    body = orjson.dumps({"uri": service_url})
    request = urllib.request.Request(
        f"http://127.0.0.1:{admin}/deployments", body, {"Content-Type": "application/json"}, method="POST"
    )
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            urllib.request.urlopen(request, timeout=timeout_seconds).close()
            return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def steps_a_second(setting: Setting, seconds: float) -> float:
    """Steps a second with `IN_FLIGHT` executions under way, after a second to warm up."""
    with serving(setting) as ingress:
        job = {
            "kind": "post", "path": f"/{_SERVICE}/{_HANDLER}", "body": {}, "ports": [ingress], "connections": IN_FLIGHT,
        }  # fmt: skip
        await load({**job, "seconds": WARM_UP_SECONDS})
        result = await load({**job, "seconds": seconds})
    return float(result["rate"]) * STEPS


async def best_steps_a_second(seconds: float) -> tuple[Setting, float] | None:
    """The best of `SETTINGS`, each measured for `seconds`, and its steps a second. None, the reason told, if none can run."""
    if reason := why_not():
        tell(f"left out: {reason}")
        return None
    found = []
    for setting in SETTINGS:
        try:
            rate = await steps_a_second(setting, seconds)
        except RestateFault as fault:
            tell(f"left out: {fault}")
            continue
        tell(f"Restate with {setting}: {rate:,.0f} steps/s")
        found.append((setting, rate))
    return max(found, key=lambda one: one[1], default=None)


if __name__ == "__main__":
    asyncio.run(best_steps_a_second(float(sys.argv[1])))
