# intent_ref: tests.event-hubs-stand-in
"""Fills up what proton writes, because the SDK indexes fields that AMQP lets a peer leave out.

Trailing fields of a performative may be omitted when they are null (AMQP 1.0, 1.4). The SDK's decoder does not fill them up, so
each list is written again with all its fields, in its long form.
"""

import struct

from tests.event_hubs.encoding import end_of, list32, list_at, nulls

_FIELDS = {
    0x10: 10, 0x11: 8, 0x12: 14, 0x13: 11, 0x14: 11, 0x15: 6, 0x16: 3, 0x17: 1, 0x18: 1,
}  # fmt: skip
"""open, begin, attach, flow, transfer, disposition, detach, end, close: how many fields each has."""
_ERROR, _REJECTED = 0x1D, 0x25
_MAY_HOLD_ERRORS = {0x15, 0x16, 0x17, 0x18}


class Filler:
    """A stream of frames in, the same frames filled up out. Frames may arrive in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def fill(self, data: bytes) -> bytes:
        """The complete frames of what has come so far."""
        data = self._rest + data
        at, out = 0, []
        while len(data) - at >= 8:
            if data[at : at + 4] == b"AMQP":
                out.append(data[at : at + 8])
                at += 8
                continue
            size = int(struct.unpack_from(">I", data, at)[0])
            if len(data) - at < size:
                break
            out.append(_frame(data[at : at + size]))
            at += size
        self._rest = data[at:]
        return b"".join(out)


def _frame(frame: bytes) -> bytes:
    start = 4 * frame[4]
    if frame[5] != 0 or len(frame) <= start:  # SASL's frames are complete, and an empty one has nothing
        return frame
    code = frame[start + 2]
    wanted = _FIELDS.get(code)
    if wanted is None:
        return frame
    count, at, end = list_at(frame, start + 3)
    fields = _with_errors(frame, count, at) if code in _MAY_HOLD_ERRORS else frame[at:end]
    body = frame[start : start + 3] + list32(fields + nulls(wanted - count), wanted) + frame[end:]
    return struct.pack(">I", start + len(body)) + frame[4:start] + body


def _with_errors(data: bytes, count: int, at: int) -> bytes:
    """The fields, the errors among them filled up as well."""
    fields = b""
    for _ in range(count):
        end = end_of(data, at)
        fields += _error(data, at, end)
        at = end
    return fields


def _error(data: bytes, at: int, end: int) -> bytes:
    if data[at : at + 2] != b"\x00\x53" or data[at + 2] not in (_ERROR, _REJECTED):
        return data[at:end]
    count, first, _ = list_at(data, at + 3)
    if data[at + 2] == _REJECTED:
        return data[at : at + 3] + list32(_with_errors(data, count, first), count)
    return data[at : at + 3] + list32(data[first:end] + nulls(3 - count), 3)
