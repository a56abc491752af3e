# intent_ref: tests.artifacts
"""Inputs too large for the log, the whole way: over HTTP into an execution, through its steps and children, to its modules."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.http_modules import HttpModule
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.large_inputs import SIZES, check_a_large_input_reaches_its_module, completed, intent, taker, value_of
from tests.waiting import wait_until


@pytest.fixture
def module() -> Iterator[HttpModule]:
    with taker() as running:
        yield running


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("large-inputs")


@pytest.fixture(scope="module")
async def http(database: Database, data_dir: Path) -> AsyncIterator[Http]:
    async with serving(database, data_dir, private_addresses=True) as running:
        yield running


@pytest.fixture
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


def stored(data_dir: Path, tenant: Tenant) -> list[Path]:
    return [path for path in (data_dir / "artifacts" / tenant.id).rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", SIZES)
async def test_a_large_input_reaches_its_module_by_way_of_files(
    tenant: Tenant, module: HttpModule, size: int, data_dir: Path
):  # fmt: skip
    await check_a_large_input_reaches_its_module(tenant, module, size)
    assert len(stored(data_dir, tenant)) == 1


async def test_a_refused_start_stores_nothing_and_another_body_under_the_key_is_refused(tenant: Tenant, data_dir: Path):
    schema = {"properties": {"big": {"required": ["rows"], "properties": {"rows": {"type": "array", "maxItems": 3}}}}}
    made = await tenant.post(
        "/intents", {"name": "i", "definition": {"target": "t", "inputs": schema, "steps": [{"action": "notify"}]}}
    )
    path = f"/intents/{made.json()['id']}/execute"
    refused = await tenant.post(path, {"inputs": {"big": value_of(SIZES[0])}})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation-failed")
    planned = await tenant.post(path.replace("execute", "plan"), {"inputs": {"big": value_of(SIZES[0])}})
    assert planned.status_code == 422
    assert stored(data_dir, tenant) == []
    key = {"Idempotency-Key": "k"}
    fitting = {"big": {"rows": [], "text": "x" * SIZES[0]}}
    assert (await tenant.post(path, {"inputs": fitting}, headers=key)).status_code == 202
    other = await tenant.post(path, {"inputs": {}}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(stored(data_dir, tenant)) == 1


async def test_a_claim_is_judged_by_what_it_stands_for_and_another_tenants_is_none(tenant: Tenant):
    schema = {"properties": {"big": {"required": ["rows"]}}}
    made = await tenant.post(
        "/intents", {"name": "i", "definition": {"target": "t", "inputs": schema, "steps": [{"action": "notify"}]}}
    )
    path = f"/intents/{made.json()['id']}/execute"
    first = await tenant.post(path, {"inputs": {"big": value_of(SIZES[0])}})
    claim = (await completed(tenant, first.json()["execution_id"]))["inputs"]["big"]
    assert (await tenant.post(path, {"inputs": {"big": claim}})).status_code == 202
    planned = await tenant.post(path.replace("execute", "plan"), {"inputs": {"big": claim}})
    assert (planned.status_code, planned.json()["inputs"]) == (200, {"big": claim})
    stranger = await tenant.http.tenant()
    made = await stranger.post(
        "/intents", {"name": "i", "definition": {"target": "t", "inputs": schema, "steps": [{"action": "notify"}]}}
    )
    theirs = await stranger.post(f"/intents/{made.json()['id']}/execute", {"inputs": {"big": claim}})
    assert theirs.status_code == 422
    assert theirs.json()["errors"][0]["code"] == "artifact-unknown"


async def test_a_child_gets_the_value_and_its_schema_is_held_against_it(tenant: Tenant, module: HttpModule):
    await intent(tenant, module, "inner", inputs={"properties": {"big": {"required": ["rows", "text"]}, "n": {}}})
    outer = [{"id": "part", "workflow": {"name": "inner", "inputs": {"big": "${{ inputs.big }}", "n": 1}}}]
    big, execution_id = value_of(SIZES[0]), ""
    made = await tenant.post("/intents", {"name": "outer", "definition": {"target": "t", "steps": outer}})
    started = await tenant.post(f"/intents/{made.json()['id']}/execute", {"inputs": {"big": big}})
    execution_id = started.json()["execution_id"]
    await completed(tenant, execution_id)
    assert module.asked[0].body["parameters"]["payload"] == big
    inner = (await tenant.get("/executions?intent_name=inner")).json()["items"]
    assert set(inner[0]["inputs"]["big"]) == {"$artifact"}


async def test_a_schedule_and_a_trigger_store_what_is_large(tenant: Tenant, module: HttpModule):
    blob = {"rows": [], "text": "y" * 50_000}
    large = {f"part{number}": blob for number in range(6)}
    made = await intent(
        tenant, module, "by-itself", schedule={"cron": "0 0 1 1 *", "inputs": {"big": {**blob, **large}, "n": 1}},
        on={"type": "batch.ready", "inputs": {"big": {**blob, **large}, "n": 3}},
    )  # fmt: skip
    now = await tenant.post(f"/intents/{made}/schedule/run-now")
    assert now.status_code == 202, now.text
    done = await completed(tenant, now.json()["execution_id"])
    assert set(done["inputs"]["big"]) == {"$artifact"}
    assert module.asked[0].body["parameters"]["payload"] == {**blob, **large}
    await tenant.execution([{"action": "emit", "type": "batch.ready", "data": {}}])

    async def fired() -> bool:
        return len(module.asked) == 2

    await wait_until(fired, 20, what="the event to start an execution")
    assert module.asked[1].body["inputs"] == {"big": {**blob, **large}, "n": 3}


async def test_what_exceeds_the_request_or_the_tenants_store_is_refused_with_a_sentence(
    database: Database, tmp_path: Path
):  # fmt: skip
    async with serving(database, tmp_path, artifact_tenant_bytes_max=400_000) as limited:
        tenant = await limited.tenant()
        made = await tenant.intent("i", [{"action": "notify"}])
        path = f"/intents/{made.json()['id']}/execute"
        await accepted(tenant, path, SIZES[0], 202)
        refused = await accepted(tenant, path, SIZES[0] + 7, 409)
        assert refused.json()["code"] == "artifact-quota"
        await accepted(tenant, path, 1_048_576, 413)


async def accepted(tenant: Tenant, path: str, size: int, status: int) -> httpx.Response:
    answer = await tenant.post(path, {"inputs": {"text": "x" * size}})
    assert answer.status_code == status, answer.text[:500]
    return answer


async def test_a_store_that_is_away_is_said_and_the_same_request_goes_well_later(
    database: Database, tmp_path: Path
):  # fmt: skip
    async with serving(database, tmp_path) as away:
        tenant = await away.tenant()
        made = await tenant.intent("i", [{"action": "notify"}])
        path, key = f"/intents/{made.json()['id']}/execute", {"Idempotency-Key": "again"}
        (tmp_path / "artifacts").write_text("in the way of the folder")
        body = {"inputs": {"text": "x" * SIZES[0]}}
        answer = await tenant.post(path, body, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (503, "artifacts-unavailable")
        (tmp_path / "artifacts").unlink()
        assert (await tenant.post(path, body, headers=key)).status_code == 202
