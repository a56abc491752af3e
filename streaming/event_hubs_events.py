# intent_ref: streaming.event-hubs
"""Messages as events of an event hub and back: CloudEvents 1.0 in the binary mode of their AMQP binding.

The attributes are application properties named `cloudEvents:…`, the content type is AMQP's own, the body is the payload.
"""

from collections.abc import Mapping
from typing import Any

from azure.eventhub import EventData, EventDataBatch

from streaming.cloud_events import NotAnEvent, binary, from_binary, without_data
from streaming.event_hubs_encoding import PREFIX, added
from streaming.transport import Message

_PREFIXES = (PREFIX, "cloudEvents_")
"""The second is for peers whose names may not hold a colon; who reads should take both (AMQP binding, 3.1.3.1)."""


def put(batch: EventDataBatch, message: Message, source: str, bytes_max: int) -> bool:
    """Adds a message to a batch; False when the batch is full.

    A message of more than `bytes_max` bytes, or one that an empty batch has no room for, leaves its payload behind, with a
    `dataref` to it.
    """
    attributes, body = binary(message, source)
    if len(body) + sum(len(name) + len(value) for name, value in attributes.items()) <= bytes_max:
        if added(batch, attributes, body):
            return True
        if len(batch):
            return False
    return added(batch, without_data(attributes), b"")


def message_of(event: EventData) -> Message:
    """The message behind an event; raises `NotAnEvent`, or `DataElsewhere` where the payload stayed behind."""
    attributes = attributes_of(event)
    body: Any = event.body  # sections of data, unless a stranger sent something else
    try:
        data = b"".join(body)
    except TypeError as fault:
        raise NotAnEvent(f"{fault}.") from fault
    return from_binary(attributes, data)


def attributes_of(event: EventData) -> dict[str, str]:
    """The CloudEvents attributes among an event's properties, without their prefix."""
    properties: Mapping[Any, Any] = event.properties or {}
    attributes: dict[str, str] = {}
    for name, value in properties.items():
        text = _text(name)
        if text.startswith(_PREFIXES):
            attributes[text[len(PREFIX) :]] = _text(value)
    return attributes


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
