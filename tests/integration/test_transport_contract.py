# intent_ref: tests.transport-contract
"""What every transport promises, whichever engine carries the stream: one suite, run over each of them.

The tests of this module share a log and, for each engine, a broker; each has a tenant and groups of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from domain.values import StreamId, TenantId
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, NewEvent, StoreUnavailable, StreamAppend
from event_store.store import EventStore
from streaming.dead_letters import DeadLetters, NoDeadLetter
from streaming.delivery import DeliveryLimits
from streaming.relay import Relay
from streaming.transport import Message, TransportAway
from tests.conftest import Database
from tests.consumers import Seen, another_store, assert_in_order, consuming, relaying
from tests.streams import METADATA, append
from tests.transport_engines import ENGINES, SLOW_ENGINES, Engine, MeasuredTransport
from tests.waiting import wait_until

SECONDS = 45.0
IMPATIENT = DeliveryLimits(
    attempts_max=3, attempts_alone_max=2, back_off_seconds=0.02, back_off_seconds_max=0.1, redrive_seconds=0.1
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW_ENGINES else ()) for name in sorted(ENGINES)],
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param]()
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


class Stream:
    """The stream of one test: its log, its names, and the relay that fills it where there is a broker."""

    def __init__(self, engine: Engine, store: EventStore, name: str) -> None:
        self.engine, self.store, self.tenant = engine, store, name
        self._transports: list[MeasuredTransport] = []
        self.relay = Relay(store, self.transport(), name=engine.name)

    def transport(self, **options: Any) -> MeasuredTransport:
        """Another process's end of it."""
        self._transports.append(self.engine.transport(self.store, **options))
        return self._transports[-1]

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()

    async def append(self, stream: str, count: int = 1, tenant: str | None = None) -> Sequence[int]:
        return (await append(self.store, tenant or self.tenant, stream, count)).positions

    async def append_to_all(self, streams: dict[str, int], count: int = 1) -> None:
        """To every stream, and counts it there."""
        await asyncio.gather(*(self.append(stream, count) for stream in streams))
        for stream in streams:
            streams[stream] += count

    def unless_it_cannot(self, do: str) -> None:
        if do in self.engine.cannot:
            pytest.skip(self.engine.cannot[do])


@pytest.fixture
async def stream(engine: Engine, store: EventStore, request: pytest.FixtureRequest) -> AsyncIterator[Stream]:
    name = "".join(part[0] for part in request.node.originalname.removeprefix("test_").split("_"))
    stream = Stream(engine, store, f"{engine.name}-{name}")
    try:
        async with relaying(stream.relay):
            yield stream
    finally:
        await stream.close()


# -- order, completeness, checkpoints


async def test_every_event_comes_and_in_order_within_its_key(stream: Stream) -> None:
    seen, streams = Seen(stream.tenant), {f"s{n}": 0 for n in range(20)}
    await stream.append_to_all(streams, 3)
    async with consuming(stream.transport(), stream.tenant, seen.handle, batch_max=25):
        for _ in range(5):
            await stream.append_to_all(streams, 2)
        await wait_until(lambda: seen.has_all(streams), SECONDS, what="every event")
    assert_in_order(seen, streams)
    assert max(seen.batches) <= 25


async def test_an_event_comes_as_it_is_in_the_log(stream: Stream) -> None:
    seen = Seen(stream.tenant)
    await stream.append("s", 3)
    async with consuming(stream.transport(), stream.tenant, seen.handle):
        await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the events")
    stored = await stream.store.read_stream(TenantId(stream.tenant), StreamId("s"))
    assert seen.messages[:3] == [Message.of(event) for event in stored]


async def test_a_group_goes_on_behind_what_it_has_handled(stream: Stream) -> None:
    seen, later = Seen(stream.tenant), Seen(stream.tenant)
    await stream.append("s", 5)
    async with consuming(stream.transport(), stream.tenant, seen.handle):
        await wait_until(lambda: seen.has_all({"s": 5}), SECONDS, what="the first events")
    await stream.append("s", 3)
    async with consuming(stream.transport(), stream.tenant, later.handle):
        await wait_until(lambda: later.messages, SECONDS, what="the later events")
        await wait_until(lambda: later.messages[-1].version == 8, SECONDS, what="the last event")
    assert later.versions() == {"s": [6, 7, 8]}


async def test_a_new_group_starts_with_the_first_event_and_another_with_the_next(stream: Stream) -> None:
    everything, news = Seen(stream.tenant), Seen(stream.tenant)
    await stream.append("s", 3)
    async with consuming(stream.transport(), f"{stream.tenant}-all", everything.handle):
        await wait_until(lambda: everything.has_all({"s": 3}), SECONDS, what="history")
        async with consuming(stream.transport(start="end"), f"{stream.tenant}-new", news.handle):
            # Nobody says when a member has found the end, so events come until one has been seen.
            count = 3
            while not news.messages:
                count += 1
                await stream.append("s")
                await asyncio.wait([asyncio.create_task(asyncio.sleep(0.1))])
            await wait_until(lambda: news.messages[-1].version == count, SECONDS, what="the last event")
    versions = news.versions()["s"]
    assert versions[0] > 3
    assert versions == list(range(versions[0], count + 1))


async def test_groups_do_not_know_of_each_other(stream: Stream) -> None:
    free, held, go_on = Seen(stream.tenant), Seen(stream.tenant), asyncio.Event()

    async def hold(messages: Sequence[Message]) -> None:
        await go_on.wait()
        await held.handle(messages)

    await stream.append("s", 4)
    async with (
        consuming(stream.transport(), f"{stream.tenant}-held", hold),
        consuming(stream.transport(), f"{stream.tenant}-free", free.handle),
    ):
        await wait_until(lambda: free.has_all({"s": 4}), SECONDS, what="the free group's events")
        assert not held.messages
        go_on.set()
        await wait_until(lambda: held.has_all({"s": 4}), SECONDS, what="the held group's events")
    assert free.versions() == held.versions() == {"s": [1, 2, 3, 4]}


async def test_a_group_gets_the_topics_it_asks_for_and_goes_past_the_others(stream: Stream) -> None:
    seen, again = Seen(stream.tenant), Seen(stream.tenant)
    wanted = NewEvent(uuid7(), "test.wanted.v1", b"{}")
    for _ in range(3):
        await stream.append("s", 2)
    await _append_events(stream, "s", [wanted])
    await stream.append("s", 2)
    topics = frozenset({"test.wanted.v1"})
    async with consuming(stream.transport(), stream.tenant, seen.handle, topics=topics):
        await wait_until(lambda: seen.messages, SECONDS, what="the event")
    async with consuming(stream.transport(), stream.tenant, again.handle, topics=topics):
        await _append_events(stream, "s", [wanted._replace(event_id=uuid7())])
        await wait_until(lambda: again.messages, SECONDS, what="the next one")
    assert (seen.versions(), again.versions()) == ({"s": [7]}, {"s": [10]})


async def test_streams_of_one_name_in_two_tenants_are_two(stream: Stream) -> None:
    other = f"{stream.tenant}-other"
    mine, theirs = Seen(stream.tenant), Seen(other)

    async def handle(messages: Sequence[Message]) -> None:
        await mine.handle(messages)
        await theirs.handle(messages)

    async with consuming(stream.transport(), stream.tenant, handle):
        for _ in range(4):
            await asyncio.gather(stream.append("modules", 2), stream.append("modules", 1, other))
        await wait_until(lambda: mine.has_all({"modules": 8}) and theirs.has_all({"modules": 4}), SECONDS, what="both")
    assert_in_order(mine, {"modules": 8})
    assert_in_order(theirs, {"modules": 4})
    assert {message.key for message in mine.messages} == {f"{stream.tenant}/modules"}
    assert {message.key for message in theirs.messages} == {f"{other}/modules"}


# -- repeats, back-pressure, large events, ends


async def test_a_batch_that_was_not_handled_comes_again_and_none_after_it_comes_first(stream: Stream) -> None:
    seen, failures = Seen(stream.tenant), iter([True, True])

    async def handle(messages: Sequence[Message]) -> None:
        if any(message.tenant_id == stream.tenant for message in messages) and next(failures, False):
            raise ConnectionError("not now")
        await seen.handle(messages)

    await stream.append("s", 10)
    async with consuming(stream.transport(), stream.tenant, handle, batch_max=3):
        await wait_until(lambda: seen.has_all({"s": 10}), SECONDS, what="all events")
    assert_in_order(seen, {"s": 10})


async def test_a_slow_handler_is_given_one_batch_and_no_second_call(stream: Stream) -> None:
    seen, go_on, calls = Seen(stream.tenant), asyncio.Event(), 0

    async def slow(messages: Sequence[Message]) -> None:
        nonlocal calls
        calls += 1
        await go_on.wait()
        await seen.handle(messages)

    streams = {f"s{n}": 0 for n in range(10)}
    transport = stream.transport()
    async with consuming(transport, stream.tenant, slow, batch_max=10):
        await stream.append_to_all(streams, 4)
        await wait_until(lambda: calls, SECONDS, what="the first call")
        await stream.append_to_all(streams, 4)
        other = Seen(stream.tenant)
        async with consuming(stream.transport(), f"{stream.tenant}-other", other.handle):
            await wait_until(lambda: other.has_all(streams), SECONDS, what="all of it to be on the stream")
        assert (calls, transport.statistics.delivered) == (1, 0)
        go_on.set()
        await wait_until(lambda: seen.has_all(streams), SECONDS, what="all events")
    assert max(seen.batches) <= 10
    assert_in_order(seen, streams)


async def test_an_event_larger_than_any_record_comes_whole_and_in_its_place(stream: Stream) -> None:
    seen = Seen(stream.tenant)
    payload = b'{"text":"' + b"large " * 500_000 + b'"}'
    await stream.append("s", 2)
    await _append_events(stream, "s", [NewEvent(uuid7(), "test.large.v1", payload)])
    await stream.append("s", 2)
    async with consuming(stream.transport(), stream.tenant, seen.handle):
        await wait_until(lambda: seen.has_all({"s": 5}), SECONDS, what="the events")
    assert_in_order(seen, {"s": 5})
    assert next(message.payload for message in seen.messages if message.version == 3) == payload


async def test_stopping_finishes_the_batch_in_hand_and_keeps_how_far_it_came(stream: Stream) -> None:
    seen, entered, go_on = Seen(stream.tenant), asyncio.Event(), asyncio.Event()

    async def gated(messages: Sequence[Message]) -> None:
        if any(message.tenant_id == stream.tenant for message in messages):
            entered.set()
            await go_on.wait()
        await seen.handle(messages)

    await stream.append("s", 5)
    async with consuming(stream.transport(), stream.tenant, gated) as stop:
        await entered.wait()
        stop.set()
        go_on.set()
    count = len(seen.messages)
    assert count >= 1
    again = Seen(stream.tenant)
    await stream.append("s", 1)
    async with consuming(stream.transport(), stream.tenant, again.handle):
        await wait_until(
            lambda: again.has_all({}) and again.messages and again.messages[-1].version == 6, SECONDS, what="the rest"
        )
    assert seen.versions()["s"] + again.versions()["s"] == [1, 2, 3, 4, 5, 6]


async def test_cancelling_waits_for_no_handler_and_its_batch_comes_again(stream: Stream) -> None:
    seen, entered = Seen(stream.tenant), asyncio.Event()

    async def never(messages: Sequence[Message]) -> None:
        if any(message.tenant_id == stream.tenant for message in messages):
            entered.set()
            await asyncio.Event().wait()

    await stream.append("s", 3)
    task = asyncio.create_task(stream.transport().consume(stream.tenant, never, stop=asyncio.Event()))
    await entered.wait()
    task.cancel()
    async with asyncio.timeout(15):
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    async with consuming(stream.transport(), stream.tenant, seen.handle):
        await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the events")
    assert_in_order(seen, {"s": 3})


# -- members


async def test_members_that_join_and_leave_skip_nothing_and_repeat_little(stream: Stream, database: Database) -> None:
    """Two come and go in order, one is cancelled with a batch in hand."""
    seen, streams, batch_max = Seen(stream.tenant), {f"s{n}": 0 for n in range(24)}, 20
    async with another_store(database) as second, consuming(stream.transport(), stream.tenant, seen.handle, batch_max=batch_max):
        for is_cancelled in (False, True, False):
            joined = asyncio.create_task(_come_and_go(stream, second, seen, is_cancelled=is_cancelled))
            while not joined.done():
                await stream.append_to_all(streams)
                await asyncio.wait([joined], timeout=0.02)
            await joined
        await wait_until(lambda: seen.has_all(streams), SECONDS, what="every event")
    assert_in_order(seen, streams)
    print(f"{sum(streams.values())} events, {seen.repeats} repeats")
    # What a member that is cancelled has handled and not yet stored: up to a second's worth of events.
    assert seen.repeats <= sum(streams.values()) / 2


async def _come_and_go(stream: Stream, store: EventStore, seen: Seen, *, is_cancelled: bool) -> None:
    own = Seen(stream.tenant)

    async def handle(messages: Sequence[Message]) -> None:
        await own.handle(messages)
        await seen.handle(messages)

    transport = stream.engine.transport(store)
    task = asyncio.create_task(transport.consume(stream.tenant, handle, stop=(stop := asyncio.Event()), batch_max=20))
    try:
        await wait_until(lambda: len(own.messages) > 50, SECONDS, what="its share of the events")
    finally:
        task.cancel() if is_cancelled else stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(task, return_exceptions=True)
        await transport.close()


@pytest.mark.slow
async def test_a_member_that_handles_slowly_keeps_what_it_has_until_it_is_done(stream: Stream) -> None:
    """The handler takes longer than a member may be silent, and another member comes meanwhile: it is alive all the same."""
    seen, entered = Seen(stream.tenant), asyncio.Event()

    async def slow(messages: Sequence[Message]) -> None:
        if any(message.tenant_id == stream.tenant for message in messages):
            entered.set()
            await asyncio.sleep(8)
        await seen.handle(messages)

    await stream.append("s", 3)
    await wait_until(lambda: _has_no_lag(stream), SECONDS, what="the relay")
    async with consuming(stream.transport(), stream.tenant, slow):
        await entered.wait()
        async with consuming(stream.transport(), stream.tenant, seen.handle):
            await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the events")
            await stream.append("s", 1)
            await wait_until(lambda: seen.has_all({"s": 4}), SECONDS, what="the next one")
    assert seen.versions() == {"s": [1, 2, 3, 4]}


async def _has_no_lag(stream: Stream) -> bool:
    return await stream.relay.lag() == 0


# -- poison


def poisoned(seen: Seen, versions: set[int], fault: Exception) -> Any:
    """A handler that refuses some versions of its tenant's events, and says whether it still does."""

    async def handle(messages: Sequence[Message]) -> None:
        for message in messages:
            if message.tenant_id == seen.tenant and message.version in versions:
                raise fault
        await seen.handle(messages)

    return handle


async def test_a_poisonous_message_becomes_a_dead_letter_and_the_others_go_on(stream: Stream) -> None:
    seen, other, letters = Seen(stream.tenant), Seen(stream.tenant), DeadLetters(stream.store)
    positions = await stream.append("s", 6)
    transport = stream.transport(limits=IMPATIENT)
    async with (
        consuming(transport, stream.tenant, poisoned(seen, {3, 4}, KeyError("no such step\0"))),
        consuming(stream.transport(), f"{stream.tenant}-other", other.handle),
    ):
        await wait_until(lambda: seen.has_all({"s": 2}) and 6 in seen.versions()["s"], SECONDS, what="the others")
        await wait_until(lambda: other.has_all({"s": 6}), SECONDS, what="the other group")
    assert seen.first_time() == {"s": [1, 2, 5, 6]}
    found = list(await letters.list(stream.tenant))
    assert [letter.position for letter in found] == [positions[2], positions[3]]
    assert transport.statistics.dead_letters == 2
    for letter in found:
        assert (letter.tenant_id, letter.partition_key) == (stream.tenant, f"{stream.tenant}/s")
        assert letter.reason == "KeyError: 'no such step\\x00'"
        assert letter.attempts >= 3
        assert letter.first_failed_at < letter.last_failed_at
    assert await letters.list(f"{stream.tenant}-other") == []


async def test_a_dead_letter_that_is_redriven_goes_to_its_group_again(stream: Stream) -> None:
    seen, letters, poison = Seen(stream.tenant), DeadLetters(stream.store), {1, 2}
    positions = await stream.append("s", 3)
    async with consuming(stream.transport(limits=IMPATIENT), stream.tenant, poisoned(seen, poison, RuntimeError("broken"))):
        await wait_until(lambda: 3 in seen.versions().get("s", ()), SECONDS, what="the good one")
        # Still poisonous: it stays a dead letter, with more attempts.
        before = (await letters.list(stream.tenant))[0].attempts
        assert await letters.redrive(stream.tenant, positions[0]) == 1
        again = before + IMPATIENT.attempts_alone_max
        await wait_until(lambda: _has_attempts(letters, stream.tenant, again), SECONDS, what="it to fail again")
        assert [letter.redrive_requested_at for letter in await letters.list(stream.tenant)] == [None, None]
        poison.clear()
        assert await letters.redrive(stream.tenant) == 2
        await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the dead letters")
        await wait_until(lambda: _has_none(letters, stream.tenant), SECONDS, what="the letters to be done with")
    assert seen.versions() == {"s": [3, 1, 2]}
    with pytest.raises(NoDeadLetter, match="quantum streams dead-letters"):
        await letters.redrive(stream.tenant, positions[0])


async def _has_attempts(letters: DeadLetters, group: str, attempts: int) -> bool:
    """Whether the first of them has failed so often."""
    return (await letters.list(group))[0].attempts == attempts


async def _has_none(letters: DeadLetters, group: str) -> bool:
    return not await letters.list(group)


@pytest.mark.parametrize(
    "fault",
    [StoreUnavailable("away"), TransportAway("away"), ConnectionResetError("away"),
     ExceptionGroup("both", [StoreUnavailable("away"), TimeoutError()])],
    ids=lambda fault: type(fault).__name__,
)  # fmt: skip
async def test_what_is_away_makes_no_dead_letter_however_long(stream: Stream, fault: Exception) -> None:
    tenant = f"{stream.tenant}-{type(fault).__name__}"
    seen, failures = Seen(tenant), iter(range(12))

    async def handle(messages: Sequence[Message]) -> None:
        if any(message.tenant_id == tenant for message in messages) and next(failures, None) is not None:
            raise fault
        await seen.handle(messages)

    await stream.append("s", 3, tenant)
    async with consuming(stream.transport(limits=IMPATIENT), tenant, handle):
        await wait_until(lambda: seen.has_all({"s": 3}), SECONDS, what="the events")
    assert next(failures, None) is None
    assert await DeadLetters(stream.store).list(tenant) == []


# -- the broker


@pytest.mark.chaos
async def test_a_broker_that_goes_away_and_comes_back_costs_time_and_nothing_else(stream: Stream) -> None:
    stream.unless_it_cannot("lose its broker")
    seen, streams = Seen(stream.tenant), {f"s{n}": 0 for n in range(10)}
    async with consuming(stream.transport(), stream.tenant, seen.handle):
        for _ in range(2):
            await stream.append_to_all(streams, 2)
            await wait_until(lambda: seen.has_all(streams), SECONDS, what="the events before")
            stream.engine.kill_broker()
            await stream.append_to_all(streams, 3)
            await wait_until(lambda: _lags(stream), SECONDS, what="the relay to lag")
            await stream.engine.restart_broker()
            await wait_until(lambda: seen.has_all(streams), SECONDS, what="what was appended meanwhile")
    assert_in_order(seen, streams)


async def _lags(stream: Stream) -> bool:
    return await stream.relay.lag() > 0


@pytest.mark.chaos
async def test_publishing_and_stopping_end_in_time_without_a_broker(stream: Stream) -> None:
    stream.unless_it_cannot("lose its broker")
    await stream.append("s", 2)
    seen, publisher = Seen(stream.tenant), stream.transport()
    async with consuming(stream.transport(), stream.tenant, seen.handle):
        await wait_until(lambda: seen.has_all({"s": 2}), SECONDS, what="the events")
        try:
            stream.engine.kill_broker()
            async with asyncio.timeout(30):
                with pytest.raises(TransportAway):
                    await publisher.publish(seen.messages)
                await publisher.close()
            stopping = asyncio.create_task(_stopped(stream))
            await wait_until(stopping.done, 20, what="a consumer to stop without its broker")
        finally:
            await stream.engine.restart_broker()


async def _stopped(stream: Stream) -> None:
    async with consuming(stream.transport(), f"{stream.tenant}-late", Seen("nobody").handle):
        await asyncio.sleep(0.5)


async def _append_events(stream: Stream, name: str, events: list[NewEvent]) -> None:
    part = StreamAppend(StreamId(name), events, ANY_VERSION)
    await stream.store.append(TenantId(stream.tenant), [part], command_id=uuid7(), metadata=METADATA)
