# intent_ref: modules.artifacts
"""The claim check (G. Hohpe, B. Woolf, Enterprise Integration Patterns, 2003): what is too large for the log is stored beside it.

In its place stands `{"$artifact": {"id", "sha256", "size", "content_type"}}`.
"""

from typing import Any, Final

import orjson

from modules.artifacts.store import JSON, ArtifactStore, corrupt, described, unknown
from modules.contract import ModuleError

THRESHOLD_BYTES: Final = 262_144
CHECKED_OUT_BYTES_MAX: Final = 67_108_864
"""What the artifacts in one value may come to together, however often each is in it."""
MARK: Final = "$artifact"


async def checked_in(store: ArtifactStore, tenant_id: str, value: Any, threshold: int = THRESHOLD_BYTES) -> Any:
    """`value`, or where it has more than `threshold` bytes as JSON, the claim to it.

    Raises `ModuleError`: `artifact-too-large` or `artifact-quota` before anything is written, `result-invalid` for what is no
    JSON, and `artifact-unavailable`, which is worth a retry.
    """
    try:
        data = orjson.dumps(value)
    except TypeError as fault:
        raise ModuleError("result-invalid", f"The value is not JSON: {fault}", retryable=False) from fault
    if len(data) <= threshold:
        return value
    artifact = await store.put(tenant_id, data, JSON)
    return {
        MARK: {"id": artifact.id, "sha256": artifact.sha256, "size": artifact.size, "content_type": artifact.content_type}
    }  # fmt: skip


async def checked_out(store: ArtifactStore, tenant_id: str, value: Any, bytes_max: int = CHECKED_OUT_BYTES_MAX) -> Any:
    """`value` with what was checked in for this tenant in the place of each claim, at whatever depth.

    A claim is only a name: what it says of size and checksum must be true of the tenant's own artifact. Raises `ModuleError`:
    `artifact-unknown`, `artifact-corrupt`, `artifact-too-large` where all together exceed `bytes_max`, `artifact-unavailable`.
    """
    claims = claims_in(value)
    if not claims:
        return value
    sizes = [claim.get("size") for claim in claims]
    total = sum(size for size in sizes if isinstance(size, int))
    if total > bytes_max:
        message = f"The value refers to artifacts of {total:,} bytes together; {bytes_max:,} can be put in its place."
        raise ModuleError("artifact-too-large", message, retryable=False)
    found: dict[str, Any] = {}
    for claim in claims:
        identity = claim["id"]
        if identity not in found:
            found[identity] = await _claimed(store, tenant_id, claim)
    return _filled(value, found)


def claims_in(value: Any) -> list[dict[str, Any]]:
    """The claims in a value, as often as they are in it."""
    found: list[dict[str, Any]] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if _is_claim(one):
                found.append(one[MARK])
            else:
                left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return found


def _is_claim(value: dict[str, Any]) -> bool:
    claim = value.get(MARK)
    return len(value) == 1 and isinstance(claim, dict) and isinstance(claim.get("id"), str)


async def _claimed(store: ArtifactStore, tenant_id: str, claim: dict[str, Any]) -> Any:
    opened = await store.open(tenant_id, claim["id"])
    if opened is None:
        raise unknown(claim["id"])
    if claim.get("size") != opened.artifact.size or opened.artifact.content_type != JSON:
        raise corrupt(claim["id"])
    data = b"".join([chunk async for chunk in opened.chunks])
    if described(data, JSON).id != claim["id"]:
        raise corrupt(claim["id"])
    return orjson.loads(data)


def _filled(value: Any, found: dict[str, Any]) -> Any:
    match value:
        case dict() if _is_claim(value):
            return found[value[MARK]["id"]]
        case dict():
            return {key: _filled(one, found) for key, one in value.items()}
        case list():
            return [_filled(one, found) for one in value]
        case _:
            return value
