# intent_ref: modules.breaker
"""Circuit breakers: an endpoint that keeps failing is left alone for a while, then asked once, and only then by all again.

The pattern is M. Nygard's (Release It!, 2007): closed → open when too large a part of the calls in a sliding window failed,
open → half-open after a time that doubles with each failed probe, half-open → closed by one probe that succeeds. Breakers live
in one process: each learns for itself. What changed can be taken, so that others may be told.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal

from domain.immutable import immutable
from modules.contract import ModuleError

State = Literal["closed", "open", "half-open"]
Key = tuple[str, str]
"""(tenant, address of the module)"""
_SLOTS: Final = 10
_OF_THE_ENDPOINT: Final = frozenset({"unreachable", "timeout"})


@immutable
class Thresholds:
    """When a breaker opens and how long it stays so; times in seconds."""

    window_seconds: float = 60.0
    calls_min: int = 10
    failures_part: float = 0.5
    open_seconds: float = 5.0
    open_seconds_max: float = 300.0
    breakers_max: int = 10_000


_THRESHOLDS = Thresholds()


@dataclass(slots=True)
class _Breaker:
    """`slots` count calls and failures of the newest tenths of the window: [number of the tenth, calls, failures]."""

    key: Key
    state: State = "closed"
    slots: list[list[int]] = field(default_factory=list)
    opened: int = 0
    retry_at: float = 0.0
    is_probed: bool = False
    probe: int = 0
    since: float = 0.0
    failures: int = 0


@immutable
class Circuit:
    """How a breaker stands: in its state for `seconds`, after `failures` (those of the window in which it opened, and each probe
    since); while it is open, the endpoint is asked again in `probe_in_seconds`."""

    tenant_id: str
    url: str
    state: State
    seconds: float
    failures: int
    probe_in_seconds: float | None = None


class Breakers:
    """All breakers of this process, the least recently used out first. `clock` gives seconds and never goes back."""

    def __init__(self, thresholds: Thresholds = _THRESHOLDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._thresholds, self._clock = thresholds, clock
        self._breakers: OrderedDict[Key, _Breaker] = OrderedDict()
        self._changed: dict[Key, None] = {}
        self._on_change: Callable[[], None] = lambda: None

    @contextmanager
    def guarding(self, tenant_id: str, url: str) -> Iterator[None]:
        """Around one call. Raises `ModuleError` `circuit-open`, which counts as no attempt, while the endpoint is left alone.

        What ends it decides: an error of the infrastructure (unreachable, timeout, 5xx, 429) is a failure of the endpoint,
        every other `ModuleError` and a value are none, and anything else (a call that was cancelled) says nothing about it.
        """
        breaker = self._found((tenant_id, url))
        probe = self._enter(breaker)
        try:
            yield
        except ModuleError as error:
            self._leave(breaker, probe, failed=is_of_the_endpoint(error))
            raise
        except BaseException:
            if probe and probe == breaker.probe:
                breaker.is_probed = False  # another call may find out
            raise
        self._leave(breaker, probe, failed=False)

    def on_change(self, told: Callable[[], None]) -> None:
        """From now on `told` is called when a breaker has changed."""
        self._on_change = told

    def take_changes(self) -> list[Circuit]:
        """The breakers that have changed since this was asked last, as they stand now."""
        changed, self._changed = self._changed, {}
        return [self._circuit(self._breakers[key]) for key in changed if key in self._breakers]

    def not_closed(self) -> list[Circuit]:
        """The breakers that keep calls back, or let one through to find out."""
        return [self._circuit(breaker) for breaker in self._breakers.values() if breaker.state != "closed"]

    def states(self) -> dict[State, int]:
        """How many endpoints are in each state, for metrics."""
        now = self._clock()
        counted = Counter(_shown(breaker, now) for breaker in self._breakers.values())
        return {"closed": counted["closed"], "open": counted["open"], "half-open": counted["half-open"]}

    def _circuit(self, breaker: _Breaker) -> Circuit:
        now = self._clock()
        state = _shown(breaker, now)
        again = breaker.retry_at - now if state == "open" else None
        return Circuit(*breaker.key, state, max(0.0, now - breaker.since), breaker.failures, again)

    def _turn(self, breaker: _Breaker, state: State, failures: int) -> None:
        breaker.state, breaker.since, breaker.failures = state, self._clock(), failures
        self._changed[breaker.key] = None
        if len(self._changed) > self._thresholds.breakers_max:
            del self._changed[next(iter(self._changed))]
        self._on_change()

    def _found(self, key: Key) -> _Breaker:
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = _Breaker(key)
            if len(self._breakers) > self._thresholds.breakers_max:
                self._breakers.popitem(last=False)
        else:
            self._breakers.move_to_end(key)
        return breaker

    def _enter(self, breaker: _Breaker) -> int:
        """The number of the probe that this call is, 0 for an ordinary one."""
        if breaker.state == "closed":
            return 0
        now = self._clock()
        if breaker.state == "open" and now >= breaker.retry_at:
            breaker.is_probed = False
            self._turn(breaker, "half-open", breaker.failures)
        if breaker.state == "half-open" and not breaker.is_probed:
            breaker.is_probed = True
            breaker.probe += 1
            return breaker.probe
        seconds = max(1, ceil(breaker.retry_at - now))
        raise ModuleError(
            "circuit-open", f"The module has kept failing and is left alone; it is asked again in {seconds} seconds.",
            details={"retry_after_seconds": seconds}, counts=False,
        )  # fmt: skip

    def _leave(self, breaker: _Breaker, probe: int, *, failed: bool) -> None:
        if probe:
            if probe != breaker.probe or breaker.state != "half-open":
                return
            breaker.is_probed = False
            if failed:
                self._open(breaker, breaker.failures + 1)
            else:
                breaker.opened, breaker.slots = 0, []
                self._turn(breaker, "closed", 0)
        elif breaker.state == "closed":
            calls, failures = self._counted(breaker, failed=failed)
            if failed and calls >= self._thresholds.calls_min and failures >= self._thresholds.failures_part * calls:
                self._open(breaker, failures)

    def _counted(self, breaker: _Breaker, *, failed: bool) -> tuple[int, int]:
        """Calls and failures of the window, with this one."""
        current = int(self._clock() / (self._thresholds.window_seconds / _SLOTS))
        if not breaker.slots or breaker.slots[-1][0] != current:
            breaker.slots = [slot for slot in breaker.slots if slot[0] > current - _SLOTS]
            breaker.slots.append([current, 0, 0])
        breaker.slots[-1][1] += 1
        breaker.slots[-1][2] += failed
        return sum(slot[1] for slot in breaker.slots), sum(slot[2] for slot in breaker.slots)

    def _open(self, breaker: _Breaker, failures: int) -> None:
        seconds = min(self._thresholds.open_seconds * 2 ** min(breaker.opened, 32), self._thresholds.open_seconds_max)
        breaker.slots = []
        breaker.opened += 1
        breaker.retry_at = self._clock() + seconds
        self._turn(breaker, "open", failures)


def is_of_the_endpoint(error: ModuleError) -> bool:
    """True where the endpoint or the way to it failed, not the work it was asked for."""
    status = error.details.get("status")
    is_overloaded = error.code == "http-status" and isinstance(status, int) and (status >= 500 or status == 429)
    return error.code in _OF_THE_ENDPOINT or is_overloaded


def _shown(breaker: _Breaker, now: float) -> State:
    return "half-open" if breaker.state == "open" and now >= breaker.retry_at else breaker.state
