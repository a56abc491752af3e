# intent_ref: quantum.blob-artifacts
"""Artifacts in Azure Blob Storage: the blob `<tenant>/<id>` of one container, its checksum in the metadata."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

from domain.values import is_tenant_id
from modules.artifacts.store import (
    JSON,
    UNLESS_SAID,
    Artifact,
    ArtifactLimits,
    Opened,
    check_place,
    check_size,
    corrupt,
    described,
    unknown,
)
from modules.contract import ModuleError

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties
    from azure.storage.blob.aio import ContainerClient

_USAGE_SECONDS: Final = 60.0
_CALL_SECONDS_MAX: Final = 60.0


class BlobArtifacts:
    """The store in `container`, which is made where it is missing. A tenant's usage is counted once a minute."""

    def __init__(self, container: "ContainerClient", *credentials: Any, limits: ArtifactLimits = UNLESS_SAID) -> None:
        self._container, self._credentials, self._limits = container, credentials, limits
        self._used: dict[str, tuple[int, float]] = {}
        self._is_there = False
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    def connected(cls, connection: str, container: str, limits: ArtifactLimits = UNLESS_SAID) -> Self:
        """By a connection string, or by `https://….blob.core.windows.net` with the identity of the surroundings."""
        from azure.storage.blob.aio import ContainerClient

        if not connection.startswith("https://"):
            return cls(ContainerClient.from_connection_string(connection, container), limits=limits)
        from azure.identity.aio import DefaultAzureCredential

        credential = DefaultAzureCredential()
        return cls(ContainerClient(connection, container, credential), credential, limits=limits)

    async def put(self, tenant_id: str, data: bytes, content_type: str = JSON) -> Artifact:
        """As `ArtifactStore` has it."""
        from azure.storage.blob import ContentSettings

        artifact = described(data, content_type)
        if not is_tenant_id(tenant_id):
            raise unknown(artifact.id)
        check_size(len(data), 0, self._limits)
        with _faults():
            async with asyncio.timeout(_CALL_SECONDS_MAX), self._one_at_a_time:
                await self._require_container()
                used = await self._usage(tenant_id)
                is_new = not await self._container.get_blob_client(_name(tenant_id, artifact.id)).exists()
                if is_new:
                    check_size(len(data), used, self._limits)
                    self._used[tenant_id] = (used + len(data), self._used[tenant_id][1])
            async with asyncio.timeout(_CALL_SECONDS_MAX):
                await self._container.upload_blob(
                    _name(tenant_id, artifact.id), data, overwrite=True, metadata={"sha256": artifact.sha256},
                    content_settings=ContentSettings(content_type=content_type),
                )  # fmt: skip
        return artifact

    async def get(self, tenant_id: str, artifact_id: str) -> bytes:
        """As `ArtifactStore` has it."""
        opened = await self.open(tenant_id, artifact_id)
        if opened is None:
            raise unknown(artifact_id)
        return b"".join([chunk async for chunk in opened.chunks])

    async def open(self, tenant_id: str, artifact_id: str) -> Opened | None:
        """As `ArtifactStore` has it."""
        from azure.core.exceptions import ResourceNotFoundError

        if not check_place(tenant_id, artifact_id):
            return None
        with _faults():
            try:
                async with asyncio.timeout(_CALL_SECONDS_MAX):
                    found = await self._container.get_blob_client(_name(tenant_id, artifact_id)).get_blob_properties()
            except ResourceNotFoundError:
                return None
        artifact = _artifact(artifact_id, found)
        return Opened(artifact, self._chunks(tenant_id, artifact))

    async def delete(self, tenant_id: str, artifact_id: str) -> bool:
        """As `ArtifactStore` has it."""
        from azure.core.exceptions import ResourceNotFoundError

        if not check_place(tenant_id, artifact_id):
            return False
        with _faults():
            try:
                async with asyncio.timeout(_CALL_SECONDS_MAX):
                    await self._container.delete_blob(_name(tenant_id, artifact_id))
            except ResourceNotFoundError:
                return False
        self._used.pop(tenant_id, None)
        return True

    async def sweep(self, older_than: datetime) -> int:
        """As `ArtifactStore` has it. What is stored again meanwhile stays."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        count = 0
        with _faults():
            async for blob in self._container.list_blobs():
                if blob.last_modified >= older_than:
                    continue
                try:
                    async with asyncio.timeout(_CALL_SECONDS_MAX):
                        await self._container.delete_blob(
                            blob.name, etag=blob.etag, match_condition=MatchConditions.IfNotModified
                        )  # fmt: skip
                    count += 1
                except (ResourceNotFoundError, ResourceModifiedError):
                    continue
        self._used.clear()
        return count

    async def close(self) -> None:
        """Closes the connections."""
        await self._container.close()
        for credential in self._credentials:
            await credential.close()

    async def _chunks(self, tenant_id: str, artifact: Artifact) -> AsyncIterator[bytes]:
        """The bytes; the last piece comes only after the checksum of all has been found right."""
        from azure.core.exceptions import ResourceNotFoundError

        digest, left = hashlib.sha256(), artifact.size
        with _faults():
            try:
                download = await self._container.download_blob(_name(tenant_id, artifact.id))
                async for piece in download.chunks():
                    digest.update(piece)
                    left -= len(piece)
                    if left < 0 or (left == 0 and digest.hexdigest() != artifact.sha256):
                        raise corrupt(artifact.id)
                    yield piece
            except ResourceNotFoundError as fault:
                raise unknown(artifact.id) from fault
        if left:
            raise corrupt(artifact.id)

    async def _require_container(self) -> None:
        if not self._is_there:
            if not await self._container.exists():
                from azure.core.exceptions import ResourceExistsError

                with contextlib.suppress(ResourceExistsError):  # another process was faster
                    await self._container.create_container()
            self._is_there = True

    async def _usage(self, tenant_id: str) -> int:
        used, counted_at = self._used.get(tenant_id, (0, float("-inf")))
        if time.monotonic() - counted_at < _USAGE_SECONDS:
            return used
        used = sum([blob.size async for blob in self._container.list_blobs(name_starts_with=f"{tenant_id}/")])
        self._used[tenant_id] = (used, time.monotonic())
        return used


def _name(tenant_id: str, artifact_id: str) -> str:
    return f"{tenant_id}/{artifact_id}"


def _artifact(artifact_id: str, found: "BlobProperties") -> Artifact:
    checksum = (found.metadata or {}).get("sha256")
    if checksum is None:
        raise corrupt(artifact_id)
    return Artifact(artifact_id, checksum, found.size, found.content_settings.content_type or "")


@contextmanager
def _faults() -> Iterator[None]:
    """What the SDK raises, as `artifact-unavailable`, without what it says about addresses and accounts."""
    from azure.core.exceptions import AzureError

    try:
        yield
    except (AzureError, TimeoutError) as fault:
        message = f"The artifact store does not answer as it should: {type(fault).__name__}."
        raise ModuleError("artifact-unavailable", message) from fault
