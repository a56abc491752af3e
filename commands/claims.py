# intent_ref: commands.shell
"""What commands claim for a stream, so that no other stream of the tenant holds it at the same time: names and keys."""

from collections.abc import Sequence
from typing import Any, cast

from commands import execution as execution_commands
from commands import intent as intent_commands
from domain import intent
from domain.execution import Execution
from domain.execution_events import ExecutionStarted
from domain.refusals import ExecutionExists, IntentNameTaken
from domain.values import ExecutionId, StreamId, TenantId, execution_stream
from event_store import codec
from event_store.records import Claim, ClaimTaken
from event_store.store import EventStore

NAME_SCOPE = "intent-name"
KEY_SCOPE = "execution-key"
_NAMING = (intent.IntentCreated, intent.IntentArchived)


def of(stream_id: StreamId, state: Any, events: Sequence[codec.DomainEvent]) -> list[Claim]:
    """What `events` take or give back, so that no two streams of the tenant hold it at a time."""
    if isinstance(state, Execution) and state.options.business_key is None:
        return []  # as nearly always: each step of an execution asks
    first = events[0]
    if isinstance(first, _NAMING):
        return [Claim(NAME_SCOPE, name, stream_id, takes) for name, takes in intent_commands.claims(cast("Any", events))]
    if isinstance(state, Execution) or isinstance(first, ExecutionStarted):
        return [Claim(KEY_SCOPE, key, stream_id, takes) for key, takes in execution_commands.claims(state, cast("Any", events))]
    return []


async def refuse_if_held(store: EventStore, tenant_id: TenantId, taken: ClaimTaken) -> None:
    """Raises the refusal that says who holds what was to be claimed; nothing where it has been given back in the meantime."""
    if taken.scope == NAME_SCOPE:
        raise IntentNameTaken(taken.value) from taken
    holder = await store.claim_holder(tenant_id, taken.scope, taken.value)
    if holder is not None:
        execution_id = holder.removeprefix(execution_stream(ExecutionId("")))
        raise ExecutionExists(taken.value.partition("/")[2], execution_id) from taken
