# intent_ref: modules.artifacts
"""What an artifact store promises: bytes of a tenant, kept until they are old, whole or not at all, and nobody else's.

An artifact's id follows from what is in it, so that a step that is attempted again stores the same thing once. Each use
refreshes its age.
"""

import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Protocol

from domain.immutable import immutable
from domain.values import is_tenant_id
from modules.contract import ModuleError

JSON: Final = "application/json"
_ID_CHARS: Final = 64
_CONTENT_TYPE_CHARS_MAX: Final = 100


@immutable
class Artifact:
    """What is known of stored bytes; `size` in bytes, `sha256` in hexadecimal digits."""

    id: str
    sha256: str
    size: int
    content_type: str = JSON


@immutable
class ArtifactLimits:
    """What a tenant may store, in bytes: one artifact, and all of them together."""

    artifact_bytes_max: int = 67_108_864
    tenant_bytes_max: int = 10_737_418_240


UNLESS_SAID: Final = ArtifactLimits()


@immutable
class Opened:
    """An artifact and its bytes in pieces. Reading fails with `ModuleError` `artifact-corrupt` before the end of wrong bytes."""

    artifact: Artifact
    chunks: AsyncIterator[bytes]


class ArtifactStore(Protocol):
    """Where artifacts lie. Every call raises `ModuleError`: `artifact-unavailable`, worth a retry, when the store is away."""

    async def put(self, tenant_id: str, data: bytes, content_type: str = JSON) -> Artifact:
        """Stores `data`, durable when this returns. `artifact-too-large` and `artifact-quota` before anything is written."""
        ...

    async def get(self, tenant_id: str, artifact_id: str) -> bytes:
        """The bytes, checked; `artifact-unknown` where this tenant has none such, `artifact-corrupt` where they have changed."""
        ...

    async def open(self, tenant_id: str, artifact_id: str) -> Opened | None:
        """The bytes in pieces, checked as they are read; None where this tenant has none such."""
        ...

    async def delete(self, tenant_id: str, artifact_id: str) -> bool:
        """Removes an artifact; False where there was none."""
        ...

    async def sweep(self, older_than: datetime) -> int:
        """Removes what all tenants last stored before `older_than`; how many that were."""
        ...


def described(data: bytes, content_type: str = JSON) -> Artifact:
    """The artifact that `data` is."""
    if not content_type.isascii() or not content_type.isprintable() or not 1 <= len(content_type) <= _CONTENT_TYPE_CHARS_MAX:
        raise ModuleError("artifact-invalid", "A content type is 1 to 100 printable ASCII characters.", retryable=False)
    identity = hashlib.sha256(content_type.encode("ascii") + b"\n" + data).hexdigest()
    return Artifact(identity, hashlib.sha256(data).hexdigest(), len(data), content_type)


def is_artifact_id(text: str) -> bool:
    """True for 64 hexadecimal digits in lower case."""
    return len(text) == _ID_CHARS and text.isascii() and all(one in "0123456789abcdef" for one in text)


def check_place(tenant_id: str, artifact_id: str) -> bool:
    """Whether this can be an artifact of a tenant; nothing else becomes part of a path or an address."""
    return is_tenant_id(tenant_id) and is_artifact_id(artifact_id)


def check_size(size: int, used: int, limits: ArtifactLimits) -> None:
    """Raises `ModuleError` where one more artifact of `size` bytes is too large, by itself or on top of `used` bytes."""
    if size > limits.artifact_bytes_max:
        message = f"The value has {size:,} bytes; {limits.artifact_bytes_max:,} are the most that can be stored."
        raise ModuleError("artifact-too-large", message, retryable=False)
    if used + size > limits.tenant_bytes_max:
        message = f"The tenant's artifacts have {used:,} bytes, of {limits.tenant_bytes_max:,}: {size:,} more do not fit."
        raise ModuleError("artifact-quota", message, retryable=False, details={"used": used, "limit": limits.tenant_bytes_max})


def unknown(artifact_id: str) -> ModuleError:
    """There is none such, or not any more."""
    message = f"There is no artifact {artifact_id[:80]!r}: it is older than artifacts are kept, or was never this tenant's."
    return ModuleError("artifact-unknown", message, retryable=False)


def corrupt(artifact_id: str) -> ModuleError:
    """The bytes are not those that were stored."""
    message = f"The artifact {artifact_id} is damaged: its bytes do not have the checksum they were stored with."
    return ModuleError("artifact-corrupt", message, retryable=False)
