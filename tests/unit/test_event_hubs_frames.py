# intent_ref: tests.event-hubs-stand-in
"""The stand-in's own parts: frames are filled up and otherwise left alone, selectors mean what they say."""

import struct

import pytest
from azure.eventhub._pyamqp._decode import decode_frame

from tests.event_hubs.encoding import annotations, list32, nulls, sections, string, symbol
from tests.event_hubs.frames import Filler
from tests.event_hubs.partition_log import Hub, Partition

OPEN, TRANSFER, DISPOSITION, DETACH, CLOSE = 0x10, 0x14, 0x15, 0x16, 0x18


def frame(code: int, fields: bytes, count: int, payload: bytes = b"") -> bytes:
    """A frame with a list in its short form, as proton writes it."""
    listed = b"\x45" if count == 0 else struct.pack(">BBB", 0xC0, len(fields) + 1, count) + fields
    body = b"\x00\x53" + bytes([code]) + listed + payload
    return struct.pack(">IBBH", len(body) + 8, 2, 0, 1) + body


def error(condition: str) -> bytes:
    return b"\x00\x53\x1d" + struct.pack(">BBB", 0xC0, len(symbol(condition)) + 1, 1) + symbol(condition)


def decoded(data: bytes) -> list[object]:
    """The fields, as the SDK sees them."""
    return list(decode_frame(memoryview(data)[8:])[1])


@pytest.mark.parametrize(("code", "fields"), [(OPEN, 10), (0x11, 8), (0x12, 14), (0x13, 11), (DETACH, 3), (0x17, 1), (CLOSE, 1)])
def test_every_performative_gets_all_its_fields(code: int, fields: int) -> None:
    assert len(decoded(Filler().fill(frame(code, string("a"), 1)))) == fields
    assert decoded(Filler().fill(frame(code, b"", 0))) == [None] * fields


def test_a_transfers_payload_stays_behind_its_fields() -> None:
    fields = decoded(Filler().fill(frame(TRANSFER, b"\x43\x43\xa0\x01x", 3, b"payload")))
    assert (fields[:3], fields[3:11], bytes(fields[11])) == ([0, 0, b"x"], [None] * 8, b"payload")  # type: ignore[call-overload]


def test_errors_get_their_fields_wherever_they_are() -> None:
    assert decoded(Filler().fill(frame(CLOSE, error("a:b"), 1))) == [[b"a:b", None, None]]
    assert decoded(Filler().fill(frame(DETACH, b"\x43\x41" + error("a:b"), 3)))[2] == [b"a:b", None, None]
    rejected = b"\x00\x53\x25" + struct.pack(">BBB", 0xC0, len(error("a:b")) + 1, 1) + error("a:b")
    state = decoded(Filler().fill(frame(DISPOSITION, b"\x41\x43\x40\x41" + rejected, 5)))[4]
    assert state == {"rejected": [[b"a:b", None, None]]}


def test_frames_that_come_in_pieces_come_out_whole() -> None:
    whole = b"AMQP\x00\x01\x00\x00" + frame(OPEN, string("a"), 1) + frame(CLOSE, b"", 0) + struct.pack(">IBBH", 8, 2, 0, 0)
    filler = Filler()
    assert b"".join(filler.fill(whole[at : at + 1]) for at in range(len(whole))) == Filler().fill(whole)


def test_a_list_in_its_long_form_is_filled_up_too() -> None:
    body = b"\x00\x53\x10" + list32(string("a") + nulls(1), 2)
    assert decoded(Filler().fill(struct.pack(">IBBH", len(body) + 8, 2, 0, 0) + body)) == [b"a", *[None] * 9]


def test_selectors_start_where_they_say() -> None:
    partition = Partition("0")
    for _ in range(5):
        partition.append(b"\x00\x53\x75\xa0\x01x", None)
    offsets = [event.offset for event in partition.events]
    selector = "amqp.annotation.x-opt-{} {} '{}'".format
    assert partition.first_index(None) == 0
    assert partition.first_index(selector("offset", ">", "-1")) == 0
    assert partition.first_index(selector("offset", ">", offsets[2])) == 3
    assert partition.first_index(selector("offset", ">=", offsets[2])) == 2
    assert partition.first_index(selector("sequence-number", ">", 1)) == 2
    assert partition.first_index(selector("offset", ">", "@latest")) == 5
    with pytest.raises(ValueError, match="not understood"):
        partition.first_index("color = 'red'")


def test_a_batch_is_unpacked_and_a_message_that_is_none_is_not() -> None:
    hub = Hub("events", 1)
    data = b"\x00\x53\x75\xa0\x05hello"
    keyed = annotations({"x-opt-partition-key": string("k")}) + data
    batch = b"".join(b"\x00\x53\x75\xa0" + bytes([len(inner)]) + inner for inner in (data, keyed))
    hub.append(batch, "0")
    hub.append(data, None)
    events = [event.encoded for event in hub.partitions["0"].events]
    assert len(events) == 3
    assert all(event.endswith(data) for event in events)
    assert [b"x-opt-partition-key" in event for event in events] == [False, True, False]
    assert all([code for code, *_ in sections(event)] == [0x72, 0x75] for event in events)
