# intent_ref: tests.event-hubs-transport
"""What a checkpoint store of Event Hubs promises, in PostgreSQL and in blobs; and ownership over either."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from azure.eventhub.aio import CheckpointStore

from event_store.store import EventStore
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_blobs import BlobCheckpoints, blob_checkpoint_store
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub
from streaming.event_hubs_ownership import Ownership, Place, Where
from tests.azurite import azurite
from tests.conftest import Database
from tests.consumers import Seen, consuming
from tests.event_hubs import EventHubsServer
from tests.integration.test_event_hubs_transport import has, messages
from tests.waiting import wait_until

NAMESPACE = "quantum.servicebus.windows.net"


@pytest.fixture(scope="module", params=["postgres", "blob"])
async def blob_connection(request: pytest.FixtureRequest) -> AsyncIterator[str | None]:
    if request.param == "postgres":
        yield None
        return
    async with azurite() as connection:
        yield connection


@pytest.fixture
async def checkpoints(blob_connection: str | None, store: EventStore) -> AsyncIterator[CheckpointStore]:
    if blob_connection is None:
        yield PostgresCheckpointStore(store.platform_pool)
        return
    found: Any = await blob_checkpoint_store(blob_connection, "checkpoints")
    async with found:
        yield found


def claim(group: str, number: str, owner: str, etag: str | None = None) -> dict[str, Any]:
    row = {
        "fully_qualified_namespace": NAMESPACE, "eventhub_name": "events", "consumer_group": group, "partition_id": number,
        "owner_id": owner,
    }  # fmt: skip
    return row if etag is None else row | {"etag": etag}


async def listed(checkpoints: CheckpointStore, group: str) -> dict[str, dict[str, Any]]:
    return {row["partition_id"]: row for row in await checkpoints.list_ownership(NAMESPACE, "events", group)}


async def test_what_nobody_claimed_is_not_listed_and_what_was_claimed_is(checkpoints: CheckpointStore) -> None:
    assert await listed(checkpoints, "list") == {}
    claimed = list(await checkpoints.claim_ownership([claim("list", "0", "one"), claim("list", "1", "two")]))
    assert {row["partition_id"]: row["owner_id"] for row in claimed} == {"0": "one", "1": "two"}
    rows = await listed(checkpoints, "list")
    assert {number: row["owner_id"] for number, row in rows.items()} == {"0": "one", "1": "two"}
    assert {row["partition_id"]: row["etag"].strip('"') for row in claimed} == {
        number: row["etag"].strip('"') for number, row in rows.items()
    }
    assert all(row["last_modified_time"] > 1_700_000_000 for row in rows.values())
    assert await listed(checkpoints, "another") == {}


async def test_of_many_that_claim_at_once_one_succeeds(checkpoints: CheckpointStore) -> None:
    first = await asyncio.gather(*(checkpoints.claim_ownership([claim("race", "0", f"m{n}")]) for n in range(8)))
    if isinstance(checkpoints, PostgresCheckpointStore):  # blobs that do not exist yet may be made twice
        assert sum(len(list(won)) for won in first) == 1
    etag = (await listed(checkpoints, "race"))["0"]["etag"]
    second = await asyncio.gather(*(checkpoints.claim_ownership([claim("race", "0", f"n{n}", etag)]) for n in range(8)))
    won = [row for rows in second for row in rows]
    assert len(won) == 1
    assert (await listed(checkpoints, "race"))["0"]["owner_id"] == won[0]["owner_id"]
    assert won[0]["etag"] != etag


async def test_a_claim_with_an_old_etag_fails_and_the_others_of_its_list_succeed(checkpoints: CheckpointStore) -> None:
    old = list(await checkpoints.claim_ownership([claim("old", "0", "one"), claim("old", "1", "one")]))
    etags = {row["partition_id"]: row["etag"] for row in old}
    await checkpoints.claim_ownership([claim("old", "0", "two", etags["0"])])
    won = await checkpoints.claim_ownership([claim("old", number, "three", etags[number]) for number in ("0", "1")])
    assert [row["partition_id"] for row in won] == ["1"]
    assert {n: row["owner_id"] for n, row in (await listed(checkpoints, "old")).items()} == {"0": "two", "1": "three"}


async def test_ownership_is_given_up_by_claiming_it_for_nobody(checkpoints: CheckpointStore) -> None:
    (row,) = await checkpoints.claim_ownership([claim("up", "0", "one")])
    (free,) = await checkpoints.claim_ownership([row | {"owner_id": ""}])
    assert (await listed(checkpoints, "up"))["0"]["owner_id"] in ("", None)
    assert len(list(await checkpoints.claim_ownership([free | {"owner_id": "two"}]))) == 1


async def test_checkpoints_are_kept_by_group_and_partition(checkpoints: CheckpointStore) -> None:
    assert list(await checkpoints.list_checkpoints(NAMESPACE, "events", "kept")) == []
    for number, place in (("0", Place("640", 3)), ("1", Place("0", 0)), ("0", Place("1280", 7))):
        row = claim("kept", number, "one") | {"offset": place.offset, "sequence_number": place.sequence}
        del row["owner_id"]  # as the SDK does it, which knows no fencing
        await checkpoints.update_checkpoint(row)
    rows = await checkpoints.list_checkpoints(NAMESPACE, "events", "kept")
    assert {row["partition_id"]: (str(row["offset"]), row["sequence_number"]) for row in rows} == {
        "0": ("1280", 7),
        "1": ("0", 0),
    }
    assert list(await checkpoints.list_checkpoints(NAMESPACE, "events", "another")) == []


async def test_in_postgres_the_checkpoint_of_a_former_owner_is_refused(store: EventStore) -> None:
    checkpoints = PostgresCheckpointStore(store.platform_pool)
    await checkpoints.claim_ownership([claim("fenced", "0", "new#2")])
    place = {"offset": "64", "sequence_number": 9}
    await checkpoints.update_checkpoint(claim("fenced", "0", "old#1") | place)
    assert list(await checkpoints.list_checkpoints(NAMESPACE, "events", "fenced")) == []
    await checkpoints.update_checkpoint(claim("fenced", "0", "new#2") | place)
    assert [row["sequence_number"] for row in await checkpoints.list_checkpoints(NAMESPACE, "events", "fenced")] == [9]


async def test_the_late_checkpoint_of_a_former_owner_does_not_move_its_successors_back(checkpoints: CheckpointStore) -> None:
    (old,) = await checkpoints.claim_ownership([claim("late", "0", "old#1")])
    await checkpoints.update_checkpoint(claim("late", "0", "old#1") | {"offset": "64", "sequence_number": 1})
    await checkpoints.claim_ownership([claim("late", "0", "new#2", old["etag"])])
    await checkpoints.update_checkpoint(claim("late", "0", "new#2") | {"offset": "640", "sequence_number": 10})
    await checkpoints.update_checkpoint(claim("late", "0", "old#1") | {"offset": "320", "sequence_number": 5})
    assert await stored(checkpoints, "late") == [("640", 10)]
    await checkpoints.update_checkpoint(claim("late", "0", "new#2") | {"offset": "704", "sequence_number": 11})
    assert await stored(checkpoints, "late") == [("704", 11)]


async def test_of_owners_that_write_their_checkpoints_at_once_the_last_one_stays(blob_connection: str | None) -> None:
    if blob_connection is None:
        pytest.skip("PostgreSQL asks who the owner is, in the statement that writes")
    async with contextlib.AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(await blob_checkpoint_store(blob_connection, "checkpoints")) for _ in range(6)
        ]
        for turn in range(5):
            rows = [
                claim("at-once", "0", f"m{n}#{turn * 10 + n}") | {"offset": f"{turn}-{n}", "sequence_number": 100 - n}
                for n in range(6)
            ]
            await asyncio.gather(*(one.update_checkpoint(row) for one, row in zip(processes, rows, strict=True)))
            assert await stored(processes[0], "at-once") == [(f"{turn}-5", 95)]


async def test_a_checkpoint_that_is_taken_away_in_between_is_made_anew(checkpoints: CheckpointStore) -> None:
    if not isinstance(checkpoints, BlobCheckpoints):
        pytest.skip("a row is made where there is none")
    first = claim("away", "0", "one#1") | {"offset": "64", "sequence_number": 1}
    await checkpoints.update_checkpoint(first)
    await checkpoints._container.delete_blob(f"{NAMESPACE}/events/away/checkpoint/0")
    await checkpoints.update_checkpoint(first | {"offset": "128", "sequence_number": 2})
    assert await stored(checkpoints, "away") == [("128", 2)]


async def stored(checkpoints: CheckpointStore, group: str) -> list[tuple[str, int]]:
    rows = await checkpoints.list_checkpoints(NAMESPACE, "events", group)
    return [(str(row["offset"]), int(row["sequence_number"])) for row in rows]


@pytest.mark.parametrize("table", ["event_hubs_ownership", "event_hubs_checkpoints"])
async def test_the_applications_login_sees_none_of_it(database: Database, table: str) -> None:
    connection = await asyncpg.connect(database.app_dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT * FROM quantum.{table}")
    finally:
        await connection.close()


# -- ownership


@asynccontextmanager
async def member(checkpoints: CheckpointStore, group: str, partitions: int = 16) -> AsyncIterator[Ownership]:
    """A member that beats and lets go what is too much."""
    where, numbers = Where(NAMESPACE, "events", group), [str(number) for number in range(partitions)]
    ownership = Ownership(checkpoints, where, numbers, heartbeat_seconds=0.1, alive_seconds=1.5)

    async def live() -> None:
        while True:
            await ownership.beat()
            await ownership.release(ownership.surplus)
            await asyncio.sleep(0.1)

    living = asyncio.create_task(live())
    try:
        yield ownership
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        if ownership.partitions:
            await ownership.leave()


def held(*members: Ownership) -> list[int]:
    return sorted(len(each.held) for each in members)


async def test_members_share_evenly_are_still_and_leave_no_partition_behind(checkpoints: CheckpointStore) -> None:
    async with member(checkpoints, "even") as one:
        await wait_until(lambda: held(one) == [16], what="one to have all")
        async with member(checkpoints, "even") as two, member(checkpoints, "even") as three:
            await wait_until(lambda: held(one, two, three) == [5, 5, 6], what="an even share")
            before = {number: lease.epoch for each in (one, two, three) for number, lease in each.held.items()}
            for _ in range(10):
                await asyncio.gather(one.beat(), two.beat(), three.beat())
            after = {number: lease.epoch for each in (one, two, three) for number, lease in each.held.items()}
            assert after == before
            assert len(before) == 16
        await wait_until(lambda: held(one) == [16], what="the one that stays to have all")


async def test_the_dead_are_replaced_and_their_epochs_exceeded(checkpoints: CheckpointStore) -> None:
    async with member(checkpoints, "dead", 4) as one:
        await wait_until(lambda: held(one) == [4], what="the first to have all")
        for lease in one.held.values():
            lease.done = Place("64", 1)
        await wait_until(lambda: all(lease.stored for lease in one.held.values()), what="the checkpoints")
        epochs = {number: lease.epoch for number, lease in one.held.items()}
        one.partitions = []  # so that it does not leave in order
    async with member(checkpoints, "dead", 4) as two:
        await wait_until(lambda: held(two) == [4], what="the second to have all")
        assert all(lease.epoch > epochs[number] for number, lease in two.held.items())
        assert all(lease.done == Place("64", 1) for lease in two.held.values())


async def test_a_stream_over_a_hub_with_checkpoints_in_either_store(checkpoints: CheckpointStore, store: EventStore) -> None:
    hub, seen, later = EventHubsServer(partitions=2), Seen("t"), Seen("t")
    await hub.start()
    try:
        transport = EventHubsTransport(store, EventHub(hub.connection_string), checkpoints, heartbeat_seconds=0.3)
        await transport.publish(messages(50))
        async with consuming(transport, "either", seen.handle):
            await wait_until(lambda: has(seen, 50), 30, what="the messages")
        await transport.publish(messages(50, first=51))
        async with consuming(transport, "either", later.handle):
            await wait_until(lambda: has(later, 50), 30, what="the later messages")
        await transport.close()
    finally:
        await hub.stop()
    assert Counter(message.position for message in [*seen.messages, *later.messages]) == Counter(range(1, 101))
