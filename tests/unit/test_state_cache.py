# intent_ref: event-store.snapshots
"""Which states stay in the process's cache."""

from dataclasses import dataclass
from typing import Any

import pytest

from domain.values import StreamId, TenantId
from event_store import snapshots
from event_store.snapshots import Loaded, StateCache

TENANT = TenantId("t")


@dataclass(frozen=True)
class State:
    is_over: bool = False


def cache_of(*kept: tuple[str, State]) -> StateCache:
    nowhere: Any = None  # nothing is read here
    cache = StateCache(nowhere)
    for version, (stream, state) in enumerate(kept, start=1):
        cache.keep(TENANT, StreamId(stream), lambda state, event: state, Loaded(state, version))
    return cache


def streams(cache: StateCache, *names: str) -> list[str]:
    return [name for name in names if cache.cached(TENANT, StreamId(name)) is not None]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CACHED_STATES_MAX", 6)
    monkeypatch.setattr(snapshots, "OVER_STATES_MAX", 2)


@pytest.mark.usefixtures("small")
def test_what_is_over_goes_before_what_has_not_been_used_for_longer() -> None:
    over = [(f"over{number}", State(is_over=True)) for number in range(20)]
    cache = cache_of(("old", State()), *over)
    assert streams(cache, "old", *(name for name, _ in over)) == ["old", "over18", "over19"]


@pytest.mark.usefixtures("small")
def test_what_was_begun_again_stays() -> None:
    cache = cache_of(("again", State(is_over=True)), ("again", State()), *((f"over{n}", State(is_over=True)) for n in range(9)))
    assert streams(cache, "again") == ["again"]


@pytest.mark.usefixtures("small")
def test_the_least_recently_used_goes_where_there_are_too_many() -> None:
    cache = cache_of(*((f"s{number}", State()) for number in range(6)))
    streams(cache, "s0")
    cache.keep(TENANT, StreamId("s6"), lambda state, event: state, Loaded(State(), 7))
    assert streams(cache, *(f"s{number}" for number in range(7))) == ["s0", "s2", "s3", "s4", "s5", "s6"]
