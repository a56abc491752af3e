# intent_ref: write-api.subscriptions
"""Secrets and headers of a subscription, sealed before the command that names them, and forgotten where it comes to nothing."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from domain.refusals import Refusal
from domain.subscription import Subscription
from domain.subscription_rules import header_faults
from domain.values import SecretId, SubscriptionId
from event_store.subscription_secrets import SubscriptionSecrets


class Kept:
    """What is sealed before the event that names it is stored. At the end, what the event does not name is forgotten: the command
    was refused, or had been obeyed before. Where it is not known what became of it, the deliverer sweeps later.
    """

    def __init__(self, secrets: SubscriptionSecrets, tenant_id: str, id: SubscriptionId) -> None:
        self._secrets, self._tenant_id, self._id = secrets, tenant_id, id
        self._made: set[str] = set()

    async def secret(self) -> tuple[SecretId, str]:
        """(id, secret) of a new one to sign with."""
        secret_id, secret = await self._secrets.make(self._tenant_id, self._id)
        self._made.add(secret_id)
        return SecretId(secret_id), secret

    async def headers(self, given: Mapping[str, str] | None) -> tuple[dict[str, str], SecretId | None]:
        """(headers, id under which they are kept). Those that cannot be are not kept: the command is going to be refused."""
        headers = dict(given or {})
        if not headers or header_faults(headers):
            return headers, None
        headers_id = await self._secrets.keep_headers(self._tenant_id, self._id, headers)
        self._made.add(headers_id)
        return headers, SecretId(headers_id)

    def become(self, found: Subscription) -> Subscription:
        """What `found` names is its own from now on."""
        self._made -= {found.secret_id, found.terms.headers_id or ""}
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if fault is None or isinstance(fault, Refusal):
            for made in self._made:
                await self._secrets.drop(self._tenant_id, made)
