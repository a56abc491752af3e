# intent_ref: event-store.ids
"""Ids that sort by time (UUIDv7, RFC 9562) and ids that repeat with their cause (UUIDv5)."""

import os
from hashlib import sha1
from time import time_ns
from uuid import UUID, SafeUUID

_VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << 62
_RANDOM_BITS = 0xFFF << 64 | (1 << 62) - 1
_RANDOM_BYTES = 10
_POOL_SIZE = 400

_NAMED = 0x5 << 76 | 0b10 << 62
_NAMED_BITS = (1 << 128) - 1 ^ 0xF << 76 ^ 0b11 << 62
_new, _set, _unknown = object.__new__, object.__setattr__, SafeUUID.unknown
_pool: list[int] = []
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
            _pool.extend([int.from_bytes(data[at : at + _RANDOM_BYTES], "big") & _RANDOM_BITS for at in places])
    return _made((time_ns() // 1_000_000) << 80 | _VERSION_AND_VARIANT | random)


def derived_id(parent: UUID, name: str) -> UUID:
    """The UUIDv5 (RFC 9562, section 5.5) of `name` in the namespace `parent`: the same reaction to the same event is the same
    command."""
    digest = int.from_bytes(sha1(parent.bytes + name.encode(), usedforsecurity=False).digest()[:16], "big")
    return _made(digest & _NAMED_BITS | _NAMED)


def _made(number: int) -> UUID:
    """What `UUID(int=number)` does, without its checks of arguments: ids are made for each event and each command."""
    made = _new(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", _unknown)
    return made
