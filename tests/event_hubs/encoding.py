# intent_ref: tests.event-hubs-stand-in
"""AMQP 1.0 values on raw bytes (OASIS AMQP 1.0, part 1: types), as far as they are looked into without decoding messages."""

import struct

_NULL = 0x40
_MAP_TYPES = {0xC1: 1, 0xD1: 4}
_LIST_TYPES = {0xC0: 1, 0xD0: 4}


def end_of(data: bytes, at: int) -> int:
    """Where the value that begins at `at` ends. The upper half of a type's code says how long it is (1.2 Type Encodings)."""
    code = data[at]
    if code == 0x00:  # a described type: the descriptor, then the value
        return end_of(data, end_of(data, at + 1))
    width = code >> 4
    at += 1
    if width in (0x4, 0x5, 0x6, 0x7, 0x8, 0x9):
        return at + {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}[width]
    if width in (0xA, 0xC, 0xE):
        return at + 1 + data[at]
    return at + 4 + int(struct.unpack_from(">I", data, at)[0])


def list_at(data: bytes, at: int) -> tuple[int, int, int]:
    """(count, first item, end) of the list that begins at `at`."""
    if data[at] == 0x45:
        return 0, at + 1, at + 1
    return _compound(data, at, _LIST_TYPES[data[at]])


def _compound(data: bytes, at: int, width: int) -> tuple[int, int, int]:
    size, count = struct.unpack_from(">BB" if width == 1 else ">II", data, at + 1)
    return count, at + 1 + 2 * width, at + 1 + width + size


def list32(items: bytes, count: int) -> bytes:
    """A list in its long form."""
    return struct.pack(">BII", 0xD0, len(items) + 4, count) + items


def nulls(count: int) -> bytes:
    """So many nulls."""
    return bytes([_NULL]) * count


def string(text: str) -> bytes:
    """A string in its long form."""
    raw = text.encode()
    return struct.pack(">BI", 0xB1, len(raw)) + raw


def symbol(text: str) -> bytes:
    """A symbol in its short form."""
    raw = text.encode("ascii")
    return struct.pack(">BB", 0xA3, len(raw)) + raw


def long(value: int) -> bytes:
    """A 64-bit integer."""
    return struct.pack(">Bq", 0x81, value)


def timestamp(milliseconds: int) -> bytes:
    """A moment, in milliseconds since 1970."""
    return struct.pack(">Bq", 0x83, milliseconds)


def annotations(items: dict[str, bytes]) -> bytes:
    """A message's annotations section; the values are encoded already."""
    body = b"".join(symbol(name) + value for name, value in items.items())
    return b"\x00\x53\x72" + struct.pack(">BII", 0xD1, len(body) + 4, 2 * len(items)) + body


def sections(message: bytes) -> list[tuple[int, int, int, int]]:
    """(code, start, start of the value, end) of each section of an encoded message; `ValueError` where it is none."""
    found, at = [], 0
    while at < len(message):
        if message[at : at + 2] != b"\x00\x53":
            raise ValueError(f"no section begins with {message[at : at + 3]!r}")
        try:
            end = end_of(message, at + 3)
        except (IndexError, KeyError, struct.error) as fault:
            raise ValueError("a section ends too early") from fault
        if end > len(message):
            raise ValueError("a section ends too late")
        found.append((message[at + 2], at, at + 3, end))
        at = end
    return found


def binary_at(data: bytes, at: int) -> bytes:
    """The bytes of a binary value, string or symbol that begins at `at`."""
    start = at + 2 if data[at] >> 4 == 0xA else at + 5
    return data[start : end_of(data, at)]


def text_in_map(data: bytes, at: int, key: bytes) -> str | None:
    """What a map of symbols says under `key`, where that is text."""
    count, at, _ = _compound(data, at, _MAP_TYPES[data[at]])
    for _ in range(count // 2):
        name, at = binary_at(data, at), end_of(data, at)
        if name == key:
            return binary_at(data, at).decode() if data[at] in (0xA1, 0xB1) else None
        at = end_of(data, at)
    return None
