# intent_ref: commands.starts
"""What is asked before an execution starts, and before anything is written: may the tenant, and may the execution behind it?"""

from collections.abc import Awaitable, Callable

from domain.values import ExecutionId, TenantId

MayStart = Callable[[TenantId, bool], Awaitable[bool]]
"""(tenant, whether it is a part of another) -> whether an execution waits for its turn. Raises `LimitReached`."""

MayDescend = Callable[[TenantId, ExecutionId, ExecutionId], Awaitable[None]]
"""(tenant, root, the execution that is to start) -> nothing. Raises `TooManyDescendants`; twice is as good as once."""


async def unlimited(tenant_id: TenantId, is_part: bool) -> bool:
    """Every execution begins at once."""
    return False


async def any_descent(tenant_id: TenantId, root: ExecutionId, descendant: ExecutionId) -> None:
    """An execution may start as many others as it likes."""
