# intent_ref: domain.work
"""Work that modules' workers fetch: what they are given, and the lease under which they have it."""

import base64
import binascii
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from domain.immutable import immutable
from domain.values import ExecutionId, StepId

TOKEN_CHARS_MAX = 255


@immutable
class Lease:
    """Which attempt somebody has, and under which token: another lease of the same attempt has another one."""

    execution_id: ExecutionId
    step: StepId
    attempt: int
    token: UUID

    def written(self) -> str:
        """As it is handed out: one opaque word that fits into a path. It says nothing its holder is not told anyway."""
        claims = f"{self.attempt}\n{self.execution_id}\n{self.step}".encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(self.token.bytes + claims).decode("ascii").rstrip("=")

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The lease that `written` gave; None for anything else."""
        if not text.isascii() or len(text) > TOKEN_CHARS_MAX:
            return None
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            attempt, execution_id, step = data[16:].decode("utf-8", "surrogatepass").split("\n")
        except (binascii.Error, ValueError):
            return None
        if not attempt.isdecimal() or not attempt.isascii() or not 0 < len(attempt) < 10 or "\0" in execution_id + step:
            return None
        lease = cls(ExecutionId(execution_id), StepId(step), int(attempt), UUID(bytes=data[:16]))
        return lease if lease.written() == text else None


@immutable
class WorkUnit:
    """One attempt of one step, as the worker gets it that has fetched it.

    `deadline` is when the attempt's time is over, however often it is handed on; `lease_until` is when somebody else may have it,
    unless it is extended. Both are also given as seconds from now, for workers whose clocks differ.
    """

    lease: Lease
    action: str
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    target: str
    idempotency_key: str
    deadline: datetime
    lease_until: datetime
    timeout_seconds: float
    lease_seconds: float
    claims: int
    traceparent: str | None


@immutable
class LeaseState:
    """How a lease stands. Where `is_cancelled`, nobody wants the work any more; then there may be no lease left."""

    is_cancelled: bool
    lease_until: datetime | None
    lease_seconds: float


@immutable
class WorkAnswer:
    """What a worker says: `result`, or where it is not None `error` (`code`, `message`, `retryable`, `details`).

    `request_hash` tells the same answer sent twice from another one; `actor` and `traceparent` are whose and in which trace.
    """

    result: Any
    error: dict[str, Any] | None
    request_hash: str
    actor: str
    traceparent: str | None


@immutable
class Settlement:
    """What was recorded of a worker's answer: its result, or `error` where it failed, or its result cannot be taken.

    `position` covers it in the log. `is_repeated` where the same answer under the same lease had been recorded before.
    """

    error: dict[str, Any] | None
    position: int
    is_repeated: bool
