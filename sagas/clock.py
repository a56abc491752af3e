# intent_ref: sagas.clock
"""The time, as a parameter: so that a year of timers runs in seconds where somebody wants to see it."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the present time, aware."""


def now() -> datetime:
    """The machine's time, in UTC."""
    return datetime.now(UTC)
