# intent_ref: quantum.bulk
"""Wires the route that steers many executions: where they are found."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

import write_api.bulk
from access.gate import Gate
from commands.handle import Shell
from domain.values import TenantId
from projections.execution_matches import COUNT_MAX, Match, count_executions, match_executions
from read_api.executions import READ_MODEL
from read_api.reading import ReadSide


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
    return [write_api.bulk.bulk_router(shell, gate, _Matching(reads))]
