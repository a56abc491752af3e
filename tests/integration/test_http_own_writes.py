# intent_ref: tests.http
"""What was written through a process can be read from it at once, without any header."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.http_platform import STEPS, Http, serving


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    folder: Path = tmp_path_factory.mktemp("own-writes")
    async with serving(database, folder) as running:
        yield running


async def test_a_client_reads_its_own_writes_through_the_same_process(http: Http) -> None:
    tenant = await http.tenant()
    for number in range(25):
        created = await tenant.intent(f"mine-{number}", STEPS)
        path = f"/intents/{created.json()['id']}"
        shown = await tenant.get(path)
        assert (shown.status_code, shown.json()["version"]) == (200, 1)
        listed = await tenant.get("/intents?limit=1")
        assert listed.json()["items"][0]["id"] == created.json()["id"]
        found = await tenant.get(f"/intents?name=mine-{number}")
        assert len(found.json()["items"]) == 1
        revised = await tenant.request(
            "PUT", path, json={"definition": {"target": "production", "steps": STEPS[:1]}}, headers={"If-Match": '"1"'}
        )
        assert revised.status_code == 200
        assert (await tenant.get(path)).json()["version"] == 2
        started = await tenant.post(f"{path}/execute", {})
        assert (await tenant.get(f"/executions/{started.json()['execution_id']}")).status_code == 200


async def test_a_new_tenant_is_shown_at_once(http: Http) -> None:
    admin = http.bearer("platform", roles=["platform-admin"])
    for number in range(10):
        await http.client.post("/api/v1/tenants", json={"id": f"shown-{number}", "name": "x"}, headers=admin)
        answer = await http.client.get(f"/api/v1/tenants/shown-{number}", headers=admin)
        assert answer.status_code == 200, answer.text
