# intent_ref: access.tokens
"""Verifies bearer tokens (RFC 7519, by the advice of RFC 8725).

Only EdDSA and RS256 count, each with its own type of key: a token cannot choose its algorithm, so `none` and an HMAC under a
public key have no way in. Verified tokens are remembered by their digest, because a client sends the same one with each request.
"""

import hashlib
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import orjson
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey, RSAKey

from access.keys import KeySource, VerificationKey
from access.principal import Principal
from access.roles import ROLES, Role
from domain.immutable import immutable
from domain.values import TenantId, is_tenant_id

TOKEN_CHARACTERS_MAX: Final = 8192
CACHED_TOKENS_MAX: Final = 10_000
CACHED_SECONDS_MAX: Final = 300.0
TENANTS_MAX: Final = 256
_KEY_TYPES: Final[dict[str, type[VerificationKey]]] = {"EdDSA": OKPKey, "Ed25519": OKPKey, "RS256": RSAKey}
_REGISTRY: Final = jws.JWSRegistry(algorithms=list(_KEY_TYPES), strict_check_header=False)


class TokenRefused(Exception):
    """The token proves nothing. `code` says why in a word, the message in a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@immutable
class TrustedIssuer:
    """Whose tokens count: `issuer` and `audience` must be in the token, and `keys` must have the key that signed it."""

    issuer: str
    audience: str
    keys: KeySource


class TokenVerifier:
    """Turns a token into a `Principal`, or raises `TokenRefused`. Clocks may differ by `leeway_seconds`."""

    def __init__(
        self,
        trusted: Sequence[TrustedIssuer],
        *,
        leeway_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trusted = {one.issuer: one for one in trusted}
        self._leeway_seconds, self._clock = leeway_seconds, clock
        self._verified: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Who the token speaks for. Raises `TokenRefused`; `access.keys.KeysUnavailable` when its key cannot be had now."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise TokenRefused("token-too-long", f"The token has more than {TOKEN_CHARACTERS_MAX} characters.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        known = self._verified.get(digest)
        if known is not None and now < known[1]:
            self._verified.move_to_end(digest)
            return known[0]
        principal = await self._verify(token, now)
        # Five minutes at most, so that a key that is withdrawn takes its tokens along.
        until = min(principal.expires_at + self._leeway_seconds, now + CACHED_SECONDS_MAX)
        self._verified[digest] = (principal, until)
        self._verified.move_to_end(digest)
        if len(self._verified) > CACHED_TOKENS_MAX:
            self._verified.popitem(last=False)
        return principal

    async def _verify(self, token: str, now: float) -> Principal:
        signed, claims = _unpacked(token)
        trusted = self._trusted.get(claims["iss"]) if isinstance(claims.get("iss"), str) else None
        if trusted is None:
            raise TokenRefused("token-issuer-unknown", "The token's issuer (`iss`) is not trusted here.")
        await _check_signature(signed, trusted.keys)
        audience = claims.get("aud")
        if trusted.audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenRefused("token-audience-wrong", f"The token is not meant for {trusted.audience!r} (`aud`).")
        issued_at, expires_at = self._check_times(claims, now)
        return Principal(
            _subject(claims), _tenants(claims), _roles(claims), trusted.issuer, issued_at, expires_at,
            claims["jti"] if isinstance(claims.get("jti"), str) else None,
        )  # fmt: skip

    def _check_times(self, claims: dict[str, Any], now: float) -> tuple[float, float]:
        issued_at, expires_at = _seconds(claims, "iat"), _seconds(claims, "exp")
        not_before = _seconds(claims, "nbf") if "nbf" in claims else issued_at
        if now >= expires_at + self._leeway_seconds:
            raise TokenRefused("token-expired", "The token has expired. Get a new one.")
        if now < max(not_before, issued_at) - self._leeway_seconds:
            raise TokenRefused("token-not-yet-valid", "The token is not valid yet (`nbf`, `iat`): do the clocks agree?")
        return issued_at, expires_at


def _unpacked(token: str) -> tuple[jws.CompactSignature, dict[str, Any]]:
    """The token's parts, of which nothing is proven yet."""
    try:
        signed = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
        claims = orjson.loads(signed.payload)
        header = signed.headers()
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as fault:
        raise TokenRefused("token-malformed", "The token is not a signed JWT in compact form.") from fault
    if not isinstance(claims, dict) or not isinstance(header, dict):
        raise TokenRefused("token-malformed", "The token's header and claims must be JSON objects.")
    return signed, claims


async def _check_signature(signed: jws.CompactSignature, keys: KeySource) -> None:
    header = signed.headers()
    algorithm, key_id = header.get("alg"), header.get("kid")
    key_type = _KEY_TYPES.get(algorithm) if isinstance(algorithm, str) else None
    if key_type is None or "crit" in header or "b64" in header:
        raise TokenRefused("token-algorithm-refused", "Only tokens signed with EdDSA or RS256 count.")
    key = await keys.key(key_id) if isinstance(key_id, str) else None
    if key is None:
        raise TokenRefused("token-key-unknown", "The token names a key (`kid`) that its issuer does not have.")
    if not isinstance(key, key_type):
        raise TokenRefused("token-algorithm-refused", "The token's algorithm does not belong to its key.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of the name `EdDSA`, see access.issuer
            is_genuine = jws.validate_compact(signed, key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError):
        is_genuine = False
    if not is_genuine:
        raise TokenRefused("token-signature-invalid", "The token's signature does not hold.")


def _seconds(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused("token-claims-invalid", f"The token needs `{name}` as a number of seconds since 1970.")
    return float(value)


def _subject(claims: dict[str, Any]) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= 255 or not subject.isprintable():
        raise TokenRefused("token-claims-invalid", "The token needs `sub`: 1 to 255 printable characters.")
    return subject


def _tenants(claims: dict[str, Any]) -> tuple[TenantId, ...]:
    tenants = claims["tenants"] if "tenants" in claims else [claims["tenant"]] if "tenant" in claims else None
    if not isinstance(tenants, list) or not 1 <= len(tenants) <= TENANTS_MAX:
        raise TokenRefused("token-claims-invalid", f"The token needs `tenants`: a list of 1 to {TENANTS_MAX} tenant ids.")
    if not all(isinstance(tenant, str) and is_tenant_id(tenant) for tenant in tenants):
        raise TokenRefused("token-claims-invalid", "The token's `tenants` holds something that is no tenant id.")
    return tuple(dict.fromkeys(tenants))


def _roles(claims: dict[str, Any]) -> frozenset[Role]:
    roles = claims.get("roles")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise TokenRefused("token-claims-invalid", "The token needs `roles`: a list of names.")
    # An identity provider may know roles that mean nothing here; they grant nothing.
    return frozenset(cast("Role", role) for role in roles if role in ROLES)
