# intent_ref: streaming.cloud-events
"""Messages as CloudEvents 1.0 (https://github.com/cloudevents/spec), and back again without a loss.

Two forms. *Binary*: the attributes travel as the broker's headers, the body is the event's payload, byte for byte as the log
holds it. *Structured*: one JSON object with the attributes and the payload under `data`. The names of attributes carry no
protocol's prefix here; whoever binds them to a protocol adds it (`ce_` for Kafka, `cloudEvents:` for AMQP, `ce-` for HTTP).
Values are text, of any Unicode but control characters, and say:

| attribute | what |
| --- | --- |
| `id` | the event's id; a repeat has the same |
| `source` | the installation, such as `quantum://production` |
| `type` | `quantum.` and the topic, such as `quantum.execution.step_completed.v1` |
| `subject` | kind and id of what it happened to, such as `execution/01936b0e-…` |
| `time` | when the log took it, RFC 3339 in UTC |
| `datacontenttype`, `dataschema` | `application/json`, and the `$id` of the type's JSON Schema (`streaming/event_types.py`) |
| `tenantid` | whose it is |
| `sequence` | the number of the event within its subject, from 1, without gaps; ten digits, so that text compares as numbers do |
| `position` | the opaque token of the event's place in the whole log: `GET /api/v1/events?after=` goes on behind it |
| `partitionkey` | tenant and stream: what stays in order |
| `correlationid`, `causationid`, `traceparent`, `actor`, `requesthash` | the event's metadata, where it has them |
| `dataref` | where the payload can be fetched, when it was too large to travel (`without_data`) |
| `metadata` | the metadata as stored, in base64: only where it is other than the attributes above can say |
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson

from event_store.disclosure import disclosed
from event_store.tokens import InvalidToken, decode_token, encode_token
from streaming.transport import Message

TYPE_PREFIX: Final = "quantum."
SCHEMA_PREFIX: Final = "quantum:event-types/"
SOURCE_DEFAULT: Final = "/quantum"
CONTENT_TYPE: Final = "application/json"
STRUCTURED_CONTENT_TYPE: Final = "application/cloudevents+json"
# Attribute, key of the metadata: in the order the log writes them.
_METADATA: Final = (
    ("correlationid", "correlation_id"),
    ("causationid", "causation_id"),
    ("actor", "actor"),
    ("traceparent", "traceparent"),
    ("requesthash", "request_hash"),
)
_METADATA_KEYS: Final = tuple(key for _, key in _METADATA)
# What the specification forbids in a string.
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]|[\ud800-\udfff]")


class NotAnEvent(ValueError):
    """This is not a CloudEvent that this platform wrote: it lacks an attribute, or one says what none of ours would."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} {self.__doc__}")


class DataElsewhere(Exception):
    """The event's payload was too large to travel: read it from the log at `position`, for the tenant."""

    def __init__(self, tenant_id: str, position: int, reference: str) -> None:
        super().__init__(f"{self.__doc__} ({reference})")
        self.tenant_id, self.position, self.reference = tenant_id, position, reference


def type_of(topic: str) -> str:
    """The CloudEvents type of a topic."""
    return TYPE_PREFIX + topic


def schema_id(topic: str) -> str:
    """The `$id` of the JSON Schema of a topic's payload."""
    return f"{SCHEMA_PREFIX}{TYPE_PREFIX}{topic}"


def subject_of(stream_id: str) -> str:
    """`<kind>/<id>` of a stream; the kind alone where there is one such stream a tenant."""
    kind, _, name = stream_id.partition("-")
    return f"{kind}/{name}" if name else stream_id


def stream_of(subject: str) -> str:
    """The stream behind a subject."""
    return subject.replace("/", "-", 1)


def binary(message: Message, source: str = SOURCE_DEFAULT) -> tuple[dict[str, str], bytes]:
    """(attributes, body) of a message. The body is its payload as stored, but for what may not leave (`disclosed`)."""
    return _attributes(message, source), disclosed(message.topic, message.payload)


def structured_dict(message: Message, source: str = SOURCE_DEFAULT) -> dict[str, Any]:
    """A message as a CloudEvent in one object, for `orjson.dumps`: `data` is what `binary` has as the body, not parsed."""
    document: dict[str, Any] = _attributes(message, source)
    document["data"] = orjson.Fragment(disclosed(message.topic, message.payload))
    return document


def structured(message: Message, source: str = SOURCE_DEFAULT) -> bytes:
    """A message as a CloudEvent in one JSON object (`application/cloudevents+json`)."""
    return orjson.dumps(structured_dict(message, source))


def from_binary(headers: Mapping[str, str], data: bytes) -> Message:
    """The message behind attributes and a body. Attributes it does not know are passed over.

    Raises `NotAnEvent`, or `DataElsewhere` where the payload did not travel with it.
    """
    try:
        tenant_id, position = headers["tenantid"], decode_token(headers["position"])
        if "dataref" in headers and not data:
            raise DataElsewhere(tenant_id, position, headers["dataref"])
        kind, key = headers["type"], headers["partitionkey"]
        if not kind.startswith(TYPE_PREFIX) or not key.startswith(f"{tenant_id}/"):
            raise NotAnEvent(f"Its type is {kind!r} and its partition key {key!r}.")
        return Message(
            UUID(headers["id"]), position, tenant_id, key[len(tenant_id) + 1 :], int(headers["sequence"]),
            kind[len(TYPE_PREFIX) :], data, _metadata_of(headers), datetime.fromisoformat(headers["time"]).astimezone(UTC),
        )  # fmt: skip
    except NotAnEvent:
        raise
    except KeyError as fault:
        raise NotAnEvent(f"It has no attribute {fault.args[0]!r}.") from fault
    except (InvalidToken, ValueError, TypeError, AttributeError, OverflowError) as fault:
        raise NotAnEvent(f"{fault}") from fault


def from_structured(document: bytes | str) -> Message:
    """The message behind a CloudEvent in one JSON object.

    The payload comes back byte for byte, as long as who passed the object on left its numbers as they were.
    Raises `NotAnEvent` and `DataElsewhere`.
    """
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError as fault:
        raise NotAnEvent(f"It is not JSON: {fault}.") from fault
    if not isinstance(found, dict):
        raise NotAnEvent("It is not a JSON object.")
    try:
        data = base64.b64decode(found["data_base64"], validate=True) if "data_base64" in found else b""
    except (ValueError, TypeError) as fault:
        raise NotAnEvent(f"data_base64: {fault}.") from fault
    if "data" in found:
        data = orjson.dumps(found.pop("data"))
    elif not data and "dataref" not in found:
        raise NotAnEvent("It has neither data nor a dataref.")
    return from_binary(found, data)


def without_data(headers: Mapping[str, str], base: str = "/api/v1") -> dict[str, str]:
    """The attributes of a message whose body stays behind, with the reference to where it can be fetched (`dataref`).

    `base` is where the HTTP API is; a whole URL where consumers are not to know it otherwise.
    """
    return {**headers, "dataref": f"{base}/events/{headers['position']}/data"}


def _attributes(message: Message, source: str) -> dict[str, str]:
    at = message.recorded_at
    topic = message.topic
    attributes = {
        "specversion": "1.0",
        "id": str(message.event_id),
        "source": source,
        "type": _type(topic),
        "subject": subject_of(message.stream_id),
        "time": (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat()[:-6] + "Z",
        "datacontenttype": CONTENT_TYPE,
        "dataschema": _schema(topic),
        "tenantid": message.tenant_id,
        "sequence": f"{message.version:010d}",
        "position": encode_token(message.position),
        "partitionkey": message.key,
    }
    metadata = _canonical(message.metadata_json)
    if metadata is None:
        attributes["metadata"] = base64.b64encode(message.metadata_json.encode("utf-8", "surrogatepass")).decode()
        return attributes
    for attribute, key in _METADATA:
        value = metadata[key]
        if value is not None:
            attributes[attribute] = value
    return attributes


_type = lru_cache(1024)(type_of)
_schema = lru_cache(1024)(schema_id)


def _canonical(metadata_json: str) -> dict[str, str | None] | None:
    """The metadata, if attributes alone can say it so that the same text comes back; else None."""
    try:
        found = orjson.loads(metadata_json)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
    if not isinstance(found, dict) or tuple(found) != _METADATA_KEYS:
        return None
    for value in found.values():
        if value is not None and (not isinstance(value, str) or not value or (not value.isprintable() and _UNFIT.search(value))):
            return None
    return found if orjson.dumps(found).decode() == metadata_json else None


def _metadata_of(headers: Mapping[str, str]) -> str:
    raw = headers.get("metadata")
    if raw is not None:
        return base64.b64decode(raw, validate=True).decode("utf-8", "surrogatepass")
    return orjson.dumps({key: headers.get(attribute) for attribute, key in _METADATA}).decode()
