# intent_ref: commands.recorded-events
"""Events on their way into the log. None is larger than `EVENT_BYTES_MAX`, whatever made it."""

from typing import Final

from domain.refusals import EventTooLarge
from event_store import codec
from event_store.ids import uuid7
from event_store.records import NewEvent

EVENT_BYTES_MAX: Final = 4_194_304
"""How large an event may be, as JSON. What decisions make has 256 KiB at most; what is larger comes from a definition, whose
texts have 1 MiB, and is written down with the plan."""


def new_event(event: codec.DomainEvent) -> NewEvent:
    """The event as it is appended. Raises `EventTooLarge`."""
    topic, payload = codec.encode(event)
    if len(payload) > EVENT_BYTES_MAX:
        raise EventTooLarge(topic, len(payload), EVENT_BYTES_MAX)
    return NewEvent(uuid7(), topic, payload)
