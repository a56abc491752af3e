# intent_ref: modules.key-files
"""Small files that must be whole and private: keys of the platform in the data directory, made once whoever comes first."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32


class KeyUnusable(Exception):
    """A key of the platform cannot be read, or others can read it. The message says how to mend it."""


def private_folder(folder: Path) -> Path:
    """The folder, made for the platform's own user alone where there was none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def write_whole(path: Path, content: bytes, *, only_if_new: bool = False) -> None:
    """Puts `content` at `path` for the platform's own user alone: whole or not at all, and on the disk when this returns.

    With `only_if_new` whoever comes first wins, and the others' content is thrown away.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if only_if_new:
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(draft)
        else:
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes what has been renamed, added or removed in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes:
    """The content of a file that only the platform's user may read. Raises `FileNotFoundError` and `KeyUnusable`."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyUnusable(f"{path} can be read by others: `chmod 600` it, and change the key if somebody may have.")
            return file.read(65_537)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise KeyUnusable(f"{path} cannot be read: {fault.strerror}.") from fault


def platform_key(path: Path) -> bytes:
    """The 32 bytes in `path` (as hexadecimal digits), made on first use. Raises `KeyUnusable`."""
    try:
        private_folder(path.parent)
        if not path.exists():
            write_whole(path, secrets.token_hex(KEY_BYTES).encode("ascii") + b"\n", only_if_new=True)
        key = bytes.fromhex(read_private(path).decode("ascii"))
        if len(key) != KEY_BYTES:
            raise ValueError
    except ValueError as fault:
        raise KeyUnusable(f"{path} holds no key of {KEY_BYTES} bytes. Restore it, or move it away for a new one.") from fault
    except OSError as fault:
        raise KeyUnusable(f"{path} cannot be used: {fault.strerror}.") from fault
    return key
