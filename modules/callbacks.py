# intent_ref: modules.callbacks
"""Addresses at which a module answers later. Whoever has one may settle that one attempt and nothing else.

A token is `mac~expiry~attempt~tenant~execution~step`: the claims in the clear, and an HMAC-SHA-256 of them, cut to 128 bits
(RFC 2104, section 5), under a key of the platform. It fits into a segment of a path, and says nothing its holder was not told.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from domain.callbacks import CallbackClaims
from domain.immutable import immutable
from domain.refusals import CallbackExpired, CallbackTokenInvalid
from domain.values import ExecutionId, StepId, TenantId

PATH: Final = "/api/v1/callbacks/"
GRACE_SECONDS: Final = 3_600.0
"""How long after its deadline an attempt may still be told that it comes too late (409); later the address is gone (410)."""
TOKEN_CHARS_MAX: Final = 2_048
_MAC_BYTES: Final = 16
_CONTEXT: Final = b"quantum callback v1\0"
_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]")
_ESCAPED: Final = re.compile(r"!([0-9A-F]{2})")
_EXPIRY_MAX: Final = 0xFFFF_FFFF


@immutable
class Offer:
    """What goes with a request, so that it may be answered later."""

    url: str
    token: str


@immutable
class Settled:
    """What came by callback, as it is recorded: a result, or an error with `code` and `message`.

    `try_again` says, in its place, why it cannot be judged now.
    """

    result: Any = None
    error: dict[str, Any] | None = None
    retryable: bool = False
    try_again: str | None = None


class Callbacks:
    """Issues and verifies. `keys`: the first signs, all verify; `public_url` is how modules reach this platform."""

    def __init__(
        self, keys: Sequence[bytes], public_url: str, *, grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        assert keys, "callbacks need a key"
        self._keys, self._public_url, self._clock = tuple(keys), public_url.rstrip("/"), clock
        self._grace = timedelta(seconds=grace_seconds)

    def issue(self, tenant_id: str, execution_id: str, step: str, attempt: int, deadline: datetime) -> Offer:
        """The address for one attempt, good until a while after its deadline."""
        expiry = min(int((deadline + self._grace).timestamp()), _EXPIRY_MAX)
        claims = "~".join([f"{expiry:x}", str(attempt), *(_escaped(part) for part in (tenant_id, execution_id, step))])
        token = f"{_mac(self._keys[0], claims)}~{claims}"
        return Offer(f"{self._public_url}{PATH}{token}", token)

    def verify(self, token: str) -> CallbackClaims:
        """What a token claims. Raises `CallbackTokenInvalid` or `CallbackExpired`."""
        mac, _, claims = token.partition("~")
        if len(token) > TOKEN_CHARS_MAX or not token.isascii():
            raise CallbackTokenInvalid
        if not any(hmac.compare_digest(_mac(key, claims), mac) for key in self._keys):
            raise CallbackTokenInvalid
        expiry, attempt, tenant_id, execution_id, step = claims.split("~")
        expires_at = datetime.fromtimestamp(int(expiry, 16), UTC)
        if self._clock() > expires_at:
            raise CallbackExpired
        return CallbackClaims(
            tenant_id=TenantId(_unescaped(tenant_id)), execution_id=ExecutionId(_unescaped(execution_id)),
            step=StepId(_unescaped(step)), attempt=int(attempt), expires_at=expires_at,
        )  # fmt: skip


def _mac(key: bytes, claims: str) -> str:
    digest = hmac.digest(key, _CONTEXT + claims.encode("ascii"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:_MAC_BYTES]).decode("ascii").rstrip("=")


def _escaped(text: str) -> str:
    return _PLAIN.sub(lambda found: "".join(f"!{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), text)


def _unescaped(text: str) -> str:
    data = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")
    return data.decode("utf-8", "surrogatepass")
