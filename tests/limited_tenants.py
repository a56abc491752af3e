# intent_ref: tests.tenant-limits
"""A registered tenant with limits, whose executions sagas carry out; and actions with limits of their own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from access.start_limits import StartLimits
from access.start_rate import StartRate
from access.tenant_directory import TenantDirectory
from commands.handle import handle
from commands.module import ChangeModule, RegisterModule
from commands.tenant import RegisterTenant, SetTenantLimits
from domain.module import Action, Rate, Transport
from domain.tenant_limits import NO_LIMITS, TenantLimits
from domain.values import ActionName, ModuleName
from event_store.store import EventStore
from modules.contract import Invocation
from sagas.limit_rows import LimitRows
from streaming.embedded import EmbeddedTransport
from tests.execution_world import Bench, ExecutionWorld, Running, now
from tests.waiting import wait_until


class Doors:
    """Calls stay inside until they are let out. `inside` are the executions that are being worked on."""

    def __init__(self, bench: Bench) -> None:
        self.inside: list[Invocation] = []
        self.most = 0
        self._out: dict[tuple[str, str, int], asyncio.Event] = {}
        bench.answer = self._answer

    async def _answer(self, invocation: Invocation) -> Any:
        self.inside.append(invocation)
        self.most = max(self.most, len(self.inside))
        door = self._out.setdefault((invocation.execution_id, invocation.step, invocation.attempt), asyncio.Event())
        try:
            async with asyncio.timeout(60):
                await door.wait()
        finally:
            self.inside.remove(invocation)
        return {}

    def let_out(self, count: int = 1) -> None:
        """The first of those inside are done."""
        for invocation in self.inside[:count]:
            self._out[invocation.execution_id, invocation.step, invocation.attempt].set()

    async def emptied(self, executions: Sequence[Running]) -> None:
        """One after the other is let out, until all of these have come to a good end."""
        for execution in executions:

            async def over(execution: Running = execution) -> bool:
                self.let_out()
                return (await execution.state()).status == "completed"

            await wait_until(over, 60, what="the end of all executions")

    async def until(self, count: int, *, of: str | None = None) -> None:
        """Returns once so many are inside (of a tenant)."""
        await wait_until(
            lambda: len([one for one in self.inside if of is None or one.tenant_id == of]) == count, 20, what=f"{count} inside"
        )


class LimitedWorld(ExecutionWorld):
    """A registered tenant."""

    def __init__(
        self, store: EventStore, tenant: str, bench: Bench | None = None, installation: TenantLimits = NO_LIMITS
    ) -> None:  # fmt: skip
        super().__init__(store, tenant, bench)
        asked = StartLimits(TenantDirectory(store), store.platform_pool, StartRate(), installation)
        self.shell = replace(self.shell, may_start=asked.may_start)

    async def registered(self, **limits: Any) -> "LimitedWorld":
        """The tenant, with these limits."""
        command = RegisterTenant(tenant_id=self.tenant, name=self.tenant, at=now())
        await handle(self.shell, command, self.envelope())
        if limits:
            await self.limit(**limits)
        return self

    async def limit(self, **limits: Any) -> None:
        """Other limits, which the sagas know of."""
        command = SetTenantLimits(tenant_id=self.tenant, limits=TenantLimits(**limits), at=now())
        outcome = await handle(self.shell, command, self.envelope())
        await self._until_known("SELECT last_limits >= $2 FROM quantum.saga_tenants WHERE tenant_id = $1", outcome.version)

    async def metered(
        self, action: str, *, rate: Rate | None = None, concurrency: int | None = None, is_new: bool = True
    ) -> None:
        """An action of the tenant's own, carried out by the bench, with these limits."""
        kind: type[Any] = RegisterModule if is_new else ChangeModule
        actions = (Action(ActionName(action), rate=rate, concurrency=concurrency),)
        command = kind(name=ModuleName("metered"), actions=actions, transport=Transport("in-process", plugin="bench"), at=now())
        outcome = await handle(self.shell, command, self.envelope())
        await self._until_known("SELECT last_actions >= $2 FROM quantum.saga_tenants WHERE tenant_id = $1", outcome.version)

    async def places(self) -> int:
        """How many executions hold a place."""
        count: int = await self.store.platform_pool.fetchval(
            "SELECT count(*) FROM quantum.saga_admissions WHERE tenant_id = $1", self.tenant
        )
        return count

    async def _until_known(self, query: str, version: int) -> None:
        async def known() -> bool:
            return bool(await self.store.platform_pool.fetchval(query, self.tenant, version))

        await wait_until(known, what="the sagas to know of it")


@asynccontextmanager
async def limits_known(store: EventStore) -> AsyncIterator[None]:
    """What keeps the sagas' rows of limits."""
    stop = asyncio.Event()
    rows = asyncio.create_task(LimitRows(store, EmbeddedTransport(store)).run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await rows
