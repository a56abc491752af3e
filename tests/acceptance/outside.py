# intent_ref: tests.contract
"""The platform as the outside sees it: a process started by `quantum serve`, its HTTP API, and the program's other commands."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx

from tests.platforms import Served
from tests.waiting import wait_until

API = "/api/v1"
COMMAND_SECONDS_MAX = 60
DEPLOY: dict[str, Any] = {
    "name": "deploy-web-app",
    "definition": {
        "target": "production",
        "steps": [
            {"action": "build-docker-image", "image": "myapp:latest", "context": "./app"},
            {"action": "push-to-registry", "registry": "azurecr.io", "image": "myapp:latest"},
            {"action": "deploy-to-kubernetes", "namespace": "production", "replicas": 3},
        ],
    },
}
ENDS = ("execution_completed", "execution_failed", "execution_cancelled")
_COVERED = [f"acme-{number}" for number in range(1, 201)]
_numbers = itertools.count(1)


def command(*words: str, data_dir: Path | None = None, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Runs `quantum` with these words; settings are environment variables without their prefix."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("QUANTUM_")}
    environment |= {f"QUANTUM_{name.upper()}": value for name, value in settings.items()}
    if data_dir is not None:
        environment["QUANTUM_DATA_DIR"] = str(data_dir)
    return subprocess.run(
        [str(Path(sys.executable).with_name("quantum")), *words],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False,
    )  # fmt: skip


@lru_cache(maxsize=64)
def token(data_dir: Path, tenants: tuple[str, ...], role: str, subject: str = "cli") -> str:
    """What `quantum token` prints."""
    named = [word for tenant in tenants for word in ("--tenant", tenant)]
    done = command("token", *named, "--role", role, "--subject", subject, data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@dataclass
class Outside:
    """A running platform, and a client of it that sends no token by itself."""

    served: Served
    client: httpx.AsyncClient

    @property
    def address(self) -> str:
        return self.served.address

    @property
    def data_dir(self) -> Path:
        return self.served.data_dir

    def bearer(self, tenant: str, role: str = "tenant-admin", subject: str = "cli") -> dict[str, str]:
        """Headers that speak for one tenant."""
        if tenant in _COVERED:
            # One token for all tests spares a start of the program each; it covers several, so the header says which.
            return {"Authorization": f"Bearer {token(self.data_dir, tuple(_COVERED), role, subject)}", "X-Tenant-Id": tenant}
        return {"Authorization": f"Bearer {token(self.data_dir, (tenant,), role, subject)}"}

    def admin(self) -> dict[str, str]:
        """Headers of a platform-admin."""
        return self.bearer("operations", "platform-admin")

    async def tenant(self) -> "Tenant":
        """A registered tenant that nobody else uses."""
        name = _COVERED[next(_numbers) - 1]
        answer = await self.client.post(f"{API}/tenants", json={"id": name, "name": name.title()}, headers=self.admin())
        assert answer.status_code == 201, answer.text
        return Tenant(self, name)


@dataclass
class Tenant:
    """Requests in the name of a tenant."""

    outside: Outside
    id: str
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def headers(self, role: str = "tenant-admin") -> dict[str, str]:
        return self.outside.bearer(self.id, role)

    async def request(self, method: str, path: str, *, role: str = "tenant-admin", **options: Any) -> httpx.Response:
        headers = {**self.headers(role), **options.pop("headers", {})}
        return await self.outside.client.request(method, API + path, headers=headers, **options)

    async def get(self, path: str, *, after: httpx.Response | None = None, **options: Any) -> httpx.Response:
        """A read, which waits for the write that `after` answered."""
        if after is not None:
            options["headers"] = {"Quantum-Min-Position": after.headers["Quantum-Position"], **options.get("headers", {})}
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def intent(self, steps: Sequence[Mapping[str, Any]], name: str | None = None) -> httpx.Response:
        """A new intent."""
        body = {"name": name or f"intent-{next(self._numbers)}", "definition": {"target": "production", "steps": list(steps)}}
        answer = await self.post("/intents", body)
        assert answer.status_code == 201, answer.text
        return answer

    async def start(self, steps: Sequence[Mapping[str, Any]], body: Any = None) -> str:
        """The id of an execution that has just started."""
        intent = await self.intent(steps)
        answer = await self.post(f"/intents/{intent.json()['id']}/execute", body or {})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])

    async def ended(self, execution_id: str) -> dict[str, Any]:
        """The execution once it has ended."""

        async def document() -> dict[str, Any] | None:
            shown = await self.get(f"/executions/{execution_id}")
            found: dict[str, Any] = shown.json()
            return found if found.get("status") in ("completed", "failed", "cancelled") else None

        found = await wait_until(document, 20, what=f"the end of {execution_id}", every_seconds=0.03)
        assert found is not None
        return found

    async def step(self, execution_id: str, step: str, status: str) -> None:
        """Waits until a step has this status."""

        async def there() -> bool:
            shown = (await self.get(f"/executions/{execution_id}")).json()
            return any(one["id"] == step and one["status"] == status for one in shown.get("steps", ()))

        await wait_until(there, 20, what=f"{step} to be {status}", every_seconds=0.03)

    async def events(self, execution_id: str) -> list[dict[str, Any]]:
        """The list of an execution's events."""
        answer = await self.get(f"/executions/{execution_id}/events", headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


@dataclass(frozen=True)
class Sent:
    """One server-sent event as it came over the wire."""

    id: str
    event: str
    data: dict[str, Any]


async def sent_events(lines: AsyncIterator[str]) -> AsyncIterator[Sent]:
    """Server-sent events out of lines, by the letter of the standard."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            yield Sent(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def assert_problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document of an answer, which must be one by RFC 9457 and by the contract."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "trace_id"} <= set(problem)
    assert problem["status"] == status
    assert problem["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
    assert problem["trace_id"]
    if code is not None:
        assert problem["type"].rsplit("/", 1)[-1] == code, problem
    for fault in problem.get("errors", ()):
        assert {"pointer", "detail"} <= set(fault)
    assert "Traceback" not in answer.text
    return problem
