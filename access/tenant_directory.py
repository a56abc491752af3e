# intent_ref: access.tenants
"""Which tenants are registered, which are suspended, and what their limits are: asked of the log once, then followed.

A tenant that is not known is asked for again each time, so that a registration counts at once everywhere. What is known is
dropped as soon as the log says that something happened to the tenant.
"""

import asyncio
import contextlib
from collections import OrderedDict
from typing import Final

import structlog

from domain import tenant
from domain.tenant import Tenant, TenantStatus
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import TenantId, tenant_stream
from event_store.codec import TOPICS
from event_store.store import EventStore

TENANTS_KNOWN_MAX: Final = 10_000
_FOLLOW_PAUSE_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = 1.0
_TOPICS: Final = frozenset(topic for topic in TOPICS if topic.startswith("tenant."))

log = structlog.get_logger(__name__)


class TenantDirectory:
    """Tenants by id, least recently used first out. `start` follows the log, `close` ends it."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._known: OrderedDict[TenantId, Tenant] = OrderedDict()
        self._changes = 0
        self._task: asyncio.Task[None] | None = None
        self._follows = False

    def start(self) -> None:
        """Begins to follow the log, until `close`."""
        self._task = asyncio.create_task(self._follow(), name="tenant-directory")

    async def close(self) -> None:
        """Stops following; from then on the log is asked each time."""
        self._follows = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def status(self, tenant_id: TenantId) -> TenantStatus | None:
        """The tenant's status, or None when it is not registered. Raises `StoreUnavailable`."""
        found = await self._tenant(tenant_id)
        return None if found is None else found.status

    async def limits(self, tenant_id: TenantId) -> TenantLimits:
        """The limits that are set for the tenant. Raises `StoreUnavailable`."""
        found = await self._tenant(tenant_id)
        return NO_LIMITS if found is None else found.limits

    async def _tenant(self, tenant_id: TenantId) -> Tenant | None:
        known = self._known.get(tenant_id)
        if known is not None and self._follows:
            self._known.move_to_end(tenant_id)
            return known
        changes = self._changes
        loaded = await self._store.load(tenant_id, tenant_stream(tenant_id), tenant.evolve)
        if loaded.state is None:
            return None
        # Something that happened while the log was read may be missing from the answer: it is good once, not to keep.
        if self._follows and changes == self._changes:
            self._known[tenant_id] = loaded.state
            if len(self._known) > TENANTS_KNOWN_MAX:
                self._known.popitem(last=False)
        return loaded.state

    def forget(self, tenant_id: TenantId) -> None:
        """The tenant has just changed: ask the log about it next time."""
        self._changes += 1
        self._known.pop(tenant_id, None)

    async def _follow(self) -> None:
        while True:
            try:
                await self._follow_from(await self._store.horizon())
            except asyncio.CancelledError:
                raise
            except Exception as fault:  # whatever it is, a status that may be stale must not be served
                self._follows = False
                self._known.clear()
                log.warning("tenants' changes cannot be followed; the log is asked each time", fault=repr(fault))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow_from(self, position: int) -> None:
        self._changes += 1
        self._known.clear()
        self._follows = True
        async for page in self._store.subscribe(after=position, topics=_TOPICS):
            for event in page.events:
                self.forget(TenantId(event.tenant_id))
            # Tenants change rarely and the log grows all the time: reading on at a gentler pace gathers what came.
            await asyncio.sleep(_FOLLOW_PAUSE_SECONDS)
