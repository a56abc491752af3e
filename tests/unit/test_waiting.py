# intent_ref: event-store.tail
"""Waiting for what another task brings: whatever comes of it, and whoever gives up."""

import asyncio
from collections.abc import Callable

import pytest

from event_store.waiting import settled


@pytest.mark.parametrize(
    "end",
    [
        lambda future: future.set_result(1),
        lambda future: future.set_exception(ValueError("not ours")),
        lambda future: future.cancel(),
    ],
    ids=["a result", "a fault", "given up"],
)
async def test_all_who_wait_return_whatever_comes_of_it(end: Callable[[asyncio.Future[int]], object]) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(settled(future)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    end(future)
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, settled(future))
    assert future.cancelled() or future.exception() is not None or future.result() == 1


async def test_who_gives_up_leaves_the_others_theirs() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    gives_up, stays = asyncio.create_task(settled(future)), asyncio.create_task(settled(future))
    await asyncio.sleep(0)
    gives_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gives_up
    assert not future.done()
    future.set_result(1)
    async with asyncio.timeout(5):
        await stays
