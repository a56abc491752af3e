# intent_ref: event-store.subscription-secrets
"""The secrets that deliveries are signed with, and the headers they carry: in a table of their own, sealed, never in an event.

Secrets are those of Standard Webhooks (https://www.standardwebhooks.com): `whsec_` and 24 to 64 random bytes in base64.
"""

import base64
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from event_store.faults import DATABASE_AWAY
from event_store.ids import uuid7
from event_store.records import StoreUnavailable

PREFIX: Final = "whsec_"
_KEY_BYTES: Final = 32
_KEEP = "SELECT quantum.keep_subscription_secret($1, $2, $3, $4)"
_DROP = "SELECT quantum.drop_subscription_secret($1, $2)"
_READ = "SELECT secret_id, sealed FROM quantum.subscription_secrets WHERE tenant_id = $1 AND secret_id = ANY ($2)"


class Box(Protocol):
    """Seals bytes so that they open only with the platform's key, and only for what they belong to."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The platform's keys; the first is the one that seals."""
        ...

    def close(self, value: bytes, belongs_to: bytes) -> bytes:
        """The sealed bytes."""
        ...

    def open(self, box: bytes, belongs_to: bytes) -> bytes:
        """The bytes; raises where they were sealed with another key, changed, or belong to something else."""
        ...


class SubscriptionSecrets:
    """The table, through a pool of the role that may do what is asked: the APIs keep and drop, the deliverer reads."""

    def __init__(self, pool: Any, box: Box) -> None:
        self._pool, self._box = pool, box

    async def make(self, tenant_id: str, subscription_id: str) -> tuple[str, str]:
        """(id, secret) of a new secret, which nobody can read again but the deliverer. Raises `StoreUnavailable`."""
        secret_id, key = str(uuid7()), secrets.token_bytes(_KEY_BYTES)
        sealed = self._box.close(key, _belongs_to(tenant_id, secret_id))
        await self._fetch(_KEEP, tenant_id, subscription_id, secret_id, sealed)
        return secret_id, PREFIX + base64.b64encode(key).decode("ascii")

    async def keep_headers(self, tenant_id: str, subscription_id: str, headers: Mapping[str, str]) -> str:
        """The id under which these headers are kept, for nobody but the deliverer to read. Raises `StoreUnavailable`."""
        headers_id = str(uuid7())
        sealed = self._box.close(orjson.dumps(dict(headers)), _headers_belong_to(tenant_id, headers_id))
        await self._fetch(_KEEP, tenant_id, subscription_id, headers_id, sealed)
        return headers_id

    def blinded(self, request: bytes) -> bytes:
        """What tells a request from every other, and does not help to guess what is in it: a hash under the platform's key.

        The hash of a request goes out with its event, so those with headers go into it in this form.
        """
        return hmac.digest(self._box.keys[0], b"webhook request\0" + request, "sha256")

    async def drop(self, tenant_id: str, secret_id: str) -> None:
        """Forgets a secret, or headers, that came to nothing. Raises `StoreUnavailable`."""
        await self._fetch(_DROP, tenant_id, secret_id)

    async def read(self, tenant_id: str, secret_ids: Sequence[str]) -> dict[str, bytes]:
        """The keys behind ids, without those that are gone. Raises `StoreUnavailable`, and what the box raises."""
        rows = await self._fetch(_READ, tenant_id, list(secret_ids))
        return {row[0]: self._box.open(row[1], _belongs_to(tenant_id, row[0])) for row in rows}

    async def read_headers(self, tenant_id: str, headers_id: str) -> dict[str, str] | None:
        """The headers kept under an id; None where they are gone. Raises `StoreUnavailable`, and what the box raises."""
        rows = await self._fetch(_READ, tenant_id, [headers_id])
        if not rows:
            return None
        headers: dict[str, str] = orjson.loads(self._box.open(rows[0][1], _headers_belong_to(tenant_id, headers_id)))
        return headers

    async def _fetch(self, query: str, *arguments: Any) -> list[Any]:
        try:
            rows: list[Any] = await self._pool.fetch(query, *arguments)
            return rows
        except DATABASE_AWAY as fault:
            raise StoreUnavailable(f"{StoreUnavailable.__doc__} ({type(fault).__name__})") from fault


def _belongs_to(tenant_id: str, secret_id: str) -> bytes:
    return f"webhook\0{tenant_id}\0{secret_id}".encode()


def _headers_belong_to(tenant_id: str, headers_id: str) -> bytes:
    return f"webhook headers\0{tenant_id}\0{headers_id}".encode()
