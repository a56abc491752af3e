# intent_ref: event-store.disclosure
"""What of a stored event may leave the platform.

Nearly always all of it, byte for byte. Events of earlier releases may hold what should never have been in an event: the log is
not rewritten, because what happened is proved by its bytes, so such parts are taken out wherever events go out. Whatever the
platform does for itself (decode, fold, seal) goes by the bytes as they are.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

REDACTED: Final = "(redacted)"
"""Stands where a text was."""

Redact = Callable[[dict[str, Any]], dict[str, Any]]
"""The payload of an event without what must not leave; of the same shape, so that its schema holds."""


def _without_header_values(subscription_event: dict[str, Any]) -> dict[str, Any]:
    """The headers that go with deliveries may be credentials for the receiver."""
    terms = subscription_event["terms"]
    headers = terms.get("headers", {})
    if not isinstance(headers, dict):
        raise TypeError("headers are an object")
    return {**subscription_event, "terms": {**terms, "headers": dict.fromkeys(headers, REDACTED)}}


REDACTIONS: Final[dict[str, Redact]] = {
    "subscription.created.v1": _without_header_values,
    "subscription.changed.v1": _without_header_values,
}
"""Topic -> how to take out what must not leave. Versions that are written now need none."""


def disclosed(topic: str, payload: bytes) -> bytes:
    """The payload as everybody outside may see it, whichever way it goes there. Bytes that do not fit are shown as none."""
    redact = REDACTIONS.get(topic)
    if redact is None:
        return payload
    try:
        return orjson.dumps(redact(orjson.loads(payload)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return b"{}"
