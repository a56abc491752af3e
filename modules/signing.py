# intent_ref: modules.signing
"""Signed requests, as Standard Webhooks 1.0 has it: whoever has the secret knows that the platform sent this, now, unchanged."""

import base64
import binascii
from datetime import datetime
from typing import Final

from standardwebhooks.webhooks import Webhook

from modules.contract import ModuleError

SECRETS_MAX: Final = 4
_KEY_BYTES_MIN: Final = 24
_KEY_BYTES_MAX: Final = 64
_PREFIX: Final = "whsec_"


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers for `body`. While a secret is being changed its value may be several, with blanks between: each signs.

    Raises `ModuleError` `secret-invalid`, which does not repeat it.
    """
    found = secret.split()
    if not 1 <= len(found) <= SECRETS_MAX or not all(_is_sound(one) for one in found):
        rule = f"`{_PREFIX}` and {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} bytes in base64"
        raise ModuleError("secret-invalid", f"The secret to sign with cannot be used. It is {rule}.", retryable=False)
    text = body.decode("utf-8")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(one).sign(message_id, at, text) for one in found),
    }


def _is_sound(secret: str) -> bool:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX
