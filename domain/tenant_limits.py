# intent_ref: domain.tenant-limits
"""How much a tenant may have under way: what a platform-admin has set, and what holds where nothing is set."""

from dataclasses import fields, replace
from typing import Literal

from domain.immutable import immutable
from domain.refusals import Fault

COUNT_MAX = 1_000_000
WEIGHT_MIN, WEIGHT_MAX = 0.01, 100.0
OnExceeded = Literal["queue", "reject"]
Holding = Literal["intents", "triggers", "schedules"]
"""What a tenant may have so many of, whatever else is set: intents, those that start upon events, those that start at times."""


@immutable
class TenantLimits:
    """Limits of a tenant; None: nothing is said, so the installation's holds, and where that says nothing, there is no limit.

    `concurrent_steps`: steps under way at once. `concurrent_executions`: executions that have begun and not ended; what is
    more waits (`on_exceeded`: `queue`) or is refused (`reject`). `executions_a_minute`: starts in any minute. `queue_length`:
    what may wait before a start is refused. `weight`: the tenant's share of the workers against others, who have 1.
    """

    concurrent_steps: int | None = None
    concurrent_executions: int | None = None
    on_exceeded: OnExceeded | None = None
    executions_a_minute: int | None = None
    queue_length: int | None = None
    weight: float | None = None

    def over(self, installation: "TenantLimits") -> "TenantLimits":
        """What holds: each limit as it is set here, else as the installation has it."""
        said = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(installation, **said)


NO_LIMITS = TenantLimits()


def limits_faults(limits: TenantLimits) -> list[Fault]:
    """What is wrong with limits."""
    faults = []
    for name in ("concurrent_steps", "concurrent_executions", "executions_a_minute", "queue_length"):
        value = getattr(limits, name)
        if value is not None and not 1 <= value <= COUNT_MAX:
            faults.append(Fault(f"/{name}", f"This must be an integer from 1 to {COUNT_MAX:,}.", "invalid-number"))
    if limits.weight is not None and not WEIGHT_MIN <= limits.weight <= WEIGHT_MAX:
        detail = f"A weight must be a number from {WEIGHT_MIN} to {WEIGHT_MAX:g}; others have 1."
        faults.append(Fault("/weight", detail, "invalid-number"))
    return faults
