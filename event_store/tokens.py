# intent_ref: event-store.tokens
"""Resume tokens: what a position looks like outside. Opaque, so that a later log of several databases can change them."""

import base64
import binascii

_PREFIX = b"q1."


class InvalidToken(ValueError):
    """This is not a resume token of this log. Pass one back exactly as it was given, or leave it out to start over."""

    def __init__(self, token: str) -> None:
        super().__init__(self.__doc__)
        self.token = token


def encode_token(position: int) -> str:
    """The token that resumes after `position`; safe in a header, a URL and an SSE id."""
    return base64.urlsafe_b64encode(_PREFIX + str(position).encode()).decode().rstrip("=")


def decode_token(token: str) -> int:
    """The position behind `token`; raises `InvalidToken`."""
    if not 6 <= len(token) <= 40 or not token.isascii():
        raise InvalidToken(token)
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidToken(token) from None
    digits = raw.removeprefix(_PREFIX)
    if digits == raw or not digits.isdigit() or int(digits) >= 1 << 48:
        raise InvalidToken(token)
    return int(digits)
