# intent_ref: modules.secrets
"""The keys that stored secrets are encrypted with: the first encrypts, all decrypt. From a setting or a file."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modules.key_files import KEY_BYTES, KeyUnusable, private_folder, read_private, write_whole

KEYS_MAX: Final = 16
_NONCE_BYTES: Final = 12


class UnknownKey(Exception):
    """A box was closed with a key that is not on this ring."""


class BoxDamaged(Exception):
    """A box is cut short, changed, or belongs to another tenant or name."""


class Keyring:
    """AES-256-GCM (NIST SP 800-38D) under random 96-bit nonces; what a box belongs to is authenticated with it."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_id_of(key): key for key in keys}
        self.first = _id_of(keys[0])
        self.keys = tuple(keys)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"

    @classmethod
    def from_setting(cls, text: str) -> Self:
        """Keys in base64 with commas between, 32 bytes each. Raises `KeyUnusable`, which never repeats them."""
        try:
            keys = [base64.b64decode(part.strip(), validate=True) for part in text.split(",")]
        except (binascii.Error, ValueError):
            keys = []
        if not 1 <= len(keys) <= KEYS_MAX or any(len(key) != KEY_BYTES for key in keys):
            raise KeyUnusable(
                f"A key for secrets is {KEY_BYTES} bytes in base64 (`openssl rand -base64 {KEY_BYTES}`); commas separate several."
            )
        return cls(keys)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The ring in a file, which is made with one new key where there is none. Raises `KeyUnusable`."""
        try:
            private_folder(path.parent)
            if not path.exists():
                write_whole(path, cls([secrets.token_bytes(KEY_BYTES)]).as_file(), only_if_new=True)
            document = orjson.loads(read_private(path))
            keys = [bytes.fromhex(text) for text in document["keys"]]
            if not keys or any(len(key) != KEY_BYTES for key in keys):
                raise ValueError
        except OSError as fault:
            raise KeyUnusable(f"{path} cannot be used: {fault.strerror}.") from fault
        except (ValueError, KeyError, TypeError) as fault:
            raise KeyUnusable(f"{path} is no keyring: restore it from where it is kept safe.") from fault
        return cls(keys)

    def with_new_key(self) -> Self:
        """The same ring with a new key in front."""
        return type(self)([secrets.token_bytes(KEY_BYTES), *self.keys])

    def as_file(self) -> bytes:
        """What `from_file` reads."""
        return orjson.dumps({"keys": [key.hex() for key in self.keys]}, option=orjson.OPT_APPEND_NEWLINE)

    def close(self, value: bytes, belongs_to: bytes) -> bytes:
        """A box with `value`, under the first key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        box = AESGCM(self._keys[self.first]).encrypt(nonce, value, belongs_to)
        return orjson.dumps({"v": 1, "key": self.first, "nonce": nonce.hex(), "box": base64.b64encode(box).decode("ascii")})

    def open(self, box: bytes, belongs_to: bytes) -> bytes:
        """What is in the box. Raises `UnknownKey` or `BoxDamaged`."""
        try:
            document = orjson.loads(box)
            key_id, nonce = document["key"], bytes.fromhex(document["nonce"])
            content = base64.b64decode(document["box"], validate=True)
            if document["v"] != 1 or not isinstance(key_id, str) or len(nonce) != _NONCE_BYTES:
                raise ValueError
        except (ValueError, KeyError, TypeError) as fault:
            raise BoxDamaged from fault
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKey(key_id)
        try:
            return AESGCM(key).decrypt(nonce, content, belongs_to)
        except InvalidTag as fault:
            raise BoxDamaged from fault

    def key_of(self, box: bytes) -> str | None:
        """The id of the key a box was closed with; None for what is no box."""
        try:
            found = orjson.loads(box)["key"]
        except (ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"quantum secrets key\0" + key).hexdigest()[:12]
