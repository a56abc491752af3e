# intent_ref: event-store.disclosure
"""What events of earlier releases hold and should not goes out by no way; everything else goes out as it is."""

from pathlib import Path

import orjson
import pytest

from domain.subscription import SubscriptionCreated
from event_store import codec
from event_store.disclosure import REDACTED, REDACTIONS, disclosed
from event_store.ids import uuid7
from event_store.records import Metadata, metadata_bytes
from streaming.cloud_events import binary, structured
from streaming.event_types import SCHEMAS
from streaming.transport import Message
from tests.golden.write import FOLDER
from tests.streams import AT

SECRET = "Bearer abc.def.ghi"


def former(topic: str) -> bytes:
    """An event of `topic` whose headers hold a credential."""
    document = orjson.loads((FOLDER / f"{topic}.json").read_bytes())
    document["terms"]["headers"] = {"Authorization": SECRET, "X-Team": "web"}
    return orjson.dumps(document)


def message(topic: str, payload: bytes) -> Message:
    """An event as it travels."""
    metadata = metadata_bytes(Metadata("c", None, "ada", None)).decode()
    return Message(uuid7(), 7, "tenant-123", "subscriptions", 1, topic, payload, metadata, AT)


@pytest.mark.parametrize("topic", sorted(REDACTIONS))
def test_what_former_events_say_in_headers_leaves_by_no_way(topic: str) -> None:
    payload = former(topic)
    for shown in (disclosed(topic, payload), binary(message(topic, payload))[1], structured(message(topic, payload))):
        assert SECRET.encode() not in shown
        assert b'"web"' not in shown
        assert b"Authorization" in shown


@pytest.mark.parametrize("topic", sorted(REDACTIONS))
def test_what_is_shown_instead_has_the_same_shape(topic: str) -> None:
    import jsonschema_rs

    shown = orjson.loads(disclosed(topic, former(topic)))
    jsonschema_rs.validator_for(orjson.loads((SCHEMAS / f"{topic}.json").read_bytes())).validate(shown)
    assert shown["terms"]["headers"] == {"Authorization": REDACTED, "X-Team": REDACTED}
    whole = orjson.loads(former(topic))
    assert {**shown, "terms": None} == {**whole, "terms": None}


def test_bytes_that_do_not_fit_are_not_shown() -> None:
    for broken in (b"", b"[]", b'{"terms": 7}', orjson.dumps({"terms": {"headers": SECRET}}),
                   orjson.dumps({"terms": {"headers": [SECRET]}}), b'{"a": "' + SECRET.encode()):  # fmt: skip
        assert disclosed("subscription.created.v1", broken) == b"{}"


def golden(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=golden)
def test_every_other_event_goes_out_byte_for_byte(path: Path) -> None:
    topic = path.stem.rpartition(".")[0] if path.stem.rpartition(".")[2].isdigit() else path.stem
    if topic not in REDACTIONS:
        assert disclosed(topic, path.read_bytes()) == path.read_bytes()


def test_former_events_are_read_as_the_present_ones_without_what_their_headers_say() -> None:
    event = codec.decode("subscription.created.v1", former("subscription.created.v1"))
    assert isinstance(event, SubscriptionCreated)
    assert (event.terms.headers, event.terms.headers_id) == (("Authorization", "X-Team"), None)
    assert SECRET not in repr(event)
