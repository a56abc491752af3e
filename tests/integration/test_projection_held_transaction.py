# intent_ref: tests.projections
"""A writer that keeps its transaction open while thousands of events commit around it: no projection misses anything."""

import asyncio
from datetime import UTC, datetime

import asyncpg

from domain.intent import IntentCreated, IntentEvent, IntentRevised
from domain.values import IntentId, StreamId, TenantId, Version
from event_store import codec, group_commit
from event_store.ids import uuid7
from event_store.records import NO_STREAM, Append, NewEvent, StreamAppend
from event_store.store import EventStore
from tests.conftest import Database
from tests.projected import projecting
from tests.streams import METADATA

AT = datetime(2026, 1, 1, tzinfo=UTC)
WRITERS, INTENTS_EACH, VERSIONS = 16, 125, 10


def history(tenant: str, name: str, versions: int) -> Append:
    """All versions of one intent, in one append."""
    identity = IntentId(name)
    happened: list[IntentEvent] = [IntentCreated(identity, name, {"target": "t", "steps": []}, None, {}, AT)]
    happened += [
        IntentRevised(identity, Version(version), {"target": f"t{version}", "steps": []}, None, {}, AT)
        for version in range(2, versions + 1)
    ]
    events = [NewEvent(uuid7(), *codec.encode(event)) for event in happened]
    part = StreamAppend(StreamId(f"intent-{name}"), events, NO_STREAM)
    return Append(TenantId(tenant), uuid7(), METADATA, (part,))


async def test_every_projection_ends_with_the_held_events_and_all_20000_around_them(
    store: EventStore, database: Database
) -> None:
    slow = await asyncpg.connect(database.app_dsn)
    try:
        async with projecting(store) as projected:
            transaction = slow.transaction()
            await transaction.start()
            held = [history("held", f"held-{n}", VERSIONS) for n in range(3)]
            for append in held:
                pending = group_commit._Pending(append, (), VERSIONS, None, 0.0)  # type: ignore[arg-type]
                await slow.fetchrow(group_commit._SQL, *group_commit._arguments([pending]))

            async def write(writer: int) -> None:
                for n in range(INTENTS_EACH):
                    append = history(f"tenant-{writer % 4}", f"w-{writer}-{n}", VERSIONS)
                    await store.append(append.tenant_id, append.streams, command_id=append.command_id, metadata=append.metadata)

            await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
            await transaction.commit()
            await projected.caught_up("intents", "intent_search")
            assert not any(statistics.set_aside for statistics in projected.runner.statistics.values())
    finally:
        await slow.close()
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        intents = {
            (row["tenant_id"], row["intent_id"]): row["version"]
            for row in await owner.fetch("SELECT tenant_id, intent_id, version FROM quantum_read.intents")
        }
        versions = await owner.fetch("SELECT tenant_id, intent_id, version FROM quantum_read.intent_versions")
    finally:
        await owner.close()
    assert len(intents) == WRITERS * INTENTS_EACH + 3
    assert set(intents.values()) == {VERSIONS}
    assert {key for key in intents if key[0] == "held"} == {("held", f"held-{n}") for n in range(3)}
    assert len({tuple(row) for row in versions}) == len(versions) == len(intents) * VERSIONS
