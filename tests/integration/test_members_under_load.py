# intent_ref: tests.transport-contract
"""Three consumers join and leave a group during load, over every engine: no gap, few repeats, and ownership that settles."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from event_store.store import EventStore
from streaming.relay import Relay
from streaming.transport import Message
from tests.consumers import Seen, assert_in_order, consuming, relaying
from tests.streams import append
from tests.transport_engines import ENGINES, SLOW_ENGINES, Engine, MeasuredTransport
from tests.waiting import wait_until

STREAMS = 48
BATCH_MAX = 20
SETTLED_SECONDS_MAX = 20.0
"""From a member's coming or going to an ownership that has stood through `ROUNDS` events of every stream. Mostly two or three."""
ROUNDS, STILL_ROUNDS = 20, 60
"""Of events of every stream, ten a second at most: members look at each other once a second, so shares move in steps of that."""
REPEATS_MAX = 6 * BATCH_MAX
"""Six changes of members, all in order: at each, no more than the batch that was in hand. (Mostly there is none.)"""


pytestmark = [pytest.mark.slow]


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.endurance] * (name in SLOW_ENGINES)) for name in sorted(ENGINES)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param]()
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


class Group:
    """The members that are there, and who had which stream's events last."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.seen = Seen(tenant)
        self.owners: dict[str, int] = {}
        self.moves = 0
        self._since: dict[str, int] = {}
        self.members: set[int] = set()

    @asynccontextmanager
    async def joined(self, transport: MeasuredTransport, number: int) -> AsyncIterator[None]:
        """A member, from its joining until it has left in order."""

        async def handle(messages: Sequence[Message]) -> None:
            await self.seen.handle(messages)
            for message in messages:
                if message.tenant_id == self.tenant:
                    self._note(message.stream_id, number)

        self.members.add(number)
        self._since.clear()
        async with consuming(transport, self.tenant, handle, batch_max=BATCH_MAX):
            yield
        self.members.discard(number)
        self._since.clear()

    def _note(self, stream: str, number: int) -> None:
        if self.owners.get(stream) != number:
            self.owners[stream] = number
            self.moves += 1
            self._since[stream] = 0
        self._since[stream] = self._since.get(stream, 0) + 1

    def has_stood(self, rounds: int) -> bool:
        """Whether all members have streams, and of each so many events have come since it moved, or a member came or went."""
        stood = len(self._since) == STREAMS and min(self._since.values()) >= rounds
        return stood and set(self.owners.values()) == self.members

    async def settle(self, what: str) -> None:
        """Until ownership has stood for a while."""
        await wait_until(lambda: self.has_stood(ROUNDS), SETTLED_SECONDS_MAX, what=f"ownership to settle after {what}")


async def test_three_members_come_and_go_under_load_and_ownership_settles_and_is_still(engine: Engine, store: EventStore) -> None:
    group = Group(f"{engine.name}-load")
    streams = {f"s{n}": 0 for n in range(STREAMS)}
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            await asyncio.gather(*(append(store, group.tenant, stream) for stream in streams))
            for stream in streams:
                streams[stream] += 1
            await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.1)

    async with AsyncExitStack() as stack:
        transports = []
        for _ in range(4):
            transports.append(engine.transport(store))
            stack.push_async_callback(transports[-1].close)
        await stack.enter_async_context(relaying(Relay(store, transports[3], name=engine.name)))
        loading = asyncio.create_task(load())
        try:
            async with group.joined(transports[0], 0):
                await group.settle("the first had come")
                async with group.joined(transports[1], 1):
                    await group.settle("the second had come")
                    async with group.joined(transports[2], 2):
                        await group.settle("the third had come")
                        moves = group.moves
                        await wait_until(lambda: group.has_stood(STILL_ROUNDS), 60, what="many more events of every stream")
                        assert group.moves == moves, "ownership keeps moving although nobody comes or goes"
                    await group.settle("the third had left")
                await group.settle("the second had left")
                async with group.joined(transports[1], 1):
                    await group.settle("the second had come back")
                done.set()
                await loading
                await wait_until(lambda: group.seen.has_all(streams), 30, what="every event")
        finally:
            done.set()
            await loading
    assert_in_order(group.seen, streams)
    print(f"{sum(streams.values())} events, {group.seen.repeats} repeats, {group.moves} moves of {STREAMS} streams")
    assert group.seen.repeats <= REPEATS_MAX
