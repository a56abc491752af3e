# intent_ref: tests.work
"""Work that workers have fetched is a step under way: it counts for the tenant's limit, is explained, and is told in metrics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Database
from tests.http_platform import Http, serving
from tests.integration.test_http_tenant_limits import known_to_sagas, limit
from tests.integration.test_http_work import Shop, opened, waiting
from tests.waiting import wait_until


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture
async def shop(http: Http) -> Shop:
    return await opened(http)


async def limited(http: Http, **limits: Any) -> Shop:
    """A tenant whose limits all workers know of: they ask with each sign of life."""
    shop = await opened(http)
    await limit(shop.tenant, **limits)
    await known_to_sagas(shop.tenant)
    last_sign = "SELECT max(alive_until) FROM quantum.saga_workers"
    pool = http.platform.store.platform_pool
    for _ in range(2):  # the first may have been under way
        before = await pool.fetchval(last_sign)

        async def has_given_a_sign(before: Any = before) -> Any:
            return await pool.fetchval(last_sign) > before

        await wait_until(has_given_a_sign, what="the worker's sign of life")
    return shop


async def explained(shop: Shop, execution_id: str) -> dict[str, Any]:
    """What is said of the one unfinished step of an execution."""
    [step] = (await shop.tenant.get(f"/executions/{execution_id}/explain")).json()["steps"]
    return dict(step)


# -- the tenant's limit on steps


async def test_workers_get_no_more_than_the_tenant_may_have_under_way(http: Http):
    shop = await limited(http, concurrent_steps=2)
    for _ in range(5):
        await shop.start()
    await waiting(shop, 5)
    first, second = await shop.poll(max=10)
    assert await shop.poll(max=10, wait=0) == []
    polling = asyncio.create_task(shop.poll(max=10, wait=20))
    assert (await shop.post(f"{first['lease_token']}/complete", {"result": 1})).is_success
    [third] = await polling
    assert (await shop.post(f"{second['lease_token']}/release")).status_code == 204
    [again] = await shop.poll(max=10)
    assert await shop.poll(max=10, wait=0) == []
    done = 1
    held = [third, again]
    while held:
        unit = held.pop()
        assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).is_success
        done += 1
        held += await shop.poll(max=10, wait=0)
        assert len(held) <= 2
    assert done == 5


async def test_what_workers_have_leaves_that_much_less_to_other_modules(http: Http):
    shop = await limited(http, concurrent_steps=1)
    pulled = await shop.start()
    unit = await shop.one()
    quick = await shop.start({"action": "no-op"})

    async def is_held_back() -> Any:
        said = await explained(shop, quick)
        return said if said["reason"] == "limit" else None

    said = await wait_until(is_held_back, 20, what="the limit to hold it back")
    assert said["facts"]["taken"] == 1
    assert (await shop.post(f"{unit['lease_token']}/complete", {"result": 1})).is_success
    assert (await shop.ended(quick))["status"] == "completed"
    assert (await shop.ended(pulled))["status"] == "completed"


async def test_what_is_offered_counts_for_nothing_and_a_silent_worker_keeps_nothing(http: Http):
    shop = await limited(http, concurrent_steps=1)
    for _ in range(3):
        await shop.start()
    await waiting(shop, 3)
    quick = await shop.start({"action": "no-op"})
    assert (await shop.ended(quick))["status"] == "completed"
    await shop.one()
    await http.platform.store.platform_pool.execute(
        "UPDATE quantum.saga_dispatches SET lease_until = now() WHERE tenant_id = $1 AND lease_until IS NOT NULL", shop.tenant.id
    )
    assert len(await shop.poll(max=10)) == 1


async def test_a_poll_in_vain_waits_for_no_claim_and_one_with_work_waits_for_its_count(http: Http, database: Database):
    shop, other = await limited(http, concurrent_steps=5), await opened(http)
    connection = await asyncpg.connect(database.platform_dsn)
    try:
        await other.start()
        await waiting(other, 1)
        await shop.start()
        await waiting(shop, 1)
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(20830, 0)")
            assert await shop.poll(actions=["sew"], wait=0) == []
            assert len(await other.poll(wait=0)) == 1, "a tenant without a limit asks nobody"
            polling = asyncio.create_task(shop.poll())

            async def waits() -> Any:
                return await connection.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 20830 AND NOT granted AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )

            await wait_until(waits, what="the poll to wait for the claims")
            assert not polling.done()
        assert len(await polling) == 1
    finally:
        await connection.close()


@asynccontextmanager
async def a_pool_of(dsn: str) -> AsyncIterator[Any]:
    pool = await asyncpg.create_pool(dsn, min_size=4, max_size=4)
    try:
        yield pool
    finally:
        await pool.close()


async def test_fetches_and_claims_at_once_stay_within_the_limit_and_in_nobodys_way(database: Database):
    """Four who fetch and claim as fast as they can, a hundred times: never more than seven are under way."""
    tenant, query = "race", "SELECT quantum.saga_steps_under_way('race')"
    async with a_pool_of(database.app_dsn) as app, a_pool_of(database.platform_dsn) as platform:
        await platform.execute("INSERT INTO quantum.saga_tenants (tenant_id, steps_max) VALUES ('race', 7)")
        await platform.execute("INSERT INTO quantum.saga_workers VALUES ('w', now() + interval '1 hour')")
        await platform.execute(
            "INSERT INTO quantum.saga_dispatches (tenant_id, execution_id, step, attempt, due_at, command_id, event_id,"
            "  correlation_id, kind, action, lease_seconds, work_seconds, offered_at)"
            " SELECT 'race', 'e-' || n, 's', 1, now() + CASE WHEN n % 2 = 0 THEN interval '1 hour' ELSE interval '-1 hour' END,"
            "  gen_random_uuid(), gen_random_uuid(), 'c', CASE WHEN n % 2 = 0 THEN 'pull' ELSE 'call' END, 'cut', 60, 60, now()"
            "  FROM generate_series(1, 60) AS n"
        )
        most = 0

        async def fetch() -> None:
            nonlocal most
            for _ in range(100):
                rows = await app.fetch("SELECT * FROM quantum.fetch_work($1, '{cut}', 3, 'x', NULL, NULL)", tenant)
                most = max(most, await platform.fetchval(query))
                for row in rows:
                    await app.fetch(
                        "SELECT quantum.release_work($1, $2, $3, $4, $5)",
                        tenant, row["execution_id"], row["step"], row["attempt"], row["lease_token"],
                    )  # fmt: skip

        async def claim() -> None:
            nonlocal most
            for _ in range(100):
                rows = await platform.fetch("SELECT * FROM quantum.saga_claim('w', 3, 100, '{}', '{}', NULL, NULL, NULL)")
                most = max(most, await platform.fetchval(query))
                await platform.execute(
                    "UPDATE quantum.saga_dispatches SET lease_owner = NULL WHERE execution_id = ANY ($1)",
                    [row["execution_id"] for row in rows],
                )

        await asyncio.gather(fetch(), claim(), fetch(), claim())
        await platform.execute("DELETE FROM quantum.saga_dispatches WHERE tenant_id = 'race'")
    assert 3 < most <= 7


# -- explained


async def test_an_operator_sees_since_when_it_is_offered_and_who_has_it_until_when(shop: Shop):
    execution = await shop.start(heartbeat="45s", timeout="10m", timeouts={"queue": "1h"})
    await waiting(shop, 1)

    async def is_offered() -> Any:
        said = await explained(shop, execution)
        return said if said["reason"] == "offered" else None

    said = await wait_until(is_offered, what="it to be offered")
    offered_at, due_at = (datetime.fromisoformat(said["facts"][name]) for name in ("offered_at", "due_at"))
    assert abs(datetime.now(UTC) - offered_at) < timedelta(minutes=1)
    assert timedelta(minutes=59) < due_at - offered_at <= timedelta(hours=1)
    assert "nobody has fetched it yet" in said["sentence"]

    unit = await shop.one()
    said = await explained(shop, execution)
    assert (said["reason"], said["facts"]["lease_until"]) == ("fetched", unit["lease_until"])
    assert said["facts"]["worker"]
    assert repr(said["facts"]["worker"]) in said["sentence"]
    assert (await shop.post(f"{unit['lease_token']}/release")).status_code == 204
    said = await explained(shop, execution)
    assert (said["reason"], said["facts"]["worker"]) == ("offered", None)
    assert "given back" in said["sentence"]


# -- told


def told(http: Http) -> dict[str, float]:
    """The counters of work as they are exposed."""
    families = text_string_to_metric_families(http.platform.telemetry.exposition().decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        sample.name.removeprefix("quantum_work_").removesuffix("_total"): sample.value
        for sample in samples if sample.name.startswith("quantum_work_") and sample.name.endswith("_total")
    }  # fmt: skip


async def test_what_becomes_of_work_is_counted(http: Http, shop: Shop):
    before = told(http)
    for _ in range(3):
        await shop.start(retry=1)
    await waiting(shop, 3)
    completed, failed, given_back = await shop.poll(max=3)
    assert (await shop.post(f"{completed['lease_token']}/complete", {"result": 1})).is_success
    assert (await shop.post(f"{completed['lease_token']}/complete", {"result": 1})).is_success, "again, which counts for nothing"
    error = {"error": {"code": "torn", "message": "The cloth is torn."}, "retryable": False}
    assert (await shop.post(f"{failed['lease_token']}/fail", error)).is_success
    assert (await shop.post(f"{given_back['lease_token']}/release")).status_code == 204
    silent = await shop.one()
    await http.platform.store.platform_pool.execute(
        "UPDATE quantum.saga_dispatches SET lease_until = now() WHERE tenant_id = $1", shop.tenant.id
    )
    await shop.one()
    for path, body in (("complete", {"result": 1}), ("heartbeat", None), ("release", None)):
        assert (await shop.post(f"{silent['lease_token']}/{path}", body)).status_code == 409
    after = told(http)
    assert {name: after[name] - before[name] for name in after} == {
        "offered": 3, "fetched": 5, "completed": 1, "failed": 1, "released": 1, "expired": 1, "fenced": 3,
    }  # fmt: skip
