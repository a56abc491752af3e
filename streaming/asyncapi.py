# intent_ref: streaming.asyncapi
"""The AsyncAPI 3 description of what the platform sends (https://www.asyncapi.com/docs/reference/specification/v3.0.0)."""

from collections.abc import Iterable
from typing import Any, Final

from streaming.cloud_events import STRUCTURED_CONTENT_TYPE
from streaming.event_types import EventType

_STRING: Final = {"type": "string", "minLength": 1}
_ATTRIBUTES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "specversion": ("The version of CloudEvents.", {"const": "1.0"}),
    "id": ("The event's id; a repeat has the same.", {"type": "string", "format": "uuid"}),
    "source": ("The installation it comes from.", {"type": "string", "format": "uri-reference"}),
    "type": ("What happened, with the version of the payload's shape.", _STRING),
    "subject": ("Kind and id of what it happened to.", _STRING),
    "time": ("When it was recorded.", {"type": "string", "format": "date-time"}),
    "datacontenttype": ("The media type of `data`.", {"const": "application/json"}),
    "dataschema": ("The `$id` of the JSON Schema of `data`.", {"type": "string", "format": "uri"}),
    "tenantid": ("The tenant it belongs to.", _STRING),
    "sequence": (
        "Its number within the subject, from 1, without gaps; text of equal length, which compares as the numbers do.",
        {"type": "string", "pattern": "^[0-9]{10}$"},
    ),
    "position": ("The opaque token of its place in the log, for `after` and `Last-Event-ID`.", _STRING),
    "partitionkey": ("Events with the same key come in order.", _STRING),
}
_NOW_AND_THEN: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "correlationid": ("The conversation it belongs to.", _STRING),
    "causationid": ("The event or command that caused it.", _STRING),
    "actor": ("Who asked for it.", _STRING),
    "traceparent": ("The trace it belongs to, as W3C Trace Context.", _STRING),
    "requesthash": ("The hash of the request, where that had an idempotency key.", _STRING),
    "metadata": ("Metadata that the attributes cannot say, in base64.", _STRING),
    "dataref": (
        "Where the data can be fetched, when it was too large to travel.",
        {"type": "string", "format": "uri-reference"},
    ),
}
_INTRODUCTION: Final = """Everything that happens in a tenant, as CloudEvents 1.0, in order.

Payloads keep their shape within a version: properties may be added when they are optional, and enumerations may grow, so pass
over what you do not know. Another shape is another type (`…v2`). Delivery is at least once: recognise a repeat by `id`."""


def asyncapi_document(types: Iterable[EventType], *, version: str) -> dict[str, Any]:
    """The document. `version` is that of the platform."""
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {"CloudEvent": envelope_schema()}
    for one in types:
        schemas.update(_schemas_of(one))
        messages[one.type] = _message(one)
    references = {name: {"$ref": f"#/components/messages/{name}"} for name in messages}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Quantum", "version": version, "description": _INTRODUCTION},
        "defaultContentType": STRUCTURED_CONTENT_TYPE,
        "channels": {
            "feed": {
                "address": "/api/v1/events",
                "title": "The feed over HTTP",
                "description": "Server-Sent Events: `id` is the resume token, `event` the type, `data` the CloudEvent. "
                "`Last-Event-ID` or `after` resumes. The same address gives lists and long polls.",
                "messages": references,
                "bindings": {"http": {}},
            },
            "stream": {
                "address": None,
                "title": "The stream of the broker",
                "description": "Kafka or Event Hubs, where the platform runs with one: CloudEvents in binary mode, keyed by "
                "`partitionkey`. Its name is the installation's choice.",
                "messages": references,
            },
        },
        "operations": {
            "sendToFeed": _sending("feed", "Streams a tenant's events to those who follow its feed."),
            "sendToStream": _sending("stream", "Publishes every event to the broker."),
        },
        "components": {"messages": messages, "schemas": schemas},
    }


def envelope_schema() -> dict[str, Any]:
    """The JSON Schema of a CloudEvent as the platform writes it; `data` is left to each type."""
    described = {**_ATTRIBUTES, **_NOW_AND_THEN}
    return {
        "type": "object",
        "title": "CloudEvent",
        "description": "A CloudEvent 1.0 in structured mode.",
        "properties": {name: {"description": said, **schema} for name, (said, schema) in described.items()},
        "required": list(_ATTRIBUTES),
    }


def _sending(channel: str, summary: str) -> dict[str, Any]:
    return {"action": "send", "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _message(one: EventType) -> dict[str, Any]:
    return {
        "name": one.type,
        "title": one.title,
        "summary": one.meaning,
        "contentType": STRUCTURED_CONTENT_TYPE,
        "payload": {
            "allOf": [
                {"$ref": "#/components/schemas/CloudEvent"},
                {
                    "type": "object",
                    "properties": {"type": {"const": one.type}, "data": {"$ref": f"#/components/schemas/{one.type}"}},
                },
            ]
        },
    }


def _schemas_of(one: EventType) -> dict[str, Any]:
    """The type's schema and those it refers to, each under a name of its own in the document."""
    names = {f"#/$defs/{name}": f"#/components/schemas/{one.type}.{name}" for name in one.schema.get("$defs", {})}
    own = {key: value for key, value in one.schema.items() if key not in ("$schema", "$id", "$defs")}
    made = {f"{one.type}.{name}": _referring(schema, names) for name, schema in one.schema.get("$defs", {}).items()}
    return {one.type: _referring(own, names), **made}


def _referring(schema: Any, names: dict[str, str]) -> Any:
    if isinstance(schema, dict):
        return {key: names[value] if key == "$ref" and value in names else _referring(value, names)
                for key, value in schema.items()}  # fmt: skip
    return [_referring(one, names) for one in schema] if isinstance(schema, list) else schema
