# intent_ref: tests.artifacts
"""Executions with inputs too large for the log, as clients and modules see them, whichever store the artifacts lie in."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from tests.acceptance.http_modules import HttpModule, http_module
from tests.http_platform import Tenant
from tests.waiting import wait_until

SIZES = [300 * 1_024, 900 * 1_024]


@contextmanager
def taker() -> Iterator[HttpModule]:
    """A module that says how large the payload is that it was given."""
    with http_module(lambda body: (200, {"bytes": len(orjson.dumps(body["parameters"].get("payload")))})) as running:
        yield running


def value_of(size: int) -> dict[str, Any]:
    """A value of `size` bytes and a little more as JSON: rows and one long text."""
    return {"rows": [{"n": number, "t": "größe"} for number in range(1_000)], "text": "x" * size}


async def intent(tenant: Tenant, module: HttpModule | None, name: str = "take", **definition: Any) -> str:
    """The id of an intent whose step hands its input `big` on to the module."""
    if module is not None:
        action = {"name": "take", "input_schema": {"type": "object", "properties": {"payload": {"required": ["rows", "text"]}}}}
        body = {"name": "taker", "actions": [action], "transport": {"type": "http", "url": module.url}}
        registered = await tenant.post("/modules", body)
        assert registered.status_code == 201, registered.text
    steps = [{"action": "take", "payload": "${{ inputs.big }}", "n": "${{ inputs.n }}"}]
    made = await tenant.post("/intents", {"name": name, "definition": {"target": "production", "steps": steps, **definition}})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def completed(tenant: Tenant, execution_id: str) -> dict[str, Any]:
    """The execution once it has completed."""
    document: dict[str, Any] = {}

    async def over() -> bool:
        nonlocal document
        answer = await tenant.get(f"/executions/{execution_id}")
        document = answer.json() if answer.status_code == 200 else {}
        return document.get("status") in ("completed", "failed", "cancelled")

    await wait_until(over, 30, what="the execution to end")
    assert document["status"] == "completed", document["steps"]
    return document


async def check_a_large_input_reaches_its_module(tenant: Tenant, module: HttpModule, size: int) -> None:
    """Started by key twice, seen as a reference, handed on as it was, and nobody else's."""
    schema = {"properties": {"big": {"required": ["rows"]}, "n": {"type": "integer"}, "by": {"default": "schema"}}}
    intent_id, big = await intent(tenant, module, inputs=schema), value_of(size)
    headers = {"Idempotency-Key": "once"}
    body = {"inputs": {"big": big, "n": 2}, "business_key": "order-1"}
    started = await tenant.post(f"/intents/{intent_id}/execute", body, headers=headers)
    assert started.status_code == 202, started.text
    again = await tenant.post(f"/intents/{intent_id}/execute", body, headers=headers)
    assert (again.json(), again.headers.get("Idempotency-Replayed")) == (started.json(), "true")
    done = await completed(tenant, started.json()["execution_id"])
    claim = done["inputs"]["big"]["$artifact"]
    assert (done["inputs"]["n"], done["inputs"]["by"], claim["size"]) == (2, "schema", len(orjson.dumps(big)))
    (asked,) = module.asked
    assert asked.body["parameters"] == {"payload": big, "n": 2}
    assert asked.body["inputs"] == {"big": big, "n": 2, "by": "schema"}
    read = await tenant.get(f"/artifacts/{claim['id']}")
    assert read.json() == big
    assert hashlib.sha256(read.content).hexdigest() == claim["sha256"] == read.headers["ETag"].strip('"')
    stranger = await tenant.http.tenant()
    assert (await stranger.get(f"/artifacts/{claim['id']}")).status_code == 404
    events = await tenant.get(f"/executions/{done['id']}/events", headers={"Accept": "application/json"})
    assert len(events.content) < 20_000
