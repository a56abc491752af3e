# intent_ref: tests.append
"""How a queue of appends is dealt out to writers: halves of a full one side by side, and never what another has in its hands."""

import asyncio
from typing import Any

from domain.values import StreamId, TenantId
from event_store.group_commit import (
    APPENDS_MAX,
    SECOND_BATCH_FROM,
    SECOND_BATCH_FROM_EVENTS,
    SPLIT_FROM,
    GroupCommit,
    _events_in,
    _Pending,
    _resources,
)
from event_store.ids import uuid7
from event_store.records import NO_STREAM, Append, Metadata, NewEvent, StreamAppend

OWN = frozenset({"tenant-1"})


class Answer:
    """A future that nobody has answered."""

    def done(self) -> bool:
        return False


def queued(count: int, stream: str = "", events: int = 1) -> GroupCommit:
    commit = GroupCommit(lambda: None, lambda: None)
    for number in range(count):
        new = [NewEvent(uuid7(), "t", b"{}") for _ in range(events)]
        part = StreamAppend(StreamId(stream or f"s-{number}"), new, NO_STREAM)
        append = Append(TenantId("tenant-1"), uuid7(), Metadata("c", None, "a", None), (part,), ())
        answer: Any = Answer()
        commit._queue.append(_Pending(append, _resources(append), _events_in(append), answer, 0.0))
    return commit


def test_a_full_queue_is_halved_and_the_other_half_goes_beside_the_first() -> None:
    commit = queued(64)
    assert len(commit._take()) == 32
    commit._committing.append(OWN)
    assert len(commit._take()) == 32


def test_a_short_queue_goes_as_one_batch_and_what_comes_meanwhile_waits() -> None:
    commit = queued(SPLIT_FROM - 1)
    assert len(commit._take()) == SPLIT_FROM - 1
    later = queued(SECOND_BATCH_FROM - 1)
    later._committing.append(OWN)
    assert later._take() == []


def test_a_few_appends_of_many_events_go_beside_the_first_batch_too() -> None:
    for count, events, taken in ((2, SECOND_BATCH_FROM_EVENTS // 2, 2), (1, SECOND_BATCH_FROM_EVENTS - 1, 0)):
        commit = queued(count, events=events)
        commit._committing.append(OWN)
        assert len(commit._take()) == taken


def test_a_tenant_does_not_wait_for_a_batch_that_is_all_of_others() -> None:
    commit = queued(3)
    commit._committing.append(frozenset({"tenant-2", "tenant-3"}))
    assert len(commit._take()) == 3


def test_no_batch_is_larger_than_may_be() -> None:
    assert len(queued(APPENDS_MAX * 3)._take()) == APPENDS_MAX


def test_appends_to_one_stream_follow_each_other() -> None:
    commit = queued(64, "the-same")
    assert len(commit._take()) == 1
    commit._committing.append(OWN)
    assert commit._take() == []


async def test_appends_that_are_about_to_come_join_those_that_wait() -> None:
    commit, later = queued(3), queued(4, "another")

    async def comes(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)
        commit._queue.append(later._queue.popleft())

    coming = [asyncio.create_task(comes(rounds)) for rounds in range(2)]
    assert len(await commit._gather()) == 4, "of those to one stream one goes at a time"
    await asyncio.gather(*coming)
    assert len(commit._queue) == 1
