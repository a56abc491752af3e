# intent_ref: read-api.reading
"""What every read has in common: waiting for a write, documents as they lie in the read model, and a database that is away."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from access.http.headers import min_position
from access.http.operations import Answer
from access.http.problems import Problem, unavailable
from event_store.records import StoreUnavailable
from projections.checkpoints import is_database_fault
from projections.documents import DocumentReader, TooManyReads
from projections.freshness import Freshness
from projections.pages import InvalidCursor

WAIT_SECONDS_MAX: Final = 2.0
MIN_POSITION: Final = ("Quantum-Min-Position",)
LINK: Final = ("Link",)


@dataclass(frozen=True, slots=True)
class ReadSide:
    """What the read routes are made of. `platform_pool` sees every tenant and is used for the list of tenants alone."""

    reader: DocumentReader
    tenant_pool: Any
    platform_pool: Any
    freshness: Freshness

    @asynccontextmanager
    async def at(self, request: Request, *read_models: str) -> AsyncIterator[None]:
        """The read models once they have seen what `Quantum-Min-Position` asks for. Raises `Problem`, `StoreUnavailable`."""
        position = min_position(request)
        try:
            if position is not None and not await self._have_seen(position, read_models):
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

    async def _have_seen(self, position: int, read_models: Sequence[str]) -> bool:
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                return all([await self.freshness.wait(name, position, WAIT_SECONDS_MAX) for name in read_models])
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
