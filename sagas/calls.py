# intent_ref: sagas.execution
"""What one worker is busy with: each thing in a task, and the next call of a chain in the task of the one before.

A task and a watch on it cost four microseconds. So a chain of quick calls needs one task, and whoever waits for several calls is
told once, when the last of them is over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from functools import partial

from sagas.dispatches import Dispatch, Key


class _Line:
    """A task that makes `dispatch` now, and `following` right after it."""

    __slots__ = ("dispatch", "following", "task")

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        self.following: Dispatch | None = None
        self.task: asyncio.Task[None]


class _Watch:
    """Somebody who waits until so many calls are over."""

    __slots__ = ("left", "over")

    def __init__(self, left: int, over: asyncio.Future[None]) -> None:
        self.left, self.over = left, over


class Calls:
    """Everything under way, by key. What is, is not begun a second time."""

    def __init__(self, make: Callable[[Dispatch], Awaitable[None]], over: Callable[[Dispatch], None]) -> None:
        """`make` sees a dispatch through, and raises nothing but being cancelled; `over` hears when nobody is busy with it."""
        self._make, self._over = make, over
        self._lines: dict[Key, tuple[Dispatch, _Line]] = {}
        self._watches: dict[Key, _Watch] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: object) -> bool:
        return key in self._lines

    def __iter__(self) -> Iterator[Key]:
        return iter(self._lines)

    @property
    def dispatches(self) -> list[Dispatch]:
        """What is under way, or about to be."""
        return [dispatch for dispatch, _ in self._lines.values()]

    def begin(self, dispatch: Dispatch, *, after: Dispatch | None = None) -> None:
        """Makes it now, unless it is under way; where `after` is, whose outcome is known, as soon as that is over."""
        key = dispatch.key
        if key in self._lines:
            return
        before = None if after is None else self._lines.get(after.key)
        if before is not None and before[1].following is None:
            line = before[1]
            line.following = dispatch
            self._lines[key] = (dispatch, line)
            return
        line = _Line(dispatch)
        self._lines[key] = (dispatch, line)
        line.task = asyncio.create_task(self._run(line), name=f"attempt-{dispatch.step}")
        line.task.add_done_callback(partial(self._ended, line))

    def tasks(self, keys: Iterable[Key] | None = None) -> list[asyncio.Task[None]]:
        """The tasks that make these; all where None."""
        of = self._lines if keys is None else keys
        return list({line.task for _, line in [self._lines[key] for key in of if key in self._lines]})

    async def over(self, keys: Collection[Key], seconds: float) -> None:
        """Returns when none of these is under way any more, after `seconds` at the latest. One at a time may wait for a key."""
        waited_for = [key for key in keys if key in self._lines]
        if not waited_for:
            return
        loop = asyncio.get_running_loop()
        watch = _Watch(len(waited_for), loop.create_future())
        self._watches.update(dict.fromkeys(waited_for, watch))
        timer = loop.call_later(seconds, _tell, watch.over)
        try:
            await watch.over
        finally:
            timer.cancel()
            for key in waited_for:
                if self._watches.get(key) is watch:
                    del self._watches[key]

    async def _run(self, line: _Line) -> None:
        while True:
            await self._make(line.dispatch)
            if line.following is None:
                return
            self._leave(line.dispatch)
            line.dispatch, line.following = line.following, None

    def _ended(self, line: _Line, _task: asyncio.Task[None]) -> None:
        self._leave(line.dispatch)
        if (following := line.following) is not None:  # cancelled although the outcome was known
            del self._lines[following.key]
            self.begin(following)

    def _leave(self, dispatch: Dispatch) -> None:
        key = dispatch.key
        del self._lines[key]
        watch = self._watches.pop(key, None)
        if watch is not None:
            watch.left -= 1
            if not watch.left:
                _tell(watch.over)
        self._over(dispatch)


def _tell(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
