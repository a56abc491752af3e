# intent_ref: tests.streams
"""Events and streams for tests of the log: what they say does not matter, that they come back does."""

from datetime import UTC, datetime
from uuid import UUID

from domain.intent import IntentDeprecated
from domain.values import IntentId, StreamId, TenantId
from event_store import codec
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Appended, Claim, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
METADATA = Metadata("correlation-1", None, "user-1", None)


def new_events(count: int = 1, name: str = "x") -> list[NewEvent]:
    """`count` events, told apart by the intent they name."""
    encoded = [codec.encode(IntentDeprecated(IntentId(f"{name}-{number}"), AT)) for number in range(count)]
    return [NewEvent(uuid7(), topic, payload) for topic, payload in encoded]


async def append(
    store: EventStore,
    tenant: str,
    stream: str,
    count: int = 1,
    *,
    expected: int = ANY_VERSION,
    command_id: UUID | None = None,
    claims: list[Claim] | None = None,
) -> Appended:
    """Appends `count` events to one stream."""
    part = StreamAppend(StreamId(stream), new_events(count, stream), expected)
    return await store.append(TenantId(tenant), [part], command_id=command_id or uuid7(), metadata=METADATA, claims=claims or [])
