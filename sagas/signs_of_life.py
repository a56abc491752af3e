# intent_ref: sagas.execution
"""A module that answers later says that it is still at work. Where its step asks for such signs, silence ends the attempt."""

from datetime import datetime, timedelta

from commands.handle import Shell
from domain import execution
from domain.callbacks import CallbackClaims
from domain.execution import Execution
from domain.values import execution_stream
from sagas.clock import Clock, now

_MOVE = """
UPDATE quantum.saga_dispatches SET due_at = $5
 WHERE tenant_id = $1 AND execution_id = $2 AND step = $3 AND attempt = $4 AND kind = 'callback' AND lease_owner IS NULL
"""


def silent_until(state: Execution, run_id: str, present: datetime, deadline: datetime) -> datetime:
    """When a run whose module is to answer by `deadline` is given up, should nothing be heard of it."""
    step = state.step(run_id)
    seconds = None if step is None else step.flow.heartbeat_seconds
    return deadline if seconds is None else min(deadline, present + timedelta(seconds=seconds))


class SignsOfLife:
    """Takes note of them."""

    def __init__(self, shell: Shell, clock: Clock = now) -> None:
        self._shell, self._clock = shell, clock

    async def __call__(self, claims: CallbackClaims) -> None:
        """The attempt goes on: the next sign is waited for."""
        store = self._shell.store
        loaded = await store.load(claims.tenant_id, execution_stream(claims.execution_id), execution.evolve)
        if loaded.state is None:
            return
        due_at = silent_until(loaded.state, claims.step, self._clock(), claims.expires_at)
        await store.platform_pool.execute(
            _MOVE, claims.tenant_id, claims.execution_id, claims.step, claims.attempt, due_at
        )  # fmt: skip
