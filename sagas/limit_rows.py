# intent_ref: sagas.limits
"""Limits as the claims read them: rows that follow from what the log says of tenants and of their modules' actions.

An event is the sign to look; what is stored is what its stream leads to, and a row never goes back to an earlier version of it.
So order and repetition do not matter, and everything can be derived again.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from domain import module, tenant
from domain.module import ModuleChanged, ModuleRegistered, ModuleRemoved, Modules
from domain.tenant import TenantLimitsSet
from domain.values import StreamId, TenantId, modules_stream, tenant_stream
from event_store import codec
from event_store.store import EventStore
from sagas.dispatches import ALIVE_SECONDS
from streaming.transport import Message, Transport

GROUP = "saga.limits"
_LIMITS = codec.topic_of(TenantLimitsSet)
_MODULES = frozenset(codec.topic_of(event) for event in (ModuleRegistered, ModuleChanged, ModuleRemoved))
TOPICS = _MODULES | {_LIMITS}

_SET_LIMITS = """
INSERT INTO quantum.saga_tenants AS known (tenant_id, weight, steps_max, executions_max, last_limits)
VALUES ($1, coalesce($2, 1), $3, $4, $5)
    ON CONFLICT (tenant_id) DO UPDATE
   SET weight = excluded.weight, steps_max = excluded.steps_max, executions_max = excluded.executions_max,
       last_limits = excluded.last_limits
 WHERE known.last_limits < excluded.last_limits
"""
# The version first: it lets one writer in at a time, and those that come too late find nothing to do. An action without limits
# any more has no row: calls that still know it as metered find nothing that holds them back.
_SET_ACTIONS = """
WITH ours AS (
    INSERT INTO quantum.saga_tenants AS known (tenant_id, last_actions) VALUES ($1, $2)
        ON CONFLICT (tenant_id) DO UPDATE SET last_actions = excluded.last_actions
         WHERE known.last_actions < excluded.last_actions
    RETURNING known.tenant_id
), named AS (
    INSERT INTO quantum.saga_action_limits AS bucket (tenant_id, action, concurrency, rate_max, rate_seconds)
    SELECT ours.tenant_id, one.action, one.concurrency, one.rate_max, one.rate_seconds
      FROM ours CROSS JOIN unnest($3::text[], $4::int[], $5::int[], $6::float8[])
           AS one (action, concurrency, rate_max, rate_seconds)
        ON CONFLICT (tenant_id, action) DO UPDATE
       SET concurrency = excluded.concurrency, rate_max = excluded.rate_max, rate_seconds = excluded.rate_seconds,
           tokens = least(bucket.tokens, excluded.rate_max), empty_until = NULL
)
DELETE FROM quantum.saga_action_limits AS bucket
 USING ours WHERE bucket.tenant_id = ours.tenant_id AND bucket.action <> ALL ($3::text[])
"""


class LimitRows:
    """Keeps the rows. Any number of them, in any number of processes, share the events."""

    def __init__(self, store: EventStore, transport: Transport) -> None:
        self._store, self._transport = store, transport

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set."""
        await self._transport.consume(GROUP, self.take_in, stop=stop, topics=TOPICS)

    async def take_in(self, messages: Sequence[Message]) -> None:
        """The stream's handler: returns when the rows say what the log says."""
        limits = {message.tenant_id for message in messages if message.topic == _LIMITS}
        modules = {message.tenant_id for message in messages if message.topic in _MODULES}
        for tenant_id in sorted(limits):
            await self._set_limits(TenantId(tenant_id))
        for tenant_id in sorted(modules):
            await self._set_actions(TenantId(tenant_id))

    async def _set_limits(self, tenant_id: TenantId) -> None:
        loaded = await self._store.load(tenant_id, tenant_stream(tenant_id), tenant.evolve)
        if loaded.state is not None:
            limits = loaded.state.limits
            await self._execute(
                _SET_LIMITS, tenant_id, limits.weight, limits.concurrent_steps, limits.concurrent_executions, loaded.version
            )

    async def _set_actions(self, tenant_id: TenantId) -> None:
        stream: StreamId = modules_stream()
        loaded = await self._store.load(tenant_id, stream, module.evolve)
        metered = [] if loaded.state is None else _metered(loaded.state)
        await self._execute(
            _SET_ACTIONS, tenant_id, loaded.version, [action.name for action in metered],
            [action.concurrency for action in metered],
            [None if action.rate is None else action.rate.max for action in metered],
            [None if action.rate is None else action.rate.per_seconds for action in metered],
        )  # fmt: skip

    async def _execute(self, query: str, *arguments: Any) -> None:
        async with asyncio.timeout(ALIVE_SECONDS):
            await self._store.platform_pool.execute(query, *arguments)


def _metered(modules: Modules) -> list[module.Action]:
    return [action for one in modules.by_name.values() for action in one.actions if action.is_metered]
