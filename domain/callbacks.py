# intent_ref: domain.callbacks
"""What a module may do that has taken work on and answers later: settle one attempt of one step, until a given time."""

from dataclasses import dataclass
from datetime import datetime

from domain.values import ExecutionId, StepId, TenantId


@dataclass(frozen=True, slots=True)
class CallbackClaims:
    """Whose attempt a callback settles, and until when it may."""

    tenant_id: TenantId
    execution_id: ExecutionId
    step: StepId
    attempt: int
    expires_at: datetime
