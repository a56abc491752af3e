# intent_ref: tests.events
"""Writes the second half of docs/events.md: every type of event, its meaning and an example out of a real run.

`python -m tests.event_page`, at the root of the tree, runs a platform of its own, lets happen what can happen, and takes the
first event of each type from the feed. A type that did not occur is shown with the data of its golden file.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import orjson

from event_store import codec
from quantum.client import Client
from quantum.demo import INTENT
from quantum.server import served
from quantum.settings import Settings
from streaming.event_types import EventType, event_types
from tests.waiting import wait_until

PAGE = Path(__file__).parents[1] / "docs" / "events.md"
MARK = "<!-- types:"
GOLDEN = Path(__file__).parent / "golden"
TENANT = "tenant-123"
_API = "/api/v1"
_ENDED = ("completed", "failed", "cancelled")
_FLAKY = {"action": "notify", "retry": {"max_attempts": 2, "initial_interval": 0.01}}


async def happened() -> list[dict[str, Any]]:
    """The events of a tenant in which everything has happened that the scenario knows."""
    with tempfile.TemporaryDirectory(prefix="quantum-events-") as folder:
        settings = Settings(data_dir=Path(folder), port=0, sandbox=True, event_source="quantum://example")
        async with served(settings) as (platform, address, _ended):
            token = platform.issuer.issue([TENANT], ["platform-admin"], "ada", 1)
            async with Client(address, token) as client:
                client.set_tenant(TENANT)
                await _scenario(client)
                items: list[dict[str, Any]] = (await client.get(f"{_API}/events", params={"limit": 1000}))["items"]
                return items


async def _scenario(client: Client) -> None:
    await _ask(client, "POST", "/tenants", {"id": TENANT, "name": "Acme"})
    created = await _ask(client, "POST", "/intents", INTENT)
    await _ended(client, await _start(client, created["id"]))
    await _failed(client)
    await _steered(client)
    intent = f"/intents/{created['id']}"
    await _ask(client, "PUT", intent, {"definition": INTENT["definition"]}, {"If-Match": '"1"'})
    await _ask(client, "POST", f"{intent}/rollback", {"version": 1})
    for what in ("deprecate", "activate"):
        await _ask(client, "POST", f"{intent}/{what}", {})
    await _ask(client, "DELETE", intent)
    module = {"actions": [{"name": "scan-image"}], "transport": {"type": "http", "url": "https://modules.example.com/scan"}}
    await _ask(client, "POST", "/modules", {"name": "scanner", **module})
    await _ask(client, "DELETE", "/modules/scanner")
    pulled = await _ask(client, "POST", "/pull-subscriptions", {"types": ["quantum.execution.*"], "from": "beginning"})
    await _ask(client, "PATCH", f"/pull-subscriptions/{pulled['id']}", {"lease": 120, "max_deliveries": 20})
    await _ask(client, "DELETE", f"/pull-subscriptions/{pulled['id']}")
    for what in ("suspend", "reactivate"):
        await _ask(client, "POST", f"/tenants/{TENANT}/{what}", {"reason": "unpaid"} if what == "suspend" else {})


async def _failed(client: Client) -> None:
    """A step that is tried twice and fails, and an execution that is tried again."""
    steps = [{**_FLAKY, "sandbox": {"fail": "no such channel"}}]
    execution = await _start(client, await _intent(client, "announce", steps))
    await _ended(client, execution)
    await _ask(client, "POST", f"/executions/{execution}/retry", {})
    await _ended(client, execution)


async def _steered(client: Client) -> None:
    """An execution that is paused, resumed and cancelled."""
    steps = [{"action": "no-op", "sandbox": {"take": 60}}]
    execution = await _start(client, await _intent(client, "wait-for-it", steps))
    for what, body in (("pause", {}), ("resume", {}), ("cancel", {"reason": "superseded"})):
        await _ask(client, "POST", f"/executions/{execution}/{what}", body)
    await _ended(client, execution)


async def _intent(client: Client, name: str, steps: list[dict[str, Any]]) -> str:
    definition = {"target": "production", "steps": steps}
    return str((await _ask(client, "POST", "/intents", {"name": name, "definition": definition}))["id"])


async def _start(client: Client, intent: str) -> str:
    return str((await _ask(client, "POST", f"/intents/{intent}/execute", {}))["execution_id"])


async def _ended(client: Client, execution: str) -> None:
    async def has_ended() -> bool:
        return bool((await client.get(f"{_API}/executions/{execution}"))["status"] in _ENDED)

    await wait_until(has_ended, 30, what=f"the end of {execution}")


async def _ask(client: Client, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    answer = await client.request(method, _API + path, json=body, headers=headers or {})
    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer


def page_of(types: tuple[EventType, ...], events: list[dict[str, Any]], golden: Path = GOLDEN) -> str:
    """The sections of all types that are written now, and a list of those that are not."""
    examples: dict[str, dict[str, Any]] = {}
    for event in events:
        examples.setdefault(event["type"], event)
    parts = ["## Types\n"]
    for one in types:
        if one.topic not in codec.TOPICS:
            continue
        example = examples.get(one.type) or orjson.loads((golden / f"{one.topic}.json").read_bytes())
        said = "" if one.type in examples else "Its `data`:\n\n"
        text = json.dumps(example, indent=2, ensure_ascii=False)
        parts.append(f"### {one.type}\n{one.meaning}\n\n{said}```json\n{text}\n```\n")
    if old := [one for one in types if one.superseded_by]:
        parts.append("## Versions of earlier releases\nThey are in logs and are not written any more.\n")
        parts.append("".join(f"- `{one.type}`, since then `{one.superseded_by}`\n" for one in old))
    return "\n".join(parts)


def main() -> None:
    """Runs the scenario and writes the page."""
    head, mark, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    first_line = rest.partition("\n")[0]
    events = asyncio.run(happened())
    types = event_types()
    PAGE.write_text(f"{head}{mark}{first_line}\n{page_of(types, events)}", encoding="utf-8")
    seen = {event["type"] for event in events}
    for one in types:
        if one.topic in codec.TOPICS and one.type not in seen:
            print(f"{one.type} did not occur: its example is the golden file's data.")


if __name__ == "__main__":
    main()
