# intent_ref: access.gate
"""The gate in front of every route: whose request it is, for which tenant, and whether a role allows it."""

from typing import Final

from starlette.requests import Request

from access.http.problems import Problem
from access.http.request_keys import KeyedAnswers
from access.principal import Access, Principal
from access.roles import Permission, allows
from access.tenant_directory import TenantDirectory
from access.tokens import TokenVerifier
from domain.refusals import TenantIsSuspended, TenantUnknown
from domain.values import TenantId

TENANT_HEADER: Final = "X-Tenant-Id"


class Gate:
    """Asked by each route before anything else. `keys`: answers for requests that come under an idempotency key."""

    def __init__(self, verifier: TokenVerifier, tenants: TenantDirectory, keys: KeyedAnswers) -> None:
        self._verifier, self._tenants, self.keys = verifier, tenants, keys

    async def authenticate(self, request: Request, permission: Permission) -> Principal:
        """Who asks, when one of its roles has `permission`. Raises `TokenRefused`, `Problem`, `KeysUnavailable`."""
        principal = await self._verifier.verify(_bearer_token(request))
        if not allows(principal.roles, permission):
            needed = ", ".join(sorted(permission.roles))
            raise Problem("role-missing", f"This takes the permission {permission.name}, which these roles have: {needed}.")
        return principal

    async def authorise(self, request: Request, permission: Permission) -> Access:
        """Who asks, and for which tenant: registered, and not suspended when `permission` writes.

        Raises what `authenticate` raises, and `TenantUnknown`, `TenantIsSuspended`, `StoreUnavailable`.
        """
        principal = await self.authenticate(request, permission)
        tenant_id = self.tenant_of(request, principal)
        request.scope["quantum.tenant_id"] = tenant_id  # for the logs
        status = await self._tenants.status(tenant_id)
        if status is None:
            raise TenantUnknown(tenant_id)
        if status == "suspended" and permission.writes:
            raise TenantIsSuspended(tenant_id)
        return Access(principal, tenant_id)

    def tenant_of(self, request: Request, principal: Principal) -> TenantId:
        """The tenant a request is about: the token's, or the one `X-Tenant-Id` names among several. Raises `Problem`."""
        named = request.headers.get(TENANT_HEADER)
        if named is None:
            if len(principal.tenants) > 1:
                raise Problem("tenant-not-chosen", f"Say which of the token's tenants you mean with {TENANT_HEADER}.")
            return principal.tenants[0]
        if named not in principal.tenants:
            raise Problem("tenant-not-covered", f"The token does not cover the tenant that {TENANT_HEADER} names.")
        return TenantId(named)

    async def require_registered(self, tenant_id: TenantId) -> None:
        """Raises `TenantUnknown` unless the tenant is registered."""
        if await self._tenants.status(tenant_id) is None:
            raise TenantUnknown(tenant_id)

    def forget(self, tenant_id: TenantId) -> None:
        """A tenant has just been changed by this process: ask the log about it next time."""
        self._tenants.forget(tenant_id)


def _bearer_token(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Problem("token-missing", "Send `Authorization: Bearer <token>`. `quantum token` makes one.")
    return token
