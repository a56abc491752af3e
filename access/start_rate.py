# intent_ref: access.limits
"""How many executions a tenant starts in a minute: counted in this process, or in Redis for all processes together.

The count is a sliding window made of two fixed ones (Cloudflare's "sliding window counter"): what was started in the minute
before counts by the part of it that is still within the last sixty seconds. Without Redis each process counts for itself. While
Redis does not answer, each process does so as well: a limit is no reason to refuse work.
"""

import asyncio
import math
import time
from typing import Any, Final

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool

WINDOW_SECONDS: Final = 60
_ANSWER_SECONDS_MAX: Final = 0.25
_AWAY_SECONDS: Final = 5.0
_CONNECTIONS_MAX: Final = 64

log = structlog.get_logger(__name__)


class StartRate:
    """Counts starts by tenant. `close` it at the end."""

    def __init__(self, redis_url: str | None = None) -> None:
        """`redis_url`: `redis://`, `rediss://` or `unix://`; None to count in this process alone."""
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._connections: ConnectionPool | None = None
        self._away_until = 0.0
        if redis_url is not None:
            self._connections = ConnectionPool.from_url(redis_url, max_connections=_CONNECTIONS_MAX)
            shared: dict[str, Any] = {"connection_pool": self._connections, "key_prefix": "quantum-starts"}
            storage = RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", **shared)
            self._shared = SlidingWindowCounterRateLimiter(storage)

    async def close(self) -> None:
        """Lets go of connections."""
        if self._connections is not None:
            await self._connections.aclose()

    async def again_seconds(self, tenant_id: str, most: int) -> int | None:
        """None where one more start is within `most` a minute: then it is counted. Else the seconds until one may be again."""
        item = RateLimitItemPerMinute(most)
        if self._connections is not None and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                    return await _asked(self._shared, item, tenant_id)
            except (StorageError, TimeoutError, OSError) as fault:
                self._away_until = time.monotonic() + _AWAY_SECONDS
                log.warning("Redis does not answer; starts are counted in each process", fault=repr(fault))
        return await _asked(self._own, item, tenant_id)


async def _asked(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItemPerMinute, tenant_id: str) -> int | None:
    if await limiter.hit(item, tenant_id):
        return None
    window = await limiter.get_window_stats(item, tenant_id)
    return min(WINDOW_SECONDS, max(1, math.ceil(window.reset_time - time.time())))
