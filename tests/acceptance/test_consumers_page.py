# intent_ref: tests.documentation
"""The consumers on the page about reading the stream directly, run as their reader would run them."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from markdown_it import MarkdownIt
from pydantic import SecretStr

from tests.conftest import Database
from tests.event_hubs.process import event_hubs_process
from tests.http_platform import Http, Tenant, serving
from tests.kafka_broker import kafka_broker
from tests.platforms import temporary_directory
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "consumers.md"
SECONDS = 60.0
RECORD_BYTES_MAX = 2_048
LARGE = "large " * 1_000


def program(client: str) -> str:
    """The page's program with that client library."""
    (found,) = [
        token.content for token in MarkdownIt().parse(PAGE.read_text("utf-8"))
        if token.type == "fence" and token.info == "python" and f"from {client}" in token.content
    ]  # fmt: skip
    return found


class Consumer:
    """The program in a folder of its own, with its ledger."""

    def __init__(self, folder: Path, tenant: Tenant, source: str, **environment: str) -> None:
        self.folder, self.ledger = folder, folder / "ledger.db"
        (folder / "consumer.py").write_text(source)
        self._environment = {
            **os.environ, **environment, "TENANT": tenant.id, "LEDGER": str(self.ledger), "API": tenant.http.address,
            "TOKEN": tenant.http.token(tenant.id, roles=["viewer"]),
        }  # fmt: skip

    @contextmanager
    def running(self) -> Iterator[None]:
        """The process, which is killed at the end."""
        with (self.folder / "printed").open("ab") as printed, (self.folder / "errors").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "consumer.py"], cwd=self.folder, env=self._environment, stdout=printed, stderr=errors
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def done(self) -> list[tuple[str, int, str]]:
        """What it has dealt with, in that order."""
        if not self.ledger.exists():
            return []
        with sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True) as ledger:
            if not ledger.execute("SELECT count(*) FROM sqlite_master WHERE name = 'done'").fetchone()[0]:
                return []
            return list(ledger.execute("SELECT subject, sequence, type FROM done ORDER BY rowid"))

    def data(self, subject: str, sequence: int) -> Any:
        """What an event said."""
        with sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True) as ledger:
            row = ledger.execute("SELECT data FROM done WHERE subject = ? AND sequence = ?", (subject, sequence)).fetchone()
            return orjson.loads(row[0])

    @property
    def repeats(self) -> int:
        """How many events it has recognised."""
        return (self.folder / "printed").read_text().count("a repeat")

    @property
    def errors(self) -> str:
        """What it complained of."""
        return (self.folder / "errors").read_text()


async def feed_of(tenant: Tenant) -> list[tuple[str, int, str]]:
    """What the platform itself shows of the tenant."""
    items = (await tenant.get("/events", params={"limit": 1000})).json()["items"]
    return [(item["subject"], int(item["sequence"]), item["type"]) for item in items]


async def is_told(http: Http, database: Database, consumer: Consumer, tenant: Tenant) -> None:
    """Everything once and in order per subject, whatever is killed and however often it is published."""
    with consumer.running():
        await tenant.execution()
        large = await tenant.intent("large", description=LARGE[:2_000], labels={f"l{n}": LARGE[:150] for n in range(20)})
        await wait_until(lambda: len(consumer.done()) >= 3, SECONDS, what="the first events")
    await tenant.execution()
    await (await http.tenant()).execution()
    with consumer.running():
        await wait_until(lambda: len(consumer.done()) >= 12, SECONDS, what="some more")
    subject = f"intent/{large.json()['id']}"
    await http.platform.store.platform_pool.execute("UPDATE quantum.relay_checkpoints SET position = 0")
    await tenant.execution()

    async def has_all() -> bool:
        executions = (await tenant.get("/executions")).json()["items"]
        return all(one["status"] == "completed" for one in executions) and len(consumer.done()) == len(await feed_of(tenant))

    with consumer.running():
        await wait_until(has_all, SECONDS, what="all events")
        await wait_until(lambda: consumer.repeats > 5, SECONDS, what="repeats, which it recognises")
    assert sorted(consumer.done()) == sorted(await feed_of(tenant)), consumer.errors
    by_subject: dict[str, list[int]] = {}
    for one, sequence, _ in consumer.done():
        by_subject.setdefault(one, []).append(sequence)
    assert all(sequences == list(range(1, len(sequences) + 1)) for sequences in by_subject.values())
    assert consumer.data(subject, 1)["labels"]["l7"] == LARGE[:150]


@asynccontextmanager
async def platform(database: Database, **settings: Any) -> AsyncIterator[Http]:
    """The platform on that stream."""
    with temporary_directory() as folder:
        async with serving(database, folder, **settings) as http:
            yield http


@pytest.mark.slow
async def test_the_pages_consumer_of_kafka_keeps_its_promises(database: Database):
    async with kafka_broker() as broker:
        kafka = {"stream": "kafka", "kafka_bootstrap": broker.bootstrap, "kafka_topic": broker.topic("page")}
        async with platform(database, **kafka, kafka_record_bytes_max=RECORD_BYTES_MAX) as http:
            tenant = await http.tenant()
            with temporary_directory() as folder:
                consumer = Consumer(
                    folder, tenant, program("aiokafka"), BOOTSTRAP=broker.bootstrap, TOPIC=broker.topic("page")
                )  # fmt: skip
                await is_told(http, database, consumer, tenant)


@pytest.mark.slow
async def test_the_pages_consumer_of_event_hubs_keeps_its_promises(database: Database):
    async with event_hubs_process() as hub:
        connection = SecretStr(hub.connection_string)
        event_hubs = {"stream": "event-hubs", "event_hubs_connection": connection}
        async with platform(database, **event_hubs, event_hubs_message_bytes_max=RECORD_BYTES_MAX) as http:
            tenant = await http.tenant()
            with temporary_directory() as folder:
                consumer = Consumer(folder, tenant, program("azure.eventhub.aio"), CONNECTION=hub.connection_string)
                await is_told(http, database, consumer, tenant)
