# intent_ref: tests.saga-room
"""The places of a worker: never more calls than there are places, whoever takes them, and some left for what comes meanwhile."""

from datetime import timedelta

import pytest

from event_store.ids import uuid7
from sagas.dispatches import Dispatch
from sagas.room import Limits, Room
from tests.streams import AT


def calls(count: int, tenant_id: str = "t") -> list[Dispatch]:
    return [Dispatch(tenant_id, "e", f"s{number}", 1, AT, uuid7(), uuid7(), "c", None) for number in range(count)]


def room(places: int) -> Room:
    """One in which nothing waits."""
    made = Room(Limits(calls_max=places, tenant_calls_max=places))
    made.backlog = False
    return made


@pytest.mark.parametrize(("places", "promised"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 6), (256, 192)])
def test_what_is_promised_to_a_claim_is_not_given_to_others(places: int, promised: int) -> None:
    its = room(places)
    with its.promised() as many:
        assert many == promised
        assert sum(its.taken_at_once(calls(places), AT)) == places - promised
    assert sum(its.taken_at_once(calls(places), AT)) == places


def test_what_a_claim_did_not_use_is_for_others_at_once() -> None:
    its = room(256)
    with its.promised():
        its.promise(10)
        assert sum(its.taken_at_once(calls(256), AT)) == 246, "ten are about to begin"
        for left in range(9, -1, -1):
            its.promise(left)
            its.enter("t")
        assert sum(its.taken_at_once(calls(256), AT)) == 246


def test_what_is_taken_at_once_keeps_its_places_while_its_rows_are_stored() -> None:
    its = room(8)
    taken = [call.tenant_id for call, fits in zip(calls(9), its.taken_at_once(calls(9), AT), strict=True) if fits]
    with its.kept_for(taken):
        assert its.free == 0
        assert its.of_tenants() == {"t": 0}
        its.enter("t")  # it has begun
    assert its.free == 7
    with pytest.raises(ConnectionError), its.kept_for(["t"]):
        raise ConnectionError
    assert its.free == 7


def test_a_promise_ends_with_a_claim_that_fails() -> None:
    its = room(8)
    with pytest.raises(ConnectionError), its.promised():
        raise ConnectionError
    assert sum(its.taken_at_once(calls(9), AT)) == 8


def test_places_are_those_that_calls_under_way_leave() -> None:
    its = room(8)
    for _ in range(5):
        its.enter("t")
    with its.promised() as many:
        assert many == 3
        assert its.taken_at_once(calls(2), AT) == [False, False]
    its.leave("t")
    assert its.taken_at_once(calls(5), AT + timedelta(seconds=1)) == [True] * 4 + [False]


def test_while_others_come_and_go_those_that_wait_are_taken_a_few_at_a_time_and_evenly() -> None:
    its = room(256)
    its.waits = frozenset({"flood"})
    assert its.taken_at_once(calls(1, "flood"), AT) == [False]
    with its.promised() as many:
        assert many == 192, "nobody else is there"
    assert its.seconds_for(many) == 0
    assert its.taken_at_once(calls(1, "other"), AT) == [True]
    with its.promised() as many:
        assert many == 16
    assert its.seconds_for(16) == pytest.approx(16 / 600)


def test_who_was_not_heard_of_for_two_seconds_needs_no_regard() -> None:
    its = room(256)
    its.waits = frozenset({"flood"})
    its.taken_at_once(calls(1, "other"), AT)
    for is_shared in (True, True, False):
        assert (its.seconds_for(1) > 0) is is_shared
        its.tick()


@pytest.mark.parametrize("waits", [frozenset(), frozenset({"one", "other"})], ids=["nobody waits", "all wait"])
def test_without_a_tenant_to_spare_nothing_is_slowed_down(waits: frozenset[str]) -> None:
    its = room(256)
    its.taken_at_once(calls(1, "one") + calls(1, "other"), AT)
    its.waits = waits
    assert its.seconds_for(16) == 0
    with its.promised() as many:
        assert many == 192
