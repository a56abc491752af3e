# intent_ref: tests.projections
"""`quantum projections faults` and `retry`: what was set aside, as people and as programs read it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from domain.intent import IntentCreated
from event_store.records import RecordedEvent
from event_store.store import EventStore
from projections.catalogue import read_model
from projections.faults import list_faults, retry_faults
from projections.schema import prepare
from tests.conftest import Database
from tests.histories import created, deprecated, record
from tests.projected import projecting

INTENTS = read_model("intents")


@pytest.fixture
async def log(database: Database, store: EventStore) -> AsyncIterator[EventStore]:
    await prepare(database.owner_dsn)
    yield store
    await retry_faults(store, INTENTS)


async def _indigestible(connection: Any, events: Sequence[RecordedEvent]) -> None:
    if any(isinstance(event.event, IntentCreated) and event.event.name == "[bold]poison[/]" for event in events):
        raise ValueError("cannot digest [bold]poison[/]")
    await INTENTS.apply(connection, events)


async def test_the_command_line_lists_what_was_set_aside_and_tries_it_again(
    log: EventStore, database: Database, tmp_path: Path
) -> None:
    tenant = "tenant-cli-faults"
    await record(log, tenant, "intent-c-1", created("c-1", "[bold]poison[/]"))
    await record(log, tenant, "intent-c-1", deprecated("c-1"))
    async with projecting(log, [replace(INTENTS, apply=_indigestible)]) as running:
        await running.caught_up()
    first, second = await list_faults(log.platform_pool, "intents")

    async def quantum(*words: str) -> tuple[int, str]:
        return await _run(database, tmp_path, "projections", *words)

    status, printed = await quantum("faults", "--json")
    assert status == 0, printed
    listed = orjson.loads(printed)
    assert [(row["event_id"], row["position"], row["tenant_id"]) for row in listed] == [
        (str(first.event_id), first.position, tenant),
        (str(second.event_id), second.position, tenant),
    ]
    assert listed[1]["error"] is None
    status, printed = await quantum("faults", "intents")
    assert status == 0, printed
    assert "ValueError: cannot digest [bold]poison[/]" in printed
    assert "waits behind an earlier one of its stream" in printed
    status, printed = await quantum("retry", "intents", "--json")
    assert (status, orjson.loads(printed)) == (0, {"applied": 2, "left": 0})
    assert orjson.loads((await quantum("faults", "--json"))[1]) == []


async def _run(database: Database, data_dir: Path, *words: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUANTUM_")} | {
        "QUANTUM_DATABASE_URL": database.app_dsn, "QUANTUM_DATABASE_PLATFORM_URL": database.platform_dsn,
        "QUANTUM_DATA_DIR": str(data_dir),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("quantum")), *words, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()
