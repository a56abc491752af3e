# intent_ref: event-store.ids
"""Ids that sort by time (UUIDv7, RFC 9562) and ids that repeat with their cause (UUIDv5)."""

import os
import time
from uuid import UUID, uuid5

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62


def uuid7() -> UUID:
    """A new UUIDv7 of RFC 9562, section 5.7: 48 bits of Unix milliseconds, 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    milliseconds = time.time_ns() // 1_000_000
    rand_a = (random >> 62) & 0xFFF
    rand_b = random & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | _VERSION_7 | rand_a << 64 | _VARIANT | rand_b)


def derived_id(parent: UUID, name: str) -> UUID:
    """The id that `parent` always gives for `name`: the same reaction to the same event is the same command."""
    return uuid5(parent, name)
