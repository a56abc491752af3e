# intent_ref: modules.artifacts
"""Artifacts as files of the data directory: `<tenant>/<first two digits>/<id>`, a line of JSON about the bytes, then the bytes.

Files are written aside, flushed and renamed, so a crash leaves the whole artifact or none; what it left aside is swept.
"""

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import orjson

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
    is_artifact_id,
    unknown,
)
from modules.contract import ModuleError
from modules.key_files import private_folder, sync_folder, write_whole

T = TypeVar("T")
_CHUNK_BYTES: Final = 65_536
_HEAD_BYTES_MAX: Final = 1_024
_USAGE_SECONDS: Final = 10.0


class FileArtifacts:
    """The store in `folder`.

    What other processes store in these ten seconds is not counted: a tenant may exceed its limit by that much.
    """

    def __init__(self, folder: Path, limits: ArtifactLimits = UNLESS_SAID) -> None:
        self._folder, self._limits = folder, limits
        self._used: dict[str, tuple[int, float]] = {}
        self._counting = threading.Lock()

    async def put(self, tenant_id: str, data: bytes, content_type: str = JSON) -> Artifact:
        """As `ArtifactStore` has it."""
        return await _in_thread(lambda: self._put(tenant_id, data, content_type))

    async def get(self, tenant_id: str, artifact_id: str) -> bytes:
        """As `ArtifactStore` has it."""
        return await _in_thread(lambda: self._get(tenant_id, artifact_id))

    async def open(self, tenant_id: str, artifact_id: str) -> Opened | None:
        """As `ArtifactStore` has it."""
        found = await _in_thread(lambda: self._opened(tenant_id, artifact_id))
        if found is None:
            return None
        found[1].close()  # whoever asks may never read
        return Opened(found[0], self._chunks(tenant_id, found[0]))

    async def delete(self, tenant_id: str, artifact_id: str) -> bool:
        """As `ArtifactStore` has it."""
        return await _in_thread(lambda: self._delete(tenant_id, artifact_id))

    async def sweep(self, older_than: datetime) -> int:
        """As `ArtifactStore` has it; also removes what a crash left aside."""
        return await _in_thread(lambda: self._sweep(older_than.timestamp()))

    def _put(self, tenant_id: str, data: bytes, content_type: str) -> Artifact:
        artifact = described(data, content_type)
        if not is_tenant_id(tenant_id):
            raise unknown(artifact.id)
        check_size(len(data), 0, self._limits)
        path = self._path(tenant_id, artifact.id)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return artifact
        with self._counting:
            used = self._usage(tenant_id)
            check_size(len(data), used, self._limits)
            self._used[tenant_id] = (used + len(data), self._used[tenant_id][1])
        for folder in (self._folder, path.parent.parent, path.parent):
            if not folder.is_dir():
                private_folder(folder)
                sync_folder(folder.parent)
        head = {"id": artifact.id, "sha256": artifact.sha256, "size": artifact.size, "content_type": artifact.content_type}
        write_whole(path, orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE) + data)
        return artifact

    async def _chunks(self, tenant_id: str, artifact: Artifact) -> AsyncIterator[bytes]:
        """The bytes; the last piece comes only after the checksum of all has been found right."""
        found = await _in_thread(lambda: self._opened(tenant_id, artifact.id))
        if found is None:
            raise unknown(artifact.id)
        digest, left, file = hashlib.sha256(), artifact.size, found[1]
        with file:
            while left > 0:
                piece = await asyncio.to_thread(file.read, min(_CHUNK_BYTES, left))
                digest.update(piece)
                left -= len(piece)
                if not piece or (left == 0 and (digest.hexdigest() != artifact.sha256 or file.read(1))):
                    raise corrupt(artifact.id)
                yield piece

    def _get(self, tenant_id: str, artifact_id: str) -> bytes:
        found = self._opened(tenant_id, artifact_id)
        if found is None:
            raise unknown(artifact_id)
        artifact, file = found
        with file:
            data = file.read(artifact.size + 1)
        if len(data) != artifact.size or hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise corrupt(artifact_id)
        return data

    def _opened(self, tenant_id: str, artifact_id: str) -> tuple[Artifact, BinaryIO] | None:
        if not check_place(tenant_id, artifact_id):
            return None
        try:
            file = self._path(tenant_id, artifact_id).open("rb")
        except FileNotFoundError:
            return None
        try:
            head = orjson.loads(file.readline(_HEAD_BYTES_MAX))
            artifact = Artifact(head["id"], head["sha256"], head["size"], head["content_type"])
            if artifact.id != artifact_id or not is_artifact_id(artifact.sha256):
                raise ValueError
        except (ValueError, KeyError, TypeError) as fault:
            file.close()
            raise corrupt(artifact_id) from fault
        return artifact, file

    def _delete(self, tenant_id: str, artifact_id: str) -> bool:
        if not check_place(tenant_id, artifact_id):
            return False
        try:
            self._path(tenant_id, artifact_id).unlink()
        except FileNotFoundError:
            return False
        self._used.pop(tenant_id, None)
        return True

    def _sweep(self, before: float) -> int:
        count = 0
        for entry in self._entries(self._folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < before:
                    Path(entry.path).unlink()
                    count += is_artifact_id(entry.name)
        self._used.clear()
        return count

    def _usage(self, tenant_id: str) -> int:
        """Bytes of a tenant's artifacts, counted at most every ten seconds."""
        used, counted_at = self._used.get(tenant_id, (0, float("-inf")))
        if time.monotonic() - counted_at < _USAGE_SECONDS:
            return used
        used = 0
        for entry in self._entries(self._folder / tenant_id):
            with contextlib.suppress(FileNotFoundError):
                used += entry.stat().st_size
        self._used[tenant_id] = (used, time.monotonic())
        return used

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._entries(Path(entry.path))
            else:
                yield entry

    def _path(self, tenant_id: str, artifact_id: str) -> Path:
        return self._folder / tenant_id / artifact_id[:2] / artifact_id


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as fault:
        raise ModuleError("artifact-unavailable", f"The artifact store does not answer: {fault.strerror}.") from fault
