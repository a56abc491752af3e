# intent_ref: streaming.waiting
"""Waiting for whichever comes first."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def first_of(seconds: float | None, *waits: asyncio.Event | Awaitable[Any]) -> None:
    """Returns when one of the events is set or one of the others is over, after `seconds` at the latest; cancels the rest."""
    waiting = [asyncio.ensure_future(one.wait() if isinstance(one, asyncio.Event) else one) for one in waits]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
