# intent_ref: modules.secrets
"""Secrets become values at dispatch and nowhere else; what was used is known, so that it is kept out of what is stored."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import structlog

from domain.immutable import immutable
from modules.contract import ModuleError
from modules.secrets.redaction import CHARS_MIN, NOTHING, Redaction
from modules.secrets.references import SCHEME, Reference, parse_reference, references_in, replaced

VALUE_BYTES_MAX: Final = 65_536
CACHE_SECONDS: Final = 30.0
CACHED_MAX: Final = 1_000
_PROVIDER_SECONDS_MAX: Final = 10.0

log = structlog.get_logger(__name__)


class SecretUnknown(Exception):
    """The provider answered: this tenant has no such secret."""


class SecretUnavailable(Exception):
    """The provider could not be asked now. The message says why, without any value."""


class SecretProvider(Protocol):
    """Somewhere secrets lie. `name` is what a reference calls it."""

    @property
    def name(self) -> str:
        """Such as `file`."""
        ...

    async def get(self, tenant_id: str, name: str) -> str:
        """The value of one tenant's secret; raises `SecretUnknown` or `SecretUnavailable`."""
        ...


@immutable
class Resolved:
    """Parameters with values in them, to be sent and forgotten, and what must be kept out of everything that comes back."""

    parameters: Any = field(repr=False)
    used: Redaction = NOTHING


class Secrets:
    """Asks `providers` in their order. Values are kept for `cache_seconds` in this process's memory, `CACHED_MAX` at most."""

    def __init__(
        self, providers: Sequence[SecretProvider], *, cache_seconds: float = CACHE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._providers: dict[str, SecretProvider] = {provider.name: provider for provider in providers}
        self._cache_seconds, self._clock = cache_seconds, clock
        self._cached: OrderedDict[tuple[str, Reference], tuple[str, float]] = OrderedDict()
        self._one_at_a_time: WeakValueDictionary[tuple[str, Reference], asyncio.Lock] = WeakValueDictionary()

    async def resolve(self, tenant_id: str, parameters: Any, *, authored: Any = None) -> Resolved:
        """`parameters` with the tenant's values in the place of references.

        `authored`, where given, are the parameters as the definition has them, before expressions were evaluated: then only
        references that stand at the same place in it count, so that what a module answered or a caller put into the inputs
        cannot make a secret appear. Raises `ModuleError`: `secret-unknown`, `secret-invalid` and `secret-reference-invalid` are
        not worth a retry, `secret-unavailable` is.
        """
        if authored is not None:
            wanted = set(references_in(authored))
            if not wanted:
                return Resolved(parameters)
            values = {reference: await self.value(tenant_id, reference) for reference in sorted(wanted, key=str)}
            resolved = _filled_where(parameters, authored, values)
        else:
            values = {reference: await self.value(tenant_id, reference) for reference in references_in(parameters)}
            if not values:
                return Resolved(parameters)
            resolved = _filled(parameters, values)
        return Resolved(resolved, Redaction({value: reference.name for reference, value in values.items()}))

    async def reveal(self, tenant_id: str, text: str) -> str:
        """The value that one reference stands for. Raises `ModuleError` as `resolve` does, also where `text` is no reference."""
        reference = parse_reference(text)
        if reference is None:
            raise ModuleError("secret-reference-invalid", "A reference to a secret reads `secret://name`.", retryable=False)
        return await self.value(tenant_id, reference)

    async def value(self, tenant_id: str, reference: Reference) -> str:
        """The value of one secret, from the cache while it is fresh. Raises `ModuleError` as `resolve` does."""
        key = (tenant_id, reference)
        if (known := self._fresh(key)) is not None:
            return known
        lock = self._one_at_a_time.get(key)
        if lock is None:
            lock = self._one_at_a_time[key] = asyncio.Lock()
        async with lock:
            if (known := self._fresh(key)) is not None:
                return known
            value = _usable(await self._asked(tenant_id, reference), reference)
            if self._cache_seconds > 0:
                self._cached[key] = (value, self._clock() + self._cache_seconds)
                while len(self._cached) > CACHED_MAX:
                    self._cached.popitem(last=False)
            return value

    def forget(self, tenant_id: str) -> None:
        """Drops what is cached of one tenant."""
        for key in [key for key in self._cached if key[0] == tenant_id]:
            del self._cached[key]

    def _fresh(self, key: tuple[str, Reference]) -> str | None:
        known = self._cached.get(key)
        if known is None:
            return None
        if known[1] <= self._clock():
            del self._cached[key]
            return None
        self._cached.move_to_end(key)
        return known[0]

    async def _asked(self, tenant_id: str, reference: Reference) -> str:
        asked = list(self._providers.values())
        if reference.provider is not None:
            if reference.provider not in self._providers:
                known = ", ".join(self._providers) or "none"
                message = f"There is no provider of secrets {reference.provider!r} on this platform; there is: {known}."
                raise ModuleError("secret-unknown", message, retryable=False)
            asked = [self._providers[reference.provider]]
        for provider in asked:
            try:
                async with asyncio.timeout(_PROVIDER_SECONDS_MAX):
                    return await provider.get(tenant_id, reference.name)
            except SecretUnknown:
                continue
            except (SecretUnavailable, TimeoutError) as fault:
                # The next provider is not asked: a secret must not change its value because a store is away.
                reason = str(fault) or "it did not answer in time"
                log.warning("a secret cannot be read now", provider=provider.name, tenant=tenant_id, reason=reason)
                message = f"The secret {reference.name!r} cannot be read now: {provider.name}: {reason}"
                raise ModuleError("secret-unavailable", message) from fault
        way = f"Store it with `quantum secrets set {reference.name} --tenant {tenant_id}`."
        raise ModuleError("secret-unknown", f"This tenant has no secret {reference.name!r}. {way}", retryable=False)


def _usable(value: str, reference: Reference) -> str:
    fault = value_fault(value)
    if fault is not None:
        raise ModuleError("secret-invalid", f"The secret {reference.name!r} cannot be used: {fault}", retryable=False)
    return value


def value_fault(value: str) -> str | None:
    """Why this cannot be a secret's value, as a sentence; None where it can."""
    if len(value.strip()) < CHARS_MIN:
        return f"it has fewer than {CHARS_MIN} characters, too few to be kept out of results and logs."
    if len(value.encode("utf-8", "surrogatepass")) > VALUE_BYTES_MAX:
        return f"it is longer than {VALUE_BYTES_MAX:,} bytes."
    if "\0" in value:
        return "it holds a NUL character."
    return None


def _filled(value: Any, values: Mapping[Reference, str]) -> Any:
    match value:
        case str():
            return replaced(value, values.__getitem__) if SCHEME in value else value
        case list():
            return [_filled(one, values) for one in value]
        case dict():
            return {key: _filled(one, values) for key, one in value.items()}
        case _:
            return value


def _filled_where(value: Any, authored: Any, values: Mapping[Reference, str]) -> Any:
    """As `_filled`, for the strings whose counterpart in `authored` has references, and for those references alone."""
    if isinstance(value, dict) and isinstance(authored, dict):
        return {key: _filled_where(one, authored.get(key), values) for key, one in value.items()}
    if isinstance(value, list) and isinstance(authored, list):
        counterparts = [*authored, *[None] * len(value)]
        return [_filled_where(one, counterparts[index], values) for index, one in enumerate(value)]
    if not isinstance(value, str) or not isinstance(authored, str) or SCHEME not in authored:
        return value
    own = set(references_in(authored))
    if parse_reference(authored) is None and parse_reference(value) is not None:
        return value  # an expression has made a whole reference of what was none
    return replaced(value, lambda reference: values[reference] if reference in own else f"${{{reference}}}")
