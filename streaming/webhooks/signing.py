# intent_ref: streaming.webhooks-signing
"""Signatures by Standard Webhooks 1.0.0 (https://github.com/standard-webhooks/standard-webhooks)."""

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from event_store.ids import derived_id

_SCHEME: Final = "v1,"


def webhook_id(event_id: UUID, subscription_id: str) -> UUID:
    """The id of an event's delivery to a subscription: the same at every attempt, by whichever process."""
    return derived_id(event_id, subscription_id)


def signed_headers(keys: Sequence[bytes], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` (Unix seconds) and `webhook-signature`: one HMAC-SHA256 for each key, newest first."""
    timestamp = str(int(at.timestamp()))
    content = b"%s.%s.%s" % (message_id.encode("ascii"), timestamp.encode("ascii"), body)
    made = (base64.b64encode(hmac.digest(key, content, "sha256")).decode("ascii") for key in keys)
    signature = " ".join(_SCHEME + one for one in made)
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
