# intent_ref: commands.schedules
"""Schedules run when the clocks of their place say so, also on the days when those are changed."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commands.schedules import NAMED, delayed, due, next_runs, read_schedule, schedule_faults
from domain.schedule import Schedule

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
FIXED = ("30 2 * * *", "0 0 * * *", "15 1-3 * * *", "*/20 2 * * *", "0 3 1 * *", "45 1 * * 0", "0 9 15 */2 1-5", "59 23 L * *")
HOURLY = ("30 * * * *", "*/15 * * * *", "0 */2 * * *", "7 */3 * 3,10,11,4 *")
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def field(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, last = (low, high) if span == "*" else (int(span.split("-")[0]), int(span.split("-")[-1]))
        found |= set(range(first, last + 1, int(step or 1)))
    return found


class Matcher:
    """Five fields of cron, read a second time and as plainly as can be."""

    def __init__(self, cron: str) -> None:
        minute, hour, day, month, weekday = cron.split()
        self.minutes, self.hours, self.months = field(minute, 0, 59), field(hour, 0, 23), field(month, 1, 12)
        self.last_day = day == "L"
        self.days, self.weekdays = field("*" if self.last_day else day, 1, 31), field(weekday, 0, 6)
        self.either = day[0] != "*" and weekday[0] != "*"

    def fits(self, local: datetime) -> bool:
        if local.minute not in self.minutes or local.hour not in self.hours or local.month not in self.months:
            return False
        day = (local + timedelta(days=1)).day == 1 if self.last_day else local.day in self.days
        weekday = local.isoweekday() % 7 in self.weekdays
        return day or weekday if self.either else day and weekday


def brute_force(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Every minute between, held against the expression, and the house rule for the days when clocks are changed."""
    matcher, place, found = Matcher(cron), ZoneInfo(zone), []
    follows_hours = cron.split()[1].startswith("*")
    before = (start - MINUTE).astimezone(place).replace(tzinfo=None)
    moment = start
    while moment < end:
        local = moment.astimezone(place)
        shown = local.replace(tzinfo=None)
        skipped = [before + MINUTE * n for n in range(1, round((shown - before) / MINUTE))] if shown > before + MINUTE else []
        if follows_hours:
            fits = matcher.fits(shown)
        else:
            fits = (local.fold == 0 and matcher.fits(shown)) or any(map(matcher.fits, skipped))
        if fits:
            found.append(moment)
        before, moment = shown, moment + MINUTE
    return found


@lru_cache
def changes(zone: str, year: int) -> list[datetime]:
    """The hours of a year in which the clocks of a zone are changed."""
    place, hours = ZoneInfo(zone), [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(8760)]
    return [late for early, late in pairwise(hours) if early.astimezone(place).utcoffset() != late.astimezone(place).utcoffset()]


def runs(cron: str, zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
    schedule, after = Schedule(cron=cron, timezone=zone, ends_at=end), start - timedelta(microseconds=1)
    while times := next_runs(schedule, after, 1_000):
        yield from times
        after = times[-1]


@pytest.mark.parametrize("cron", FIXED + HOURLY)
@pytest.mark.parametrize("zone", ZONES)
def test_around_every_change_of_the_clocks_the_runs_are_those_of_counting_minutes(zone: str, cron: str):
    for change in changes(zone, 2026) or [datetime(2026, 3, 1, tzinfo=UTC)]:
        start, end = change - timedelta(days=1), change + timedelta(days=1)
        expected = brute_force(cron, zone, start, end)
        assert list(runs(cron, zone, start, end)) == expected
        everything = Schedule(cron=cron, timezone=zone, missed="all", missed_max=1_000)
        assert due(everything, start - timedelta(seconds=1), end - timedelta(seconds=1)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
def test_the_runs_of_a_year_are_those_of_counting_its_minutes(zone: str):
    start, end = at("2026-01-01T00:00Z"), at("2027-01-01T00:00Z")
    for cron in ("30 2 * * *", "15 1-3 * * 0,6", "30 */2 * * *", "0 9 15 */2 1-5"):
        assert list(runs(cron, zone, start, end)) == brute_force(cron, zone, start, end)


@pytest.mark.parametrize("zone", ZONES)
@given(
    moment=st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)),
    cron=st.sampled_from(FIXED + HOURLY),
    hours=st.integers(1, 100),
)
@example(moment=datetime(2026, 10, 25, 0, 45), cron="30 2 * * *", hours=4)
@example(moment=datetime(2026, 10, 25, 1, 15, 30, 5), cron="15 1-3 * * *", hours=1)
@settings(max_examples=40, deadline=None)
def test_looking_back_finds_what_looking_ahead_found(zone: str, moment: datetime, cron: str, hours: int):
    start = moment.replace(tzinfo=UTC)
    now = start + timedelta(hours=hours)
    ahead = [run for run in next_runs(Schedule(cron=cron, timezone=zone), start, 1_000) if run <= now]
    schedule = Schedule(cron=cron, timezone=zone, missed="all", missed_max=1_000)
    assert due(schedule, start, now) == ahead
    once = Schedule(cron=cron, timezone=zone, missed="once")
    assert due(once, start, now) == ahead[-1:]


def test_a_time_that_is_skipped_runs_when_the_clocks_are_put_forward():
    runs = next_runs(Schedule(cron="30 2 * * *", timezone="Europe/Berlin"), at("2026-03-28T12:00Z"), 2)
    assert runs == [at("2026-03-29T01:00Z"), at("2026-03-30T00:30Z")]
    with_seconds = next_runs(Schedule(cron="10 30 2 * * *", timezone="Europe/Berlin"), at("2026-03-28T12:00Z"), 2)
    assert with_seconds == [at("2026-03-29T01:00Z"), at("2026-03-30T00:30:10Z")]
    half_an_hour = next_runs(Schedule(cron="15 2 * * *", timezone="Australia/Lord_Howe"), at("2026-10-03T12:00Z"), 1)
    assert half_an_hour == [at("2026-10-03T15:30Z")]


def test_several_skipped_times_run_once():
    runs = next_runs(Schedule(cron="*/10 2 * * *", timezone="Europe/Berlin"), at("2026-03-28T12:00Z"), 2)
    assert runs == [at("2026-03-29T01:00Z"), at("2026-03-30T00:00Z")]


def test_a_time_that_comes_twice_runs_the_first_time():
    runs = next_runs(Schedule(cron="30 2 * * *", timezone="Europe/Berlin"), at("2026-10-24T12:00Z"), 2)
    assert runs == [at("2026-10-25T00:30Z"), at("2026-10-26T01:30Z")]
    assert due(Schedule(cron="30 2 * * *", timezone="Europe/Berlin"), at("2026-10-25T00:40Z"), at("2026-10-25T01:40Z")) == []


def test_an_hourly_run_follows_the_hours_as_they_pass():
    runs = next_runs(Schedule(cron="30 * * * *", timezone="Europe/Berlin"), at("2026-10-24T23:45Z"), 3)
    assert runs == [at("2026-10-25T00:30Z"), at("2026-10-25T01:30Z"), at("2026-10-25T02:30Z")]


def test_a_day_that_a_place_left_out_runs_when_the_next_begins():
    runs = next_runs(Schedule(cron="0 12 * * *", timezone="Pacific/Apia"), at("2011-12-30T00:00Z"), 2)
    assert runs == [at("2011-12-30T10:00Z"), at("2011-12-30T22:00Z")]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", []), ("once", ["2026-01-05T09:00Z"]), ("all", ["2026-01-04T09:00Z", "2026-01-05T09:00Z"])],
)
def test_missed_times_follow_the_policy(missed: str, expected: list[str]):
    schedule = read_schedule({"cron": "0 9 * * *", "missed": missed, "missed_max": 2})
    assert due(schedule, at("2026-01-01T12:00Z"), at("2026-01-05T12:00Z")) == [at(text) for text in expected]


def test_a_time_that_is_seen_at_once_is_not_missed():
    schedule = Schedule(cron="0 9 * * *", missed="skip")
    assert due(schedule, at("2026-01-04T09:00Z"), at("2026-01-05T09:00:30Z")) == [at("2026-01-05T09:00Z")]
    assert due(schedule, at("2026-01-05T09:00Z"), at("2026-01-05T09:00:40Z")) == []


def test_decades_of_absence_cost_no_more_than_what_is_given():
    schedule = Schedule(cron="* * * * * *", timezone="Europe/Berlin", missed="all", missed_max=3)
    now = at("2026-01-05T09:00Z")
    assert due(schedule, at("1980-01-01T00:00Z"), now) == [now - timedelta(seconds=2), now - timedelta(seconds=1), now]
    every = Schedule(every_seconds=1, missed="once")
    assert due(every, at("1980-01-01T00:00Z"), now) == [now]


def test_an_interval_counts_from_its_start():
    schedule = read_schedule({"interval": {"every": "15m"}, "start": "2026-01-01T00:07:00+00:00"})
    assert next_runs(schedule, at("2025-12-01T00:00Z"), 2) == [at("2026-01-01T00:07Z"), at("2026-01-01T00:22Z")]
    assert due(schedule, at("2025-12-01T00:00Z"), at("2026-01-01T00:06Z")) == []
    assert due(schedule, at("2025-12-01T00:00Z"), at("2026-01-01T00:30Z")) == [at("2026-01-01T00:22Z")]


def test_nothing_runs_before_the_start_or_from_the_end_on():
    schedule = read_schedule({"cron": "@daily", "start": "2026-01-02T00:00:00Z", "end": "2026-01-04T00:00:00Z"})
    both = [at("2026-01-02T00:00Z"), at("2026-01-03T00:00Z")]
    assert next_runs(schedule, at("2025-01-01T00:00Z"), 10) == both
    assert next_runs(schedule, at("2026-01-04T00:00Z"), 10) == []
    assert due(replace(schedule, missed="all"), at("2025-01-01T00:00Z"), at("2027-01-01T00:00Z")) == both


def test_a_delay_is_bounded_and_always_the_same():
    schedule, run = Schedule(cron="@daily", jitter_seconds=30), at("2026-01-02T00:00Z")
    delays = {delayed(schedule, run, f"schedule-{number}") - run for number in range(50)}
    assert len(delays) > 40
    assert all(timedelta() <= delay < timedelta(seconds=30) for delay in delays)
    assert delayed(schedule, run, "a") == delayed(schedule, run, "a")
    assert delayed(Schedule(cron="@daily"), run, "a") == run


@pytest.mark.parametrize("name", NAMED)
def test_named_schedules_run(name: str):
    assert not schedule_faults({"cron": name.upper()}, "")
    assert len(next_runs(read_schedule({"cron": name, "timezone": "Asia/Kathmandu"}), at("2026-01-01T00:00Z"), 3)) == 3


@pytest.mark.parametrize(
    ("raw", "pointer", "says"),
    [
        (7, "/s", "object"),
        ({}, "/s", "either"),
        ({"cron": "@daily", "interval": {"every": "1m"}}, "/s", "either"),
        ({"cron": "@daily", "tz": "UTC"}, "/s/tz", "no such key"),
        ({"cron": 5}, "/s/cron", "five fields"),
        ({"cron": "* * * *"}, "/s/cron", "has 4"),
        ({"cron": "61 * * * *"}, "/s/cron", "minute"),
        ({"cron": "* * * * FOO"}, "/s/cron", "day-of-week"),
        ({"cron": "0 0 31 2 *"}, "/s/cron", "day"),
        ({"cron": "0 0 30 2 1#5 *"}, "/s/cron", ""),
        ({"cron": "*/0 * * * *"}, "/s/cron", "minute"),
        ({"cron": "1,2-" * 80}, "/s/cron", "text"),
        ({"cron": "٣ * * * *"}, "/s/cron", "text"),
        ({"cron": "@reboot"}, "/s/cron", "@daily"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "/s/timezone", "IANA"),
        ({"cron": "@daily", "timezone": "../../etc/passwd"}, "/s/timezone", "IANA"),
        ({"cron": "@daily", "timezone": "Europe"}, "/s/timezone", "IANA"),
        ({"cron": "@daily", "timezone": ["UTC"]}, "/s/timezone", "IANA"),
        ({"cron": "@daily", "missed": "never"}, "/s/missed", "skip"),
        ({"cron": "@daily", "missed": ["skip"]}, "/s/missed", "skip"),
        ({"cron": "@daily", "missed_max": 0}, "/s/missed_max", "1 to"),
        ({"cron": "@daily", "missed_max": True}, "/s/missed_max", "1 to"),
        ({"cron": "@daily", "jitter": "2h"}, "/s/jitter", "1h"),
        ({"cron": "@daily", "start": "tomorrow"}, "/s/start", "time"),
        ({"cron": "@daily", "start": "2026-01-01T00:00:00"}, "/s/start", "zone"),
        ({"cron": "@daily", "end": "9999-12-31T23:59:59Z"}, "/s/end", "time"),
        ({"cron": "@daily", "start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "/s/end", "after"),
        ({"interval": "15m"}, "/s/interval", "every"),
        ({"interval": {"every": "0s"}}, "/s/interval/every", "1s"),
        ({"interval": {"every": "99999d"}}, "/s/interval/every", "1s"),
        ({"interval": {"every": True}}, "/s/interval/every", "1s"),
        ({"interval": {"every": "1m"}, "timezone": "UTC"}, "/s/timezone", "leave"),
    ],
)
def test_a_schedule_that_cannot_be_says_where_and_why(raw: object, pointer: str, says: str):
    faults = schedule_faults(raw, "/s")
    assert [fault.pointer for fault in faults] == [pointer]
    assert says in faults[0].detail


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*FIXED, "UTC", "15m", "2026-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["cron", "interval", "timezone", "missed", "missed_max", "jitter", "start", "end"])


@given(json_values | st.dictionaries(keys, json_values, max_size=6))
@settings(deadline=None)
def test_whatever_is_written_is_judged_and_what_passes_runs(raw: object):
    if not schedule_faults(raw, "/s"):
        schedule = read_schedule(raw)
        next_runs(schedule, at("2026-01-01T00:00Z"), 3)
        due(schedule, at("2025-12-31T00:00Z"), at("2026-01-01T00:00Z"))


@given(st.lists(st.text("0123456789*/-,L#W", min_size=1, max_size=6), min_size=5, max_size=6).map(" ".join))
@settings(deadline=None)
def test_whatever_looks_like_cron_is_refused_or_runs(cron: str):
    if not schedule_faults({"cron": cron}, "/s"):
        schedule = Schedule(cron=cron, timezone="Europe/Berlin", missed="once")
        found = next_runs(schedule, at("2026-01-01T00:00Z"), 2)
        assert found == sorted(set(found))
