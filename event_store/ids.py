# intent_ref: event-store.ids
"""Ids that sort by time (UUIDv7, RFC 9562) and ids that repeat with their cause (UUIDv5)."""

import os
import threading
import time
from uuid import UUID, uuid5

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_BYTES = 10
_POOL_BYTES = 400 * _RANDOM_BYTES


class _Random:
    """The system's random bytes, fetched many at a time, because the call costs more than all else about an id."""

    def __init__(self) -> None:
        self._pool, self._at, self._lock = b"", _POOL_BYTES, threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def take(self) -> int:
        """80 random bits; none is ever given twice."""
        with self._lock:
            if self._at >= _POOL_BYTES:
                self._pool, self._at = os.urandom(_POOL_BYTES), 0
            start, self._at = self._at, self._at + _RANDOM_BYTES
            return int.from_bytes(self._pool[start : self._at], "big")

    def _forget(self) -> None:
        self._at, self._lock = _POOL_BYTES, threading.Lock()


_random = _Random()


def uuid7() -> UUID:
    """A new UUIDv7 of RFC 9562, section 5.7: 48 bits of Unix milliseconds, 74 random bits."""
    random = _random.take()
    milliseconds = time.time_ns() // 1_000_000
    rand_a = (random >> 62) & 0xFFF
    rand_b = random & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | _VERSION_7 | rand_a << 64 | _VARIANT | rand_b)


def derived_id(parent: UUID, name: str) -> UUID:
    """The id that `parent` always gives for `name`: the same reaction to the same event is the same command."""
    return uuid5(parent, name)
