# intent_ref: bench.benchmarks
"""Webhooks to a local receiver: deliveries a second, how evenly they go round, and what slow receivers cost the others."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.ground import TENANT, Figure, event_store, free_port, postgres, serving, wait_for
from commands.handle import Envelope, Shell, handle
from commands.subscription import CreateSubscription, DeleteSubscription
from domain.definition import Rules
from domain.module import Modules
from domain.subscription import Start, Terms
from domain.values import SecretId, StreamId, SubscriptionId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore
from event_store.subscription_secrets import SubscriptionSecrets
from modules.secrets.keyring import Keyring
from quantum.issuing import keys_folder
from quantum.webhooks import KEYS_FILE

SUBSCRIPTIONS = 20
SLOW = 10
SUBJECTS = 200
PROCESSES = ("webhooks",)


async def measure(seconds: float) -> list[Figure]:
    """Every subscription gets the whole log from its beginning, with and without slow ones beside."""
    events = int(seconds * 1_000 / SUBSCRIPTIONS) * 4
    async with postgres() as (folder, urls), event_store(urls) as store:
        await _fill(store, events)
        alone = await _run(store, folder, urls, events, slow=0)
        beside = await _run(store, folder, urls, events, slow=SLOW)
    return [
        Figure("webhooks, deliveries a second", f"{alone['rate']:,.0f}/s", "1,000/s", alone["rate"] / 1_000, 1.0),
        Figure(
            f"webhooks, least served beside best served of {SUBSCRIPTIONS}, half way", f"{alone['least']:,}",
            f"{alone['most']:,}", alone["least"] / alone["most"], 0.7,
        ),
        Figure(
            f"webhooks beside {SLOW} receivers that take 2 s", f"{beside['rate']:,.0f}/s", f"{alone['rate']:,.0f}/s",
            beside["rate"] / alone["rate"], 0.8,
        ),
    ]  # fmt: skip


async def _fill(store: EventStore, events: int) -> None:
    metadata = Metadata("bench", None, "bench", None)

    async def one(number: int) -> None:
        event = NewEvent(uuid7(), "execution.paused.v1", b'{"execution_id":"%d","at":"2026-11-21T08:00:00Z"}' % number)
        stream = StreamId(f"execution-{number % SUBJECTS}")
        await store.append(TenantId(TENANT), [StreamAppend(stream, [event], ANY_VERSION)], command_id=uuid7(), metadata=metadata)

    for begin in range(0, events, 64):
        await asyncio.gather(*(one(number) for number in range(begin, min(begin + 64, events))))


async def _run(store: EventStore, folder: Path, urls: Any, events: int, *, slow: int) -> dict[str, Any]:
    with _receiver() as port:
        shell = Shell(store, Modules({}), Rules())
        secrets = SubscriptionSecrets(store.tenant_pool, Keyring.from_file(keys_folder(folder) / KEYS_FILE))
        paths = [f"/slow/{number}" for number in range(slow)] + [f"/{number}" for number in range(SUBSCRIPTIONS)]
        # Before anything delivers, so that all begin together.
        made = [await _subscribe(shell, secrets, f"http://127.0.0.1:{port}{path}") for path in paths]
        with _private(), serving(folder, urls, PROCESSES):
            half, stats = await _watched(port, events * SUBSCRIPTIONS)
        for id in made:
            await handle(shell, DeleteSubscription(subscription_id=id, at=datetime.now(UTC)), _envelope())
        return {"rate": events * SUBSCRIPTIONS / (stats["last"] - stats["first"]), "least": min(half), "most": max(half)}


async def _watched(port: int, wanted: int) -> tuple[list[int], dict[str, Any]]:
    """What each had when half was delivered, and the times when all was."""
    half, deadline = list[int](), time.monotonic() + 300
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while True:
            stats: dict[str, Any] = (await client.get("/stats")).json()
            fast = [stats["counts"].get(f"/{number}", 0) for number in range(SUBSCRIPTIONS)]
            if not half and sum(fast) >= wanted / 2:
                half = fast
            if sum(fast) >= wanted:
                return half, stats
            if time.monotonic() > deadline:
                raise TimeoutError(f"{sum(fast):,} of {wanted:,} deliveries after five minutes")
            await asyncio.sleep(0.05)


async def _subscribe(shell: Shell, secrets: SubscriptionSecrets, url: str) -> SubscriptionId:
    id = SubscriptionId(str(uuid7()))
    secret_id, _ = await secrets.make(TENANT, id)
    terms = Terms(url, ("quantum.execution.*",))
    command = CreateSubscription(
        subscription_id=id, terms=terms, start=Start(position=0), secret_id=SecretId(secret_id), at=datetime.now(UTC)
    )
    await handle(shell, command, _envelope())
    return id


def _envelope() -> Envelope:
    return Envelope(TenantId(TENANT), uuid7(), "bench", "bench")


@contextmanager
def _receiver() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.receiver", str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/stats")
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _private() -> Iterator[None]:
    """Lets the platform reach this machine."""
    os.environ["QUANTUM_PRIVATE_ADDRESSES"] = "true"
    try:
        yield
    finally:
        del os.environ["QUANTUM_PRIVATE_ADDRESSES"]
