# intent_ref: domain.zoned-times
"""When a clock somewhere shows a time: zones by their IANA names, and the times that a clock skips or shows twice."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAME = re.compile(r"[A-Za-z0-9+_-]{1,40}(?:/[A-Za-z0-9+_-]{1,40}){0,2}")
_EARLIEST, _LATEST = datetime(1970, 1, 2), datetime(9990, 1, 1)


@lru_cache(maxsize=256)
def zone_named(name: str) -> ZoneInfo | None:
    """The zone of that name in the IANA's database, such as `Europe/Berlin`; None for anything else."""
    if not _NAME.fullmatch(name):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def local_time_of(value: object) -> datetime | None:
    """A time as ISO 8601 writes it without an offset, from 1970 to 9990; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at if at.tzinfo is None and _EARLIEST <= at <= _LATEST else None


def first_shown(local: datetime, zone: ZoneInfo) -> datetime:
    """When a clock in `zone` first shows `local`, in UTC; where it never does, the moment it is put forward past it.

    So of a time that comes twice, when clocks are put back, it is the first. `local` is from 1970 to 9990.
    """
    first = local.replace(tzinfo=zone)
    before, after = _offset(first), _offset(first.replace(fold=1))
    at = first.replace(tzinfo=UTC) - before
    return at if after <= before else other_side(zone, at - (after - before), at, before)


def other_side(zone: ZoneInfo, near: datetime, far: datetime, offset: timedelta) -> datetime:
    """The second next to a change of the clocks, on the side of `far`, where the offset is no longer that of `near`."""
    inside, outside = int(near.timestamp()), int(far.timestamp())
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if _offset(datetime.fromtimestamp(middle, zone)) == offset:
            inside = middle
        else:
            outside = middle
    return datetime.fromtimestamp(outside, UTC)


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()
