# intent_ref: tests.secrets
"""Azure Key Vault through its own SDK, against a vault on loopback that speaks the protocol's edge: challenge, secret, errors."""

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.keyvault.secrets.aio import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modules.contract import ModuleError
from modules.secrets.resolving import Secrets
from quantum.key_vault import KeyVaultSecrets

CANARY = "vault-canary-77"


@dataclass
class Vault:
    """What it holds, what it was asked (method and path, bearer token), and the status it answers where that is not 0."""

    url: str = ""
    secrets: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    status: int = 0


class Credential:
    """An identity that needs nobody."""

    async def get_token(self, *scopes: str, **_more: Any) -> AccessToken:
        assert scopes == ("https://vault.azure.net/.default",)
        return AccessToken("the-token", int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> "Credential":
        return self

    async def __aexit__(self, *_more: object) -> None:
        pass


def certificate(folder: Path) -> Path:
    """A certificate for loopback that nobody signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "vault.pem"
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password) + made.public_bytes(pem))
    return path


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    held = Vault()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, token = self.path.partition("?")[0], self.headers.get("Authorization")
            held.asked.append((path, token))
            if token is None:
                self.answer(
                    401,
                    {},
                    ("WWW-Authenticate", 'Bearer authorization="https://login.example/t", resource="https://vault.azure.net"'),
                )
            elif held.status:
                self.answer(held.status, {"error": {"code": "Forbidden", "message": f"no {CANARY}"}})
            elif (name := path.strip("/").split("/")[1]) in held.secrets:
                self.answer(
                    200, {"value": held.secrets[name], "id": f"{held.url}/secrets/{name}/1", "attributes": {"enabled": True}}
                )
            else:
                self.answer(404, {"error": {"code": "SecretNotFound", "message": "not found"}})

        def answer(self, status: int, document: Any, *headers: tuple[str, str]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            for name, value in (*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    held.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def provider(vault: Vault, tmp_path: Path) -> KeyVaultSecrets:
    client = SecretClient(
        vault.url, Credential(), verify_challenge_resource=False, connection_verify=str(tmp_path / "vault.pem"), retry_total=0
    )
    return KeyVaultSecrets(client)


async def failure(found: KeyVaultSecrets, tenant: str, reference: str) -> tuple[str, bool]:
    with pytest.raises(ModuleError) as raised:
        await Secrets([found]).resolve(tenant, reference)
    assert CANARY not in str(raised.value)
    return raised.value.code, raised.value.retryable


async def test_a_tenants_secret_is_read_with_the_platforms_identity(vault: Vault, tmp_path: Path):
    vault.secrets["tenant-1--db-password"] = CANARY
    async with provider(vault, tmp_path) as found:
        resolved = await Secrets([found]).resolve("tenant-1", {"password": "secret://vault/db.password"})
        assert resolved.parameters == {"password": CANARY}
        assert vault.asked[-1] == ("/secrets/tenant-1--db-password/", "Bearer the-token")
        assert await failure(found, "tenant-2", "secret://db.password") == ("secret-unknown", False)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_vault_that_refuses_or_fails_is_worth_a_retry(vault: Vault, tmp_path: Path, status: int):
    vault.status = status
    async with provider(vault, tmp_path) as found:
        assert await failure(found, "tenant-1", "secret://db") == ("secret-unavailable", True)


async def test_a_vault_that_is_away_is_worth_a_retry(vault: Vault, tmp_path: Path):
    vault.url = "https://127.0.0.1:1"
    async with provider(vault, tmp_path) as found:
        assert await failure(found, "tenant-1", "secret://db") == ("secret-unavailable", True)


async def test_a_tenant_that_could_be_taken_for_another_is_never_asked_for(vault: Vault, tmp_path: Path):
    vault.secrets["a--b--c"] = CANARY
    async with provider(vault, tmp_path) as found:
        assert await failure(found, "a--b", "secret://c") == ("secret-unknown", False)
    assert not vault.asked
