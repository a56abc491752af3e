# intent_ref: quantum.demo
"""`make demo`: one intent from definition to completed execution, told as a story; each claim is proved by a query."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import orjson
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from domain import execution
from domain.documents import execution_document
from domain.execution_events import ExecutionEvent
from domain.values import ExecutionId, TenantId, execution_stream
from quantum.app import Platform
from quantum.client import Client, QuantumError, Response
from quantum.demo_stream import StreamUnfit, story_settings, stream_at_hand
from quantum.embedded_postgres import EmbeddedPostgresError
from quantum.logs import configure_logging
from quantum.server import served

TENANT = "tenant-123"
INTENT: dict[str, Any] = {
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
_SECONDS_MAX = 60.0
_MARKS = {"pending": "·", "running": "▶", "retrying": "↻", "completed": "✔", "failed": "✘", "cancelled": "–"}


class DemoFailed(Exception):
    """A claim of the story is not true."""


async def tell(data_dir: Path | None, console: Console | None = None) -> int:
    """Runs the story and returns the exit status. Its data is thrown away unless `data_dir` keeps it.

    `QUANTUM_STREAM` chooses what carries its events; raises `SettingsError` where what is said about that cannot be.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    try:
        async with asyncio.timeout(_SECONDS_MAX), _folder(data_dir) as folder:
            await _Story(console, folder).tell()
    except (DemoFailed, StreamUnfit, EmbeddedPostgresError, QuantumError, httpx.HTTPError) as fault:
        console.print(f"\n[bold red]The demo stopped:[/] {escape(str(fault) or type(fault).__name__)}")
        return 1
    except TimeoutError:
        console.print(
            f"\n[bold red]The demo stopped:[/] it did not end within {_SECONDS_MAX:.0f} seconds. `quantum doctor` may know why."
        )
        return 1
    return 0


@asynccontextmanager
async def _folder(data_dir: Path | None) -> AsyncIterator[Path]:
    if data_dir is not None:
        yield data_dir
        return
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="quantum-demo-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class _Story:
    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder, self._chapter = console, folder, 0

    async def tell(self) -> None:
        began = time.monotonic()
        settings = story_settings(self._folder)
        configure_logging(settings)
        self._console.print("[bold]Quantum[/]: a command becomes an event, a read model and an executed intent.\n")
        self._say("Starting PostgreSQL 18 and the platform")
        async with stream_at_hand(settings) as (at_hand, stream), served(at_hand) as (platform, address, _):
            self._fact(f"serving at {address}, everything on embedded PostgreSQL in {self._folder}")
            if stream is not None:
                self._fact(stream)
            token = platform.issuer.issue([TENANT], ["platform-admin"], "demo", 1)
            async with Client(address, token) as client:
                client.set_tenant(TENANT)
                await self._register(client)
                intent = await self._create(client)
                execution_id, events = await self._execute(client, intent)
                await self._query(client, intent, execution_id)
                await self._replay(client, platform, execution_id, events)
                await self._other_tenant(address, platform, execution_id)
            self._say("Stopping")
        self._fact(f"the whole story took {time.monotonic() - began:.1f} seconds")
        self._console.print(
            "\nWhat happened: the definition was checked and stored as an event of the tenant. A projector made the intent"
            "\nreadable from that event. Executing it recorded a plan; a saga reacted to each event, called the module that has"
            "\nthe action, and recorded what came back. The modules were the sandbox's: nothing was built,"
            "\npushed or deployed anywhere."
            "\n\nNext: [bold]make serve[/] runs the platform; the README's first example talks to it."
        )

    async def _register(self, client: Client) -> None:
        self._say(f"Registering the tenant {TENANT}")
        answer = await client.post("/api/v1/tenants", json={"id": TENANT, "name": "Acme"})
        if answer.status_code != 409:
            self._expect(answer, 201)
        shown = await client.get(f"/api/v1/tenants/{TENANT}", headers=_after(answer))
        self._expect(shown, 200)
        self._claim(f"it is {shown['status']}", shown["status"] == "active", f"GET /api/v1/tenants/{TENANT}")

    async def _create(self, client: Client) -> dict[str, Any]:
        self._say("Declaring what should happen: the intent deploy-web-app")
        name = INTENT["name"]
        listed = await client.get("/api/v1/intents", params={"name": name, "status": "active"})
        self._expect(listed, 200)
        if listed["items"]:
            intent: dict[str, Any] = listed["items"][0]
            self._fact("it is there already, from an earlier run on this data directory")
            return intent
        answer = await client.post("/api/v1/intents", json=INTENT)
        self._expect(answer, 201)
        intent = answer.json()
        for step in intent["definition"]["steps"]:
            self._fact(f"step {step['action']}")
        shown = await client.get(f"/api/v1/intents/{intent['id']}", headers=_after(answer))
        self._expect(shown, 200)
        same = shown.json()["definition"] == INTENT["definition"] and shown["version"] == 1
        self._claim("version 1 reads back as it was written", same, f"GET /api/v1/intents/{intent['id']}")
        return intent

    async def _execute(self, client: Client, intent: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        self._say("Executing it, and watching its events as they come")
        answer = await client.post(f"/api/v1/intents/{intent['id']}/execute", json={})
        self._expect(answer, 202)
        execution_id: str = answer["execution_id"]
        steps = [step["action"] for step in INTENT["definition"]["steps"]]
        status, events = dict.fromkeys(steps, "pending"), []
        with Live(_progress(status), console=self._console, refresh_per_second=20, transient=True) as live:
            async for event in client.stream(f"/api/v1/executions/{execution_id}/events"):
                events.append(event)
                if event["type"].startswith("step_"):
                    status[event["step"]] = event["type"].removeprefix("step_").replace("started", "running")
                live.update(_progress(status))
        self._console.print(_progress(status))
        for event in events:
            self._fact(f"{event['at'][11:23]}  {event['type']}{'  ' + event['step'] if event.get('step') else ''}")
        in_order = [event["step"] for event in events if event["type"] == "step_completed"]
        self._claim("each step completed once, in order", in_order == steps, f"GET /api/v1/executions/{execution_id}/events")
        return execution_id, events

    async def _query(self, client: Client, intent: dict[str, Any], execution_id: str) -> None:
        self._say("Asking the read side")
        path = f"/api/v1/executions/{execution_id}"
        async with asyncio.timeout(10):
            while (shown := await client.get(path)).status_code != 200 or shown["status"] == "running":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        self._claim("the execution is completed", shown["status"] == "completed", f"GET {path}")
        for step in shown["steps"]:
            self._fact(f"{step['id']}: {_short(step['result'])}")
        params = {"status": "completed", "intent_id": intent["id"]}
        listed = await client.get("/api/v1/executions", params=params)
        self._expect(listed, 200)
        found = execution_id in [item["id"] for item in listed["items"]]
        self._claim("it is in the list of completed executions", found, "GET /api/v1/executions?status=completed&intent_id=…")

    async def _replay(self, client: Client, platform: Platform, execution_id: str, events: list[dict[str, Any]]) -> None:
        self._say("Replaying its audit trail from the log, event by event")
        tenant = TenantId(TENANT)
        recorded = await platform.store.read_stream(tenant, execution_stream(ExecutionId(execution_id)))
        state = None
        for event in recorded:
            state = execution.evolve(state, cast("ExecutionEvent", event.event))
            self._fact(f"version {event.version}  position {event.position}  {event.topic}  by {event.metadata.actor}")
        if state is None:
            raise DemoFailed("The log has no event of the execution.")
        shown = (await client.get(f"/api/v1/executions/{execution_id}")).json()
        folded = _plain(execution_document(tenant, state))
        self._claim(
            "replay gives the same state as the read model", folded == shown, f"the log's stream execution-{execution_id}"
        )
        versions = [event.version for event in recorded]
        dense = versions == list(range(1, len(versions) + 1)) and len(events) == len(versions)
        self._claim(f"its {len(versions)} versions are dense: nothing is missing, nothing was added", dense, "the same stream")

    async def _other_tenant(self, address: str, platform: Platform, execution_id: str) -> None:
        self._say("Looking at it with another tenant's eyes")
        other = "tenant-456"
        token = platform.issuer.issue([other], ["platform-admin"], "demo", 1)
        async with Client(address, token) as client:
            answer = await client.post("/api/v1/tenants", json={"id": other, "name": "Somebody else"})
            if answer.status_code != 409:
                self._expect(answer, 201)
            hidden = await client.get(f"/api/v1/executions/{execution_id}")
        self._claim(
            "for them it does not exist (404)", hidden.status_code == 404, f"GET /api/v1/executions/{execution_id} as {other}"
        )

    def _say(self, sentence: str) -> None:
        self._chapter += 1
        self._console.print(f"[bold cyan]{self._chapter}.[/] [bold]{sentence}[/]")

    def _fact(self, sentence: str) -> None:
        self._console.print(Text(f"     {sentence}", style="dim"))

    def _claim(self, claim: str, holds: bool, query: str) -> None:
        if not holds:
            raise DemoFailed(f"It is not true that {claim} ({query}).")
        self._console.print(Text("   ✔ ", style="green") + Text(claim, style="default") + Text(f"   {query}", style="dim"))

    def _expect(self, answer: Response, status: int) -> None:
        if answer.status_code != status:
            raise DemoFailed(f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}: {answer.text}")


def _after(answer: Response) -> dict[str, str]:
    position = answer.headers.get("Quantum-Position")
    return {"Quantum-Min-Position": position} if position else {}


def _progress(status: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 5))
    for step, state in status.items():
        style = {"completed": "green", "failed": "red", "running": "yellow", "retrying": "yellow"}.get(state, "dim")
        table.add_row(Text(f"{_MARKS.get(state, '?')} {step}", style=style), Text(state, style=style))
    return table


def _short(result: Any) -> str:
    if not isinstance(result, dict):
        return str(result)
    with contextlib.suppress(TypeError):
        return ", ".join(f"{key}={value}" for key, value in result.items() if not isinstance(value, dict | list))
    return str(result)


def _plain(document: dict[str, Any]) -> Any:
    return orjson.loads(orjson.dumps(document, option=orjson.OPT_UTC_Z))
