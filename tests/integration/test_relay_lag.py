# intent_ref: tests.relay
"""A broker that is away for long costs lag and nothing else, and the lag is told; what commits late is never skipped."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from domain.values import StreamId, TenantId
from event_store import group_commit
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Append, StreamAppend
from event_store.store import EventStore, LogPage
from quantum.telemetry import Telemetry
from streaming import relay as relay_module
from streaming.relay import Relay
from streaming.transport import Handler, Message, TransportAway
from tests.conftest import Database
from tests.consumers import another_store, relaying
from tests.streams import METADATA, append, new_events
from tests.waiting import wait_until


class Broker:
    """One that takes nothing while it is away, and then everything."""

    reads_the_log = False

    def __init__(self) -> None:
        self.is_away = True
        self.refused = 0
        self.messages: list[Message] = []

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.is_away:
            self.refused += 1
            raise TransportAway("no broker")
        self.messages += messages

    async def consume(self, group: str, handler: Handler, **more: Any) -> None:
        raise NotImplementedError("this broker is only written to")

    async def close(self) -> None: ...

    def of(self, tenant: str) -> list[tuple[str, int]]:
        return [(message.stream_id, message.version) for message in self.messages if message.tenant_id == tenant]


class Counting(EventStore):
    """A store that counts pages read."""

    pages = 0

    async def read_log(self, after: int, **options: Any) -> LogPage:
        self.pages += 1
        return await super().read_log(after, **options)


def told(telemetry: Telemetry) -> float:
    """The lag as it is exposed."""
    families = text_string_to_metric_families(telemetry.exposition().decode())
    return next(sample.value for family in families for sample in family.samples if sample.name == "quantum_relay_lag_events")


async def test_seven_hundred_refusals_cost_lag_and_no_memory_and_then_everything_goes_out_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of refusals, at one every five seconds; here they follow each other at once."""
    monkeypatch.setattr(relay_module, "_BACK_OFF_SECONDS_MAX", 0.001)
    monkeypatch.setattr(relay_module, "_BACK_OFF_SECONDS", 0.001)
    store = await Counting.connect(app_dsn=database.app_dsn, platform_dsn=database.platform_dsn)
    broker = Broker()
    relay = Relay(store, broker, name="hour", batch_max=10)
    try:
        async with relaying(relay):
            for stream in range(40):
                await append(store, "hour", f"s{stream}", 5)
            await wait_until(lambda: broker.refused >= 700, 60, what="an hour's refusals")
            assert store.pages <= 3  # one in hand, one ahead: what waits is in the log
            assert relay.statistics.leads
            assert await relay.lag() >= 200
            await append(store, "hour", "s0", 1)
            broker.is_away = False
            await wait_until(lambda: relay.statistics.lag == 0, what="the lag to be made up")
            await wait_until(lambda: len(broker.of("hour")) == 201, what="every event")
    finally:
        await store.close()
    expected = [(f"s{stream}", version) for stream in range(40) for version in range(1, 6)] + [("s0", 6)]
    assert broker.of("hour") == expected


async def test_the_lag_grows_in_the_metrics_while_the_broker_is_away_from_the_first_event_on(
    store: EventStore, database: Database
) -> None:
    """Also where the relay is alone in its process, and nobody else looks how long the log is."""
    telemetry = Telemetry()
    broker = Broker()
    relay = Relay(store, broker, name="metric")
    telemetry.observe_relay(relay)
    try:
        async with another_store(database) as elsewhere, relaying(relay):
            await append(elsewhere, "metric", "s", 3)
            await wait_until(lambda: told(telemetry) >= 3, what="the lag to be told")
            before = told(telemetry)
            await append(elsewhere, "metric", "s", 50)
            await wait_until(lambda: told(telemetry) >= before + 50, what="the lag to grow")
            assert told(telemetry) == await relay.lag()
            broker.is_away = False
            await wait_until(lambda: told(telemetry) == 0, what="the lag to be made up")
        assert told(telemetry) == 0
    finally:
        telemetry.close()


async def test_a_transaction_held_open_delays_but_never_hides_its_events(store: EventStore, database: Database) -> None:
    broker = Broker()
    broker.is_away = False
    slow = await asyncpg.connect(database.app_dsn)
    try:
        async with relaying(Relay(store, broker, name="held", batch_max=7)):
            await append(store, "held", "before", 2)
            await wait_until(lambda: len(broker.of("held")) == 2, what="what came before")
            transaction = slow.transaction()
            await transaction.start()
            part = StreamAppend(StreamId("held"), new_events(3), ANY_VERSION)
            held = Append(TenantId("held"), uuid7(), METADATA, (part,))
            pending = group_commit._Pending(held, (), 3, None, 0.0)  # type: ignore[arg-type]
            await slow.fetchrow(group_commit._SQL, *group_commit._arguments([pending]))
            await asyncio.gather(*(append(store, "held", f"after-{n}", 2) for n in range(20)))
            await transaction.commit()
            await wait_until(lambda: len(broker.of("held")) == 45, what="every event")
    finally:
        await slow.close()
    assert [version for stream, version in broker.of("held") if stream == "held"] == [1, 2, 3]
    positions = [message.position for message in broker.messages if message.tenant_id == "held"]
    assert positions == sorted(positions)
