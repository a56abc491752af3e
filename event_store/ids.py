# intent_ref: event-store.ids
"""Ids that sort by time (UUIDv7, RFC 9562) and ids that repeat with their cause (UUIDv5)."""

import os
from functools import lru_cache
from hashlib import sha1
from time import time_ns
from typing import Any
from uuid import UUID

from asyncpg.pgproto import pgproto

_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << 62
_RANDOM_BITS = 0xFFF << 64 | (1 << 62) - 1
_RANDOM_BYTES = 10
_POOL_SIZE = 400

_NAMED = 0x5 << 76 | 0b10 << 62
_NAMED_BITS = (1 << 128) - 1 ^ 0xF << 76 ^ 0b11 << 62
_of_bytes: Any = pgproto.UUID
"""The driver's own class, a `UUID` as well: made, hashed and written as text in a fraction of the time."""
_pool: list[bytes] = []
"""Random bits in their places, fetched from the system many at a time; taking one off is a single step of the interpreter."""
os.register_at_fork(after_in_child=_pool.clear)


def uuid7() -> UUID:
    """A new UUIDv7 of RFC 9562, section 5.7: 48 bits of Unix milliseconds, 74 random bits."""
    while True:
        try:
            random = _pool.pop()
            break
        except IndexError:
            data = os.urandom(_POOL_SIZE * _RANDOM_BYTES)
            places = range(0, len(data), _RANDOM_BYTES)
            numbers = [int.from_bytes(data[at : at + _RANDOM_BYTES], "big") & _RANDOM_BITS for at in places]
            _pool.extend([(number | _VERSION_AND_VARIANT).to_bytes(_RANDOM_BYTES, "big") for number in numbers])
    made: UUID = _of_bytes((time_ns() // 1_000_000).to_bytes(6, "big") + random)
    return made


def derived_id(parent: UUID, name: str) -> UUID:
    """The UUIDv5 (RFC 9562, section 5.5) of `name` in the namespace `parent`: the same reaction to the same event is the same
    command."""
    digest = _digest_of(parent).copy()
    digest.update(name.encode())
    number = int.from_bytes(digest.digest()[:16], "big") & _NAMED_BITS | _NAMED
    made: UUID = _of_bytes(number.to_bytes(16, "big"))
    return made


@lru_cache
def _digest_of(parent: UUID) -> Any:
    """The digest that ids in this namespace begin with."""
    return sha1(parent.bytes, usedforsecurity=False)
