# intent_ref: sagas.limits
"""Executions that wait for their tenant to have room: how one is let in, how its place is given back, and whether both are right.

A place is a row of quantum.saga_admissions. The claim that hands out an execution's turn makes it, the execution's end deletes
it; both may happen twice. What went wrong in between (a worker that died, rows lost) the stall check puts right from the log.
"""

import asyncio
from typing import Any

from commands.execution import AdmitExecution
from commands.handle import Envelope, Shell, handle
from domain import execution
from domain.execution import Execution
from domain.refusals import ExecutionHasEnded, NotFound
from domain.values import ExecutionId, TenantId, execution_stream
from sagas.clock import Clock
from sagas.dispatches import ALIVE_SECONDS, Dispatch

ACTOR = "saga:limits"
_CHECKED_MAX = 200
_RELEASE = "DELETE FROM quantum.saga_admissions WHERE tenant_id = $1 AND execution_id = $2"
_HOLD = "INSERT INTO quantum.saga_admissions (tenant_id, execution_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_UNWATCHED = """
SELECT held.tenant_id, held.execution_id FROM quantum.saga_admissions AS held
 WHERE held.admitted_at < now() - make_interval(secs => $1)
   AND NOT EXISTS (SELECT FROM quantum.saga_executions AS one
                    WHERE one.tenant_id = held.tenant_id AND one.execution_id = held.execution_id)
 ORDER BY held.admitted_at LIMIT $2
"""


class Admissions:
    """Lets executions in. Raises what keeps a command from being recorded; then it is made again."""

    def __init__(self, shell: Shell, clock: Clock) -> None:
        self._shell, self._clock = shell, clock

    async def admit(self, dispatch: Dispatch) -> None:
        """It is the execution's turn. One that has ended meanwhile gives its place back."""
        command = AdmitExecution(execution_id=ExecutionId(dispatch.execution_id), at=self._clock())
        envelope = Envelope(
            TenantId(dispatch.tenant_id), dispatch.command_id, ACTOR, dispatch.correlation_id,
            causation_id=str(dispatch.event_id), traceparent=dispatch.traceparent,
        )  # fmt: skip
        try:
            await handle(self._shell, command, envelope)
        except (ExecutionHasEnded, NotFound):
            await self._execute(_RELEASE, dispatch.tenant_id, dispatch.execution_id)

    async def hold(self, tenant_id: str, state: Execution) -> None:
        """An execution that was let in and has not ended has its place."""
        if state.turns and not state.is_queued and not state.is_over:
            await self._execute(_HOLD, tenant_id, state.execution_id)

    async def release_ended(self, grace_seconds: float) -> int:
        """Gives back places of executions that nobody watches any more, because they have ended; how many there were."""
        async with asyncio.timeout(ALIVE_SECONDS):
            held = await self._shell.store.platform_pool.fetch(_UNWATCHED, grace_seconds, _CHECKED_MAX)
        released = 0
        for tenant_id, execution_id in held:
            stream = execution_stream(ExecutionId(execution_id))
            state = (await self._shell.store.load(TenantId(tenant_id), stream, execution.evolve)).state
            if state is None or state.is_over:
                await self._execute(_RELEASE, tenant_id, execution_id)
                released += 1
        return released

    async def _execute(self, query: str, *arguments: Any) -> None:
        async with asyncio.timeout(ALIVE_SECONDS):
            await self._shell.store.platform_pool.execute(query, *arguments)
