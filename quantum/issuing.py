# intent_ref: quantum.issuing
"""The local issuer of tokens, whose keys lie in the data directory: all that `quantum token` needs."""

from pathlib import Path

from access.issuer import LocalIssuer
from quantum.settings import Settings


def keys_folder(data_dir: Path) -> Path:
    """Where the local issuer's keys lie."""
    return data_dir / "keys"


def local_issuer(settings: Settings) -> LocalIssuer:
    """The issuer of `quantum token`; raises `access.issuer.KeysUnusable`."""
    return LocalIssuer.open(keys_folder(settings.data_dir), audience=settings.auth_audience)
