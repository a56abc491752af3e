# intent_ref: streaming.event-hubs
"""Publishes to the partitions of an event hub: all of them at once, each in order.

A key's partition is chosen here (CRC-32, as everywhere) and not by the service, which would take one batch for each key: as many
round trips, one after the other, as a page of the log has streams.
"""

import asyncio
from collections.abc import Sequence

import structlog
from azure.eventhub import EventDataBatch
from azure.eventhub.aio import EventHubProducerClient
from azure.eventhub.exceptions import EventHubError

from streaming.event_hubs_client import EventHub, closed, within
from streaming.event_hubs_events import put
from streaming.event_hubs_ownership import Place
from streaming.transport import Message, TransportAway, partition_of

_BUSY = "server-busy"
_BUSY_SECONDS = 0.5
_BUSY_ATTEMPTS_MAX = 4

log = structlog.get_logger(__name__)


class Publisher:
    """The way in. After a fault it starts with new connections: what an old one still has under way may arrive twice."""

    def __init__(self, hub: EventHub, *, source: str, message_bytes_max: int, answer_seconds: float) -> None:
        self._hub, self._source = hub, source
        self._message_bytes_max, self._answer_seconds = message_bytes_max, answer_seconds
        self._client: EventHubProducerClient | None = None
        self._partitions: list[str] = []
        self._turn = asyncio.Lock()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns when the service has taken all; raises `TransportAway` when not, and then any prefix per key may be there."""
        if not messages:
            return
        async with self._turn:
            done = False
            try:
                client = await self._connected()
                parts: dict[str, list[Message]] = {}
                for message in messages:
                    parts.setdefault(self._partitions[partition_of(message.key, len(self._partitions))], []).append(message)
                results = await asyncio.gather(
                    *(self._send(client, number, part) for number, part in parts.items()), return_exceptions=True
                )
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
                done = True
            except Exception as fault:  # the SDK lets also its inner exceptions out, and each means that not all is there
                raise TransportAway(f"The event hub has not taken all of {len(messages)} messages: {fault!r}") from fault
            finally:
                if not done:
                    await self._disconnect()

    async def partitions(self) -> list[str]:
        """The hub's partitions, in order; raises what the SDK raises."""
        async with self._turn:
            await self._connected()
            return list(self._partitions)

    async def ends(self) -> dict[str, Place]:
        """Where each partition ends now; raises what the SDK raises."""
        async with self._turn:
            client = await self._connected()
            found = await asyncio.gather(
                *(within(self._answer_seconds, client.get_partition_properties(number)) for number in self._partitions)
            )
        return {
            str(one["id"]): Place(str(one["last_enqueued_offset"]), int(one["last_enqueued_sequence_number"])) for one in found
        }

    async def close(self) -> None:
        """Closes the connections."""
        async with self._turn:
            await self._disconnect()

    async def _connected(self) -> EventHubProducerClient:
        if self._client is None:
            self._client = self._hub.producer()
        if not self._partitions:
            self._partitions = in_order(await within(self._answer_seconds, self._client.get_partition_ids()))
        return self._client

    async def _disconnect(self) -> None:
        client, self._client, self._partitions = self._client, None, []
        if client is not None:
            await closed(client)

    async def _send(self, client: EventHubProducerClient, number: str, messages: list[Message]) -> None:
        """One partition's messages, in as few batches as they fit into, one after the other."""
        batch = await within(self._answer_seconds, client.create_batch(partition_id=number))
        for message in messages:
            if put(batch, message, self._source, self._message_bytes_max):
                continue
            await self._send_batch(client, batch)
            batch = await within(self._answer_seconds, client.create_batch(partition_id=number))
            if not put(batch, message, self._source, self._message_bytes_max):
                raise ValueError(f"The event hub takes no message as large as the attributes of event {message.event_id}.")
        if len(batch):
            await self._send_batch(client, batch)

    async def _send_batch(self, client: EventHubProducerClient, batch: EventDataBatch) -> None:
        """A batch, again after a while where the service is busy: to send only this one again repeats least."""
        seconds = _BUSY_SECONDS
        for attempt in range(1, _BUSY_ATTEMPTS_MAX + 1):
            try:
                return await within(self._answer_seconds, client.send_batch(batch))
            except Exception as fault:
                if not _is_busy(fault) or attempt == _BUSY_ATTEMPTS_MAX:
                    raise
                log.warning("the event hub is busy; a batch waits", seconds=seconds)
            await asyncio.sleep(seconds)
            seconds *= 2
        return None


def in_order(partitions: Sequence[str]) -> list[str]:
    """Partition ids in the order of their numbers."""
    return sorted(partitions, key=lambda number: (int(number), "") if number.isdigit() else (1 << 62, number))


def _is_busy(fault: Exception) -> bool:
    return isinstance(fault, EventHubError) and fault.error == _BUSY
