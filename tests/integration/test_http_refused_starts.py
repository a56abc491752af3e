# intent_ref: tests.refused-starts
"""Refused starts as clients and operators see them: what is owed, what was missed, dead letters, and how to try again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quantum.cli_reach import PlatformError, Reach
from quantum.cli_triggers import _listed, _settled
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.integration.test_http_schedules import executed, intent, runs_of
from tests.integration.test_http_tenant_limits import limit
from tests.waiting import wait_until

TELL: list[dict[str, Any]] = [{"action": "emit", "type": "order.placed", "data": {"total": "many"}}]
SCHEMA = {"properties": {"n": {"type": "integer"}}}
UNFIT = {"type": "order.placed", "inputs": {"n": "${{ event.data.total }}"}}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    folder: Path = tmp_path_factory.mktemp("data")
    async with serving(database, folder) as running:
        yield running


async def shown(tenant: Tenant, path: str, **wanted: Any) -> Any:
    """The document at `path`, once it says what is wanted."""

    async def there() -> Any:
        document = (await tenant.get(path)).json()
        return document if all(document[name] == value for name, value in wanted.items()) else None

    return await wait_until(there, 20, what=f"{path} to say {wanted}")


async def test_what_an_event_could_not_start_is_listed_with_its_reason_retried_and_discarded(http: Http):
    tenant, other = await http.tenant(), await http.tenant()
    wants = await intent(tenant, "wants", inputs=SCHEMA, on=UNFIT)
    tells = await intent(tenant, "tells", TELL)
    for _ in range(3):
        await executed(tenant, tells)
    letters = f"/intents/{wants}/trigger/dead-letters"
    await shown(tenant, f"/intents/{wants}/trigger", dead_letters=3, waiting=0, runs=0)

    first = (await tenant.get(letters, params={"limit": 2}, roles=["viewer"])).json()
    second = (await tenant.get(letters, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [len(page["items"]) for page in (first, second)] == [2, 1]
    assert second["next_cursor"] is None
    for one in first["items"]:
        assert (one["tries"], one["error"]["code"]) == (1, "validation-failed")
        assert one["error"]["faults"][0]["pointer"] == "/inputs/n"

    definition = {"target": "production", "steps": [{"action": "no-op"}], "on": {"type": "order.placed"}}
    tag = (await tenant.get(f"/intents/{wants}")).headers["ETag"]
    assert (
        await tenant.request("PUT", f"/intents/{wants}", json={"definition": definition}, headers={"If-Match": tag})
    ).is_success
    events = [one["event_id"] for one in first["items"]]
    assert (await tenant.post(f"{letters}/retry", {"event_ids": events[:1]}, roles=["viewer"])).status_code == 403
    assert (await tenant.post(f"{letters}/retry", {"event_ids": events[:1]}, roles=["operator"])).json() == {"count": 1}
    await shown(tenant, f"/intents/{wants}/trigger", dead_letters=2, waiting=0, runs=1)
    assert (await tenant.post(f"{letters}/discard", {"event_ids": events})).json() == {"count": 1}
    assert (await tenant.post(f"{letters}/retry")).json() == {"count": 1}
    await shown(tenant, f"/intents/{wants}/trigger", dead_letters=0, waiting=0, runs=2)
    await wait_until(lambda: _has(tenant, wants, 2), 20, what="two executions")
    assert (await tenant.get(letters)).json()["items"] == []

    for wrong in ({"event_ids": []}, {"event_ids": ["x"]}, {"event_ids": [events[0].upper()]}, {"ids": []}):
        assert (await tenant.post(f"{letters}/retry", wrong)).status_code == 422
    for path in (letters, f"{letters}/retry", f"{letters}/discard"):
        method = "GET" if path == letters else "POST"
        assert (await other.request(method, path)).status_code == 404
    assert (await tenant.get(letters, params={"cursor": "no"})).status_code == 400


async def _has(tenant: Tenant, intent_id: str, count: int) -> bool:
    return len(await runs_of(tenant, intent_id)) == count


async def test_an_operator_does_it_with_one_command(http: Http):
    tenant = await http.tenant()
    wants = await intent(tenant, "orders", inputs=SCHEMA, on=UNFIT)
    await executed(tenant, await intent(tenant, "tells", TELL))
    await shown(tenant, f"/intents/{wants}/trigger", dead_letters=1)
    token = http.bearer(tenant.id, roles=["operator"])["Authorization"].removeprefix("Bearer ")
    where = Reach(str(http.client.base_url), token, None)
    [letter] = await _listed(where, "orders", 10)
    assert await _listed(where, wants, 10) == [letter]
    assert await _settled(where, "orders", [letter["event_id"]], "retry") == 1
    trigger = await shown(tenant, f"/intents/{wants}/trigger", dead_letters=1, waiting=0)
    assert trigger["last_error"]["code"] == "validation-failed"
    assert await _settled(where, wants, None, "discard") == 1
    with pytest.raises(PlatformError, match="no intent named 'nothing'"):
        await _listed(where, "nothing", 10)


async def test_a_schedule_shows_what_is_owed_and_why_and_starts_it_when_there_is_room(http: Http):
    tenant = await http.tenant()
    await limit(tenant, concurrent_executions=1, on_exceeded="reject")
    holds = await intent(tenant, "holds", [{"approval": {}, "id": "ok"}])
    started = await tenant.post(f"/intents/{holds}/execute", {})
    pool = http.platform.store.platform_pool

    async def has_its_place() -> Any:
        return await pool.fetchval("SELECT count(*) FROM quantum.saga_admissions WHERE tenant_id = $1", tenant.id)

    await wait_until(has_its_place, what="its place")
    often = await intent(tenant, "often", schedule={"interval": {"every": "1s"}, "missed": "once"})

    async def is_owed() -> Any:
        document = (await tenant.get(f"/intents/{often}/schedule")).json()
        return document if document["owed"] and document["missed"] else None

    document = await wait_until(is_owed, 20, what="a time that is owed, and one that was missed")
    assert document["last_error"]["code"] == document["last_missed"]["code"] == "limit-reached"
    assert document["owed"]["tries"] >= 1
    assert document["owed"]["time"] > document["last_missed"]["time"]
    assert document["runs"] == 0
    approved = await tenant.post(f"/executions/{started.json()['execution_id']}/steps/ok/approve", {})
    assert approved.is_success

    async def runs() -> Any:
        return (await tenant.get(f"/intents/{often}/schedule")).json()["runs"]

    await wait_until(runs, 20, what="a run")
