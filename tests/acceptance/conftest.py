# intent_ref: tests.contract
"""One platform for all acceptance tests of a test process: `quantum serve` on embedded PostgreSQL, at a free port."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.acceptance.outside import Outside, Tenant
from tests.platforms import Served, temporary_directory


@pytest.fixture(scope="session")
async def outside() -> AsyncIterator[Outside]:
    """The running platform."""
    with temporary_directory() as directory:
        served = Served(directory / "data")
        try:
            await served.start()
            async with httpx.AsyncClient(base_url=served.address, timeout=30) as client:
                yield Outside(served, client)
            assert await served.terminate() == 0
        finally:
            await served.stop()


@pytest.fixture
async def tenant(outside: Outside) -> Tenant:
    """A tenant of the test's own."""
    return await outside.tenant()
