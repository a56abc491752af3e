# intent_ref: tests.kafka-transport
"""Messages as Kafka records: nothing is lost on the way, and keys go where every other client would send them."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.cloud_events import DataElsewhere, NotAnEvent
from streaming.kafka_records import kafka_partition_of, message_of, record_of
from streaming.transport import Message

METADATA = '{"correlation_id":"c","causation_id":null,"actor":"ada","traceparent":null,"request_hash":null}'


def message(payload: bytes = b"{}", stream: str = "intent-1", tenant: str = "tenant-1", metadata: str = METADATA) -> Message:
    return Message(
        UUID(int=7), 42, tenant, stream, 3, "intent.created.v1", payload, metadata, datetime(2026, 11, 21, 8, tzinfo=UTC)
    )


@given(st.binary(max_size=300), st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30))
def test_a_message_comes_back_as_it_was(payload: bytes, stream: str) -> None:
    sent = message(payload, stream)
    record = record_of(sent, "/quantum", 900_000)
    assert message_of(record.headers, record.value) == sent
    assert record.key == sent.key.encode()


def test_the_stated_size_covers_all_that_is_sent() -> None:
    record = record_of(message(b"x" * 100), "/quantum", 900_000)
    assert record.size_bytes > len(record.key) + len(record.value) + sum(len(name) + len(text) for name, text in record.headers)


def test_a_payload_above_the_limit_stays_in_the_log() -> None:
    record = record_of(message(b"x" * 1_000), "/quantum", 1_000)
    assert record.value == b""
    assert record.size_bytes < 1_000
    with pytest.raises(DataElsewhere) as elsewhere:
        message_of(record.headers, record.value)
    assert (elsewhere.value.tenant_id, elsewhere.value.position) == ("tenant-1", 42)


@pytest.mark.parametrize("headers", [[], [("ce_id", b"\xff")], [("ce_id", None)], [("id", b"x")]])
def test_a_foreign_record_is_no_event(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(NotAnEvent):
        message_of(headers, None)


def test_keys_go_to_the_partitions_that_every_client_of_kafka_computes() -> None:
    # murmur2 of the Java client's own test (UtilsTest.testMurmur2): -973932308, -790332482, -985981536, -1486304829.
    for key, hashed in (("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)):
        assert kafka_partition_of(key, 1_000) == (hashed & 0x7FFFFFFF) % 1_000
