# intent_ref: streaming.progress
"""How far a consumer group has come in an event hub: its checkpoints, beside the ends of the hub's partitions."""

from azure.eventhub.aio import CheckpointStore

from event_store.faults import DATABASE_FAULTS
from streaming.event_hubs_ownership import Where
from streaming.event_hubs_publisher import Publisher
from streaming.progress import BrokerProgress
from streaming.transport import TransportAway, partition_of


async def event_hubs_progress(publisher: Publisher, checkpoints: CheckpointStore, where: Where) -> BrokerProgress:
    """Sequence numbers count from 0 and have no gaps. Raises `TransportAway`, or what the database of checkpoints raises."""
    try:
        numbers = await publisher.partitions()
        ends = await publisher.ends()
        kept = list(await checkpoints.list_checkpoints(*where))
    except DATABASE_FAULTS:
        raise
    except Exception as fault:  # the SDK lets also its inner exceptions out
        raise TransportAway(f"{TransportAway.__doc__} ({fault!r})") from fault
    return BrokerProgress(
        lambda key: numbers[partition_of(key, len(numbers))],
        {one["partition_id"]: int(one["sequence_number"]) + 1 for one in kept},
        {number: place.sequence + 1 for number, place in ends.items()},
    )
