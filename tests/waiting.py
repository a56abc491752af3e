# intent_ref: ground.test-fixtures
"""Waiting for a condition instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], timeout_seconds: float = 30.0, *, what: str = "", every_seconds: float = 0.01
) -> T:
    """The first truthy value of `condition`, which may be async. Fails the test when none came before the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value  # type: ignore[return-value]  # mypy cannot tell T from Awaitable[T] here
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout_seconds} seconds for {what or 'a condition'}; last seen: {value!r}")
        await asyncio.sleep(every_seconds)


async def tasks_at_rest() -> int:
    """The most tasks there are within a moment: loops that wait have one for each thing they wait for, none while they look."""
    most = 0
    for _ in range(200):
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0.01)
    return most
