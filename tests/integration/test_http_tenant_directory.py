# intent_ref: access.tenants
"""What is known of tenants is never older than the log by more than a moment, and never wrong about who is registered."""

from datetime import UTC, datetime

import pytest

from access.tenant_directory import TenantDirectory
from commands.handle import Envelope, Shell, handle
from commands.tenant import ReactivateTenant, RegisterTenant, SuspendTenant, TenantCommand
from domain.definition import Rules
from domain.module import Modules
from domain.values import TenantId
from event_store.ids import uuid7
from event_store.store import EventStore
from tests.waiting import wait_until


async def obey(store: EventStore, command: TenantCommand) -> None:
    envelope = Envelope(command.tenant_id, uuid7(), "ada", "test")
    await handle(Shell(store, Modules({}), Rules()), command, envelope)


async def register(store: EventStore) -> TenantId:
    tenant_id = TenantId(f"t-{uuid7()}")
    await obey(store, RegisterTenant(tenant_id=tenant_id, name="T", at=datetime.now(UTC)))
    return tenant_id


async def test_a_tenant_is_known_from_the_moment_it_is_registered(store: EventStore):
    directory = TenantDirectory(store)
    directory.start()
    tenant_id = TenantId("soon")
    assert await directory.status(tenant_id) is None
    await obey(store, RegisterTenant(tenant_id=tenant_id, name="T", at=datetime.now(UTC)))
    assert await directory.status(tenant_id) == "active"
    await directory.close()


async def test_changes_that_others_make_are_followed(store: EventStore):
    directory = TenantDirectory(store)
    directory.start()
    tenant_id = await register(store)
    await wait_until(lambda: directory._follows, what="the directory to follow the log")

    async def is_known_as(status: str) -> bool:
        return await directory.status(tenant_id) == status

    for _ in range(3):
        await obey(store, SuspendTenant(tenant_id=tenant_id, at=datetime.now(UTC)))
        await wait_until(lambda: is_known_as("suspended"))
        await obey(store, ReactivateTenant(tenant_id=tenant_id, at=datetime.now(UTC)))
        await wait_until(lambda: is_known_as("active"))
    await directory.close()


async def test_a_directory_that_does_not_follow_asks_the_log_each_time(store: EventStore):
    directory = TenantDirectory(store)
    tenant_id = await register(store)
    assert await directory.status(tenant_id) == "active"
    await obey(store, SuspendTenant(tenant_id=tenant_id, at=datetime.now(UTC)))
    assert await directory.status(tenant_id) == "suspended"


async def test_the_directory_is_bounded(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("access.tenant_directory.TENANTS_KNOWN_MAX", 2)
    directory = TenantDirectory(store)
    tenants = [await register(store) for _ in range(4)]
    directory.start()
    await wait_until(lambda: directory._follows, what="the directory to follow the log")
    assert [await directory.status(tenant) for tenant in tenants] == ["active"] * 4
    assert len(directory._known) == 2
    await directory.close()
