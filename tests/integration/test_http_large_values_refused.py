# intent_ref: tests.artifacts
"""What executions make that is too large for the log, and finds no place beside it: the step says why."""

from pathlib import Path

from tests.conftest import Database
from tests.http_platform import serving
from tests.large_values import failed, maker, started, step, tenant_with


async def test_a_full_store_fails_the_loop_and_the_child_with_its_reason(database: Database, tmp_path: Path):
    settings = {"private_addresses": True, "artifact_tenant_bytes_max": 262_144}
    async with serving(database, tmp_path, **settings) as full:
        with maker() as module:
            tenant = await tenant_with(full, module)
            await tenant.post("/intents", {"name": "inner", "definition": {"target": "t", "steps": [{"action": "weigh"}]}})
            loop = {"action": "make", "id": "each", "foreach": [1, 2, 3, 4, 5, 6], "n": "${{ item }}", "bytes": 100_000}
            document = await failed(tenant, await started(tenant, "loop", {"steps": [loop]}))
            assert step(document, "each")["error"]["code"] == "artifact-quota"
            different = {f"part{number}": str(number) * 60_000 for number in range(10)}
            child = {"id": "part", "workflow": {"name": "inner", "inputs": different}}
            document = await failed(tenant, await started(tenant, "outer", {"steps": [child]}))
            assert step(document, "part")["error"]["code"] == "artifact-quota"
