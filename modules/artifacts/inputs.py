# intent_ref: modules.artifacts
"""Inputs of executions, results of loops and outputs by claim check: member by member, so that expressions see what is small.

Members give way the largest first, until what is left is small enough. Where it takes too many of them, the value as a whole
becomes one artifact. Which it is follows from the value alone, so a command that is repeated stores the same artifacts once more.
"""

from collections.abc import Iterable
from typing import Any, Final

import orjson

from domain.refusals import ArtifactQuotaReached, Fault, Invalid
from domain.values import TenantId
from modules.artifacts.claim_check import CHECKED_OUT_BYTES_MAX, THRESHOLD_BYTES, checked_in, checked_out
from modules.artifacts.store import ArtifactStore
from modules.contract import ModuleError

REDEEMED_BYTES_MAX: Final = 16_777_216
"""What the claims among an execution's inputs may come to together, where a schema is held against what they stand for."""
_MEMBERS_MAX: Final = 16
_MEMBER_BYTES_MIN: Final = 8_192
"""A smaller member is not worth an artifact of its own."""
_CLAIM_BYTES: Final = 256
"""What a claim has at most, rounded up."""


class InputArtifacts:
    """`commands.kept_values.ValueStore` on an artifact store. Raises its refusals, and `ModuleError` `artifact-unavailable`."""

    inline_bytes_max: int = THRESHOLD_BYTES

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def redeemed(self, tenant_id: TenantId, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with what the tenant's claims in them stand for, 16 MiB of it at most."""
        try:
            found = await checked_out(self._store, tenant_id, inputs, REDEEMED_BYTES_MAX)
        except ModuleError as error:
            raise _refusal(error) from error
        if not isinstance(found, dict):
            raise Invalid([Fault("/inputs", "The artifact that this stands for is no object.", "type")])
        return found

    async def kept(self, tenant_id: TenantId, value: Any, bytes_max: int = THRESHOLD_BYTES) -> Any:
        """The value with claims in the place of what is large. What has claims inside is stored with what they stand for."""
        try:
            chosen = large_members(value, bytes_max)
            if chosen is None:
                return await self._claimed(tenant_id, value)
            if isinstance(value, list):
                return [await self._claimed(tenant_id, one) if place in chosen else one for place, one in enumerate(value)]
            return {name: await self._claimed(tenant_id, one) if name in chosen else one for name, one in value.items()}
        except ModuleError as error:
            raise _refusal(error) from error

    async def _claimed(self, tenant_id: TenantId, value: Any) -> Any:
        whole = await checked_out(self._store, tenant_id, value, REDEEMED_BYTES_MAX)
        return await checked_in(self._store, tenant_id, whole, threshold=0)


def large_members(value: Any, bytes_max: int) -> frozenset[str | int] | None:
    """The members of an object, or the elements of a list, to store apart, so that the rest has `bytes_max` at most.

    None where that takes too many, or where the value is neither. Raises `ModuleError` `artifact-too-large` for what nobody could
    ever be handed.
    """
    if not isinstance(value, dict | list):
        return None
    places: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    sizes: list[tuple[int, Any]] = []
    left = 2
    for place, one in places:
        sizes.append((len(orjson.dumps(one)), place))
        left += sizes[-1][0] + 1 + (len(orjson.dumps(place)) + 1 if isinstance(value, dict) else 0)
        if left > CHECKED_OUT_BYTES_MAX:
            message = f"The value has more than {CHECKED_OUT_BYTES_MAX:,} bytes, which is more than any step could be given."
            raise ModuleError("artifact-too-large", message, retryable=False)
    sizes.sort(reverse=True)
    chosen: set[str | int] = set()
    for size, name in sizes:
        if left <= bytes_max:
            break
        if size < _MEMBER_BYTES_MIN or len(chosen) == _MEMBERS_MAX:
            return None
        chosen.add(name)
        left -= size - _CLAIM_BYTES
    return frozenset(chosen) if left <= bytes_max else None


def _refusal(error: ModuleError) -> Exception:
    """What is said of an error of the store: a refusal, or the error itself where the same may go well later."""
    if error.retryable:
        return error
    if error.code == "artifact-quota":
        return ArtifactQuotaReached(error.message)
    return Invalid([Fault("/inputs", error.message, error.code)])
