# intent_ref: quantum.key-vault
"""Secrets in Azure Key Vault: `secret://vault/db-password` of the tenant `tenant-123` is the vault's `tenant-123--db-password`.

A vault knows letters, digits and hyphens, so dots and underscores of a name read `-`. The first `--` ends the tenant; a tenant
whose id has two hyphens in a row gets nothing from here, as it could be taken for another one.
"""

import re
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from modules.secrets.environment import is_told_apart
from modules.secrets.resolving import SecretUnavailable, SecretUnknown

if TYPE_CHECKING:
    from azure.keyvault.secrets.aio import SecretClient

_NAME_CHARS_MAX: Final = 127
_NOT_IN_A_VAULT: Final = re.compile(r"[^0-9a-zA-Z-]")


def vault_name(tenant_id: str, name: str) -> str | None:
    """What the vault calls a tenant's secret; None for what it cannot hold under a name of its own."""
    flat = f"{tenant_id}--{_NOT_IN_A_VAULT.sub('-', name)}"
    return flat if is_told_apart(tenant_id) and len(flat) <= _NAME_CHARS_MAX else None


class KeyVaultSecrets:
    """Asks the vault through `client`, and closes what it was given at the end."""

    name = "vault"

    def __init__(self, client: "SecretClient", *credentials: Any) -> None:
        self._client, self._credentials = client, credentials

    @classmethod
    def at(cls, vault_url: str) -> Self:
        """The vault at `https://….vault.azure.net`, with whatever identity the surroundings give (`DefaultAzureCredential`)."""
        from azure.identity.aio import DefaultAzureCredential
        from azure.keyvault.secrets.aio import SecretClient

        credential = DefaultAzureCredential()
        return cls(SecretClient(vault_url, credential, retry_total=2, retry_backoff_factor=0.2), credential)

    async def get(self, tenant_id: str, name: str) -> str:
        """The newest version's value; raises `SecretUnknown` or `SecretUnavailable`."""
        from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

        flat = vault_name(tenant_id, name)
        if flat is None:
            raise SecretUnknown(name)
        try:
            found = await self._client.get_secret(flat)
        except ResourceNotFoundError as fault:
            raise SecretUnknown(name) from fault
        except HttpResponseError as fault:
            if fault.status_code == 403 and fault.error is not None and _code(fault) == "SecretDisabled":
                raise SecretUnavailable("the secret is disabled in the vault") from fault
            raise SecretUnavailable(f"the vault answered {fault.status_code}") from fault
        except AzureError as fault:
            raise SecretUnavailable(f"the vault could not be asked: {type(fault).__name__}") from fault
        if found.value is None:
            raise SecretUnknown(name)
        return found.value

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
        for credential in self._credentials:
            await credential.close()


def _code(fault: Any) -> str | None:
    inner = getattr(fault.error, "innererror", None) or {}
    return inner.get("code") if isinstance(inner, dict) else None
