# intent_ref: sagas.circuits
"""Circuit breakers are seen where modules are read, whichever process they are in, and by nobody else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from event_store.store import EventStore
from modules.breaker import Breakers, Thresholds
from modules.contract import ModuleError
from sagas.circuit_rows import CircuitRows
from tests.acceptance.http_modules import HttpModule, http_module
from tests.conftest import Database
from tests.http_platform import Http, Tenant, serving
from tests.waiting import wait_until

URL = "https://module.example/actions"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def broken(tenant: str, url: str = URL) -> tuple[Breakers, Clock]:
    """Breakers of a process, of which one is open."""
    clock = Clock()
    breakers = Breakers(Thresholds(calls_min=4, open_seconds=300.0), clock)
    fail(breakers, tenant, url, 4)
    return breakers, clock


def fail(breakers: Breakers, tenant: str, url: str, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ModuleError), breakers.guarding(tenant, url):
            raise ModuleError("unreachable", "no")


async def seen(store: EventStore, tenant: str, *urls: str) -> list[dict[str, Any]]:
    rows = await store.tenant_pool.fetch("SELECT * FROM quantum.read_module_circuits($1, $2, 100)", tenant, list(urls or (URL,)))
    return [dict(row) for row in rows]


async def test_a_change_is_written_and_seen_by_its_tenant_alone(store: EventStore):
    breakers, clock = broken("t-a")
    rows = CircuitRows(store.platform_pool, breakers, "p1")
    await rows.write()
    (found,) = await seen(store, "t-a")
    assert (found["process"], found["state"], found["failures"]) == ("p1", "open", 4)
    assert found["next_probe_at"] > found["since"]
    assert await seen(store, "t-b") == []
    assert await seen(store, "t-a", "https://other.example") == []
    assert await store.tenant_pool.fetch("SELECT * FROM quantum.module_circuits") == []
    clock.now += 301
    with breakers.guarding("t-a", URL):
        await rows.write()
        assert [one["state"] for one in await seen(store, "t-a")] == ["half-open"]
    await rows.write()
    (found,) = await seen(store, "t-a")
    assert (found["state"], found["failures"], found["next_probe_at"]) == ("closed", 0, None)


async def test_each_process_has_its_own_say_and_takes_it_back_when_it_ends(store: EventStore):
    for process in ("p1", "p2"):
        await CircuitRows(store.platform_pool, broken("t-c")[0], process).write()
    assert [one["process"] for one in await seen(store, "t-c")] == ["p1", "p2"]
    stop = asyncio.Event()
    stop.set()
    await CircuitRows(store.platform_pool, Breakers(), "p1").run(stop)
    assert [one["process"] for one in await seen(store, "t-c")] == ["p2"]


async def test_what_a_killed_process_leaves_expires_and_what_lives_is_kept_up(store: EventStore):
    breakers, _ = broken("t-d")
    dead, alive = CircuitRows(store.platform_pool, broken("t-d")[0], "dead"), CircuitRows(store.platform_pool, breakers, "alive")
    await dead.write()
    await alive.write()
    await store.platform_pool.execute("UPDATE quantum.module_circuits SET expires_at = now() WHERE tenant_id = 't-d'")
    assert await seen(store, "t-d") == []
    await alive.write(refresh=True)
    assert [one["process"] for one in await seen(store, "t-d")] == ["alive"]
    count = await store.platform_pool.fetchval("SELECT count(*) FROM quantum.module_circuits WHERE tenant_id = 't-d'")
    assert count == 1


async def test_an_open_circuit_whose_time_is_up_is_shown_as_half_open(store: EventStore):
    await CircuitRows(store.platform_pool, broken("t-e")[0], "p1").write()
    await store.platform_pool.execute("UPDATE quantum.module_circuits SET next_probe_at = now() WHERE tenant_id = 't-e'")
    (found,) = await seen(store, "t-e")
    assert (found["state"], found["next_probe_at"]) == ("half-open", None)


async def test_a_database_that_is_away_delays_the_rows_and_loses_none(store: EventStore):
    class Flaky:
        away = True

        async def execute(self, query: str, *arguments: Any) -> None:
            if self.away:
                self.away = False
                raise ConnectionRefusedError
            await store.platform_pool.execute(query, *arguments)

    rows, stop = CircuitRows(Flaky(), broken("t-f")[0], "p1"), asyncio.Event()
    rows._changed.set()
    running = asyncio.create_task(rows.run(stop))

    async def there() -> bool:
        return len(await seen(store, "t-f")) == 1

    await wait_until(there, 10, what="the row to be written")
    stop.set()
    await running
    assert await seen(store, "t-f") == []


async def test_many_circuits_are_written_together(store: EventStore):
    breakers = Breakers(Thresholds(calls_min=1))
    for number in range(2_500):
        fail(breakers, "t-g", f"{URL}/{number}", 1)
    await CircuitRows(store.platform_pool, breakers, "p1").write()
    assert await store.platform_pool.fetchval("SELECT count(*) FROM quantum.module_circuits WHERE tenant_id = 't-g'") == 2_500


@pytest.fixture
def failing() -> Iterator[HttpModule]:
    with http_module(lambda body: (503, {"message": "not now"})) as module:
        yield module


@pytest.fixture
async def platforms(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Http, Http]]:
    """One process that does everything, and one that only reads."""
    folder = tmp_path_factory.mktemp("circuits")
    async with (
        serving(database, folder, private_addresses=True) as everything,
        serving(database, folder, role="read-api") as reading,
    ):
        yield everything, reading


async def test_a_process_that_only_reads_shows_the_circuits_of_those_that_call(
    platforms: tuple[Http, Http], failing: HttpModule
):  # fmt: skip
    everything, reading = platforms
    tenant, stranger = await everything.tenant(), await everything.tenant()
    for one in (tenant, stranger):
        body = {"name": "flaky", "actions": [{"name": "try"}], "transport": {"type": "http", "url": failing.url}}
        registered = await one.post("/modules", body)
        assert registered.status_code == 201, registered.text
        shown = (await one.get("/modules/flaky", after=registered)).json()
        assert shown["circuit"] == {"state": "closed", "processes": []}
    steps = [
        {"id": f"s{number}", "action": "try", "depends_on": [], "retry": 1, "on_failure": "continue"} for number in range(12)
    ]
    await tenant.execution(steps)
    elsewhere = Tenant(reading, tenant.id)
    circuit: dict[str, Any] = {}

    async def is_open() -> bool:
        nonlocal circuit
        circuit = (await elsewhere.get("/modules/flaky")).json()["circuit"]
        return bool(circuit["processes"])

    await wait_until(is_open, 20, what="the circuit to be seen")
    (process,) = circuit["processes"]
    assert circuit["state"] in ("open", "half-open")
    assert process["failures"] >= 10
    assert set(process) == {"process", "state", "since", "failures", "next_probe_at"}
    listed = (await elsewhere.get("/modules")).json()["items"]
    assert [one["circuit"]["processes"][0]["process"] for one in listed if one["name"] == "flaky"] == [process["process"]]
    assert {one["circuit"] for one in listed if one["built_in"]} == {None}
    theirs = (await Tenant(reading, stranger.id).get("/modules/flaky")).json()
    assert theirs["circuit"] == {"state": "closed", "processes": []}
    assert "127.0.0.1" not in str(circuit)
