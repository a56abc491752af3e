# intent_ref: modules.secrets
"""Secrets in the environment of the platform's processes, as containers are given them.

`secret://db-password` of the tenant `tenant-123` is `QUANTUM_SECRET_TENANT_123__DB_PASSWORD`: capitals, `_` for every other
character, and `__` between tenant and name. The first `__` ends the tenant; a tenant whose id has two hyphens in a row could be
taken for another one with a longer name, so it gets nothing from here.
"""

from collections.abc import Mapping
from typing import Final

from modules.secrets.resolving import SecretUnknown

PREFIX: Final = "QUANTUM_SECRET_"


def is_told_apart(tenant_id: str) -> bool:
    """True for tenants that keep a name of their own in a store with flat names, whatever their secrets are called."""
    return "--" not in tenant_id


def variable_of(tenant_id: str, name: str) -> str:
    """The variable that would hold a tenant's secret."""
    flat = "".join(one if one.isalnum() else "_" for one in name)
    return f"{PREFIX}{tenant_id.replace('-', '_')}__{flat}".upper()


class EnvironmentSecrets:
    """Reads `environment` at each call; it is never changed."""

    name = "env"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def get(self, tenant_id: str, name: str) -> str:
        """The value; raises `SecretUnknown`."""
        value = self._environment.get(variable_of(tenant_id, name)) if is_told_apart(tenant_id) else None
        if value is None:
            raise SecretUnknown(name)
        return value
