# intent_ref: tests.http
"""The whole platform behind a real HTTP server, for tests that speak to it as clients do."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from quantum.app import Platform
from quantum.server import served
from quantum.settings import Settings
from tests.conftest import Database

API = "/api/v1"
STEPS = [
    {"action": "build-docker-image", "image": "myapp:latest"},
    {"action": "push-to-registry", "registry": "azurecr.io", "image": "myapp:latest"},
]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Http:
    """A running platform and how to reach it."""

    platform: Platform
    address: str
    client: httpx.AsyncClient

    def token(self, *tenants: str, roles: Sequence[str] = ("tenant-admin",), subject: str = "ada") -> str:
        """A token of the local issuer."""
        return self.platform.issuer.issue(tenants or ("platform",), roles, subject, 1)

    def bearer(self, *tenants: str, roles: Sequence[str] = ("tenant-admin",), subject: str = "ada") -> dict[str, str]:
        """The header that carries such a token."""
        return {"Authorization": f"Bearer {self.token(*tenants, roles=roles, subject=subject)}"}

    async def tenant(self) -> "Tenant":
        """A tenant that nobody else uses."""
        name = f"tenant-{next(_numbers)}"
        admin = self.bearer("platform", roles=["platform-admin"])
        answer = await self.client.post(f"{API}/tenants", json={"id": name, "name": name}, headers=admin)
        assert answer.status_code == 201, answer.text
        return Tenant(self, name)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A registered tenant, and requests in its name."""

    http: Http
    id: str

    async def request(
        self, method: str, path: str, *, roles: Sequence[str] = ("tenant-admin",), **options: Any
    ) -> httpx.Response:  # fmt: skip
        """A request with a token of this tenant."""
        headers = {**self.http.bearer(self.id, roles=roles), **options.pop("headers", {})}
        return await self.http.client.request(method, API + path, headers=headers, **options)

    async def get(self, path: str, *, after: httpx.Response | None = None, **options: Any) -> httpx.Response:
        """A read, which waits for the write that `after` answered."""
        headers = dict(options.pop("headers", {}))
        if after is not None:
            headers["Quantum-Min-Position"] = after.headers["Quantum-Position"]
        return await self.request("GET", path, headers=headers, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A write."""
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def intent(self, name: str = "deploy", steps: Sequence[dict[str, Any]] = STEPS, **more: Any) -> httpx.Response:
        """Creates an intent."""
        definition = {"target": "production", "steps": list(steps)}
        return await self.post("/intents", {"name": name, "definition": definition, **more})

    async def execution(self, steps: Sequence[dict[str, Any]] = STEPS) -> str:
        """The id of a new execution of a new intent with these steps."""
        created = await self.intent(f"intent-{next(_numbers)}", steps)
        assert created.status_code == 201, created.text
        started = await self.post(f"/intents/{created.json()['id']}/execute", {})
        assert started.status_code == 202, started.text
        return str(started.json()["execution_id"])


@asynccontextmanager
async def serving(database: Database, data_dir: Path, **settings: Any) -> AsyncIterator[Http]:
    """The platform on `database`, served at a port of its own."""
    chosen = Settings(
        database_url=SecretStr(database.app_dsn), database_platform_url=SecretStr(database.platform_dsn), data_dir=data_dir,
        port=0, sandbox=True, **settings,
    )  # fmt: skip
    async with (
        served(chosen) as (platform, address, _ended),
        httpx.AsyncClient(base_url=address, timeout=30) as client,
    ):
        yield Http(platform, address, client)
