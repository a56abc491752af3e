# intent_ref: streaming.waiting
"""Waiting for whichever comes first, and for what is given up."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any


async def first_of(seconds: float | None, *waits: asyncio.Event | Awaitable[Any]) -> None:
    """Returns when one of the events is set or one of the others is over, after `seconds` at the latest; cancels the rest."""
    waiting = [asyncio.ensure_future(one.wait() if isinstance(one, asyncio.Event) else one) for one in waits]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def cancelled(tasks: Sequence[asyncio.Task[Any]], seconds: float) -> None:
    """Cancels tasks and returns when they are over, after `seconds` at the latest."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
