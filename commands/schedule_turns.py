# intent_ref: commands.schedule-turns
"""What is to be done of a schedule now, and when to look at it again. Pure: the time comes in, and nothing is started here."""

from dataclasses import replace
from datetime import datetime, timedelta

from commands.schedules import delayed, due, next_runs
from domain.immutable import immutable
from domain.schedule import Schedule

_INSTANT = timedelta(microseconds=1)


@immutable
class Turn:
    """Times to run now, oldest first; the time up to which all is dealt with then; when to look again, None for never."""

    runs: tuple[datetime, ...]
    dealt_until: datetime
    look_at: datetime | None


def turn_of(schedule: Schedule, dealt_until: datetime, now: datetime, key: str, *, runs_max: int = 20) -> Turn:
    """The turn of a schedule that is dealt with up to `dealt_until`. `key` tells schedules with the same times apart.

    No more than `runs_max` runs at once; then the next turn is due at once, and has the rest. A time whose jitter has not passed
    yet is still to come, so it is neither late nor missed.
    """
    newest = _newest(schedule, dealt_until, now)
    if newest is None:
        seen = max(dealt_until, now)
        return Turn((), seen, _start_after(schedule, seen, key))
    start = start_of(schedule, newest, key)
    look_at: datetime | None
    if start > now:
        until, seen, look_at = newest - _INSTANT, newest - _INSTANT, start
    else:
        following = next_runs(schedule, newest, 1)
        # Lateness counts from the start, so the delay is taken off; a time that is still to come never comes in by that.
        until = max(newest, now - (start - newest))
        if following:
            until = min(until, following[0] - _INSTANT)
        seen, look_at = newest, start_of(schedule, following[0], key) if following else None
    runs = due(schedule, dealt_until, until)
    if len(runs) > runs_max:
        return Turn(tuple(runs[:runs_max]), runs[runs_max - 1], now)
    return Turn(tuple(runs), max(seen, dealt_until), look_at)


def start_of(schedule: Schedule, at: datetime, key: str) -> datetime:
    """When the run of `at` starts: its jitter never takes it past the next time, so that runs stay in their order."""
    if schedule.jitter_seconds <= 0:
        return at
    following = next_runs(schedule, at, 1)
    gap = (following[0] - at).total_seconds() if following else schedule.jitter_seconds
    return delayed(replace(schedule, jitter_seconds=min(schedule.jitter_seconds, gap)), at, key)


def _start_after(schedule: Schedule, after: datetime, key: str) -> datetime | None:
    following = next_runs(schedule, after, 1)
    return start_of(schedule, following[0], key) if following else None


def _newest(schedule: Schedule, after: datetime, now: datetime) -> datetime | None:
    """The newest time in `(after, now]`."""
    found = due(replace(schedule, missed="once"), after, now)
    return found[-1] if found else None
