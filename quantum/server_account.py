# intent_ref: ground.server-account
"""The operating system's user that the embedded PostgreSQL runs as: our own, or an unprivileged one when we are root.

PostgreSQL refuses to run as root. There, the user `pgserver` is made and given the way to the data directory and no more.
"""

import contextlib
import errno
import os
import pwd
import shutil
import stat
import struct
import subprocess
from pathlib import Path

from domain.immutable import immutable

_NAME = "pgserver"
_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_ACL_USER_OBJ, _ACL_USER, _ACL_GROUP_OBJ, _ACL_MASK, _ACL_OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_ACL_NOBODY = 0xFFFFFFFF


class ServerAccountError(Exception):
    """There is no user the embedded PostgreSQL could run as."""


@immutable
class ServerAccount:
    """A user that can run the server, and what it takes for that user to reach files of ours."""

    uid: int
    gid: int
    logins: tuple[str, ...]
    """Names of the operating system's users that may log in to the database."""

    @property
    def is_another(self) -> bool:
        """Whether the server's user differs from ours, which is so when we are root."""
        return self.uid != os.geteuid()

    def run(self, command: list[str], *, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        """Runs one of PostgreSQL's programs as this user; its output, both streams, is `.stdout`."""
        # A clean environment: variables such as PGDATA or PGHOST of the caller would lead the programs astray.
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        user = {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_another else {}
        try:
            return subprocess.run(  # type: ignore[call-overload,no-any-return]  # noqa: S603 - our own programs
                command, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout_seconds, check=False,
                start_new_session=True, umask=0o077, **user,
            )  # fmt: skip
        except OSError as fault:
            raise ServerAccountError(f"{command[0]} cannot be run as user id {self.uid}: {fault.strerror}.") from fault

    def own(self, path: Path) -> None:
        """Gives a file or directory to this user."""
        if self.is_another:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def open_path(self, directory: Path) -> None:
        """Lets this user pass through a directory and those above it, without letting it list them."""
        if not self.is_another:
            return
        for passed in (directory, *directory.parents):
            status = passed.stat()
            if not status.st_mode & stat.S_IXOTH and status.st_uid != self.uid:
                _allow_passing(passed, self.uid, status.st_mode)

    def open_tree(self, directory: Path) -> None:
        """Lets this user read and run installed files, which an installation under a strict umask would not."""
        self.open_path(directory)
        if not self.is_another:
            return
        for path in directory.rglob("*"):
            mode = path.stat().st_mode
            wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            if wanted != mode:
                path.chmod(stat.S_IMODE(wanted))


def server_account() -> ServerAccount:
    """Our own user, or when we are root the user `pgserver`, made if it is missing. Raises `ServerAccountError`."""
    uid = os.geteuid()
    try:
        ours = pwd.getpwuid(uid)
    except KeyError:
        raise ServerAccountError(
            f"User id {uid} has no entry in /etc/passwd, which PostgreSQL asks for: add one, or set QUANTUM_DATABASE_URL."
        ) from None
    if uid != 0:
        return ServerAccount(uid, ours.pw_gid, (ours.pw_name,))
    with contextlib.suppress(KeyError):
        return _of(pwd.getpwnam(_NAME), ours)
    if (useradd := shutil.which("useradd")) is None:
        raise ServerAccountError(
            f"PostgreSQL does not run as root, and there is no useradd to make the user {_NAME}: make it, run Quantum as an "
            "ordinary user, or set QUANTUM_DATABASE_URL."
        )
    made = subprocess.run(  # noqa: S603 - constant arguments
        [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return _of(pwd.getpwnam(_NAME), ours)  # whoever made it: another start may have been first
    except KeyError:
        raise ServerAccountError(f"useradd could not make the user {_NAME}: {made.stderr.strip()}") from None


def _of(server: pwd.struct_passwd, ours: pwd.struct_passwd) -> ServerAccount:
    return ServerAccount(server.pw_uid, server.pw_gid, (ours.pw_name, server.pw_name))


def _allow_passing(directory: Path, uid: int, mode: int) -> None:
    """Search permission for one user by an access control list; for everybody where the file system has none."""
    try:
        entries = _access_list(directory, mode)
        # A chmod since then has cut the mask, and with it what the entry grants.
        grants = all(bits & 1 for tag, bits, owner in entries if tag == _ACL_MASK or (tag, owner) == (_ACL_USER, uid))
        if grants and any((tag, owner) == (_ACL_USER, uid) for tag, _, owner in entries):
            return
        entries = [one for one in entries if (one[0], one[2]) != (_ACL_USER, uid)] + [(_ACL_USER, 1, uid)]
        entries = [(tag, bits | 1 if tag == _ACL_MASK else bits, owner) for tag, bits, owner in entries]
        packed = b"".join(struct.pack("<HHI", *one) for one in sorted(entries, key=lambda one: (one[0], one[2])))
        os.setxattr(directory, _ACL, struct.pack("<I", _ACL_VERSION) + packed)
    except OSError:
        directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _access_list(directory: Path, mode: int) -> list[tuple[int, int, int]]:
    """(tag, permissions, id) of a directory's access control list, or what its mode amounts to where it has none."""
    try:
        packed = os.getxattr(directory, _ACL)
    except OSError as fault:
        if fault.errno != errno.ENODATA:
            raise
        group = mode >> 3 & 7
        return [
            (_ACL_USER_OBJ, mode >> 6 & 7, _ACL_NOBODY),
            (_ACL_GROUP_OBJ, group, _ACL_NOBODY),
            (_ACL_MASK, group, _ACL_NOBODY),
            (_ACL_OTHER, mode & 7, _ACL_NOBODY),
        ]
    return list(struct.iter_unpack("<HHI", packed[4:]))
