# intent_ref: tests.tail
"""What the readers of a process share: no event passed over or told twice, whoever reads first, last, or with other wishes."""

import asyncio
import random
from datetime import UTC, datetime
from itertools import islice

import pytest

from event_store import tail
from event_store.ids import uuid7
from event_store.records import RecordedEvent, StoreUnavailable
from event_store.tail import Tail, Topics

AT = datetime(2026, 11, 21, tzinfo=UTC)


class Log:
    """A log in memory, that counts how often it is asked."""

    def __init__(self) -> None:
        self.events: list[RecordedEvent] = []
        self.generation = self.looks = self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_away = False
        self.tail = Tail(self.read, lambda: self.generation)

    def append(self, topic: str, payload: bytes = b"{}", gap: int = 1) -> int:
        """One event more, `gap` positions behind the last; its position."""
        position = (self.events[-1].position if self.events else 0) + gap
        self.events.append(RecordedEvent(position, AT, uuid7(), uuid7(), 1, "t", "s", topic, "{}", payload))
        self.generation += 1
        return position

    def found(self, after: int, limit: int, topics: Topics) -> tuple[int, list[RecordedEvent]]:
        """How far the log goes, and the first events behind a position."""
        wanted = (one for one in self.events if after < one.position and (topics is None or one.topic in topics))
        return self.events[-1].position if self.events else 0, list(islice(wanted, limit))

    async def read(self, after: int, limit: int, topics: Topics) -> tuple[int, list[RecordedEvent]]:
        self.asked += 1
        await asyncio.sleep(0)
        horizon, found = self.found(after, limit, topics)
        if not after < horizon <= after + tail.GAP_MAX:
            return horizon, []
        self.looks += 1
        await self.gate.wait()
        if self.is_away:
            raise StoreUnavailable
        return horizon, found

    async def positions(self, after: int, limit: int = 100, topics: Topics = None) -> tuple[list[int], int] | None:
        """A page, by its positions."""
        page = await self.tail.page(after, limit, topics)
        return None if page is None else ([event.position for event in page[0]], page[1])


async def test_readers_who_come_together_cost_one_look() -> None:
    log = Log()
    for _ in range(5):
        log.append("a")
    pages = await asyncio.gather(*(log.positions(0) for _ in range(10)))
    assert pages == [([1, 2, 3, 4, 5], 5)] * 10
    assert log.looks == 1
    assert await log.positions(3) == ([4, 5], 5)
    assert log.looks == 1


async def test_the_end_of_the_log_needs_no_other_look_before_the_next_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.append("a")
    assert await log.positions(0) == ([1], 1)
    assert await log.positions(1) == ([], 1)
    assert log.asked == 1
    log.append("a")
    assert await log.positions(1) == ([2], 2)
    log.append("a")
    log.generation -= 1  # a wake-up that was lost
    assert await log.positions(2) == ([], 2)
    assert log.asked == 2
    monkeypatch.setattr(tail, "FRESH_SECONDS", 0.0)
    assert await log.positions(2) == ([3], 3)


async def test_each_reader_gets_its_own_topics_and_passes_over_the_rest() -> None:
    log = Log()
    await asyncio.gather(log.positions(0, topics=frozenset("a")), log.positions(0, topics=frozenset("b")))
    for topic in "abcab":
        log.append(topic)
    assert await log.positions(0, topics=frozenset("a")) == ([1, 4], 5)
    assert await log.positions(0, topics=frozenset("b")) == ([2, 5], 5)
    assert await log.positions(0, limit=1, topics=frozenset("b")) == ([2], 2)
    assert log.looks == 1


async def test_a_reader_with_new_wishes_gets_what_was_not_kept_for_the_others() -> None:
    log = Log()
    for topic in "abab":
        log.append(topic)
    assert await log.positions(0, topics=frozenset("a")) == ([1, 3], 4)
    assert await log.positions(2, topics=frozenset("b")) is None, "it reads that for itself"
    log.append("b")
    assert await log.positions(4, topics=frozenset("b")) == ([5], 5)
    assert await log.positions(4, topics=frozenset("a")) == ([], 5)


async def test_what_is_appended_while_somebody_looks_is_found_by_who_was_woken_for_it() -> None:
    log = Log()
    log.append("a")
    log.gate.clear()
    first = asyncio.create_task(log.positions(0))
    await settled()
    later = log.append("a")
    second = asyncio.create_task(log.positions(1))
    await settled()
    log.gate.set()
    assert await first == ([1], 1)
    assert await second == ([later], later)


async def test_a_look_that_fails_or_is_given_up_is_the_next_readers_to_take() -> None:
    log = Log()
    log.append("a")
    log.gate.clear()
    first = asyncio.create_task(log.positions(0))
    second = asyncio.create_task(log.positions(0))
    await settled()
    first.cancel()
    log.gate.set()
    assert await second == ([1], 1)
    log.append("a")
    log.is_away = True
    failed = await asyncio.gather(*(log.positions(1) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [StoreUnavailable] * 3
    assert log.looks == 3, "one look for all of them"
    log.is_away = False
    assert await log.positions(1) == ([2], 2)


async def test_who_is_far_behind_reads_for_himself_and_an_end_far_off_is_not_walked_to() -> None:
    log = Log()
    log.append("a", gap=tail.GAP_MAX * 3)
    assert await log.positions(5) is None
    assert log.looks == 0
    newest = log.append("a")
    assert await log.positions(newest - 1) == ([newest], newest)
    far = log.append("a", gap=tail.GAP_MAX * 2)
    assert await log.positions(newest) is None, "the tail has begun anew at the end"
    assert await log.positions(far) == ([], far)


async def test_a_reader_a_little_ahead_of_the_others_is_led_to_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "READ_TOGETHER", 3)
    log = Log()
    log.append("a")
    assert await log.positions(0) == ([1], 1)
    for _ in range(20):
        log.append("a")
    assert await log.positions(18, limit=2) == ([19, 20], 20)
    assert await log.positions(21, limit=2) == ([], 21)


async def test_what_is_kept_is_bounded_in_number_and_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "EVENTS_MAX", 50)
    monkeypatch.setattr(tail, "BYTES_MAX", 4_000)
    log = Log()
    position = 0
    for _ in range(40):
        for _ in range(5):
            log.append("a", b"x" * 30)
        page = await log.positions(position)
        assert page is not None
        assert page[0] == list(range(position + 1, position + 6))
        position = page[1]
        assert len(log.tail._events) <= 50
    for _ in range(3):
        log.append("a", b"x" * 3_000)
        page = await log.positions(position)
        assert page == ([position + 1], position + 1)
        position += 1
    assert log.tail._bytes == sum(len(event.payload) for event in log.tail._events) <= 4_000 + 3_000
    assert await log.positions(0) is None


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_comes_in_whatever_order_each_reader_gets_each_of_its_events_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(tail, "EVENTS_MAX", 20)
    monkeypatch.setattr(tail, "GAP_MAX", 40)
    monkeypatch.setattr(tail, "READ_TOGETHER", 7)
    log, stop = Log(), asyncio.Event()
    wishes: list[Topics] = [frozenset("a"), frozenset("bc"), None, frozenset("c"), frozenset("abc")]

    async def reads(topics: Topics) -> list[int]:
        after, seen, limit = 0, [], chance.randint(1, 9)
        while True:
            is_last = stop.is_set()
            page = await log.positions(after, limit, topics)
            if page is None:
                horizon, events = log.found(after, limit, topics)
                found = [event.position for event in events]
                page = found, found[-1] if len(found) == limit else horizon
            seen += page[0]
            if page[1] == after and is_last:
                return seen
            after = page[1]
            for _ in range(chance.randint(0, 6)):
                await asyncio.sleep(0)

    readers = [asyncio.create_task(reads(topics)) for topics in wishes]
    for _ in range(300):
        log.append(chance.choice("abcd"), gap=chance.choice([1, 1, 1, 2, 60]))
        for _ in range(chance.randint(0, 4)):
            await asyncio.sleep(0)
    stop.set()
    for topics, seen in zip(wishes, await asyncio.gather(*readers), strict=True):
        assert seen == [event.position for event in log.events if topics is None or event.topic in topics]


async def settled() -> None:
    """Lets everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)
