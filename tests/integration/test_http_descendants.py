# intent_ref: tests.tenant-limits
"""What one execution may start, through the platform: by workflow steps and by `start-execution` alike."""

from pathlib import Path
from typing import Any

from tests.conftest import Database
from tests.http_platform import Tenant, serving
from tests.waiting import wait_until


async def ended(tenant: Tenant, execution_id: str) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        document: dict[str, Any] = (await tenant.get(f"/executions/{execution_id}")).json()
        return document if document.get("status") in ("completed", "failed") else None

    return await wait_until(over, 30, what="the execution to end")


async def run(tenant: Tenant, name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    made = await tenant.post("/intents", {"name": name, "definition": {"target": "t", "steps": list(steps)}})
    assert made.status_code == 201, made.text
    started = await tenant.post(f"/intents/{made.json()['id']}/execute", {})
    return await ended(tenant, started.json()["execution_id"])


async def test_workflow_steps_and_commands_of_steps_count_together(database: Database, tmp_path: Path):
    async with serving(database, tmp_path, execution_descendants_max=3) as http:
        tenant = await http.tenant()
        await tenant.post("/intents", {"name": "leaf", "definition": {"target": "t", "steps": [{"action": "notify"}]}})
        start = {"action": "command", "name": "start-execution", "arguments": {"intent": "leaf"}}
        fits = await run(tenant, "fits", {"workflow": "leaf", "id": "a"}, {**start, "id": "b"}, {"workflow": "leaf", "id": "c"})
        assert fits["status"] == "completed"
        loop, last = {"workflow": "leaf", "id": "a", "foreach": [1, 2, 3]}, {"workflow": "leaf", "id": "c"}
        too_many = await run(tenant, "too-many", loop, {**start, "id": "b", "on_failure": "continue"}, last)
        assert too_many["status"] == "failed"
        errors = {one["id"]: one["error"] for one in too_many["steps"] if one["id"] in ("b", "c")}
        assert {name: error["code"] for name, error in errors.items()} == dict.fromkeys("bc", "too-many-descendants")
        assert "3 others" in errors["c"]["message"]
        plain = await run(tenant, "plain", {"action": "notify"})
        assert plain["status"] == "completed", "each root has its own count"
