# intent_ref: domain.callbacks
"""What a module may do that has taken work on and answers later: settle one attempt of one step, until a given time."""

from datetime import datetime

from domain.immutable import immutable
from domain.values import ExecutionId, StepId, TenantId


@immutable
class CallbackClaims:
    """Whose attempt a callback settles, and until when it may."""

    tenant_id: TenantId
    execution_id: ExecutionId
    step: StepId
    attempt: int
    expires_at: datetime
