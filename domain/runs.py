# intent_ref: domain.execution
"""How far a run of an execution has come: of a step, of one item of a loop, or of an undoing."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from domain.execution_terms import StepLimits, WaitingFor
from domain.immutable import immutable
from domain.plan import OnDue

StepStatus = Literal[
    "pending", "waiting", "running", "retrying", "completed", "failed", "skipped", "cancelled", "compensating", "compensated"
]
ACTIVE: frozenset[StepStatus] = frozenset({"running", "retrying", "waiting"})
SETTLED: frozenset[StepStatus] = frozenset({"completed", "failed", "skipped", "compensating", "compensated"})


@immutable
class Waiting:
    """What a run waits for; see `StepWaiting`."""

    reason: WaitingFor
    gate: int
    on_due: OnDue
    detail: dict[str, Any]


@dataclass(frozen=True)
class StepRun:
    """How far a run has come. `attempts_before` were made before the last retry by hand and do not count against the policy.
    `put_off` counts the attempts in a row that were never really made, the first of them at `put_off_since`.

    A step that is done once for each of `items` counts how many of them have begun, are settled, and have failed; items before
    number `items_next` need no look when the next one is sought.
    """

    status: StepStatus = "pending"
    attempts: int = 0
    attempts_before: int = 0
    result: Any = None
    error: dict[str, Any] | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    limits: StepLimits | None = None
    waiting: Waiting | None = None
    gates_passed: int = 0
    fell_back: bool = False
    items: tuple[Any, ...] | None = None
    items_next: int = 0
    items_begun: int = 0
    items_settled: int = 0
    items_failed: int = 0
    put_off: int = 0
    put_off_since: datetime | None = None


S = TypeVar("S")
_new, _set = object.__new__, object.__setattr__


def changed(before: S, **fields: Any) -> S:
    """A copy with other `fields`: what `dataclasses.replace` does, at a tenth of its price. Every answer of a module pays it."""
    after = _new(type(before))
    _set(after, "__dict__", before.__dict__ | fields)
    return after
