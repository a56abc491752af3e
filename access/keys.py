# intent_ref: access.tokens
"""Where the public keys come from that tokens are verified with: this platform's own, or an identity provider's JWKS."""

import asyncio
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import httpx
import orjson
import structlog
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey, RSAKey

VerificationKey = OKPKey | RSAKey
KEYS_MAX: Final = 64
JWKS_BYTES_MAX: Final = 1 << 20
FRESH_SECONDS: Final = 24 * 3600.0
REFRESH_SECONDS_MIN: Final = 300.0
_RSA_BITS_MIN: Final = 2048
_FETCH_SECONDS_MAX: Final = 5.0

log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The identity provider's keys cannot be fetched and none are known yet. Tokens cannot be verified; try again soon."""


class KeySource(Protocol):
    """Finds the key a token says it was signed with."""

    async def key(self, key_id: str) -> VerificationKey | None:
        """The key of that id, or None where there is none. Raises `KeysUnavailable`."""
        ...


def keys_of(jwks: Any) -> dict[str, VerificationKey]:
    """The keys of a JWK Set that may verify signatures: Ed25519, and RSA of 2,048 bits and more. Others are passed over."""
    entries = jwks.get("keys") if isinstance(jwks, Mapping) else None
    found: dict[str, VerificationKey] = {}
    for entry in entries[:KEYS_MAX] if isinstance(entries, list) else ():
        key = _key(entry)
        if key is not None:
            found[str(entry.get("kid") or key.thumbprint())] = key
    return found


def _key(entry: Any) -> VerificationKey | None:
    if not isinstance(entry, Mapping) or entry.get("use", "sig") != "sig":
        return None
    public = {name: entry[name] for name in ("kty", "crv", "x", "n", "e", "kid") if name in entry}
    try:
        if entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519" and entry.get("alg", "EdDSA") in ("EdDSA", "Ed25519"):
            return OKPKey.import_key(public)
        if entry.get("kty") == "RSA" and entry.get("alg", "RS256") == "RS256":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # of keys that are too small, which the next line drops
                key = RSAKey.import_key(public)
            return key if key.public_key.key_size >= _RSA_BITS_MIN else None
    except (JoseError, ValueError, TypeError):
        return None
    return None


class LocalKeys:
    """The keys of a JWK Set that is at hand."""

    def __init__(self, jwks: Mapping[str, Any]) -> None:
        self._keys = keys_of(jwks)

    async def key(self, key_id: str) -> VerificationKey | None:
        """The key of that id."""
        return self._keys.get(key_id)


class RemoteKeys:
    """An identity provider's JWKS: kept for 24 h, asked again for an unknown key at most every 5 minutes.

    When the provider does not answer, the last good set serves on. `client` is used for nothing else and closed by its owner.
    """

    def __init__(self, url: str, client: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._client, self._clock = url, client, clock
        self._keys: dict[str, VerificationKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._one_at_a_time = asyncio.Lock()

    async def key(self, key_id: str) -> VerificationKey | None:
        """The key of that id. Raises `KeysUnavailable` when no set was ever fetched."""
        if self._is_wanted(key_id):
            async with self._one_at_a_time:
                if self._is_wanted(key_id):
                    await self._fetch()
        if self._fetched_at is None:
            raise KeysUnavailable(str(KeysUnavailable.__doc__))
        return self._keys.get(key_id)

    def _is_wanted(self, key_id: str) -> bool:
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < REFRESH_SECONDS_MIN and self._fetched_at is not None:
            return False
        if self._tried_at is not None and now - self._tried_at < 1.0:
            return False  # never fetched, and the last try has only just failed
        is_old = self._fetched_at is None or now - self._fetched_at >= FRESH_SECONDS
        return is_old or key_id not in self._keys

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            async with asyncio.timeout(_FETCH_SECONDS_MAX):
                keys = keys_of(await self._download())
            if not keys:
                raise ValueError("it holds no key that may verify signatures")
        except (httpx.HTTPError, ValueError, TimeoutError) as fault:
            log.warning("the identity provider's keys were not fetched; the last good ones serve on", fault=repr(fault))
            return
        self._keys, self._fetched_at = keys, self._clock()

    async def _download(self) -> Any:
        body = bytearray()
        async with self._client.stream("GET", self._url, headers={"Accept": "application/json"}) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > JWKS_BYTES_MAX:
                    raise ValueError("the set is larger than 1 MiB")
        return orjson.loads(bytes(body))
