# intent_ref: commands.schedule-turns
"""A schedule's turn: what is due is run once, in order, and somebody looks again in time for the next."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from commands.schedule_turns import start_of, turn_of
from commands.schedules import next_runs
from domain.schedule import Schedule

AT = datetime(2026, 3, 1, tzinfo=UTC)
HOURLY = Schedule(every_seconds=3600.0)


def later(**span: float) -> datetime:
    return AT + timedelta(**span)


def test_nothing_is_due_before_the_first_time():
    turn = turn_of(HOURLY, AT, later(minutes=5), "key")
    assert (turn.runs, turn.dealt_until, turn.look_at) == ((), later(minutes=5), later(hours=1))


def test_a_time_is_due_when_it_comes_and_not_again():
    turn = turn_of(HOURLY, AT, later(hours=1), "key")
    assert (turn.runs, turn.dealt_until, turn.look_at) == ((later(hours=1),), later(hours=1), later(hours=2))
    assert turn_of(HOURLY, turn.dealt_until, later(hours=1), "key").runs == ()


def test_a_schedule_that_is_over_is_never_looked_at_again():
    ends = Schedule(every_seconds=3600.0, ends_at=later(hours=2))
    turn = turn_of(ends, AT, later(hours=1), "key")
    assert (turn.runs, turn.look_at) == ((later(hours=1),), None)
    assert turn_of(ends, later(hours=1), later(hours=9), "key").look_at is None


def test_many_missed_times_are_run_some_at_a_time():
    missed = Schedule(every_seconds=60.0, missed="all", missed_max=45)
    runs: list[datetime] = []
    dealt, now, turns = AT, later(hours=2), 0
    while True:
        turn = turn_of(missed, dealt, now, "key")
        runs += turn.runs
        dealt, turns = turn.dealt_until, turns + 1
        if turn.look_at != now:
            break
    assert runs == [later(minutes=minute) for minute in range(76, 121)]
    assert turns == 3


def test_jitter_is_no_lateness():
    skips = Schedule(every_seconds=3600.0, missed="skip", jitter_seconds=3600.0)
    start = start_of(skips, later(hours=1), "key")
    assert later(hours=1, minutes=2) < start < later(hours=2)
    early = turn_of(skips, AT, start - timedelta(seconds=1), "key")
    assert (early.runs, early.look_at) == ((), start)
    assert turn_of(skips, early.dealt_until, start, "key").runs == (later(hours=1),)
    assert turn_of(skips, early.dealt_until, start + timedelta(seconds=59), "key").runs == (later(hours=1),)
    assert turn_of(skips, early.dealt_until, start + timedelta(seconds=61), "key").runs == ()


schedules = st.builds(
    Schedule,
    every_seconds=st.sampled_from([1.0, 45.0, 600.0, 3600.0]),
    missed=st.just("all"), missed_max=st.just(1_000),
    jitter_seconds=st.sampled_from([0.0, 0.5, 30.0, 3600.0]),
)  # fmt: skip


@given(schedules, st.lists(st.floats(0.001, 500.0), min_size=1, max_size=30), st.text(max_size=5))
def test_whenever_somebody_looks_each_time_is_run_once_and_in_order(schedule: Schedule, steps: list[float], key: str):
    now, dealt, runs = AT, AT, []
    for step in steps:
        now += timedelta(seconds=step)
        while True:
            turn = turn_of(schedule, dealt, now, key)
            runs += turn.runs
            dealt = turn.dealt_until
            if turn.look_at != now:
                break
        assert turn.look_at is not None
        assert turn.look_at > now
    due = [at for at in next_runs(schedule, AT, 1_000) if start_of(schedule, at, key) <= now]
    assert runs[: len(due)] == due[: len(runs)]
    assert len(runs) >= min(len(due), 1_000)


@given(schedules, st.integers(0, 10_000))
def test_whoever_looks_when_told_is_never_late(schedule: Schedule, seconds: int):
    turn = turn_of(schedule, AT, later(seconds=seconds), "key")
    assert turn.look_at is not None
    if turn.look_at > later(seconds=seconds):
        (run, *_) = turn_of(schedule, turn.dealt_until, turn.look_at, "key").runs
        assert start_of(schedule, run, "key") == turn.look_at
