# intent_ref: tests.start-rate
"""Starts a minute: counted in a process, or in a real Redis by all processes together, and in each while Redis is away."""

from contextlib import aclosing
from typing import Any

import pytest

from access.start_rate import StartRate
from tests.redis_server import PROGRAM, redis_server

needs_redis = pytest.mark.skipif(PROGRAM is None, reason="needs Debian's redis-server, or QUANTUM_TEST_REDIS_SERVER")


class _Closing:
    """A rate that is closed at the end."""

    def __init__(self, url: str | None = None) -> None:
        self.rate = StartRate(url)

    async def aclose(self) -> None:
        await self.rate.close()


def rate(url: str | None = None) -> Any:
    return aclosing(_Closing(url))


async def taken(one: StartRate, tenant: str, most: int, tries: int) -> int:
    """How many of so many starts are let through."""
    return sum([await one.again_seconds(tenant, most) is None for _ in range(tries)])


async def test_a_process_counts_for_itself_where_there_is_no_redis():
    async with rate() as first, rate() as second:
        assert 5 <= await taken(first.rate, "a", 5, 20) <= 6  # one more where the window moves on in the middle
        assert 1 <= (await first.rate.again_seconds("a", 5) or 0) <= 60
        assert await first.rate.again_seconds("b", 5) is None
        assert await second.rate.again_seconds("a", 5) is None


@needs_redis
async def test_processes_count_together_in_redis():
    async with redis_server() as server, rate(server.url) as first, rate(server.url) as second:
        assert await taken(first.rate, "a", 6, 3) == 3
        assert 3 <= await taken(second.rate, "a", 6, 20) <= 4
        assert 1 <= (await first.rate.again_seconds("a", 6) or 0) <= 60
        assert await first.rate.again_seconds("b", 6) is None


@needs_redis
async def test_without_redis_each_process_counts_on_for_itself_and_nothing_is_refused_for_it():
    async with redis_server() as server, rate(server.url) as first:
        assert await taken(first.rate, "a", 5, 2) == 2
        await server.stop()
        assert 5 <= await taken(first.rate, "a", 5, 20) <= 6


async def test_a_redis_that_is_not_there_at_all_stops_nothing():
    async with rate("redis://127.0.0.1:1/0") as first:
        assert 2 <= await taken(first.rate, "a", 2, 9) <= 3
