# intent_ref: quantum.event-hubs
"""The stream through Event Hubs, as the settings describe it: where the hub is, who we are there, where checkpoints go."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from event_store.store import EventStore
from quantum.settings import Settings
from streaming.event_hubs import EventHubsTransport
from streaming.event_hubs_checkpoints import PostgresCheckpointStore
from streaming.event_hubs_client import EventHub, entra_credential
from streaming.tenant_classes import ClassedTransport, TenantClasses


@asynccontextmanager
async def event_hubs(settings: Settings, store: EventStore) -> AsyncIterator[EventHubsTransport | ClassedTransport]:
    """The transport, over one hub or one for each class of tenants.

    Hubs need not answer yet; a blob account for checkpoints has to (`azure.core.exceptions.AzureError`).
    """
    async with AsyncExitStack() as stack:
        blobs = settings.event_hubs_blob_connection
        blob_address = blobs.get_secret_value() if blobs is not None else ""
        credential: Any = None
        if settings.event_hubs_connection is None or blob_address.startswith("https://"):
            credential = await stack.enter_async_context(entra_credential())
        checkpoints: Any = PostgresCheckpointStore(store.platform_pool)
        if settings.event_hubs_checkpoints == "blob":
            from streaming.event_hubs_blobs import blob_checkpoint_store

            checkpoints = await blob_checkpoint_store(blob_address, settings.event_hubs_blob_container, credential)
            await stack.enter_async_context(checkpoints)

        def on(name: str, is_ours: Callable[[str], bool]) -> EventHubsTransport:
            return EventHubsTransport(
                store, replace(hub, name=name), checkpoints, source=settings.event_source,
                message_bytes_max=settings.event_hubs_message_bytes_max, is_ours=is_ours,
            )  # fmt: skip

        hub = hub_of(settings, credential)
        transport: EventHubsTransport | ClassedTransport
        if settings.stream_classes:
            transport = ClassedTransport(TenantClasses(settings.stream_classes, hub.address()[1]), on)
        else:
            transport = on(hub.address()[1], lambda tenant_id: True)
        stack.push_async_callback(transport.close)
        yield transport


def hub_name(settings: Settings) -> str:
    """The event hub's name; the settings see to it that something says it."""
    return hub_of(settings, object()).address()[1]


def hub_of(settings: Settings, credential: Any) -> EventHub:
    """Where the hub is, and who we are there; `credential` counts where there is no connection string."""
    if settings.event_hubs_connection is not None:
        return EventHub(settings.event_hubs_connection.get_secret_value(), settings.event_hubs_name)
    return EventHub(None, settings.event_hubs_name, settings.event_hubs_namespace, credential)
