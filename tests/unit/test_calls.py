# intent_ref: tests.saga-calls
"""What a worker is busy with: begun once, the next call of a chain in the same task, nothing lost when one is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest

from sagas.calls import Calls
from sagas.dispatches import Dispatch


def dispatch(step: str) -> Dispatch:
    """A call of this step."""
    return Dispatch("t", "e", step, 1, datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), UUID(int=2), "c", None)


class Worker:
    """Makes calls as each test says, and notes in which task, and what is over."""

    def __init__(self, make: Callable[[Dispatch], Awaitable[None]]) -> None:
        self.made: list[tuple[str, asyncio.Task[None] | None]] = []
        self.over: list[str] = []
        self._do = make
        self.calls = Calls(self._make, lambda dispatch: self.over.append(dispatch.step))

    async def _make(self, dispatch: Dispatch) -> None:
        self.made.append((dispatch.step, asyncio.current_task()))
        await self._do(dispatch)


async def settle() -> None:
    """Lets everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_under_way_is_not_begun_again() -> None:
    go_on = asyncio.Event()
    worker = Worker(lambda _: go_on.wait())  # type: ignore[arg-type, return-value]  # its result is nobody's concern
    worker.calls.begin(dispatch("a"))
    worker.calls.begin(dispatch("a"))
    await settle()
    assert [step for step, _ in worker.made] == ["a"]
    assert len(worker.calls) == 1
    assert dispatch("a").key in worker.calls
    go_on.set()
    await settle()
    assert (worker.over, len(worker.calls)) == (["a"], 0)


async def test_a_chain_is_made_in_one_task_and_each_call_is_over_before_the_next() -> None:
    seen: list[list[str]] = []

    async def make(call: Dispatch) -> None:
        await asyncio.sleep(0)
        seen.append(list(worker.over))
        if call.step < "c":
            worker.calls.begin(dispatch(chr(ord(call.step) + 1)), after=call)

    worker = Worker(make)
    worker.calls.begin(dispatch("a"))
    await settle()
    assert [step for step, _ in worker.made] == ["a", "b", "c"]
    assert len({task for _, task in worker.made}) == 1
    assert seen == [[], ["a"], ["a", "b"]]
    assert worker.over == ["a", "b", "c"]


async def test_two_calls_after_one_get_two_tasks() -> None:
    async def make(call: Dispatch) -> None:
        if call.step == "a":
            for step in ("b", "c"):
                worker.calls.begin(dispatch(step), after=call)

    worker = Worker(make)
    worker.calls.begin(dispatch("a"))
    await settle()
    assert sorted(worker.over) == ["a", "b", "c"]
    assert len({task for _, task in worker.made}) == 2


async def test_after_what_is_not_under_way_a_call_begins_at_once() -> None:
    async def make(call: Dispatch) -> None:
        return None

    worker = Worker(make)
    worker.calls.begin(dispatch("b"), after=dispatch("a"))
    await settle()
    assert worker.over == ["b"]


async def test_what_follows_a_cancelled_call_is_made_all_the_same() -> None:
    async def make(call: Dispatch) -> None:
        if call.step == "a":
            worker.calls.begin(dispatch("b"), after=call)
            await asyncio.sleep(3600)

    worker = Worker(make)
    worker.calls.begin(dispatch("a"))
    await settle()
    [task] = worker.calls.tasks()
    task.cancel()
    await settle()
    assert worker.over == ["a", "b"]
    assert not worker.calls


async def test_a_task_that_is_cancelled_before_it_runs_leaves_nothing_behind() -> None:
    async def make(call: Dispatch) -> None:
        raise AssertionError("it was never to begin")

    worker = Worker(make)
    worker.calls.begin(dispatch("a"))
    for task in worker.calls.tasks([dispatch("a").key, dispatch("unknown").key]):
        task.cancel()
    await settle()
    assert (worker.made, worker.over, len(worker.calls)) == ([], ["a"], 0)


async def test_who_waits_for_calls_hears_of_the_last_of_them() -> None:
    gates = {step: asyncio.Event() for step in "ab"}
    worker = Worker(lambda call: gates[call.step].wait())  # type: ignore[arg-type, return-value]  # as above
    for step in "ab":
        worker.calls.begin(dispatch(step))
    waiting = asyncio.create_task(worker.calls.over([dispatch(step).key for step in "abz"], 60))
    gates["a"].set()
    await settle()
    assert not waiting.done()
    gates["b"].set()
    await settle()
    assert waiting.done()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_who_waits_does_so_for_a_while_only(is_cancelled: bool) -> None:
    go_on = asyncio.Event()
    worker = Worker(lambda _: go_on.wait())  # type: ignore[arg-type, return-value]  # as above
    worker.calls.begin(dispatch("a"))
    waiting = asyncio.create_task(worker.calls.over([dispatch("a").key], 60 if is_cancelled else 0.001))
    await asyncio.sleep(0)
    if is_cancelled:
        waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() == is_cancelled
    assert len(worker.calls) == 1
    go_on.set()
    await settle()
    assert worker.over == ["a"]
