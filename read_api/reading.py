# intent_ref: read-api.reading
"""What every read has in common: waiting for a write, documents as they lie in the read model, and a database that is away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from access.http.headers import min_position
from access.http.operations import Answer
from access.http.problems import Problem, unavailable
from domain.immutable import immutable
from event_store.records import StoreUnavailable
from projections.checkpoints import is_database_fault
from projections.documents import DocumentReader, TooManyReads
from projections.freshness import Freshness
from projections.pages import InvalidCursor

WAIT_SECONDS_MAX: Final = 2.0
OWN_WRITES_SECONDS_MAX: Final = 0.25
MIN_POSITION: Final = ("Quantum-Min-Position",)
LINK: Final = ("Link",)


@immutable
class ReadSide:
    """What the read routes are made of. `platform_pool` sees every tenant and is used for the list of tenants alone."""

    reader: DocumentReader
    tenant_pool: Any
    platform_pool: Any
    freshness: Freshness
    last_written: Callable[[str | None], int] = lambda tenant_id: 0
    """The position of this process's last write for a tenant (or for any): `EventStore.last_written`."""

    @asynccontextmanager
    async def at(self, request: Request, *read_models: str) -> AsyncIterator[None]:
        """The read models once they have seen what `Quantum-Min-Position` asks for. Raises `Problem`, `StoreUnavailable`.

        Without that header, once they have seen what the tenant wrote through this very process, as a rule: for that they are
        waited for a moment, and then read as they are.
        """
        position = min_position(request)
        try:
            if position is None:
                own = self.last_written(request.scope.get("quantum.tenant_id"))
                if own:
                    await self._have_seen(own, read_models, OWN_WRITES_SECONDS_MAX)
            elif not await self._have_seen(position, read_models, WAIT_SECONDS_MAX):
                sentence = f"The read side has not seen that write within {WAIT_SECONDS_MAX:.0f} seconds. Try again."
                raise unavailable("not-caught-up", sentence)
            yield
        except InvalidCursor as fault:
            raise Problem("cursor-invalid", str(fault)) from fault
        except TooManyReads as fault:
            raise unavailable("busy", str(fault)) from fault
        except Exception as fault:
            if is_database_fault(fault):
                raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
            raise

    async def _have_seen(self, position: int, read_models: Sequence[str], seconds_max: float) -> bool:
        if all(self.freshness.has_seen(name, position) for name in read_models):
            return True
        try:
            async with asyncio.timeout(seconds_max):
                return all([await self.freshness.wait(name, position, seconds_max) for name in read_models])
        except TimeoutError:
            return False


def found(body: bytes, headers: dict[str, str] | None = None) -> Response:
    """One document."""
    return Response(body, 200, headers, "application/json")


def missing(kind: str, identity: str) -> Problem:
    """The 404 of what is not there, or is another tenant's."""
    return Problem("not-found", f"There is no {kind} {identity!r} in this tenant.")


def page_of(description: str, model: Any) -> Answer:
    """The answer of a list."""
    return Answer(200, description, model, at_times=LINK)
