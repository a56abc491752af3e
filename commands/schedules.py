# intent_ref: commands.schedules
"""When a schedule runs: its text judged, its next times, and what is due after an absence. No clock is read here.

Cron expressions have five fields (minute, hour, day of month, month, day of week), or six with seconds first, as `cronsim` reads
them: Debian's cron, with names, steps, `L`, `LW` and `#`. Where clocks are changed, an expression whose hour is named (`30 2 * *
*`) runs once a day: at a time that is skipped, right when the clocks are put forward; at a time that comes twice, the first
time. One whose hour begins with `*` follows the hours as they pass: each of them once, also the one that the clock shows twice.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from commands.start_inputs import start_inputs_faults
from domain.json_values import pointer
from domain.refusals import Fault
from domain.schedule import (
    EVERY_SECONDS_MAX,
    EVERY_SECONDS_MIN,
    GRACE_SECONDS,
    JITTER_SECONDS_MAX,
    MISSED_MAX,
    Schedule,
)  # fmt: skip
from domain.step_policies import seconds_of
from domain.zoned_times import first_shown, other_side, zone_named

NAMED = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
RUNS_MAX = 1_000
_CRON_CHARS_MAX = 200
_KEYS = frozenset({"cron", "interval", "timezone", "missed", "missed_max", "jitter", "start", "end", "overlap", "inputs"})
_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9990, 1, 1, tzinfo=UTC)


def next_runs(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    """The next times after `after`, in UTC and in order, at most `count` of them and 1,000; fewer where the schedule ends."""
    if schedule.starts_at is not None and after < schedule.starts_at:
        after = schedule.starts_at - timedelta(microseconds=1)
    times = _forward(schedule, after.astimezone(UTC))
    return list(islice(_until(times, schedule.ends_at), max(0, min(count, RUNS_MAX))))


def due(schedule: Schedule, last_run: datetime, now: datetime) -> list[datetime]:
    """The times in `(last_run, now]` that are to run now, oldest first, by the schedule's policy for missed ones.

    `last_run` is the newest time that was dealt with, at first when the schedule was made. `skip` gives the newest time if it is
    at most a minute old; `once` the newest; `all` the newest `missed_max`. Long absences cost no more than short ones.
    """
    newest_first = _backward(schedule, last_run.astimezone(UTC), now.astimezone(UTC))
    if schedule.missed == "all":
        return list(islice(newest_first, min(schedule.missed_max, MISSED_MAX)))[::-1]
    newest = next(newest_first, None)
    if newest is None or (schedule.missed == "skip" and (now - newest).total_seconds() > GRACE_SECONDS):
        return []
    return [newest]


def delayed(schedule: Schedule, at: datetime, key: str) -> datetime:
    """When the run of `at` starts: up to `jitter_seconds` later, always the same for one time and key."""
    if schedule.jitter_seconds <= 0:
        return at
    digest = hashlib.sha256(f"{key}\0{at.astimezone(UTC).isoformat()}".encode()).digest()
    return at + timedelta(seconds=schedule.jitter_seconds * int.from_bytes(digest[:8], "big") / 2**64)


# -- the times of a schedule


def _until(times: Iterator[datetime], ends_at: datetime | None) -> Iterator[datetime]:
    for at in times:
        if at > _LATEST or (ends_at is not None and at >= ends_at):
            return
        yield at


def _forward(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    if schedule.every_seconds is not None:
        yield from _steps(schedule, after)
        return
    cron, zone = _expression(schedule), _zone(schedule.timezone)
    if _follows_hours(cron):
        yield from _by_the_hour(cron, zone, after.replace(microsecond=0) + _SECOND, 1)
        return
    last = after
    for local in _cron(cron, after.astimezone(zone).replace(tzinfo=None)):
        if (instant := first_shown(local, zone)) > last:
            yield instant
            last = instant


def _backward(schedule: Schedule, after: datetime, now: datetime) -> Iterator[datetime]:
    """The times in `(after, now]`, newest first, within the schedule's start and end."""
    if schedule.starts_at is not None:
        after = max(after, schedule.starts_at - timedelta(microseconds=1))
    if schedule.ends_at is not None:
        now = min(now, schedule.ends_at - timedelta(microseconds=1))
    for at in _back_steps(schedule, now) if schedule.every_seconds is not None else _back_times(schedule, now):
        if at <= after:
            return
        yield at


def _back_times(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    cron, zone = _expression(schedule), _zone(schedule.timezone)
    if _follows_hours(cron):
        yield from _by_the_hour(cron, zone, now.replace(microsecond=0), -1)
        return
    local = now.astimezone(zone)
    # The second time round, the clock's times up to the end of that hour have been already.
    repeated = _offset(local.replace(fold=0)) - _offset(local.replace(fold=1)) if local.fold else timedelta()
    last = None
    for at in _cron(cron, local.replace(tzinfo=None, microsecond=0) + repeated + _SECOND, back=True):
        instant = first_shown(at, zone)
        if instant <= now and instant != last:
            yield instant
            last = instant


def _by_the_hour(cron: str, zone: ZoneInfo, start: datetime, way: Literal[1, -1]) -> Iterator[datetime]:
    """The moments from `start` on, itself included, at which a clock in `zone` shows a time of the expression.

    Between two changes of the clocks local time is a matter of adding, so each such span is gone through by itself.
    """
    while True:
        offset, known = _offset(start.astimezone(zone)), start
        for local in _cron(cron, (start + offset).replace(tzinfo=None) - way * _SECOND, back=way < 0):
            instant = local.replace(tzinfo=UTC) - offset
            if _offset(instant.astimezone(zone)) != offset:
                start = other_side(zone, known, instant, offset)
                break
            yield instant
            known = instant
        else:
            return


def _steps(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    every, anchor = timedelta(seconds=schedule.every_seconds or 1), _anchor(schedule)
    number = (after - anchor) // every + 1
    while (at := anchor + number * every) < _LATEST:
        yield at
        number += 1


def _back_steps(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    every, anchor = timedelta(seconds=schedule.every_seconds or 1), _anchor(schedule)
    number = (now - anchor) // every
    while (at := anchor + number * every) > _EPOCH - every:
        yield at
        number -= 1


def _anchor(schedule: Schedule) -> datetime:
    return _EPOCH if schedule.starts_at is None else schedule.starts_at.astimezone(UTC)


def _cron(cron: str, start: datetime, *, back: bool = False) -> Iterator[datetime]:
    try:
        yield from CronSim(cron, start, reverse=back)
    except OverflowError:
        return


def _expression(schedule: Schedule) -> str:
    return NAMED.get((schedule.cron or "").lower(), schedule.cron or "")


def _follows_hours(cron: str) -> bool:
    return cron.split()[-4].startswith("*")


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()


def _zone(name: str) -> ZoneInfo:
    zone = zone_named(name)
    assert zone is not None, "a schedule without faults names a zone"
    return zone


# -- what a definition says


def read_schedule(raw: Any) -> Schedule:
    """The schedule that `raw` describes, which has no `schedule_faults`."""
    every = raw["interval"]["every"] if "interval" in raw else None
    return Schedule(
        cron=" ".join(raw["cron"].split()) if every is None else None,
        timezone=raw.get("timezone", "UTC"),
        every_seconds=None if every is None else float(seconds_of(every) or 0),
        missed=raw.get("missed", "once"),
        missed_max=raw.get("missed_max", 10),
        jitter_seconds=float(seconds_of(raw.get("jitter", 0)) or 0),
        starts_at=_time(raw.get("start")),
        ends_at=_time(raw.get("end")),
        overlap=raw.get("overlap", "allow"),
    )


def schedule_faults(raw: Any, place: str) -> list[Fault]:
    """What is wrong with a schedule: `{cron, timezone, …}` or `{interval: {every}, …}`, by pointers below `place`.

    `inputs` are templates over `schedule.time` and `tenant`: what a run is given.
    """
    if not isinstance(raw, dict):
        return [Fault(place, "A schedule is an object with `cron` or `interval`.", "type")]
    faults = [
        Fault(pointer((place, key)), f"A schedule has no such key; it has {', '.join(sorted(_KEYS))}.", "unknown-key")
        for key in list(raw)[:100]
        if key not in _KEYS
    ][:20]
    if ("cron" in raw) == ("interval" in raw):
        faults.append(Fault(place, "A schedule has either `cron` or `interval`.", "missing" if "cron" not in raw else "invalid"))
    faults += _zone_faults(raw, place)
    if "cron" in raw:
        faults += _cron_faults(raw["cron"], f"{place}/cron")
    if "interval" in raw:
        faults += _interval_faults(raw["interval"], f"{place}/interval")
    if raw.get("inputs") is not None:
        faults += start_inputs_faults(raw["inputs"], f"{place}/inputs", "schedule")
    return faults + _policy_faults(raw, place) + _bounds_faults(raw, place)


def _cron_faults(cron: Any, place: str) -> list[Fault]:
    if not isinstance(cron, str) or not cron.isascii() or len(cron) > _CRON_CHARS_MAX:
        return [Fault(place, "`cron` is a text of five fields, such as `30 2 * * 1-5`, or a name such as `@daily`.", "type")]
    if cron.strip().startswith("@"):
        known = ", ".join(NAMED)
        wrong = [Fault(place, f"There is no {cron.strip()!r}; there are {known}.", "invalid-cron")]
        return [] if cron.strip().lower() in NAMED else wrong
    fields = len(cron.split())
    if fields not in (5, 6):
        detail = f"A cron expression has five fields, or six with seconds first; this one has {fields}."
        return [Fault(place, detail, "invalid-cron")]
    try:
        # Without a year's leap days a schedule may wait eight years for its first time; cronsim looks 50 years ahead.
        next(CronSim(cron, datetime(2020, 1, 1)))
    except CronSimError as fault:
        which = str(fault).removeprefix("Bad ")
        return [Fault(place, f"The field for the {which} of this cron expression cannot be read.", "invalid-cron")]
    except (StopIteration, ValueError, OverflowError):
        return [Fault(place, "This cron expression names a day that never comes.", "invalid-cron")]
    return []


def _zone_faults(raw: dict[str, Any], place: str) -> list[Fault]:
    if "timezone" not in raw:
        return []
    zone, here = raw["timezone"], f"{place}/timezone"
    if "interval" in raw:
        return [Fault(here, "An interval is the same everywhere; leave `timezone` out.", "invalid")]
    if isinstance(zone, str) and zone_named(zone) is not None:
        return []
    return [Fault(here, "`timezone` is a name of the IANA's, such as `Europe/Berlin` or `UTC`.", "invalid-timezone")]


def _interval_faults(interval: Any, place: str) -> list[Fault]:
    if not isinstance(interval, dict) or set(interval) != {"every"}:
        return [Fault(place, '`interval` is an object with `every`, such as `{"every": "15m"}`.', "type")]
    seconds = seconds_of(interval["every"])
    if seconds is None or not EVERY_SECONDS_MIN <= seconds <= EVERY_SECONDS_MAX:
        return [Fault(f"{place}/every", "`every` is a duration from `1s` to `366d`, such as `15m`.", "invalid-duration")]
    return []


def _policy_faults(raw: dict[str, Any], place: str) -> list[Fault]:
    faults: list[Fault] = []
    if raw.get("missed", "once") not in ("skip", "once", "all"):
        faults.append(Fault(f"{place}/missed", "`missed` is `skip`, `once` or `all`.", "invalid"))
    if raw.get("overlap", "allow") not in ("allow", "skip"):
        faults.append(Fault(f"{place}/overlap", "`overlap` is `allow` or `skip`.", "invalid"))
    most = raw.get("missed_max", 10)
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MISSED_MAX:
        faults.append(Fault(f"{place}/missed_max", f"`missed_max` is an integer from 1 to {MISSED_MAX:,}.", "invalid-number"))
    jitter = seconds_of(raw.get("jitter", 0))
    if jitter is None or not 0 <= jitter <= JITTER_SECONDS_MAX:
        faults.append(Fault(f"{place}/jitter", "`jitter` is a duration up to `1h`, such as `30s`.", "invalid-duration"))
    return faults


def _bounds_faults(raw: dict[str, Any], place: str) -> list[Fault]:
    faults = [
        Fault(f"{place}/{key}", f"`{key}` is a time with its zone, such as `2026-01-31T09:00:00Z`.", "invalid-time")
        for key in ("start", "end")
        if raw.get(key) is not None and _time(raw[key]) is None
    ]
    start, end = _time(raw.get("start")), _time(raw.get("end"))
    if start is not None and end is not None and start >= end:
        faults.append(Fault(f"{place}/end", "`end` must be after `start`.", "invalid-time"))
    return faults


def _time(value: Any) -> datetime | None:
    """A time of RFC 3339 between 1970 and 9990, in UTC; None for anything else."""
    if not isinstance(value, str) or not 20 <= len(value) <= 40:
        return None
    try:
        at = datetime.fromisoformat(value.upper())
        if at.tzinfo is None or not _EPOCH <= at <= _LATEST:
            return None
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
