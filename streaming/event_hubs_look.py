# intent_ref: streaming.event-hubs
"""A look at an event hub without being a reader of it: does it answer, and whose events does it hold."""

import asyncio
from typing import Any

from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient, PartitionContext

from streaming.event_hubs_client import EventHub, closed, put_down, within
from streaming.event_hubs_events import attributes_of

_GROUP = "$Default"
"""The consumer group that every hub has. Without an epoch, so nobody's receiver is sent away."""
_FOREIGN = "somebody unknown"


async def sources_of(hub: EventHub, *, seconds: float) -> set[str]:
    """The `source` of the last event of each partition that has one. Raises what the SDK raises, or `TimeoutError`."""
    client = hub.consumer(_GROUP)
    try:
        numbers = await within(seconds, client.get_partition_ids())
        found = await asyncio.gather(*(_source_of(client, number, seconds) for number in numbers))
    finally:
        await closed(client)
    return {source for source in found if source is not None}


async def _source_of(client: EventHubConsumerClient, number: str, seconds: float) -> str | None:
    properties: dict[str, Any] = await within(seconds, client.get_partition_properties(number))
    if properties["is_empty"]:
        return None
    last: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def arrived(context: PartitionContext, event: EventData | None) -> None:
        if event is not None and not last.done():
            last.set_result(attributes_of(event).get("source", _FOREIGN))

    async def failed(context: PartitionContext | None, fault: Exception) -> None:
        if not last.done():
            last.set_exception(fault)

    receiving = asyncio.create_task(
        client.receive(
            arrived, partition_id=number, on_error=failed, starting_position=properties["last_enqueued_sequence_number"],
            starting_position_inclusive=True,
        )
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait((receiving, last), return_when=asyncio.FIRST_COMPLETED)
        if not last.done():
            return _FOREIGN
        return last.result()
    finally:
        await put_down(receiving, client)
