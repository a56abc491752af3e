# intent_ref: tests.artifacts
"""What executions make that is too large for the log, the whole way: loops' results, children's inputs and outputs, templates."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.acceptance.http_modules import HttpModule
from tests.conftest import Database
from tests.http_platform import Http, serving
from tests.large_inputs import completed
from tests.large_values import PARTS, failed, largest_event, maker, started, step, tenant_with
from tests.waiting import wait_until


@pytest.fixture
def module() -> Iterator[HttpModule]:
    with maker() as running:
        yield running


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, tmp_path_factory.mktemp("large-values"), private_addresses=True) as running:
        yield running


async def test_results_of_a_loop_reach_the_next_step_whole_and_nobody_else(http: Http, module: HttpModule):
    tenant = await tenant_with(http, module)
    steps = [
        {"action": "make", "id": "each", "foreach": [1, 2, 3, 4, 5], "n": "${{ item }}", "bytes": 100_000},
        {"action": "weigh", "payload": "${{ steps.each.result }}"},
    ]
    execution_id = await started(tenant, "loop", {"steps": steps})
    document = await completed(tenant, execution_id)
    claims = [one["$artifact"] for one in step(document, "each")["result"] if "$artifact" in one]
    assert 0 < len(claims) < 5
    assert step(document, "weigh")["result"]["bytes"] > 500_000
    (weighed,) = [asked.body["parameters"]["payload"] for asked in module.asked if asked.body["action"] == "weigh"]
    assert [one["n"] for one in weighed] == [1, 2, 3, 4, 5]
    assert len((await tenant.get(f"/artifacts/{claims[0]['id']}")).json()["text"]) == 100_000
    stranger = await http.tenant()
    assert (await stranger.get(f"/artifacts/{claims[0]['id']}")).status_code == 404
    assert await largest_event(tenant, execution_id) < 300_000


async def test_a_child_is_given_large_inputs_and_gives_large_outputs(http: Http, module: HttpModule):
    tenant = await tenant_with(http, module)
    inner = {"steps": [{"action": "weigh", "payload": "${{ inputs.part0 }}"}], "outputs": PARTS}
    await tenant.post("/intents", {"name": "inner", "definition": {"target": "t", **inner}})
    outer = [
        {"id": "part", "workflow": {"name": "inner", "inputs": {**PARTS, "n": 1}}},
        {"action": "weigh", "payload": "${{ steps.part.result }}"},
    ]
    execution_id = await started(tenant, "outer", {"steps": outer, "outputs": {"all": "${{ steps.part.result }}"}})
    document = await completed(tenant, execution_id)
    assert step(document, "weigh")["result"]["bytes"] == len(orjson.dumps(PARTS))
    (child,) = (await tenant.get("/executions?intent_name=inner")).json()["items"]
    found = (await tenant.get(f"/executions/{child['id']}")).json()
    assert found["inputs"]["n"] == 1
    assert len(orjson.dumps(found["inputs"])) <= 262_144
    assert module.asked[0].body["inputs"] == {**PARTS, "n": 1}


async def test_what_a_template_makes_too_large_fails_its_step_with_a_sentence(http: Http, module: HttpModule):
    tenant = await tenant_with(http, module)
    await tenant.post("/intents", {"name": "inner", "definition": {"target": "t", "steps": [{"action": "weigh"}]}})
    both = {"one": "${{ steps.make.result }}", "two": "${{ steps.make.result }}"}
    make = {"action": "make", "bytes": 200_000}
    for name, definition, failing in (
        ("child", {"steps": [make, {"id": "part", "workflow": {"name": "inner", "inputs": both}}]}, "part"),
        ("outputs", {"steps": [make], "outputs": both}, None),
    ):
        document = await failed(tenant, await started(tenant, name, definition))
        error = document["error"] if failing is None else step(document, failing)["error"]
        assert error["code"] == "expression-failed"
        assert "of at most 262,144" in error["message"]


async def test_schedules_and_triggers_say_that_their_templates_make_too_much(http: Http, module: HttpModule):
    tenant = await tenant_with(http, module)
    event = "${{ event.data }}"
    inputs = {f"copy{number}": event for number in range(6)}
    made = await tenant.post(
        "/intents",
        {
            "name": "fired",
            "definition": {"target": "t", "steps": [{"action": "weigh"}], "on": {"type": "batch.ready", "inputs": inputs}},
        },
    )
    assert made.status_code == 201, made.text
    execution_id = await started(
        tenant, "fires", {"steps": [{"action": "emit", "type": "batch.ready", "data": {"t": "e" * 60_000}}]}
    )
    await completed(tenant, execution_id)

    async def said() -> str | None:
        document: dict[str, Any] = (await tenant.get(f"/intents/{made.json()['id']}/trigger")).json()
        found: dict[str, Any] | None = document.get("last_error")
        return None if found is None else str(found)

    told = await wait_until(said, 20, what="the trigger's refusal")
    assert "expression-failed" in told
    assert "of at most 262,144" in told


async def test_an_event_that_would_be_larger_than_any_may_be_is_refused_and_nothing_is_written(
    database: Database, tmp_path: Path
):  # fmt: skip
    escaped = {f"part{number}": "\x01" * 65_000 for number in range(15)}  # six bytes each as JSON, one as a text
    async with serving(database, tmp_path, request_bytes_max=16_777_216) as roomy:
        tenant = await roomy.tenant()
        definition = {"target": "t", "steps": [{"action": "notify", "message": escaped}]}
        refused = await tenant.post("/intents", {"name": "huge", "definition": definition})
        assert (refused.status_code, refused.json()["code"]) == (422, "event-too-large"), refused.text[:500]
        assert (await tenant.get("/intents")).json()["items"] == []
        fits = {"target": "t", "steps": [{"action": "notify", "message": dict(list(escaped.items())[:10])}]}
        assert (await tenant.post("/intents", {"name": "huge", "definition": fits})).status_code == 201
