# intent_ref: tests.pull-subscriptions
"""The server of a pull subscription is killed again and again while several read: nothing is lost, and order is kept."""

import asyncio
import contextlib
from collections import defaultdict

import httpx
import pytest

from tests.platforms import Served, temporary_directory
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
API = "/api/v1"
KILLS, READERS = 4, 3


class Reader:
    """Reads until it is told to stop, whatever becomes of the server. What it does is noted before it is acknowledged."""

    def __init__(self, client: httpx.AsyncClient, path: str, done: dict[str, list[int]]) -> None:
        self._client, self._path, self._done = client, path, done

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                answer = await self._client.post(f"{self._path}/pull", json={"max": 4, "wait": 1, "lease": 2})
                answer.raise_for_status()
                for item in answer.json()["items"]:
                    self._done[item["event"]["subject"]].append(int(item["event"]["sequence"]))
                    (await self._client.post(f"{self._path}/ack", json={"ids": [item["lease"]]})).raise_for_status()
            except httpx.HTTPError:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await stop.wait()


async def test_readers_of_a_server_that_is_killed_get_everything_in_order() -> None:
    with temporary_directory() as directory:
        served = Served(directory / "data")
        done: dict[str, list[int]] = defaultdict(list)
        stop = asyncio.Event()
        try:
            await served.start()
            headers = served.bearer("acme", roles=("tenant-admin", "platform-admin"))
            async with httpx.AsyncClient(base_url=served.address, headers=headers, timeout=20) as client:
                assert (await client.post(f"{API}/tenants", json={"id": "acme", "name": "Acme"})).status_code == 201
                made = await client.post(f"{API}/pull-subscriptions", json={"from": "beginning", "max_deliveries": 100})
                path = f"{API}/pull-subscriptions/{made.json()['id']}"
                definition = {"target": "t", "steps": [{"action": "no-op", "id": f"s{n}"} for n in range(4)]}
                intent = (await client.post(f"{API}/intents", json={"name": "i", "definition": definition})).json()["id"]
                reading = [asyncio.create_task(Reader(client, path, done).run(stop)) for _ in range(READERS)]
                for _ in range(KILLS):
                    before = sum(map(len, done.values()))
                    for _ in range(4):
                        started = await client.post(f"{API}/intents/{intent}/execute", json={})
                        assert started.status_code == 202
                    await wait_until(lambda before=before: sum(map(len, done.values())) > before + 8, 30, what="some to be read")
                    served.kill()
                    await served.start()

                async def all_events() -> dict[str, int]:
                    last: dict[str, int] = {}
                    for item in (await client.get(f"{API}/events", params={"limit": 1000})).json()["items"]:
                        last[item["subject"]] = int(item["sequence"])
                    return last

                async def is_complete() -> bool:
                    running = (await client.get(f"{API}/executions", params={"status": "running"})).json()["items"]
                    last = await all_events()
                    return not running and all(set(done[one]) >= set(range(1, count + 1)) for one, count in last.items())

                await wait_until(is_complete, 90, what="every event", every_seconds=0.2)
                standing = (await client.get(path)).json()
                stop.set()
                await asyncio.gather(*reading)
                assert standing["dead_letters"] == 0
                repeats = 0
                for subject, count in (await all_events()).items():
                    first_time = list(dict.fromkeys(done[subject]))
                    assert first_time == list(range(1, count + 1)), subject
                    repeats += len(done[subject]) - count
                print(f"{sum(map(len, done.values()))} deliveries, {repeats} repeats, {KILLS} kills")
        finally:
            stop.set()
            await served.stop()
