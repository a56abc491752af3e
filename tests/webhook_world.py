# intent_ref: tests.webhooks
"""Subscriptions, events and deliverers for tests of webhooks, on a clock that the test sets."""

import asyncio
import contextlib
import itertools
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from commands.handle import Envelope, Shell, handle
from commands.subscription import CreateSubscription, DisableSubscription, SubscriptionCommand
from domain.definition import Rules
from domain.module import Modules
from domain.subscription import Start, Subscription, Subscriptions, Terms, evolve
from domain.values import SecretId, StreamId, SubscriptionId, TenantId, subscriptions_stream
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore
from event_store.subscription_secrets import SubscriptionSecrets
from modules.addresses import AddressForbidden, CheckedNetwork
from modules.secrets.keyring import Keyring
from streaming.webhooks.dispatcher import Dispatcher, Limits
from streaming.webhooks.requests import DeliveryRequests
from streaming.webhooks.sending import Sender
from tests.waiting import wait_until

BEGINNING = Start(position=0)
_numbers = itertools.count(1)
KEYRING = Keyring([b"k" * 32])


@dataclass
class SetClock:
    """A clock that stands until the test sets it forward."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        """Later by that much (`timedelta`'s words)."""
        self.at += timedelta(**by)


@dataclass
class World:
    """A tenant with subscriptions, and the deliverers that run."""

    store: EventStore
    clock: SetClock = field(default_factory=SetClock)
    tenant: TenantId = field(default_factory=lambda: TenantId(f"tenant-{next(_numbers)}"))
    dispatchers: list[Dispatcher] = field(default_factory=list)

    @property
    def shell(self) -> Shell:
        return Shell(self.store, Modules({}), Rules())

    async def command(self, command: SubscriptionCommand) -> Subscriptions:
        """Obeys a command."""
        outcome = await handle(self.shell, command, Envelope(self.tenant, uuid7(), "ada", "correlation"))
        return outcome.state

    async def subscribe(
        self, url: str, start: Start = BEGINNING, *, types: tuple[str, ...] = ("quantum.execution.*",),
        headers: dict[str, str] | None = None, **terms: Any,
    ) -> tuple[SubscriptionId, str]:  # fmt: skip
        """(id, secret) of a new subscription."""
        id = SubscriptionId(str(uuid7()))
        secrets = self.secrets(self.store.tenant_pool)
        secret_id, secret = await secrets.make(self.tenant, id)
        headers_id = SecretId(await secrets.keep_headers(self.tenant, id, headers)) if headers else None
        made = Terms(url, types, **terms)
        await self.command(
            CreateSubscription(
                subscription_id=id, terms=made, start=start, secret_id=SecretId(secret_id), headers=headers or {},
                headers_id=headers_id, at=self.clock(),
            )
        )  # fmt: skip
        return id, secret

    def secrets(self, pool: Any) -> SubscriptionSecrets:
        return SubscriptionSecrets(pool, KEYRING)

    async def happen(self, *streams: str, topic: str = "execution.started.v1", payload: bytes = b'{"n":1}') -> None:
        """One event after another, on these streams."""
        for stream in streams:
            event = NewEvent(uuid7(), topic, payload)
            await self.store.append(
                self.tenant, [StreamAppend(StreamId(stream), [event], ANY_VERSION)], command_id=uuid7(),
                metadata=Metadata("correlation", None, "ada", None),
            )  # fmt: skip

    async def subscription(self, id: str) -> Subscription:
        """A subscription as the log has it."""
        loaded = await self.store.load(self.tenant, subscriptions_stream(), evolve)
        assert loaded.state is not None
        return loaded.state.by_id[id]

    async def deliveries(self, id: str) -> dict[str, int]:
        """How many deliveries are in which status."""
        rows = await self.store.platform_pool.fetch(
            "SELECT status, count(*) FROM quantum.webhook_deliveries WHERE tenant_id = $1 AND subscription_id = $2 GROUP BY 1",
            self.tenant, id,
        )  # fmt: skip
        return dict(rows)

    async def cursor(self, id: str) -> int:
        """How far a subscription has come, in the database."""
        position: int = await self.store.platform_pool.fetchval(
            "SELECT cursor FROM quantum.webhook_subscriptions WHERE tenant_id = $1 AND subscription_id = $2", self.tenant, id
        )
        return position

    async def until_delivered(self, id: str, count: int) -> None:
        """Until so many deliveries to a subscription are recorded as delivered."""

        async def delivered() -> bool:
            return (await self.deliveries(id)).get("delivered", 0) == count

        await wait_until(delivered, what=f"{count} deliveries")

    @property
    def requests(self) -> DeliveryRequests:
        return DeliveryRequests(self.store.tenant_pool)

    def dispatcher(
        self, *, network: Any = None, timeout_seconds: float = 5.0, tls: ssl.SSLContext | None = None, **limits: Any
    ) -> Dispatcher:
        """A deliverer that does not run yet."""

        async def disable(tenant_id: str, subscription_id: str, reason: str, detail: str, at: datetime) -> None:
            command = DisableSubscription(subscription_id=SubscriptionId(subscription_id), reason=reason, detail=detail, at=at)
            envelope = Envelope(TenantId(tenant_id), uuid7(), "quantum:webhooks", "correlation")
            await handle(self.shell, command, envelope)

        sender = Sender(
            network or CheckedNetwork(allow_private=True), (AddressForbidden,), timeout_seconds=timeout_seconds, clock=self.clock,
            tls=tls,
        )  # fmt: skip
        quick = {"poll_seconds": 0.02, "tend_seconds": 0.02, "grace_seconds": 0.5, **limits}
        secrets = self.secrets(self.store.platform_pool)
        made = Dispatcher(self.store, secrets, sender, disable, clock=self.clock, limits=Limits(**quick), chance=random.Random(1))
        self.dispatchers.append(made)
        return made

    @asynccontextmanager
    async def delivering(self, **options: Any) -> AsyncIterator[Dispatcher]:
        """A deliverer that runs."""
        made = self.dispatcher(**options)
        stop = asyncio.Event()
        task = asyncio.create_task(made.run(stop))
        try:
            yield made
            assert not task.done() or task.exception() is None, task.exception()
        finally:
            stop.set()
            await task

    @asynccontextmanager
    async def killable(self, **options: Any) -> AsyncIterator["asyncio.Task[None]"]:
        """A deliverer that the test kills by cancelling its task in the middle of whatever it does."""
        task = asyncio.create_task(self.dispatcher(**options).run(asyncio.Event()))
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
