# intent_ref: tests.schedules
"""Intents with a trigger start upon the events they ask for, of their own tenant, once each, and never round and round."""

import asyncio
from typing import Any

import orjson
import pytest

from commands.handle import Envelope, handle
from commands.intent import ArchiveIntent, DeprecateIntent
from domain.refusals import DefinitionInvalid
from event_store.ids import uuid7
from event_store.store import EventStore
from sagas.triggers import DEPTH_MAX
from tests.conftest import Database
from tests.consumers import another_store
from tests.unattended import Land
from tests.waiting import wait_until

STARTED = "quantum.execution.started.v1"


async def test_an_event_starts_an_execution_with_what_it_says(store: EventStore):
    land = Land(store, "orders")
    intent = await land.intent(
        on={
            "type": "order.placed", "when": "event.data.total > 100",
            "inputs": {"order": "${{ event.data }}", "id": "${{ event.id }}", "of": "${{ tenant.id }} ${{ event.subject }}"},
        }
    )  # fmt: skip
    await land.emit("order.placed", {"total": 120})
    await land.emit("order.placed", {"total": 100})
    await land.emit("order.cancelled", {"total": 120})
    await land.fire()
    (run,) = await land.executions(intent)
    row = await land.trigger_row(intent)
    assert run.inputs == {"order": {"total": 120}, "id": str(row["last_event_id"]), "of": "orders custom/e-1"}
    assert run.options is not None
    assert (run.options.started_by, run.options.depth) == (f"event {row['last_event_id']}", 1)
    assert (row["runs"], row["last_execution_id"], row["last_error"]) == (1, run.execution_id, None)


@pytest.mark.parametrize(
    ("type", "count"),
    [(STARTED, 1), ("quantum.execution.*", 2), ("quantum.*", 3), ("*", 3), ("quantum.execution.started.v2", 0), ("order.*", 0)],
)
async def test_types_are_those_that_subscribers_see(store: EventStore, type: str, count: int):
    land = Land(store, f"types-{count}-{len(type)}")
    intent = await land.intent(on={"type": type})
    other = await land.intent()  # an event as well
    await land.execute(other)  # started, step_started
    await land.fire()
    assert len(await land.executions(intent)) == count


async def test_an_event_that_comes_again_starts_nothing_again(database: Database, store: EventStore):
    land = Land(store, "repeated")
    intent = await land.intent(on={"type": "order.placed"})
    await land.emit("order.placed")
    messages = await land.messages("triggers")
    await land.triggers.take_in(messages)
    await land.triggers.take_in(messages)
    async with another_store(database) as second:
        other = Land(second, "repeated")
        await asyncio.gather(other.triggers.take_in(messages), land.triggers.take_in(messages))
        assert other.triggers.statistics.repeated == 1
    assert len(await land.executions(intent)) == 1
    assert (await land.trigger_row(intent))["runs"] == 1


async def test_events_of_another_tenant_fire_nothing_and_are_not_even_looked_into(store: EventStore):
    one, other = Land(store, "one-tenant"), Land(store, "other-tenant")
    intent = await one.intent(on={"type": "*"})
    target = await other.intent()
    await other.execute(target)
    await other.emit("order.placed", {"total": 120})
    await one.triggers.take_in(await one.messages("triggers"))
    before = one.triggers.statistics.decoded
    await one.triggers.take_in(await other.messages("triggers"))
    assert await one.executions(intent) == []
    assert one.triggers.statistics.decoded == before


async def test_events_from_before_the_trigger_do_not_count(store: EventStore):
    land = Land(store, "before")
    await land.emit("order.placed", 1)
    intent = await land.intent(on={"type": "order.placed", "inputs": {"n": "${{ event.data }}"}})
    await land.emit("order.placed", 2)
    await land.revise(intent, on={"type": "order.*", "inputs": {"n": "${{ event.data }}"}})
    await land.emit("order.placed", 3)
    await land.fire()  # only now does the saga hear of all of it
    assert sorted(run.inputs["n"] for run in await land.executions(intent)) == [2, 3]


async def test_a_trigger_that_is_gone_fires_no_more(store: EventStore):
    land = Land(store, "gone")
    archived, revised, deprecated = [await land.intent(on={"type": "order.placed"}) for _ in range(3)]
    await land.fire()
    await land.ask(ArchiveIntent(intent_id=archived, at=land.clock()))
    await land.ask(DeprecateIntent(intent_id=deprecated, at=land.clock()))
    await land.revise(revised)
    await land.emit("order.placed")
    await land.fire()
    assert [len(await land.executions(intent)) for intent in (archived, revised, deprecated)] == [0, 0, 1]


async def test_an_intent_does_not_fire_itself_unless_it_says_so(store: EventStore):
    land = Land(store, "itself")
    intent = await land.intent(on={"type": STARTED})
    await land.execute(intent)
    await land.fire()
    assert len(await land.executions(intent)) == 1


async def test_an_intent_that_may_fire_itself_stops_at_the_limit(store: EventStore):
    land = Land(store, "round")
    intent = await land.intent(on={"type": STARTED, "allow_self": True})
    await land.execute(intent)
    await land.fire()
    runs = await land.executions(intent)
    assert [run.options.depth if run.options else 0 for run in runs] == list(range(DEPTH_MAX + 1))
    assert orjson.loads((await land.trigger_row(intent))["last_error"])["code"] == "triggered-too-deep"


async def test_intents_that_fire_one_another_stop_at_the_limit(store: EventStore):
    land = Land(store, "chain")
    one, other = await land.intent(on={"type": STARTED}), await land.intent(on={"type": STARTED})
    await land.execute(one)
    await land.fire()
    assert len(await land.executions(one)) + len(await land.executions(other)) == DEPTH_MAX + 1


async def test_what_steps_emit_and_command_counts_as_their_executions_doing(store: EventStore):
    land = Land(store, "through")
    intent = await land.intent(on={"type": "*"})
    execution_id = await land.execute(intent)
    await land.emit("order.placed", execution_id=execution_id)
    by_step = Envelope(land.tenant, uuid7(), f"execution:{execution_id}", "corr-1")
    target = await land.intent(on={"type": "never.mind"})
    await land.fire()
    assert len(await land.executions(intent)) == 2, "somebody has made an intent, which is an event"
    await handle(land.shell, DeprecateIntent(intent_id=target, at=land.clock()), by_step)
    await land.fire()
    assert len(await land.executions(intent)) == 2


async def test_what_cannot_be_started_is_said_and_the_others_go_on(store: EventStore):
    land = Land(store, "cannot")
    schema = {"properties": {"n": {"type": "integer"}}}
    no_value = await land.intent(on={"type": "order.placed", "when": "event.data.customer.vip"})
    unfit = await land.intent(inputs=schema, on={"type": "order.placed", "inputs": {"n": "${{ event.data.total }}"}})
    sound = await land.intent(on={"type": "order.placed"})
    await land.emit("order.placed", {"total": "many"})
    await land.fire()
    assert len(await land.executions(sound)) == 1
    assert orjson.loads((await land.trigger_row(no_value))["last_error"])["code"] == "expression-failed"
    assert orjson.loads((await land.trigger_row(unfit))["last_error"])["code"] == "validation-failed"
    assert land.triggers.statistics.refused == 2


@pytest.mark.parametrize(
    ("on", "pointer"),
    [
        ({"type": "a", "inputs": {"n": "x"}}, "/definition/on/inputs/n"),
        ({"type": "a"}, "/definition/on"),
        ({"type": "a", "inputs": {"n": "${{ schedule.time }}"}}, "/definition/on/inputs/n"),
        ({"type": "a", "inputs": {"n": 1}, "allow_self": "yes"}, "/definition/on/allow_self"),
    ],
)
async def test_a_trigger_that_could_never_start_anything_is_refused_when_it_is_written(store: EventStore, on: Any, pointer: str):
    land = Land(store, "written")
    with pytest.raises(DefinitionInvalid) as caught:
        await land.intent(inputs={"properties": {"n": {"type": "integer"}}, "required": ["n"]}, on=on)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_a_process_that_starts_goes_on_from_what_is_known(database: Database, store: EventStore):
    land = Land(store, "resumed")
    intent = await land.intent(on={"type": "order.placed"})
    await land.fire()
    async with another_store(database) as second:
        later = Land(second, "resumed")
        await later.triggers.triggers.follow(await second.horizon())
        assert [row.intent_id for row in later.triggers.triggers.of("resumed")] == [intent]
        await land.ask(ArchiveIntent(intent_id=intent, at=land.clock()))
        await later.triggers.triggers.follow(await second.horizon())
        assert list(later.triggers.triggers.of("resumed")) == []


async def test_a_running_saga_hears_of_the_first_trigger_and_of_what_fires_it(store: EventStore):
    land = Land(store, "live")
    stop = asyncio.Event()
    task = asyncio.create_task(land.triggers.run(stop))
    try:
        intent = await land.intent(on={"type": "order.placed"})
        await land.emit("order.placed")
        await wait_until(lambda: land.executions(intent), what="the execution")
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await task
