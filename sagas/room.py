# intent_ref: sagas.limits
"""The places of one worker: how many calls it has, of whom they are, and what it may take on without asking the table."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from domain.immutable import immutable
from domain.tenant_limits import NO_LIMITS, TenantLimits
from sagas.dispatches import Dispatch

_SHARED_CLAIM_MAX = 16


@immutable
class Limits:
    """How many calls run at once in this process, how many of one tenant, and how long they may go on after the stop.

    `installation`: what holds for all of a tenant's calls, in whatever process, unless something else is set for the tenant.
    `shared_calls_a_second`: how many are taken of those that wait while calls of other tenants come and find room at once. They
    are taken evenly: a backlog would else come in bursts, each of which those others would have to sit out.
    """

    calls_max: int = 256
    tenant_calls_max: int = 224
    grace_seconds: float = 10.0
    installation: TenantLimits = NO_LIMITS
    shared_calls_a_second: float = 600.0


class Room:
    """Counts calls by tenant. `backlog`: more is due than there are places, so nothing is taken past those that wait.

    `waits` are the tenants of which rows are due and not taken, be it by a limit: what is new of theirs stands in line behind.
    `limited` are those whose calls are counted over all workers: what is new of theirs is for the table to give out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_tenant: dict[str, int] = {}
        self._count = 0
        self._promised = 0
        self._lately: set[str] = set()
        self._before: set[str] = set()
        self.backlog = True
        self.waits: frozenset[str] = frozenset()
        self.limited: frozenset[str] = frozenset()

    @property
    def free(self) -> int:
        """Places nobody has."""
        return self._limits.calls_max - self._count

    @contextmanager
    def promised(self) -> Iterator[int]:
        """How many calls may be taken from the table: their places are kept for them until they are there. Of several places,
        some are left for what comes meanwhile."""
        places = self.free - self.free // 4
        self._promised = min(places, _SHARED_CLAIM_MAX) if self._is_shared else places
        try:
            yield self._promised
        finally:
            self._promised = 0

    def seconds_for(self, taken: int) -> float:
        """How long the calls that a claim has taken are to do for."""
        return taken / self._limits.shared_calls_a_second if self._is_shared else 0.0

    @property
    def _is_shared(self) -> bool:
        """True where some tenants wait for their turn while calls of others come and go: those others should not notice."""
        return bool(self.waits) and not (self.waits.issuperset(self._lately) and self.waits.issuperset(self._before))

    def tick(self) -> None:
        """A second has passed."""
        self._before, self._lately = self._lately, set()

    def promise(self, places: int) -> None:
        """Of those promised, so many are still kept: the others have begun, or there was nothing to take for them."""
        self._promised = places

    @contextmanager
    def kept_for(self, tenant_ids: Sequence[str]) -> Iterator[None]:
        """The places of calls that were taken at once, until their rows are stored and they have begun."""
        for tenant_id in tenant_ids:
            self.enter(tenant_id)
        try:
            yield
        finally:
            for tenant_id in tenant_ids:
                self.leave(tenant_id)

    def enter(self, tenant_id: str) -> None:
        """A call of the tenant's begins."""
        self._count += 1
        self._of_tenant[tenant_id] = self._of_tenant.get(tenant_id, 0) + 1

    def leave(self, tenant_id: str) -> None:
        """It is over."""
        self._count -= 1
        left = self._of_tenant.get(tenant_id, 1) - 1
        if left:
            self._of_tenant[tenant_id] = left
        else:
            self._of_tenant.pop(tenant_id, None)

    def of_tenants(self) -> dict[str, int]:
        """How many more of each tenant that has any; of others there may be `tenant_calls_max`."""
        return {tenant: max(0, self._limits.tenant_calls_max - count) for tenant, count in self._of_tenant.items()}

    def is_awaited(self, tenant_ids: Iterable[str]) -> bool:
        """True where something may be taken now that something of these tenants' is over."""
        return self.backlog or not self.waits.isdisjoint(tenant_ids)

    def taken_at_once(self, dispatches: Sequence[Dispatch], present: datetime) -> list[bool]:
        """Which of the new rows this worker takes without asking: none while others wait, no tenant's beyond its room, and none
        that has a limit over all workers."""
        if self._limits.installation.concurrent_steps is not None:
            return [False] * len(dispatches)
        free = 0 if self.backlog else self.free - self._promised
        taken: dict[str, int] = {}
        take: list[bool] = []
        for dispatch in dispatches:
            tenant_id = dispatch.tenant_id
            count = self._of_tenant.get(tenant_id, 0) + taken.get(tenant_id, 0)
            fits = free > 0 and dispatch.due_at <= present and dispatch.is_unlimited and count < self._limits.tenant_calls_max
            fits = fits and tenant_id not in self.waits and tenant_id not in self.limited
            take.append(fits)
            if fits:
                free -= 1
                self._lately.add(tenant_id)
                taken[tenant_id] = taken.get(tenant_id, 0) + 1
        return take
