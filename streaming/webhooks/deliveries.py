# intent_ref: streaming.webhooks-lane
"""A delivery: one event on its way to one subscription, and what came of each attempt; and when to try again."""

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from uuid import UUID

from domain.immutable import immutable
from event_store.records import RecordedEvent

Status = Literal["new", "retrying", "waiting", "delivered", "failed"]

FIRST_RETRY_SECONDS: Final = 5.0
RETRY_FACTOR: Final = 4.0
RETRY_SECONDS_MAX: Final = 43_200.0
TRIES_MAX: Final = 13
"""5 s, 20 s, 80 s, … then every 12 hours: with jitter, thirteen tries take some three days."""
RETRY_AFTER_SECONDS_MAX: Final = 86_400.0
_GONE: Final = 410


@immutable
class Attempt:
    """What came of one request. `error` says in words why there was no sound answer; `response` is the beginning of its body."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None
    response: str = ""
    retry_after: float | None = None
    """Seconds the receiver asked to be left alone."""

    @property
    def is_success(self) -> bool:
        """True for any 2xx."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """True where the receiver says that it wants no more."""
        return self.status == _GONE

    def document(self) -> dict[str, Any]:
        """The attempt as the log of deliveries keeps it."""
        return {
            "at": self.at, "status": self.status, "duration_ms": round(self.seconds * 1_000, 1), "error": self.error,
            "response": self.response,
        }  # fmt: skip


@dataclass(slots=True, eq=False)
class Delivery:
    """One event on its way to one subscription. `event` is there until it is filed, and is read again for another try."""

    delivery_id: UUID
    event_id: UUID
    position: int
    event_type: str
    subject: str
    event: RecordedEvent | None = None
    status: Status = "new"
    out_of_turn: bool = False
    is_test: bool = False
    tries: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    next_at: datetime | None = None
    made: list[Attempt] = field(default_factory=list)
    """Attempts that are not yet in the database."""
    request: int | None = None
    """The number of the request that is done with once this has been stored."""
    is_ordered: bool = False
    """True where others of its subject wait behind it, or it behind one."""
    is_settled: bool = False
    """True once the cursor may pass it: delivered, or filed in the database."""

    @property
    def is_open(self) -> bool:
        """True while its row waits for another try, or for an earlier event."""
        return self.status in ("retrying", "waiting")


def retry_seconds(tries: int, chance: random.Random) -> float:
    """Seconds until the next try after `tries` of them: exponential, capped, with jitter so that receivers get no volleys."""
    growth = min(RETRY_SECONDS_MAX, FIRST_RETRY_SECONDS * RETRY_FACTOR ** min(tries - 1, 12))
    return growth * chance.uniform(0.95, 1.2)


def retry_time(delivery: Delivery, attempt: Attempt, now: datetime, chance: random.Random) -> datetime:
    """When to try again: as the back-off says, and not before the receiver's `Retry-After`."""
    return now + timedelta(seconds=max(retry_seconds(delivery.tries, chance), attempt.retry_after or 0.0))


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """What a `Retry-After` header asks for (RFC 9110: seconds or a date), up to a day; None where it makes no sense."""
    if value is None or len(value) > 64:
        return None
    try:
        at = None if value.isascii() and value.isdigit() else parsedate_to_datetime(value)
        seconds = float(value) if at is None else (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(0.0, seconds), RETRY_AFTER_SECONDS_MAX) if math.isfinite(seconds) else None
