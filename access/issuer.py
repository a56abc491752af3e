# intent_ref: access.issuer
"""The local issuer: signs tokens with an Ed25519 key that lives in the data directory and is made on first use.

The key is an RFC 8037 JWK in `keys/issuer.jwk`. Other `*.jwk` files beside it are still trusted and sign nothing: to change
the key, rename the old one, and remove it when its last token has expired.
"""

import contextlib
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import orjson
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey

from access.roles import ROLES
from domain.values import is_tenant_id
from event_store.ids import uuid7

LOCAL_ISSUER: Final = "urn:quantum:local"
AUDIENCE: Final = "quantum"
HOURS_MAX: Final = 24 * 366
_SIGNING_KEY: Final = "issuer.jwk"

_REGISTRY: Final = jws.JWSRegistry(algorithms=["EdDSA"])


class KeysUnusable(Exception):
    """The issuer's keys cannot be read; no token can be issued or verified."""


class TokenNotIssuable(ValueError):
    """A token with such contents would be refused everywhere."""


class LocalIssuer:
    """Issues tokens and publishes the public keys they are verified with."""

    def __init__(
        self,
        keys: Sequence[OKPKey],
        *,
        issuer: str = LOCAL_ISSUER,
        audience: str = AUDIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = tuple(keys)
        self._clock = clock
        self.issuer, self.audience = issuer, audience

    @classmethod
    def open(cls, keys_folder: Path, *, issuer: str = LOCAL_ISSUER, audience: str = AUDIENCE) -> Self:
        """The issuer whose keys are in `keys_folder`; makes folder and key where there are none.

        Several processes may open the same folder at the same time: one key wins and all use it. Raises `KeysUnusable`.
        """
        signing = keys_folder / _SIGNING_KEY
        try:
            keys_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not signing.exists():
                _create(signing)
            others = sorted(path for path in keys_folder.glob("*.jwk") if path.name != _SIGNING_KEY)
            return cls([_read(path) for path in (signing, *others)], issuer=issuer, audience=audience)
        except OSError as fault:
            raise KeysUnusable(f"Cannot use the keys in {keys_folder}: {fault.strerror}.") from fault

    def issue(self, tenants: Iterable[str], roles: Iterable[str], subject: str, hours: float) -> str:
        """A signed token that lets `subject` act in `tenants` with `roles` for `hours`. Raises `TokenNotIssuable`."""
        tenants, roles = list(dict.fromkeys(tenants)), list(dict.fromkeys(roles))
        _check(tenants, roles, subject, hours)
        now = int(self._clock())
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "tenants": tenants,
            "roles": roles,
            "jti": str(uuid7()),
            "iat": now,
            "nbf": now,
            "exp": now + int(hours * 3600),
        }
        key = self._keys[0]
        header = {"alg": "EdDSA", "typ": "JWT", "kid": key.thumbprint()}
        with warnings.catch_warnings():
            # RFC 9864 prefers the name `Ed25519`; the algorithm is the same, and `EdDSA` is what verifiers know today.
            warnings.simplefilter("ignore", SecurityWarning)
            return jws.serialize_compact(header, orjson.dumps(claims), key, registry=_REGISTRY)

    def jwks(self) -> dict[str, Any]:
        """The public keys, as a JWK Set (RFC 7517)."""
        return {"keys": [_public(key) for key in self._keys]}


def _public(key: OKPKey) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": "EdDSA"}


def _check(tenants: Sequence[str], roles: Sequence[str], subject: str, hours: float) -> None:
    if not tenants:
        raise TokenNotIssuable("A token needs at least one tenant.")
    for tenant in tenants:
        if not is_tenant_id(tenant):
            raise TokenNotIssuable(
                f"{tenant!r} is no tenant id: use lower-case letters, digits and inner hyphens, 1 to 63 characters."
            )
    for role in roles:
        if role not in ROLES:
            raise TokenNotIssuable(f"{role!r} is no role. The roles are {', '.join(sorted(ROLES))}.")
    if not 1 <= len(subject) <= 255 or not subject.isprintable():
        raise TokenNotIssuable("A subject has 1 to 255 printable characters.")
    if not 0 < hours <= HOURS_MAX:
        raise TokenNotIssuable(f"A token lives for more than 0 and at most {HOURS_MAX} hours.")


def _create(path: Path) -> None:
    """Writes a new key under a name of its own, then links it to `path`: whole or not at all, and only if it is the first."""
    key = OKPKey.generate_key("Ed25519", private=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(key.as_dict(private=True), option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> OKPKey:
    try:
        data = orjson.loads(path.read_bytes())
        if not isinstance(data, dict) or data.get("kty") != "OKP" or data.get("crv") != "Ed25519" or "d" not in data:
            raise ValueError
        return OKPKey.import_key(data)
    except (ValueError, JoseError) as fault:
        way_out = "Move it away and start again: a new key is made, and tokens of the old one are refused."
        raise KeysUnusable(f"{path} is not a private Ed25519 key in JWK form. {way_out}") from fault
