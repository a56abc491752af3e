# intent_ref: streaming.webhooks-lane
"""A lane's promises, without I/O: order, room, back-off, a receiver that is away; and the law of order, whatever happens."""

import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.subscription import Order, Start, Subscription, Terms
from domain.values import SecretId, SubscriptionId
from event_store.records import RecordedEvent
from streaming.webhooks.deliveries import (
    TRIES_MAX,
    Attempt,
    Delivery,
    retry_after_seconds,
    retry_seconds,
)
from streaming.webhooks.lane import AWAY_AFTER, OPEN_MAX, Lane, history_pattern
from tests.unit.samples import AT, after


def config(order: Order = "per-subject", max_in_flight: int = 10, **more: object) -> Subscription:
    terms = Terms("https://hooks.example.com", ("*",), order=order, max_in_flight=max_in_flight)
    return Subscription(SubscriptionId("s-1"), terms, Start(), SecretId("one"), AT, AT, **more)  # type: ignore[arg-type]


def lane(order: Order = "per-subject", max_in_flight: int = 10) -> Lane:
    return Lane("tenant-1", config(order, max_in_flight), cursor=0, chance=random.Random(1))


def event(position: int, subject: str = "1") -> RecordedEvent:
    return RecordedEvent(
        position, AT, UUID(int=position), UUID(int=position), 1, "tenant-1", f"execution-{subject}", "execution.started.v1", "{}",
        b"{}",
    )  # fmt: skip


def said(status: int = 200, seconds: float = 0.01, at: object = AT, **more: object) -> Attempt:
    return Attempt(at, seconds, status, None if status < 300 else f"status-{status}", **more)  # type: ignore[arg-type]


def offered(one: Lane, *events: RecordedEvent) -> None:
    for each in events:
        one.offer(each)


def taken(one: Lane, now: object = AT) -> list[Delivery]:
    found = []
    while (delivery := one.take(now)) is not None:  # type: ignore[arg-type]
        found.append(delivery)
    return found


def test_the_cursor_stops_before_what_is_neither_through_nor_filed() -> None:
    one = lane("parallel")
    offered(one, event(3), event(5), event(8))
    first, second, third = taken(one)
    one.finished(third, said(), AT)
    assert one.cursor(100) == 2
    one.finished(first, said(), AT)
    assert one.cursor(100) == 4
    one.finished(second, said(500), AT)
    assert one.cursor(100) == 8
    one.is_live = True
    assert one.cursor(100) == 100


def test_a_live_lane_is_as_far_as_the_reader_and_another_as_far_as_it_has_read() -> None:
    one = lane()
    assert one.cursor(50) == 0
    one.is_live = True
    assert one.cursor(50) == 50


def test_events_of_one_subject_go_one_after_the_other() -> None:
    one = lane()
    offered(one, event(1, "a"), event(2, "a"), event(3, "b"))
    first, other = taken(one)
    assert (first.position, other.position) == (1, 3)
    one.finished(first, said(), AT)
    assert [delivery.position for delivery in taken(one)] == [2]


def test_what_follows_a_filed_event_of_its_subject_is_filed_behind_it() -> None:
    one = lane()
    offered(one, event(1, "a"), event(2, "a"))
    (first,) = taken(one)
    stored, _ = one.finished(first, said(500), AT)
    assert [(delivery.position, delivery.status) for delivery in stored] == [(1, "retrying"), (2, "waiting")]
    filed = one.offer(event(3, "a"))
    assert filed is not None
    assert (filed.status, one.cursor(0)) == ("waiting", 3)
    (again,) = taken(one, after(10))
    assert again is first
    one.finished(again, said(), after(10))
    assert [delivery.position for delivery in taken(one, after(10))] == [2]


def test_what_is_filed_is_taken_up_again_in_its_order() -> None:
    one = lane()
    rows = [
        Delivery(UUID(int=n), UUID(int=n), n, "t", "execution/a", status=status)  # type: ignore[arg-type]
        for n, status in ((1, "retrying"), (2, "waiting"))
    ]
    one.load(rows, AT)
    filed = one.offer(event(3, "a"))
    assert filed is not None
    order = []
    while found := taken(one):
        (delivery,) = found
        order.append(delivery.position)
        one.finished(delivery, said(), AT)
    assert order == [1, 2, 3]
    assert one.open_count == 0


def test_there_is_room_for_so_much_and_no_more() -> None:
    one = lane()
    position = 0
    while one.room:
        position += 1
        offered(one, event(position, str(position)))
    assert position == 64
    for delivery in taken(one):
        one.finished(delivery, said(), AT)
    assert one.room == 10


def test_only_so_much_is_filed() -> None:
    one = lane("parallel", 100)
    one.load([Delivery(UUID(int=n), UUID(int=n), n, "t", "s", status="retrying") for n in range(1, OPEN_MAX)], AT)
    assert one.room == 1
    offered(one, event(OPEN_MAX + 5))
    assert one.open_count + 1 == OPEN_MAX


def test_a_receiver_that_is_away_gets_one_request_at_a_time_with_growing_pauses_until_it_answers() -> None:
    one = lane("parallel", 20)
    offered(one, *[event(n) for n in range(1, 41)])
    for delivery in taken(one):
        one.finished(delivery, said(503), AT)
    assert one.is_away
    now, requests = AT, 0
    while now < AT + timedelta(days=1):
        now += timedelta(seconds=30)
        for delivery in (found := taken(one, now)):
            assert len(found) == 1
            requests += 1
            one.finished(delivery, said(503, at=now), now)
    assert requests < 24 * 60 / 4, "at most one request in five minutes, once it has been away for a while"
    assert one.finished(taken(one, after(2e5))[0], said(200), after(2e5))[1] is None
    assert len(taken(one, after(2e5))) == 20, "all that is filed is due at once"


def test_one_bad_event_does_not_make_a_receiver_look_away() -> None:
    one = lane("parallel")
    offered(one, event(1))
    now = AT
    for _ in range(AWAY_AFTER + 1):
        now += timedelta(hours=13)
        for delivery in taken(one, now):
            one.finished(delivery, said(500, at=now), now)
    assert not one.is_away


def test_an_event_that_others_overtake_is_given_up_after_its_last_try_and_its_subject_goes_on() -> None:
    one = lane()
    offered(one, event(1, "bad"), event(2, "bad"))
    now, position = AT, 10
    (bad,) = taken(one, now)
    for attempt in range(1, TRIES_MAX + 1):
        stored, reason = one.finished(bad, said(400, at=now), now)
        assert reason is None
        if attempt == TRIES_MAX:
            break
        position, now = position + 1, now + timedelta(hours=15)
        offered(one, event(position, str(position)))
        for delivery in taken(one, now):
            if delivery is not bad:
                one.finished(delivery, said(200, at=now), now)
    assert [(delivery.position, delivery.status) for delivery in stored] == [(1, "failed")]
    assert [delivery.position for delivery in taken(one, now)] == [2]


def test_nothing_but_failures_for_days_is_a_reason_to_disable_and_enabling_begins_anew() -> None:
    one = lane()
    offered(one, event(1))
    now, reason, tries = AT, None, 0
    while reason is None:
        (delivery,) = taken(one, now)
        _, reason = one.finished(delivery, said(500, at=now), now)
        tries += 1
        assert tries <= TRIES_MAX
        assert delivery.next_at is not None
        now = max(now, delivery.next_at)
    assert reason == "failing"
    assert timedelta(days=2.5) < now - AT < timedelta(days=4.5)
    assert taken(one, now + timedelta(days=1)) == []
    one.change(config(status="disabled"), now)
    assert taken(one, now + timedelta(days=1)) == []
    assert [delivery.tries for delivery in one.change(config(), now)] == [0]
    assert len(taken(one, now)) == 1


def test_gone_is_a_reason_at_once() -> None:
    one = lane()
    offered(one, event(1))
    (delivery,) = taken(one)
    stored, reason = one.finished(delivery, said(410), AT)
    assert (reason, stored[0].status) == ("gone", "retrying")


def test_back_off_is_exponential_capped_and_spread() -> None:
    waits = [retry_seconds(tries, random.Random(tries)) for tries in range(1, TRIES_MAX)]
    assert 4 < waits[0] < 7
    assert all(2.5 < later / earlier < 6 for earlier, later in pairwise(waits[:7]))
    assert max(waits) < 14 * 3600
    assert 2.5 < sum(waits) / 86_400 < 3.5
    assert len({retry_seconds(3, random.Random(seed)) for seed in range(10)}) > 5
    assert retry_seconds(10_000, random.Random(1)) < 14 * 3600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("0", 0), ("999999999999", 86_400), ("Sat, 21 Nov 2026 08:01:00 GMT", 60),
     ("Sat, 21 Nov 2020 08:01:00 GMT", 0),
     ("-1", None), ("soon", None), ("", None), (None, None), ("1" * 65, None), ("١٢", None), ("nan", None)],
)  # fmt: skip
def test_retry_after_is_read_as_it_is_meant(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, AT) == seconds


def test_the_pattern_of_history_says_what_the_types_say() -> None:
    one = Lane("t", config(), cursor=0)
    assert history_pattern(one.config) is None
    terms = Terms("https://x", ("quantum.execution.*", "quantum.a+b"))
    assert history_pattern(Subscription(SubscriptionId("s"), terms, Start(), SecretId("x"), AT, AT)) == (
        r"^(quantum\.execution\..*|quantum\.a\+b)(\.v[0-9]+)?$"
    )


@settings(max_examples=200, deadline=None)
@given(
    subjects=st.lists(st.sampled_from("abc"), min_size=1, max_size=25),
    course=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 3)), max_size=120),
    max_in_flight=st.integers(1, 4),
)
def test_whatever_fails_and_whenever_it_ends_subjects_stay_in_order_and_nothing_is_left_out(
    subjects: Sequence[str], course: Sequence[tuple[int, bool, int]], max_in_flight: int
) -> None:
    one, now, flying, through = lane("per-subject", max_in_flight), AT, list[Delivery](), list[tuple[str, int]]()
    todo = [event(number, subject) for number, subject in enumerate(subjects, start=1)]

    def step(which: int, is_success: bool) -> None:
        flying.extend(taken(one, now))
        assert len(flying) <= max_in_flight
        assert len({delivery.subject for delivery in flying}) == len(flying), "two of one subject at a time"
        if flying:
            delivery = flying.pop(which % len(flying))
            before = one.cursor(0)
            one.finished(delivery, said(200 if is_success else 500, at=now), now)
            assert one.cursor(0) >= before
            if is_success:
                through.append((delivery.subject, delivery.position))

    for which, is_success, offers in course:
        for _ in range(offers):
            if todo and one.room:
                offered(one, todo.pop(0))
        step(which, is_success)
        now += timedelta(seconds=which * 40)
    for _ in range(200):
        while todo and one.room:
            offered(one, todo.pop(0))
        now += timedelta(hours=1)
        step(0, True)
    for subject in set(subjects):
        expected = [number for number, name in enumerate(subjects, start=1) if name == subject]
        assert [position for name, position in through if name == f"execution/{subject}"] == expected
    assert (one.cursor(0), one.open_count, one.in_flight) == (len(subjects), 0, 0)
