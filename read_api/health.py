# intent_ref: read-api.health
"""Whether the process lives, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from access.http import documents
from access.http.operations import Answer
from access.http.routing import GuardedRoutes

CHECK_SECONDS_MAX: Final = 2.0
Check = Callable[[], Awaitable[object]]
"""Raises when the part cannot work; what it returns does not matter."""

log = structlog.get_logger(__name__)


def health_router(checks: Mapping[str, Check]) -> APIRouter:
    """`/health/live` and `/health/ready`; ready asks every part of `checks`, each for at most two seconds."""
    routes = GuardedRoutes(None, "health", prefix="")

    @routes.public(
        "GET", "/health/live", summary="Is the process alive?", answers=(Answer(200, "It is.", documents.Health),)
    )  # fmt: skip
    async def live(request: Request) -> Response:
        """Asks nobody: a process that answers lives, whatever the database does."""
        return _answer({})

    @routes.public(
        "GET", "/health/ready", summary="Can the process work?",
        answers=(
            Answer(200, "It can.", documents.Health),
            Answer(503, "Some part cannot; `parts` says which.", documents.Health, headers=("Retry-After",)),
        ),
    )  # fmt: skip
    async def ready(request: Request) -> Response:
        """Asks every part, so that requests come only where they can be served."""
        states = await asyncio.gather(*(_state(name, check) for name, check in checks.items()))
        return _answer(dict(zip(checks, states, strict=True)))

    return routes.router


async def _state(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            await check()
    except Exception as fault:  # whatever it is, the part does not work
        log.warning("a part is not ready", part=name, fault=repr(fault))
        return "unavailable"
    return "ok"


def _answer(parts: dict[str, str]) -> Response:
    is_ok = all(state == "ok" for state in parts.values())
    body = orjson.dumps({"status": "ok" if is_ok else "unavailable", "parts": parts})
    headers = {} if is_ok else {"Retry-After": "1"}
    return Response(body, 200 if is_ok else 503, headers, "application/json")
