# intent_ref: event-store.bulk-requests
"""Requests about many executions under an idempotency key: what each was about, and how it was answered."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson

from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable

KEPT_DAYS: Final = 7
_QUERY_SECONDS_MAX: Final = 10.0
_SWEPT_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """`found`: what it is about. `answer`: None until it is through. `request_hash` tells a repeat from another request."""

    request_hash: str
    found: Any
    answer: Any = None


class BulkRequests:
    """Reads and writes as the tenant; sweeps as the platform. Every call raises `StoreUnavailable`."""

    def __init__(self, tenant_pool: Any, platform_pool: Any) -> None:
        self._tenant_pool, self._platform_pool = tenant_pool, platform_pool

    async def read(self, tenant_id: str, command_id: UUID) -> BulkRequest | None:
        """The request under this id, if it has come before."""
        rows = await _fetched(
            self._tenant_pool, "SELECT * FROM quantum.read_bulk_request($1, $2)", tenant_id, command_id
        )  # fmt: skip
        return _request(rows[0]) if rows else None

    async def begin(self, tenant_id: str, command_id: UUID, request_hash: str, found: Any) -> BulkRequest:
        """Keeps what the request is about; what it is about already, where it has come before."""
        rows = await _fetched(
            self._tenant_pool, "SELECT * FROM quantum.begin_bulk_request($1, $2, $3, $4)", tenant_id, command_id, request_hash,
            orjson.dumps(found).decode(),
        )  # fmt: skip
        return _request(rows[0])

    async def end(self, tenant_id: str, command_id: UUID, answer: Any) -> None:
        """Keeps the answer; the first one stays."""
        told = orjson.dumps(answer).decode()
        await _fetched(self._tenant_pool, "SELECT quantum.end_bulk_request($1, $2, $3)", tenant_id, command_id, told)

    async def sweep(self, days: float = KEPT_DAYS) -> int:
        """Removes what is older, at most a thousand at once; how many that were."""
        rows = await _fetched(
            self._platform_pool,
            "DELETE FROM quantum.bulk_requests WHERE ctid = ANY (ARRAY(SELECT ctid FROM quantum.bulk_requests"
            " WHERE made_at < now() - make_interval(secs => $1) LIMIT $2)) RETURNING 1",
            days * 86_400, _SWEPT_AT_ONCE,
        )  # fmt: skip
        return len(rows)


def _request(row: Any) -> BulkRequest:
    return BulkRequest(row[0], orjson.loads(row[1]), None if row[2] is None else orjson.loads(row[2]))


async def _fetched(pool: Any, query: str, *arguments: Any) -> Any:
    try:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            return await pool.fetch(query, *arguments)
    except DATABASE_AWAY as fault:
        raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
