# intent_ref: quantum.tenants
"""Registering tenants from inside: for `quantum tenant create`, and the one that a first start makes to try things with."""

from typing import Any, Final

from commands.handle import Envelope, Shell, handle
from commands.tenant import RegisterTenant
from domain.definition import Rules
from domain.documents import tenant_document
from domain.module import Modules
from domain.values import TenantId
from event_store.ids import uuid7
from event_store.store import EventStore
from write_api.writing import utc_now

LOCAL: Final = TenantId("local")
"""The tenant of the token that `quantum serve` prints on embedded PostgreSQL."""


async def register(store: EventStore, tenant_id: TenantId, name: str) -> dict[str, Any]:
    """Registers a tenant and answers with its document. Raises `TenantExists`, `Invalid`, `StoreUnavailable`."""
    command_id = uuid7()
    envelope = Envelope(tenant_id, command_id, "cli", str(command_id))
    command = RegisterTenant(tenant_id=tenant_id, name=name, at=utc_now())
    outcome = await handle(Shell(store, Modules({}), Rules()), command, envelope)
    return tenant_document(outcome.state)
