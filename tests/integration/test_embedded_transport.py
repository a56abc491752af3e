# intent_ref: tests.embedded-transport
"""What is special to the embedded stream: leases on partitions, kept in the database, and checkpoints in the log's positions.

What every transport promises is in `test_transport_contract.py`.
"""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from event_store.store import EventStore
from streaming.embedded import EmbeddedTransport
from streaming.transport import Message, partition_of
from tests.conftest import Database
from tests.consumers import Seen, another_store, assert_in_order, consuming
from tests.streams import append
from tests.waiting import wait_until


async def shares(store: EventStore, group: str) -> list[int]:
    """How many partitions each owner has, and 0 for a partition nobody owns."""
    rows = await store.platform_pool.fetch(
        "SELECT owner, count(*) FROM quantum.stream_leases WHERE consumer_group = $1 GROUP BY owner ORDER BY 2", group
    )
    return [0 if row["owner"] is None else row["count"] for row in rows]


def shares_are(store: EventStore, group: str, wanted: list[int]) -> Callable[[], Any]:
    async def are() -> bool:
        return await shares(store, group) == wanted

    return are


async def test_a_message_carries_the_event_as_it_was_recorded(store: EventStore) -> None:
    seen = Seen("carried")
    await append(store, "carried", "s")
    async with consuming(EmbeddedTransport(store), "carried", seen.handle):
        await wait_until(lambda: seen.messages, what="the event")
    message, recorded = seen.messages[0], (await store.read_log(0, limit=10_000)).events
    assert message in [Message.of(event) for event in recorded]
    assert message.key == "carried/s"
    assert message.metadata.actor == "user-1"
    assert type(message.event).__name__ == "IntentDeprecated"


async def test_topics_not_asked_for_are_passed_over(store: EventStore) -> None:
    seen = Seen("topics")
    async with consuming(EmbeddedTransport(store), "topics", seen.handle, topics=frozenset({"intent.created.v1"})):
        position = (await append(store, "topics", "s", 3)).position

        async def passed() -> bool:
            low = await store.platform_pool.fetchval(
                "SELECT min(checkpoint) FROM quantum.stream_leases WHERE consumer_group = 'topics'"
            )
            return low is not None and low >= position

        await wait_until(passed, what="the checkpoint to move")
    assert not seen.batches


async def test_stopping_finishes_the_batch_in_hand_and_stores_how_far_it_came(store: EventStore) -> None:
    seen, entered, go_on = Seen("stop"), asyncio.Event(), asyncio.Event()

    async def gated(messages: Sequence[Message]) -> None:
        if any(message.tenant_id == "stop" for message in messages):
            entered.set()
            await go_on.wait()
        await seen.handle(messages)

    await append(store, "stop", "s", 5)
    async with consuming(EmbeddedTransport(store), "stop", gated) as stop:
        await entered.wait()
        stop.set()
        go_on.set()
    assert seen.versions() == {"s": [1, 2, 3, 4, 5]}
    assert await shares(store, "stop") == [0]
    again = Seen("stop")
    async with consuming(EmbeddedTransport(store), "stop", again.handle):
        await append(store, "stop", "s", 1)
        await wait_until(lambda: again.messages, what="the next event")
    assert again.versions() == {"s": [6]}


async def test_members_share_the_partitions_evenly_and_then_are_still(database: Database, store: EventStore) -> None:
    async with another_store(database) as second, another_store(database) as third:
        seen = [Seen("share") for _ in range(3)]
        async with consuming(EmbeddedTransport(store), "share", seen[0].handle):
            await wait_until(shares_are(store, "share", [16]), what="one to have all")
            async with (
                consuming(EmbeddedTransport(second), "share", seen[1].handle),
                consuming(EmbeddedTransport(third), "share", seen[2].handle),
            ):
                await wait_until(shares_are(store, "share", [5, 5, 6]), what="an even share")
                epochs = await _epochs(store, "share")
                heartbeats = await _heartbeats(store, "share")
                for stream in range(60):
                    await append(store, "share", f"s{stream}", 2)
                await wait_until(lambda: sum(len(each.messages) for each in seen) >= 120, what="all events")
                await wait_until(lambda: _grew(store, "share", heartbeats), what="three more heartbeats")
                assert await _epochs(store, "share") == epochs
                assert all(each.messages for each in seen)
            await wait_until(shares_are(store, "share", [16]), what="the one that stays to have all")
    counted = Counter((message.stream_id, message.version) for each in seen for message in each.messages)
    assert counted == Counter({(f"s{stream}", version): 1 for stream in range(60) for version in (1, 2)})


async def _epochs(store: EventStore, group: str) -> list[int]:
    rows = await store.platform_pool.fetch(
        "SELECT epoch FROM quantum.stream_leases WHERE consumer_group = $1 ORDER BY partition", group
    )
    return [row["epoch"] for row in rows]


async def _heartbeats(store: EventStore, group: str) -> Any:
    return await store.platform_pool.fetchval(
        "SELECT min(alive_until) FROM quantum.stream_members WHERE consumer_group = $1", group
    )


async def _grew(store: EventStore, group: str, since: Any) -> bool:
    return bool(
        await store.platform_pool.fetchval(
            "SELECT bool_and(alive_until > $2::timestamptz + interval '2 seconds')"
            "  FROM quantum.stream_members WHERE consumer_group = $1",
            group, since,
        )
    )  # fmt: skip


async def test_partitions_that_move_under_load_skip_nothing_and_keep_the_order(database: Database, store: EventStore) -> None:
    seen = Seen("moving")
    streams = [f"s{n}" for n in range(24)]
    async with another_store(database) as second, consuming(EmbeddedTransport(store), "moving", seen.handle, batch_max=20):
        for _ in range(3):
            joined = asyncio.create_task(_come_and_go(second, seen))
            while not joined.done():
                await asyncio.gather(*(append(store, "moving", stream, 1) for stream in streams))
        total = await store.platform_pool.fetchval("SELECT count(*) FROM quantum.events WHERE tenant_id = 'moving'")
        await wait_until(lambda: len({message.event_id for message in seen.messages}) == total, 30, what="every event")
    for versions in seen.versions().values():
        assert [version for n, version in enumerate(versions) if version not in versions[:n]] == list(range(1, max(versions) + 1))


async def test_who_has_few_partitions_and_catches_up_goes_on_past_where_others_had_come(
    database: Database, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.embedded._IDLE_SECONDS_MAX", 3_600.0)
    seen = Seen("behind")
    position = (await append(store, "behind", "s", 1)).position
    async with consuming(EmbeddedTransport(store), "behind", seen.handle):
        await wait_until(lambda: seen.messages, what="to begin where the log ends")
    await store.platform_pool.execute(
        "INSERT INTO quantum.stream_members VALUES ('behind', 'another', now() + interval '1 hour')"
    )
    await store.platform_pool.execute(
        "UPDATE quantum.stream_leases SET owner = 'another', checkpoint = $1 WHERE consumer_group = 'behind' AND partition < 13",
        position,
    )
    names = [f"s{n}" for n in range(60)]
    theirs = [name for name in names if partition_of(f"behind/{name}", 16) < 13]
    ours = [name for name in names if name not in theirs]
    async with another_store(database) as reading:
        await reading.wakeups.close()  # nothing tells it of what comes from now on
        await asyncio.gather(*(append(store, "behind", name, 1) for name in theirs))
        await reading.horizon()  # so far another reader of the process has looked
        await asyncio.gather(*(append(store, "behind", name, 1) for name in ours))
        later = Seen("behind")
        async with consuming(EmbeddedTransport(reading), "behind", later.handle, batch_max=10):
            await wait_until(lambda: later.has_all(dict.fromkeys(ours, 1)), what="all of its own")
    assert_in_order(later, dict.fromkeys(ours, 1))


async def _come_and_go(store: EventStore, seen: Seen) -> None:
    before = len(seen.messages)
    async with consuming(EmbeddedTransport(store), "moving", seen.handle, batch_max=20):
        await wait_until(shares_are(store, "moving", [8, 8]), what="an even share")
        await wait_until(lambda: len(seen.messages) > before + 100, what="some events")


async def test_a_checkpoint_under_a_lost_lease_is_refused(store: EventStore) -> None:
    seen = Seen("fenced")
    await append(store, "fenced", "s", 1)
    async with consuming(EmbeddedTransport(store), "fenced", seen.handle):
        await wait_until(lambda: seen.messages, what="the event")
        await store.platform_pool.execute(
            "UPDATE quantum.stream_leases SET owner = 'thief', epoch = epoch + 1, checkpoint = 0 WHERE consumer_group = 'fenced'"
        )
        await store.platform_pool.execute(
            "INSERT INTO quantum.stream_members VALUES ('fenced', 'thief', now() + interval '1 hour')"
        )
    rows = await store.platform_pool.fetch(
        "SELECT DISTINCT owner, checkpoint FROM quantum.stream_leases WHERE consumer_group = 'fenced'"
    )
    assert [tuple(row) for row in rows] == [("thief", 0)]


async def test_more_partitions_in_a_later_release_start_from_the_lowest_checkpoint(store: EventStore) -> None:
    seen, later = Seen("split"), Seen("split")
    for stream in range(10):
        await append(store, "split", f"s{stream}", 1)
    async with consuming(EmbeddedTransport(store, partitions=4), "split", seen.handle):
        await wait_until(lambda: len(seen.messages) == 10, what="the first events")
    for stream in range(10):
        await append(store, "split", f"s{stream}", 1)
    async with consuming(EmbeddedTransport(store, partitions=7), "split", later.handle):
        await wait_until(lambda: len(later.messages) >= 10, what="the later events")
    assert {message.stream_id for message in later.messages if message.version == 2} == {f"s{n}" for n in range(10)}


def test_the_partition_of_a_key_is_the_same_in_every_process_and_release() -> None:
    assert [partition_of(f"tenant-1/execution-{n}", 16) for n in range(8)] == [3, 5, 15, 9, 10, 12, 6, 0]


WORKER = """
import asyncio, sys
from event_store.store import EventStore
from streaming.embedded import EmbeddedTransport

async def main():
    store = await EventStore.connect(app_dsn=sys.argv[1], platform_dsn=sys.argv[2])
    async def handle(messages):
        for message in messages:
            print(message.stream_id, message.version, flush=True)
    await EmbeddedTransport(store).consume("dying", handle, stop=asyncio.Event())

asyncio.run(main())
"""


@pytest.mark.chaos
async def test_a_killed_members_partitions_move_within_seconds_and_nothing_is_lost(database: Database, store: EventStore) -> None:
    seen = Seen("dying")
    async with consuming(EmbeddedTransport(store), "dying", seen.handle):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, database.app_dsn, database.platform_dsn, stdout=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        await wait_until(shares_are(store, "dying", [8, 8]), 30, what="an even share")
        process.send_signal(signal.SIGKILL)
        await process.wait()
        for stream in range(40):
            await append(store, "dying", f"s{stream}", 1)
        await wait_until(lambda: len(seen.versions()) == 40, 15, what="the dead member's events")
        assert await shares(store, "dying") == [16]
