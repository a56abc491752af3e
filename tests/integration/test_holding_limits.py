# intent_ref: tests.tenant-limits
"""How many intents, triggers and schedules a tenant may have: refused before anything is written, and another tenant is not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from access import holding_limits
from access.holding_limits import INTENTS_MAX, SCHEDULES_MAX, TRIGGERS_MAX, HoldingLimits
from domain.values import TenantId
from event_store.records import StoreUnavailable
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving

TRIGGER = {"on": {"type": "order.placed"}}
SCHEDULE = {"schedule": {"cron": "@yearly"}}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    folder: Path = tmp_path_factory.mktemp("data")
    async with serving(database, folder) as running:
        yield running


def defined(**more: Any) -> dict[str, Any]:
    return {"target": "production", "steps": [{"action": "no-op"}], **more}


async def created(tenant: Tenant, name: str, **more: Any) -> httpx.Response:
    return await tenant.post("/intents", {"name": name, "definition": defined(**more)})


async def revised(tenant: Tenant, intent: dict[str, Any], **more: Any) -> httpx.Response:
    headers = {"If-Match": f'"{intent["version"]}"'}
    return await tenant.request("PUT", f"/intents/{intent['id']}", json={"definition": defined(**more)}, headers=headers)


def assert_refused(answer: httpx.Response, code: str, most: int) -> None:
    assert answer.status_code == 409, answer.text
    document = answer.json()
    assert document["code"] == code
    assert f"{most:,}" in document["detail"]


ROWS = {
    "saga_triggers": "trigger, since_position) SELECT $1, 'i-' || n, 1, 1, '{}', 0",
    "saga_schedules": "schedule, dealt_until) SELECT $1, 'i-' || n, 1, 1, '{}', 'infinity'",
}


@pytest.mark.parametrize(
    ("table", "more", "code", "most"),
    [
        ("saga_triggers", TRIGGER, "too-many-triggers", TRIGGERS_MAX),
        ("saga_schedules", SCHEDULE, "too-many-schedules", SCHEDULES_MAX),
    ],
)
async def test_one_more_that_starts_by_itself_is_refused(http: Http, table: str, more: dict[str, Any], code: str, most: int):
    tenant, other = await http.tenant(), await http.tenant()
    has_one, plain = (await created(tenant, "has-one", **more)).json(), (await created(tenant, "plain")).json()
    pool = http.platform.store.platform_pool
    await pool.execute(
        f"INSERT INTO quantum.{table} (tenant_id, intent_id, stream_version, intent_version, {ROWS[table]}"
        " FROM generate_series(1, $2::int) AS n", tenant.id, most,
    )  # fmt: skip
    assert_refused(await created(tenant, "one-more", **more), code, most)
    assert (await tenant.get("/intents", params={"name": "one-more"})).json()["items"] == []
    assert_refused(await revised(tenant, plain, **more), code, most)
    assert (await revised(tenant, has_one, **more)).is_success, "it has one already"
    assert (await created(tenant, "without")).status_code == 201
    assert (await created(other, "others", **more)).status_code == 201
    await pool.execute(f"UPDATE quantum.{table} SET archived = true WHERE tenant_id = $1 AND intent_id LIKE 'i-1%'", tenant.id)
    assert (await created(tenant, "one-more", **more)).status_code == 201


async def test_one_more_intent_than_a_tenant_may_have_is_refused_and_a_repeat_of_an_accepted_one_is_answered(
    http: Http, database: Database
):
    tenant, other = await http.tenant(), await http.tenant()
    headers = {"Idempotency-Key": "first"}
    body = {"name": "first", "definition": defined()}
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        await owner.execute("SET session_replication_role = replica")
        await owner.execute(
            "INSERT INTO quantum.claims SELECT $1, 'intent-name', 'n-' || n, 'intent-' || n"
            "  FROM generate_series(1, $2::int) AS n", tenant.id, INTENTS_MAX - 1,
        )  # fmt: skip
    finally:
        await owner.close()
    first = await tenant.post("/intents", body, headers=headers)
    assert first.status_code == 201
    assert_refused(await created(tenant, "second"), "too-many-intents", INTENTS_MAX)
    again = await tenant.post("/intents", body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await revised(tenant, first.json())).is_success, "it is one already"
    assert (await created(other, "second")).status_code == 201


class Counting:
    """A pool that counts what it is asked; a query waits for `may_go_on`."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.asked, self.may_go_on = pool, 0, asyncio.Event()

    async def fetchval(self, *query: Any) -> Any:
        self.asked += 1
        await self.may_go_on.wait()
        return await self.pool.fetchval(*query)


async def test_of_all_who_find_the_room_used_up_one_counts(http: Http, monkeypatch: pytest.MonkeyPatch):
    pool = Counting(http.platform.store.platform_pool)
    limits = HoldingLimits(pool)
    asking = [asyncio.create_task(limits.may_hold(TenantId(tenant), {"intents"})) for tenant in ["t-1"] * 50 + ["t-2"]]
    await asyncio.sleep(0.1)
    assert pool.asked == 2, "one of each tenant's"
    pool.may_go_on.set()
    await asyncio.gather(*asking)
    assert pool.asked == 2
    monkeypatch.setattr(holding_limits, "_QUERY_SECONDS_MAX", 0.2)
    pool.may_go_on.clear()
    asking = [asyncio.create_task(limits.may_hold(TenantId("t-3"), {"intents"})) for _ in range(50)]
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 50, "each waits as long as it may, not for all before it"
