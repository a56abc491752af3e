# intent_ref: tests.event-hubs-stand-in
"""What the nodes `$cbs` and `$management` answer."""

from typing import Any
from urllib.parse import urlsplit

from proton import Message, int32, timestamp

from tests.event_hubs.partition_log import Hub

CBS, MANAGEMENT = "$cbs", "$management"


def node_of(address: str | None) -> str:
    """The path of an address, which may come as a full URL."""
    address = address or ""
    return urlsplit(address).path.strip("/") if "://" in address else address.strip("/")


def answer(node: str, request: Message, hubs: dict[str, Hub]) -> Message:
    """The reply to a request. Tokens are taken as they are: this is no place to prove who one is."""
    if node == CBS:
        return _reply(request, 202, "Accepted", None)
    properties: dict[str, Any] = request.properties or {}
    hub = hubs.get(str(properties.get("name")))
    if hub is None:
        return _reply(request, 404, f"The messaging entity '{properties.get('name')}' could not be found.", None)
    kind = str(properties.get("type"))
    if kind == "com.microsoft:eventhub":
        return _reply(request, 200, "OK", {
            "name": hub.name, "type": kind, "created_at": timestamp(hub.created_ms),
            "partition_count": int32(len(hub.partitions)), "partition_ids": list(hub.partitions),
        })  # fmt: skip
    if kind == "com.microsoft:partition":
        return _partition(request, hub, kind, str(properties.get("partition")))
    return _reply(request, 400, f"There is no operation on {kind}.", None)


def _partition(request: Message, hub: Hub, kind: str, number: str) -> Message:
    partition = hub.partitions.get(number)
    if partition is None:
        return _reply(request, 404, f"The partition '{number}' could not be found.", None)
    last = partition.events[-1] if partition.events else None
    return _reply(request, 200, "OK", {
        "name": hub.name, "type": kind, "partition": number, "begin_sequence_number": 0,
        "last_enqueued_sequence_number": len(partition.events) - 1,
        "last_enqueued_offset": str(last.offset) if last else "-1",
        "last_enqueued_time_utc": timestamp(last.enqueued_ms if last else 0),
        "is_partition_empty": not partition.events,
    })  # fmt: skip


def _reply(request: Message, status: int, description: str, body: Any) -> Message:
    return Message(
        body=body, correlation_id=request.id, properties={"status-code": int32(status), "status-description": description}
    )
