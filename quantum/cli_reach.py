# intent_ref: quantum.cli-reach
"""How commands that talk to a running platform reach it, and as whom."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from domain.immutable import immutable
from quantum.settings import load_settings

if TYPE_CHECKING:
    from quantum.client import Client

Tenant = Annotated[str | None, typer.Option(help="Whose; needed unless --token-file is for one tenant.")]
Url = Annotated[str | None, typer.Option("--url", help="The platform; http://127.0.0.1:8000 unless the settings say otherwise.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="A file with the bearer token, `-` for stdin. Unset: one of the local issuer, from the data directory."),
]
_HOURS = 12.0


class PlatformError(Exception):
    """The platform cannot be reached, or has refused; the sentence says which, and how to go on."""


@immutable
class Reach:
    """Where the platform is, and who speaks."""

    url: str
    token: str
    tenant: str | None

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        """A client of the platform. What goes wrong with it comes out as `PlatformError`."""
        import httpx

        from quantum.client import Client, QuantumError

        try:
            async with Client(self.url, self.token) as client:
                if self.tenant is not None:
                    client.set_tenant(self.tenant)
                yield client
        except QuantumError as fault:
            raise PlatformError(f"The platform at {self.url} answered {fault}") from fault
        except (httpx.TransportError, httpx.InvalidURL) as fault:
            sentence = f"The platform at {self.url} cannot be reached ({str(fault) or type(fault).__name__})"
            raise PlatformError(f"{sentence}: start it with `quantum serve`, or say where it is with --url.") from fault


def reach(
    url: str | None, token_file: Path | None, tenant: str | None, data_dir: Path | None, *, roles: Sequence[str] = ("viewer",)
) -> Reach:  # fmt: skip
    """The platform at `url`, else of the settings; with the token in the file, else one of the local issuer with `roles`."""
    settings = load_settings(data_dir=data_dir)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = url or f"http://{host}:{settings.port}"
    if token_file is not None:
        try:
            text = sys.stdin.read() if str(token_file) == "-" else token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise PlatformError(f"The token cannot be read from {token_file}: {fault}.") from fault
        if not text.strip().isascii() or len(text.split()) != 1:
            raise PlatformError(f"{token_file} should hold a token, and nothing else.")
        return Reach(url, text.strip(), tenant)
    if tenant is None:
        raise PlatformError("Say which tenant with --tenant, or who you are with --token-file.")
    from quantum.issuing import local_issuer

    return Reach(url, local_issuer(settings).issue([tenant], list(roles), "cli", _HOURS), tenant)
