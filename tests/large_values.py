# intent_ref: tests.artifacts
"""Executions that make values too large for the log, as clients and a module see them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from tests.acceptance.http_modules import HttpModule, http_module
from tests.http_platform import Http, Tenant
from tests.waiting import wait_until

PARTS = {f"part{number}": "y" * 60_000 for number in range(6)}
"""350 KiB of a definition, whose single texts have 64 KiB at most."""


@contextmanager
def maker() -> Iterator[HttpModule]:
    """Answers with the 100 KB that it was asked for, and says how large what it was given is."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        given = body["parameters"]
        if body["action"] == "make":
            return 200, {"n": given.get("n"), "text": "x" * given["bytes"]}
        return 200, {"bytes": len(orjson.dumps(given.get("payload")))}

    with http_module(answer) as running:
        yield running


async def tenant_with(http: Http, module: HttpModule) -> Tenant:
    tenant = await http.tenant()
    actions = [{"name": "make"}, {"name": "weigh"}]
    registered = await tenant.post(
        "/modules", {"name": "m", "actions": actions, "transport": {"type": "http", "url": module.url}}
    )
    assert registered.status_code == 201, registered.text
    return tenant


async def started(tenant: Tenant, name: str, definition: dict[str, Any]) -> str:
    made = await tenant.post("/intents", {"name": name, "definition": {"target": "t", **definition}})
    assert made.status_code == 201, made.text
    answer = await tenant.post(f"/intents/{made.json()['id']}/execute", {})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


async def failed(tenant: Tenant, execution_id: str) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        document: dict[str, Any] = (await tenant.get(f"/executions/{execution_id}")).json()
        return document if document.get("status") in ("completed", "failed") else None

    document = await wait_until(over, 30, what="the execution to end")
    assert document["status"] == "failed", str(document["steps"])[:1500]
    return document


def step(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in document["steps"] if one["id"] == name)


async def largest_event(tenant: Tenant, execution_id: str) -> int:
    answer = await tenant.get(f"/executions/{execution_id}/events", headers={"Accept": "application/json"})
    found = answer.json()
    return max(len(orjson.dumps(one)) for one in (found if isinstance(found, list) else found["items"]))
