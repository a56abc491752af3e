# intent_ref: quantum.bulk
"""Wires the route that steers many executions: where they are found, and what is kept of the requests."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import APIRouter
from starlette.requests import Request

import write_api.bulk
from access.gate import Gate
from commands.handle import Shell
from domain.values import TenantId
from event_store.bulk_requests import BulkRequests
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from projections.execution_matches import COUNT_MAX, Match, count_executions, match_executions
from read_api.executions import READ_MODEL
from read_api.reading import ReadSide
from streaming.waiting import first_of

SWEEP_SECONDS = 3_600.0

log = structlog.get_logger(__name__)


class _Matching:
    """The read side, once it has seen what the request asks for."""

    count_max = COUNT_MAX

    def __init__(self, reads: ReadSide) -> None:
        self._reads = reads

    async def find(
        self, request: Request, tenant_id: TenantId, filters: dict[str, Any], limit: int, cursor: str | None
    ) -> tuple[Sequence[Match], str | None]:
        async with self._reads.at(request, READ_MODEL):
            found = await match_executions(self._reads.tenant_pool, tenant_id, filters, limit=limit, cursor=cursor)
        return found.items, found.next_cursor

    async def count(self, request: Request, tenant_id: TenantId, filters: dict[str, Any], cursor: str | None) -> int:
        async with self._reads.at(request, READ_MODEL):
            return await count_executions(self._reads.tenant_pool, tenant_id, filters, cursor=cursor)


def writing(shell: Shell, gate: Gate, reads: ReadSide) -> list[APIRouter]:
    """The route that steers many executions."""
    return [write_api.bulk.bulk_router(shell, gate, _Matching(reads), _requests(shell.store))]


async def sweep(store: EventStore, stop: asyncio.Event) -> None:
    """Once an hour removes what is kept of old requests, until `stop` is set."""
    while not stop.is_set():
        try:
            while await _requests(store).sweep():
                pass
        except StoreUnavailable as fault:
            log.warning("old bulk requests are removed later", fault=str(fault))
        await first_of(SWEEP_SECONDS, stop)


def _requests(store: EventStore) -> BulkRequests:
    return BulkRequests(store.tenant_pool, store.platform_pool)
