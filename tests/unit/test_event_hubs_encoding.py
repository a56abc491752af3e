# intent_ref: tests.event-hubs-transport
"""Our encoding of events is the SDK's, byte for byte, and so is what it makes of a batch's size."""

from typing import Any

import pytest
from azure.eventhub import EventDataBatch
from hypothesis import given
from hypothesis import strategies as st

from streaming import event_hubs_encoding
from streaming.event_hubs_encoding import CONTENT_TYPE, added, encoded, event_data
from streaming.event_hubs_events import message_of, put
from tests.integration.test_event_hubs_transport import messages

NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)
VALUES = st.text(min_size=1, max_size=400)


def by_the_sdk(attributes: dict[str, str], body: bytes, bytes_max: int = 1_000_000) -> Any:
    batch = EventDataBatch(max_size_in_bytes=bytes_max, partition_id="0")
    batch.add(event_data(attributes, body))
    return batch


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=20), st.binary(max_size=600))
def test_an_event_is_encoded_as_the_sdk_encodes_it(attributes: dict[str, str], body: bytes) -> None:
    attributes = {"id": "1", **attributes, CONTENT_TYPE: "application/json"}
    theirs = by_the_sdk(attributes, body)
    ours: Any = EventDataBatch(max_size_in_bytes=1_000_000, partition_id="0")
    assert added(ours, attributes, body)
    assert encoded(attributes, body) == bytes(theirs._message[5][0])
    assert [bytes(each) for each in ours._message[5]] == [bytes(each) for each in theirs._message[5]]
    assert (ours.size_in_bytes, len(ours)) == (theirs.size_in_bytes, len(theirs))


def test_a_batch_is_full_for_us_when_it_is_for_the_sdk() -> None:
    attributes = {CONTENT_TYPE: "application/json", "id": "1"}
    size = by_the_sdk(attributes, b"x" * 300).size_in_bytes
    assert added(EventDataBatch(max_size_in_bytes=size, partition_id="0"), attributes, b"x" * 300)
    assert not added(EventDataBatch(max_size_in_bytes=size - 1, partition_id="0"), attributes, b"x" * 300)
    with pytest.raises(ValueError, match="size limit"):
        by_the_sdk(attributes, b"x" * 300, size - 1)


def test_a_batch_that_looks_different_inside_is_filled_by_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_hubs_encoding, "_is_as_known", lambda batch: False)
    batch = EventDataBatch(max_size_in_bytes=1_000, partition_id="0")
    attributes = {CONTENT_TYPE: "application/json", "id": "1"}
    assert added(batch, attributes, b"x" * 300)
    assert not added(batch, attributes, b"x" * 1_000)
    assert len(batch) == 1


def test_what_an_empty_batch_has_no_room_for_leaves_its_payload_behind() -> None:
    batch: Any = EventDataBatch(max_size_in_bytes=2_000, partition_id="0")
    (message,) = messages(1, payload=b'"' + b"x" * 5_000 + b'"')
    assert put(batch, message, "/q", 900_000)
    assert b"cloudEvents:dataref" in batch._message[5][0]
    (small,) = messages(1)
    while put(batch, small, "/q", 900_000):
        pass
    assert not put(batch, message, "/q", 900_000)
    assert batch.size_in_bytes <= 2_000


def test_a_message_comes_back_from_the_sdks_own_event() -> None:
    from streaming.cloud_events import binary

    (message,) = messages(1, payload=b'{"a": "\xc3\xa4"}')
    assert message_of(event_data(*binary(message, "/q"))) == message
