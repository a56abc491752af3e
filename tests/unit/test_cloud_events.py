# intent_ref: tests.events
"""Messages become CloudEvents that others can read, and come back byte for byte."""

import json
import string
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from cloudevents.core.bindings.amqp import AMQPMessage
from cloudevents.core.bindings.amqp import from_binary_event as from_amqp
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, from_structured_event
from cloudevents.core.bindings.kafka import KafkaMessage
from cloudevents.core.bindings.kafka import from_binary_event as from_kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from event_store.records import Metadata, metadata_bytes
from event_store.tokens import decode_token
from streaming.cloud_events import (
    STRUCTURED_CONTENT_TYPE,
    DataElsewhere,
    NotAnEvent,
    binary,
    from_binary,
    from_structured,
    stream_of,
    structured,
    structured_dict,
    subject_of,
    without_data,
)
from streaming.transport import Message

EXECUTION = "01936b0e-5c00-7000-8000-000000000002"
MESSAGE = Message(
    UUID("01936b0e-5c00-7000-8000-000000000009"), 42, "tenant-123", f"execution-{EXECUTION}", 7, "execution.step_completed.v1",
    b'{"step":"build","result":{"digest":"sha256:0a1b","ratio":0.5,"note":"gr\xc3\xb6\xc3\x9fer"}}',
    metadata_bytes(Metadata("c-1", "01936b0e-5c00-7000-8000-000000000001", "ada", f"00-{'a' * 32}-{'b' * 16}-01")).decode(),
    datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC),
)  # fmt: skip

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
texts = st.none() | st.text(max_size=20)
metadata = st.builds(Metadata, st.text(max_size=20), texts, st.text(max_size=20), texts, texts).map(
    lambda one: metadata_bytes(one).decode()
)
odd_metadata = st.dictionaries(st.text(), st.none() | st.text() | st.integers(0, 9)).map(json.dumps)
slugs = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20)
messages = st.builds(
    Message,
    st.uuids(), st.integers(0, (1 << 48) - 1), slugs,
    st.builds(lambda kind, name: f"{kind}-{name}", slugs, slugs | st.uuids().map(str)) | st.just("modules"),
    st.integers(1, (1 << 31) - 1), st.builds(lambda one, other: f"{one}.{other}.v1", slugs, slugs), values.map(orjson.dumps),
    metadata | odd_metadata,
    st.datetimes(timezones=st.just(UTC)) | st.datetimes(
        datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(timezone(timedelta(hours=-7)))
    ),
)  # fmt: skip


@given(messages)
def test_a_message_survives_the_binary_mode(message: Message) -> None:
    headers, body = binary(message, "quantum://test")
    assert body is message.payload
    assert from_binary(headers, body) == message


@given(messages)
def test_a_message_survives_the_structured_mode(message: Message) -> None:
    again = from_structured(structured(message, "quantum://test"))
    assert again == message
    assert again.payload == message.payload


@given(messages)
def test_what_another_parser_passes_on_is_the_same_message(message: Message) -> None:
    passed_on = json.dumps(json.loads(structured(message)), indent=3, sort_keys=True)
    assert from_structured(passed_on.encode()).metadata_json == message.metadata_json
    assert orjson.loads(from_structured(passed_on.encode()).payload) == orjson.loads(message.payload)


@given(messages)
def test_every_attribute_is_what_the_specification_allows(message: Message) -> None:
    headers, _ = binary(message, "quantum://test")
    for name, value in headers.items():
        assert name.isalnum()
        assert name == name.lower()
        assert len(name) <= 20
        assert value
        assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xFDD0 <= ord(c) < 0xFDF0 for c in value)


def test_the_attributes_say_what_happened_to_what_and_when() -> None:
    headers, body = binary(MESSAGE, "quantum://production")
    assert headers == {
        "specversion": "1.0",
        "id": "01936b0e-5c00-7000-8000-000000000009",
        "source": "quantum://production",
        "type": "quantum.execution.step_completed.v1",
        "subject": f"execution/{EXECUTION}",
        "time": "2026-11-21T08:00:00.123456Z",
        "datacontenttype": "application/json",
        "dataschema": "quantum:event-types/quantum.execution.step_completed.v1",
        "tenantid": "tenant-123",
        "sequence": "0000000007",
        "position": headers["position"],
        "partitionkey": f"tenant-123/execution-{EXECUTION}",
        "correlationid": "c-1",
        "causationid": "01936b0e-5c00-7000-8000-000000000001",
        "actor": "ada",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    assert decode_token(headers["position"]) == 42
    assert body == MESSAGE.payload


def test_sequences_compare_as_text_as_their_numbers_do() -> None:
    numbers = [1, 2, 9, 10, 99, 100, 2**31 - 1]
    sequences = [binary(Message(**{**vars(MESSAGE), "version": number}))[0]["sequence"] for number in numbers]
    assert sequences == sorted(sequences)


def test_the_reference_library_reads_the_structured_mode() -> None:
    message = HTTPMessage(headers={"content-type": STRUCTURED_CONTENT_TYPE}, body=structured(MESSAGE, "quantum://test"))
    event = from_structured_event(message, JSONFormat())
    assert event.get_id() == str(MESSAGE.event_id)
    assert event.get_subject() == f"execution/{EXECUTION}"
    assert event.get_time() == MESSAGE.recorded_at
    assert event.get_data() == orjson.loads(MESSAGE.payload)
    assert event.get_extension("tenantid") == "tenant-123"
    assert event.get_extension("sequence") == "0000000007"


@pytest.mark.parametrize(
    "read",
    [
        lambda headers, body: from_binary_event(
            HTTPMessage(
                headers={
                    **{f"ce-{name}": value for name, value in headers.items() if name != "datacontenttype"},
                    "content-type": headers["datacontenttype"],
                },
                body=body,
            ),
            JSONFormat(),
        ),
        lambda headers, body: from_kafka(
            KafkaMessage(
                headers={
                    **{f"ce_{name}": value.encode() for name, value in headers.items() if name != "datacontenttype"},
                    "content-type": headers["datacontenttype"].encode(),
                },
                key=headers["partitionkey"].encode(),
                value=body,
            ),
            JSONFormat(),
        ),
        lambda headers, body: from_amqp(
            AMQPMessage(
                properties={"content-type": headers["datacontenttype"]},
                application_properties={
                    f"cloudEvents_{name}": value for name, value in headers.items() if name != "datacontenttype"
                },
                application_data=body,
            ),
            JSONFormat(),
        ),
    ],
    ids=["http", "kafka", "amqp"],
)
def test_the_reference_library_reads_the_binary_mode(read: Any) -> None:
    event = read(*binary(MESSAGE, "quantum://test"))
    assert event.get_type() == "quantum.execution.step_completed.v1"
    assert event.get_data() == orjson.loads(MESSAGE.payload)
    assert event.get_extension("correlationid") == "c-1"


def test_metadata_that_attributes_cannot_say_comes_back_all_the_same() -> None:
    for odd in (
        '{"actor": "ada"}',
        '{"correlation_id":"","causation_id":null,"actor":"a\\nb","traceparent":null,"request_hash":null}',
    ):
        message = Message(**{**vars(MESSAGE), "metadata_json": odd})
        headers, body = binary(message)
        assert "metadata" in headers
        assert from_binary(headers, body).metadata_json == odd


def test_a_message_too_large_for_a_broker_says_where_its_data_is() -> None:
    headers = without_data(binary(MESSAGE)[0])
    assert headers["dataref"] == f"/api/v1/events/{headers['position']}/data"
    with pytest.raises(DataElsewhere) as raised:
        from_binary(headers, b"")
    assert (raised.value.tenant_id, raised.value.position) == ("tenant-123", 42)
    assert from_binary(headers, MESSAGE.payload) == MESSAGE
    with pytest.raises(DataElsewhere):
        from_structured(orjson.dumps(headers))


@pytest.mark.parametrize("missing", ["id", "type", "time", "tenantid", "sequence", "position", "partitionkey"])
def test_an_event_without_what_ours_have_is_refused(missing: str) -> None:
    headers, body = binary(MESSAGE)
    with pytest.raises(NotAnEvent, match=missing):
        from_binary({name: value for name, value in headers.items() if name != missing}, body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "not-a-uuid"), ("type", "com.example.other"), ("time", "yesterday"), ("sequence", "seven"), ("position", "42"),
        ("partitionkey", "another-tenant/execution-1"), ("metadata", "%%%"), ("id", 5), ("type", None), ("time", {}),
        ("tenantid", []), ("position", None),
    ],
)  # fmt: skip
def test_an_event_that_is_not_ours_is_refused(name: str, value: Any) -> None:
    document = {**structured_dict(MESSAGE), name: value, "data": {}}
    with pytest.raises(NotAnEvent):
        from_structured(orjson.dumps(document))


@pytest.mark.parametrize("document", [b"", b"[]", b"5", b"{", b'{"specversion":"1.0"}', b'{"data_base64":"%"}', b"\xff"])
def test_what_is_no_cloudevent_is_refused(document: bytes) -> None:
    with pytest.raises(NotAnEvent):
        from_structured(document)


@given(st.binary() | values.map(orjson.dumps))
def test_nothing_but_our_own_refusal_comes_of_garbage(document: bytes) -> None:
    with pytest.raises(NotAnEvent):
        from_structured(document)


def test_data_in_base64_is_taken_too() -> None:
    document = {name: value for name, value in structured_dict(MESSAGE).items() if name != "data"}
    assert from_structured(orjson.dumps({**document, "data_base64": "eyJhIjoxfQ=="})).payload == b'{"a":1}'


def test_a_subject_leads_back_to_its_stream() -> None:
    for stream in (f"execution-{EXECUTION}", "modules", "tenant-acme-1"):
        assert stream_of(subject_of(stream)) == stream
