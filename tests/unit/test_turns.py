# intent_ref: commands.turns
"""Those who write to the same stream: who queues, in which order, and that no line is left behind."""

import asyncio

import pytest

from commands.turns import Turns
from event_store.records import StoreUnavailable, StreamBusy


async def settled(turns: int = 20) -> None:
    """Lets everything that can run do so."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_nobody_waits_where_nobody_fights() -> None:
    turns = Turns()
    with turns.turn("t", "s") as first, turns.turn("t", "s"), turns.turn("t", "other"), turns.turn("other", "s"):
        assert len(turns) == 0
        assert not first.has_line


async def test_those_who_wait_come_one_at_a_time_in_the_order_they_came() -> None:
    turns, order, inside = Turns(), [], 0
    go = asyncio.Event()

    async def one(number: int) -> None:
        nonlocal inside
        with turns.turn("t", "s") as turn:
            await turn.wait()
            inside += 1
            assert inside == 1
            await go.wait()
            order.append(number)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(one(number))
            await settled()
        go.set()
    assert order == [0, 1, 2, 3, 4]
    assert len(turns) == 0


async def test_who_comes_while_there_is_a_line_joins_it() -> None:
    turns = Turns()
    first = turns.turn("t", "s")
    entered = asyncio.Event()

    async def later() -> None:
        with turns.turn("t", "s") as turn:
            assert turn.has_line
            await turn.wait()
            entered.set()

    with first:
        await first.wait()
        task = asyncio.create_task(later())
        await settled()
        assert not entered.is_set()
    await task
    assert entered.is_set()
    assert len(turns) == 0


async def failing(turns: Turns) -> None:
    """A turn in which something goes wrong."""
    with turns.turn("t", "s") as turn:
        await turn.wait()
        raise StoreUnavailable


async def test_a_turn_that_fails_or_is_cancelled_is_the_next_ones() -> None:
    turns = Turns()

    async def stuck() -> None:
        with turns.turn("t", "s") as turn:
            await turn.wait()
            await asyncio.Event().wait()

    held, waiting = asyncio.create_task(stuck()), asyncio.create_task(stuck())
    await settled()
    for task in (waiting, held):
        task.cancel()
    await asyncio.gather(held, waiting, return_exceptions=True)
    with pytest.raises(StoreUnavailable):
        await failing(turns)
    assert len(turns) == 0


async def test_a_line_is_bounded_in_length_and_in_time() -> None:
    turns = Turns(waiting_max=1, wait_seconds_max=0.01)
    first = turns.turn("t", "s")
    with first:
        await first.wait()
        second = asyncio.create_task(turns.turn("t", "s").wait())
        await settled()
        with pytest.raises(StreamBusy):
            await turns.turn("t", "s").wait()
        with pytest.raises(StreamBusy):
            await second
    assert len(turns) == 0
