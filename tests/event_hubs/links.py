# intent_ref: tests.event-hubs-stand-in
"""Receivers: from where a link reads, and how much it may be sent."""

import itertools
import re
from typing import TYPE_CHECKING, Any

from proton import Described, Link

from tests.event_hubs.partition_log import Hub, Partition

if TYPE_CHECKING:
    from tests.event_hubs.connection import ClientConnection

_SOURCE = re.compile(r"(?P<hub>[^/]+)/ConsumerGroups/(?P<group>[^/]+)/Partitions/(?P<number>[^/]+)$")
_AT_ONCE = 200
_tags = itertools.count()


class Refusal(Exception):
    """Why a link or a message is refused: an AMQP condition and a sentence."""

    def __init__(self, condition: str, description: str, *, detaches: bool = True) -> None:
        super().__init__(description)
        self.condition, self.detaches = condition, detaches


class Reader:
    """A receiver's link and how far it has read."""

    def __init__(
        self, partition: Partition, group: str, link: Link, connection: "ClientConnection", index: int, epoch: int | None
    ) -> None:
        self.partition, self.group, self.link, self.connection, self.epoch = partition, group, link, connection, epoch
        self._index = index

    def send(self) -> bool:
        """Sends what credit allows, a piece of it; True when there is more that could go."""
        events = self.partition.events
        until = min(len(events), self._index + min(self.link.credit, _AT_ONCE))
        for event in events[self._index : until]:
            delivery = self.link.delivery(str(next(_tags)))
            self.link.stream(event.encoded)
            self.link.advance()
            delivery.settle()
        self._index = until
        return self._index < len(events) and self.link.credit > 0


def reader_of(hubs: dict[str, Hub], node: str, link: Link, connection: "ClientConnection") -> Reader:
    """The reader that a receiving link asks for; raises `Refusal`."""
    match = _SOURCE.match(node)
    hub = hubs.get(match["hub"]) if match else None
    if match is None or hub is None or match["number"] not in hub.partitions:
        raise Refusal("amqp:not-found", f"The messaging entity '{node}' could not be found.")
    partition = hub.partitions[match["number"]]
    try:
        index = partition.first_index(_selector(link))
    except ValueError as fault:
        raise Refusal("com.microsoft:argument-error", str(fault)) from fault
    properties: dict[Any, Any] = link.remote_properties or {}
    epoch = properties.get("com.microsoft:epoch")
    return Reader(partition, match["group"], link, connection, index, None if epoch is None else int(epoch))


def _selector(link: Link) -> str | None:
    data = link.remote_source.filter
    data.rewind()
    if data.next() is None:
        return None
    for value in (data.get_object() or {}).values():
        text = value.value if isinstance(value, Described) else value
        return text.decode() if isinstance(text, bytes) else str(text)
    return None
