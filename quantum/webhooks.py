# intent_ref: quantum.webhooks
"""Wires webhooks: the deliverer with its network, clock and secrets, and the routes about subscriptions."""

from datetime import UTC, datetime

from fastapi import APIRouter

import read_api.subscriptions
import write_api.deliveries
import write_api.subscriptions
from access.gate import Gate
from commands.handle import Envelope, Shell, handle
from commands.subscription import DisableSubscription
from domain.values import SubscriptionId, TenantId
from event_store.ids import uuid7
from event_store.store import EventStore
from event_store.subscription_secrets import SubscriptionSecrets
from modules.addresses import AddressForbidden, CheckedNetwork
from modules.secrets.keyring import Keyring
from quantum.issuing import keys_folder
from quantum.settings import Settings
from read_api.reading import ReadSide
from streaming.webhooks.dispatcher import Dispatcher, Limits
from streaming.webhooks.requests import DeliveryRequests
from streaming.webhooks.sending import Sender

ACTOR = "quantum:webhooks"
KEYS_FILE = "webhooks.json"


def keyring(settings: Settings) -> Keyring:
    """The key that subscriptions' secrets are sealed with, from the setting or the data directory. Raises `KeyUnusable`."""
    if settings.secrets_key is not None:
        return Keyring.from_setting(settings.secrets_key.get_secret_value())
    return Keyring.from_file(keys_folder(settings.data_dir) / KEYS_FILE)


def deliverer(settings: Settings, store: EventStore, shell: Shell, keys: Keyring) -> Dispatcher:
    """The deliverer of this process."""

    async def disable(tenant_id: str, subscription_id: str, reason: str, detail: str, at: datetime) -> None:
        command = DisableSubscription(subscription_id=SubscriptionId(subscription_id), reason=reason, detail=detail, at=at)
        command_id = uuid7()
        await handle(shell, command, Envelope(TenantId(tenant_id), command_id, ACTOR, str(command_id)))

    def clock() -> datetime:
        return datetime.now(UTC)

    network = CheckedNetwork(allow_private=settings.private_addresses_on)
    sender = Sender(network, (AddressForbidden,), timeout_seconds=settings.webhook_timeout_seconds, clock=clock)
    limits = Limits(in_flight_max=settings.webhook_concurrency, keep_days=settings.webhook_log_days)
    secrets = SubscriptionSecrets(store.platform_pool, keys)
    return Dispatcher(store, secrets, sender, disable, clock=clock, source=settings.event_source, limits=limits)


def writing(shell: Shell, gate: Gate, keys: Keyring) -> list[APIRouter]:
    """The routes that make subscriptions, change them, and ask for deliveries."""
    pool = shell.store.tenant_pool
    return [
        write_api.subscriptions.subscriptions_router(shell, gate, SubscriptionSecrets(pool, keys)),
        write_api.deliveries.deliveries_router(shell, gate, DeliveryRequests(pool)),
    ]


def reading(reads: ReadSide, gate: Gate) -> APIRouter:
    """The routes that show subscriptions and their deliveries."""
    return read_api.subscriptions.subscriptions_router(reads, gate)
