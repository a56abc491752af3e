# intent_ref: commands.holdings
"""What a tenant has more of after a change to an intent: of each there is a limit, which is asked before anything is written."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from domain.intent import Intent, IntentCreated, IntentRevised, IntentRolledBack
from domain.tenant_limits import Holding
from domain.values import TenantId

MayHold = Callable[[TenantId, Collection[Holding]], Awaitable[None]]
"""(tenant, what it would have one more of) -> nothing. Raises a `Refusal` where that is too many."""

_DEFINED: dict[str, Holding] = {"on": "triggers", "schedule": "schedules"}


async def any_number(tenant_id: TenantId, more: Collection[Holding]) -> None:
    """A tenant may have as many as it likes."""


def newly_held(before: Intent | None, events: Sequence[Any]) -> frozenset[Holding]:
    """What `events` make one more of."""
    held: set[Holding] = set()
    had: dict[str, Any] = before.current.definition if before is not None else {}
    for event in events:
        if isinstance(event, IntentCreated):
            held.add("intents")
        if isinstance(event, IntentCreated | IntentRevised | IntentRolledBack):
            has = event.definition
            held |= {holding for key, holding in _DEFINED.items() if has.get(key) is not None and had.get(key) is None}
    return frozenset(held)
