# intent_ref: domain.schedule
"""When something is to run again and again, and what becomes of the times that nobody was there for."""

from datetime import datetime
from typing import Literal

from domain.immutable import immutable

MissedRuns = Literal["skip", "once", "all"]
"""What becomes of times that have passed: nothing, one run for all of them, or one for each (up to `missed_max`, the newest)."""

Overlap = Literal["allow", "skip"]
"""What becomes of a time while the last run is still under way: it starts beside it, or it is let go."""

MISSED_MAX = 1_000
EVERY_SECONDS_MIN, EVERY_SECONDS_MAX = 1.0, 366 * 86_400.0
JITTER_SECONDS_MAX = 3_600.0
GRACE_SECONDS = 60.0
"""How late a time may be seen and still count as on time."""


@immutable
class Schedule:
    """Times by the clock of a place (`cron` in `timezone`), or `every_seconds` since `starts_at` (without it, since 1970).

    Exactly one of `cron` and `every_seconds` is given. Times before `starts_at` and from `ends_at` on do not count.
    `jitter_seconds` spreads the runs of schedules that name the same time; each run's delay follows from its time and key.
    """

    cron: str | None = None
    timezone: str = "UTC"
    every_seconds: float | None = None
    missed: MissedRuns = "once"
    missed_max: int = 10
    jitter_seconds: float = 0.0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    overlap: Overlap = "allow"


@immutable
class Trigger:
    """An event that starts an execution: its type, exactly or as a beginning with `*` behind it, and what must hold of it.

    Events of the intent's own executions count with `allow_self` alone.
    """

    type: str
    when: str | None = None
    allow_self: bool = False
