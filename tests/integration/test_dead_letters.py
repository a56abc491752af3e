# intent_ref: tests.dead-letters
"""Dead letters: written down before anything is passed over, kept from tenants, and redriven from the command line."""

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from event_store.store import EventStore
from quantum.settings import Settings
from quantum.sweeping import sweep
from streaming.dead_letters import REASON_CHARACTERS_MAX, DeadLetters
from streaming.delivery import DeliveryLimits
from streaming.embedded import EmbeddedTransport
from streaming.transport import Message
from tests.conftest import Database
from tests.consumers import Seen, consuming
from tests.streams import append
from tests.waiting import wait_until

IMPATIENT = DeliveryLimits(
    attempts_max=2, attempts_alone_max=1, back_off_seconds=0.02, back_off_seconds_max=0.1, redrive_seconds=0.1
)

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def refusing(seen: Seen, versions: set[int], fault: Exception) -> Any:
    async def handle(messages: Sequence[Message]) -> None:
        for message in messages:
            if message.tenant_id == seen.tenant and message.version in versions:
                raise fault
        await seen.handle(messages)

    return handle


async def left_behind(store: EventStore, group: str, versions: set[int], fault: Exception, count: int = 3) -> Seen:
    """Appends events and has a group handle them, until it has come to the last, which is a good one."""
    seen = Seen(group)
    await append(store, group, "s", count)
    async with consuming(EmbeddedTransport(store, limits=IMPATIENT), group, refusing(seen, versions, fault)):
        await wait_until(lambda: count in seen.versions().get("s", ()), 20, what="the last event")
    return seen


async def test_nothing_is_passed_over_before_the_database_has_taken_the_dead_letter(
    database: Database, store: EventStore
) -> None:
    seen = Seen("held")
    transport = EmbeddedTransport(store, limits=IMPATIENT)
    await append(store, "held", "s", 3)
    await _execute(database, "ALTER TABLE quantum.stream_dead_letters RENAME TO hidden")
    async with consuming(transport, "held", refusing(seen, {1}, RuntimeError("broken"))):
        try:
            await wait_until(lambda: transport.statistics.repeated_batches >= 3, 20, what="the poison to be known")
            await asyncio.sleep(0.3)
            assert not seen.messages
        finally:
            await _execute(database, "ALTER TABLE quantum.hidden RENAME TO stream_dead_letters")
        await wait_until(lambda: seen.versions() == {"s": [2, 3]}, 20, what="the others")
    assert [letter.reason for letter in await DeadLetters(store).list("held")] == ["RuntimeError: broken"]


async def test_a_handler_that_refuses_everything_leaves_everything_behind_and_gets_it_back(store: EventStore) -> None:
    letters, seen, broken = DeadLetters(store), Seen("all"), {1, 2, 3, 4, 5}
    await append(store, "all", "s", 5)
    async with consuming(
        EmbeddedTransport(store, limits=IMPATIENT), "all", refusing(seen, broken, RuntimeError("a bad release"))
    ):
        await wait_until(lambda: _counts(letters, "all", 5), 20, what="five dead letters")
        broken.clear()
        assert await letters.redrive("all") == 5
        await wait_until(lambda: _counts(letters, "all", 0), 20, what="them to be redriven")
    assert seen.versions() == {"s": [1, 2, 3, 4, 5]}


async def _counts(letters: DeadLetters, group: str, count: int) -> bool:
    return len(await letters.list(group)) == count


async def test_a_reason_is_kept_to_a_size_and_to_what_a_database_can_hold(store: EventStore) -> None:
    await left_behind(store, "long", {1}, RuntimeError("\0" + "x" * 10_000))
    (letter,) = await DeadLetters(store).list("long")
    assert len(letter.reason) == REASON_CHARACTERS_MAX
    assert "\0" not in letter.reason


async def test_a_value_the_database_refuses_is_the_messages_fault(store: EventStore) -> None:
    seen = Seen("values")

    async def handle(messages: Sequence[Message]) -> None:
        for message in messages:
            if message.tenant_id == "values" and message.version == 2:
                await store.platform_pool.fetchval("SELECT 'two'::text::integer")
        await seen.handle(messages)

    await append(store, "values", "s", 3)
    async with consuming(EmbeddedTransport(store, limits=IMPATIENT), "values", handle):
        await wait_until(lambda: seen.versions() == {"s": [1, 3]}, 20, what="the others")
    assert "InvalidTextRepresentationError" in (await DeadLetters(store).list("values"))[0].reason


async def test_the_role_of_the_apis_sees_no_dead_letter_of_anybody(database: Database, store: EventStore) -> None:
    await left_behind(store, "secret", {1}, RuntimeError("broken"))
    connection = await asyncpg.connect(database.app_dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', 'secret', true)")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("SELECT * FROM quantum.stream_dead_letters")
    finally:
        await connection.close()


async def test_a_redriven_dead_letter_goes_after_its_days_and_no_other_does(store: EventStore) -> None:
    letters, pool = DeadLetters(store), store.platform_pool
    await left_behind(store, "swept", {1, 2, 3}, RuntimeError("broken"), count=4)
    old, young, waiting = await letters.list("swept")
    for letter in (old, young):
        await letters.redriven(letter)
    assert await letters.sweep(days=30) == 0
    for letter in (old, waiting):
        await pool.execute(
            "UPDATE quantum.stream_dead_letters SET first_failed_at = $3, redriven_at = redriven_at - $4::interval"
            " WHERE consumer_group = $1 AND position = $2", "swept", letter.position, LONG_AGO, timedelta(days=31),
        )  # fmt: skip
    assert await letters.sweep(days=30) == 1
    assert await letters.sweep(days=30) == 0
    left = await pool.fetch("SELECT position FROM quantum.stream_dead_letters WHERE consumer_group = 'swept' ORDER BY position")
    assert [row[0] for row in left] == [young.position, waiting.position]
    assert [letter.position for letter in await letters.list("swept")] == [waiting.position]


async def test_a_letter_that_fails_again_after_it_was_redriven_is_not_swept(store: EventStore) -> None:
    letters = DeadLetters(store)
    await left_behind(store, "again", {1}, RuntimeError("broken"), count=2)
    (letter,) = await letters.list("again")
    await letters.redriven(letter)
    message = await letters.message(letter)
    assert message is not None
    await letters.put("again", message, RuntimeError("broken again"), 1, 0.0)
    await letters.sweep(days=-1)
    assert [one.reason for one in await letters.list("again")] == ["RuntimeError: broken again"]


async def test_the_platforms_sweeper_removes_them_while_it_runs(store: EventStore, tmp_path: Path) -> None:
    letters, stop = DeadLetters(store), asyncio.Event()
    await left_behind(store, "hourly", {1}, RuntimeError("broken"), count=2)
    await letters.redriven((await letters.list("hourly"))[0])
    settings = Settings(data_dir=tmp_path, dead_letter_days=0.000_000_001)
    sweeping = asyncio.create_task(sweep(settings, store, stop))
    count = "SELECT count(*) FROM quantum.stream_dead_letters WHERE consumer_group = 'hourly'"

    async def gone() -> bool:
        return await store.platform_pool.fetchval(count) == 0

    await wait_until(gone, 20, what="the letter to go")
    stop.set()
    async with asyncio.timeout(10):
        await sweeping


async def test_the_command_line_lists_dead_letters_and_redrives_them(
    database: Database, store: EventStore, tmp_path: Path
) -> None:
    seen = await left_behind(store, "shell", {1, 2}, RuntimeError("[bold]not markup[/]"))
    first, second = await DeadLetters(store).list("shell")

    async def quantum(*words: str) -> tuple[int, str]:
        return await _run(database, tmp_path, "streams", *words)

    status, printed = await quantum("dead-letters", "--group", "shell", "--json")
    assert status == 0, printed
    listed = orjson.loads(printed)
    assert (status, [row["position"] for row in listed]) == (0, [first.position, second.position])
    assert listed[0] | {"reason": "", "first_failed_at": "", "last_failed_at": ""} == {
        "tenant_id": "shell", "group": "shell", "position": first.position, "event_id": str(first.event_id),
        "partition_key": "shell/s", "topic": "intent.deprecated.v1", "reason": "", "attempts": 3, "first_failed_at": "",
        "last_failed_at": "", "redrive_requested_at": None, "redriven_at": None,
    }  # fmt: skip
    assert "RuntimeError: [bold]not markup[/]" in (await quantum("dead-letters"))[1]
    assert (await quantum("redrive", "shell", "--position", str(second.position)))[0] == 0
    assert orjson.loads((await quantum("redrive", "shell", "--all", "--json"))[1]) == {"group": "shell", "requested": 2}
    async with consuming(EmbeddedTransport(store, limits=IMPATIENT), "shell", seen.handle):
        await wait_until(lambda: seen.versions() == {"s": [3, 1, 2]}, 20, what="the dead letters")
    assert "no dead letters" in (await quantum("dead-letters", "--group", "shell"))[1]
    status, printed = await quantum("redrive", "shell", "--position", str(first.position))
    assert (status, "There is no such dead letter" in printed) == (1, True)
    assert (await quantum("redrive", "shell"))[0] == 2


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


async def _execute(database: Database, sql: str) -> None:
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
