# intent_ref: modules.secrets
"""Secrets in files of the data directory, encrypted at rest: a folder a tenant, a file a secret.

Tenant and name are authenticated with the content, so a file that is moved to another tenant or name does not open. Several
processes may read and write at once: files are replaced whole, writers take turns by a lock, and a reader that meets a key it
does not know reads the keyring again.
"""

import asyncio
import contextlib
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from domain.immutable import immutable
from domain.values import is_tenant_id
from modules.key_files import KeyUnusable, private_folder, sync_folder, write_whole
from modules.secrets.keyring import BoxDamaged, Keyring, UnknownKey
from modules.secrets.references import is_secret_name
from modules.secrets.resolving import VALUE_BYTES_MAX, SecretUnavailable, SecretUnknown, value_fault

SECRETS_MAX: Final = 1_000
_SUFFIX: Final = ".secret"
_FILE_BYTES_MAX: Final = VALUE_BYTES_MAX * 2 + 4_096
_TRIES: Final = 5
_TURN_SECONDS_MAX: Final = 60.0


class SecretNotStorable(ValueError):
    """A secret that cannot be stored: its name, value or tenant breaks a rule, which the message says."""


@immutable
class StoredSecret:
    """What may be told of a stored secret."""

    name: str
    changed_at: datetime


@immutable
class Rotated:
    """How many secrets are now under the first key, and which files (`tenant/name`) could not be opened and stay as they are."""

    encrypted: int
    damaged: tuple[str, ...]


class SecretFiles:
    """The store in `folder`. `keys` is a keyring from a setting; without one, it lies in `folder/keyring.json`."""

    name = "file"

    def __init__(self, folder: Path, keys: Keyring | None = None) -> None:
        self._folder, self._given, self._ring = folder, keys, keys

    async def get(self, tenant_id: str, name: str) -> str:
        """The value; raises `SecretUnknown` or `SecretUnavailable`."""
        return await asyncio.to_thread(self.read, tenant_id, name)

    def read(self, tenant_id: str, name: str) -> str:
        """As `get`, for whoever has no event loop."""
        path = self._path(tenant_id, name)
        try:
            for _ in range(_TRIES):
                box = _content(path)
                try:
                    return self._keys().open(box, _belongs_to(tenant_id, name)).decode("utf-8", "surrogatepass")
                except UnknownKey:
                    self._ring = self._given  # the keys may have been rotated between the two reads
        except FileNotFoundError as fault:
            raise SecretUnknown(name) from fault
        except BoxDamaged as fault:
            message = "its file is damaged or belongs elsewhere; store the secret again."
            raise SecretUnavailable(message) from fault
        except KeyUnusable as fault:
            raise SecretUnavailable(str(fault)) from fault
        except OSError as fault:
            raise SecretUnavailable(f"its file cannot be read: {fault.strerror}.") from fault
        raise SecretUnavailable("its file was encrypted with a key that is not on the keyring.")

    def write(self, tenant_id: str, name: str, value: str) -> None:
        """Stores a value, in the place of an earlier one. Raises `SecretNotStorable`, `KeyUnusable` or `OSError`."""
        path = self._checked(tenant_id, name)
        if (fault := value_fault(value)) is not None:
            raise SecretNotStorable(f"The secret {name!r} is not stored: {fault}")
        with self._turn():
            private_folder(path.parent)
            if not path.exists() and len(self.stored(tenant_id)) >= SECRETS_MAX:
                raise SecretNotStorable(f"A tenant may have {SECRETS_MAX:,} secrets. Delete one that is not needed.")
            self._ring = self._given
            write_whole(path, self._keys().close(value.encode("utf-8", "surrogatepass"), _belongs_to(tenant_id, name)))

    def delete(self, tenant_id: str, name: str) -> bool:
        """Removes a secret; False where there was none. Raises `SecretNotStorable` or `OSError`."""
        path = self._checked(tenant_id, name)
        with self._turn():
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            sync_folder(path.parent)
            return True

    def stored(self, tenant_id: str) -> list[StoredSecret]:
        """A tenant's secrets by name, without their values."""
        folder, found = self._folder / tenant_id, []
        if not is_tenant_id(tenant_id) or not folder.is_dir():
            return []
        for path in sorted(folder.iterdir()):
            if path.name.endswith(_SUFFIX) and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    found.append(StoredSecret(path.name.removesuffix(_SUFFIX), changed_at))
        return found

    def rotate(self) -> Rotated:
        """Encrypts every secret with a new key and drops the old ones; with keys from a setting, with the first of them.

        A crash in between leaves both keys on the ring and every secret readable; the next call finishes. Raises `KeyUnusable`
        or `OSError`.
        """
        with self._turn():
            ring_file = self._folder / "keyring.json"
            self._ring = self._given
            ring = self._keys()
            if self._given is None:
                ring = ring.with_new_key()
                write_whole(ring_file, ring.as_file())
            encrypted, damaged = 0, []
            for path in sorted(self._folder.glob(f"*/[!.]*{_SUFFIX}")):
                tenant_id, name = path.parent.name, path.name.removesuffix(_SUFFIX)
                try:
                    value = ring.open(_content(path), _belongs_to(tenant_id, name))
                except (BoxDamaged, UnknownKey):
                    damaged.append(f"{tenant_id}/{name}")
                    continue
                write_whole(path, ring.close(value, _belongs_to(tenant_id, name)))
                encrypted += 1
            if self._given is None and not damaged:
                ring = Keyring(ring.keys[:1])
                write_whole(ring_file, ring.as_file())
            self._ring = ring
            return Rotated(encrypted, tuple(damaged))

    def _keys(self) -> Keyring:
        if self._ring is None:
            self._ring = Keyring.from_file(self._folder / "keyring.json")
        return self._ring

    def _path(self, tenant_id: str, name: str) -> Path:
        if not is_tenant_id(tenant_id) or not is_secret_name(name):
            raise SecretUnknown(name)
        return self._folder / tenant_id / f"{name.lower()}{_SUFFIX}"

    def _checked(self, tenant_id: str, name: str) -> Path:
        if not is_tenant_id(tenant_id):
            raise SecretNotStorable(f"{tenant_id!r} is no tenant id: use lower-case letters, digits and inner hyphens.")
        if not is_secret_name(name):
            raise SecretNotStorable(
                f"{name!r} is no secret's name: 1 to 100 letters, digits and inner dots, hyphens, underscores."
            )
        return self._path(tenant_id, name)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer at a time, over all processes; a writer that dies gives its turn up. Raises `SecretNotStorable`."""
        private_folder(self._folder)
        with (self._folder / ".lock").open("ab") as lock:
            deadline = time.monotonic() + _TURN_SECONDS_MAX
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as fault:
                    if time.monotonic() > deadline:
                        raise SecretNotStorable("Another process has been changing secrets for a minute. Try again.") from fault
                    time.sleep(0.02)
            yield


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES_MAX)


def _belongs_to(tenant_id: str, name: str) -> bytes:
    return b"quantum secret\0" + tenant_id.encode("ascii") + b"\0" + name.lower().encode("ascii")
