# intent_ref: access.roles
"""Who is asking: what a verified token says about its bearer."""

from access.roles import Role
from domain.immutable import immutable
from domain.values import TenantId


@immutable
class Principal:
    """The bearer of a token: `expires_at` and `issued_at` in Unix seconds."""

    subject: str
    tenants: tuple[TenantId, ...]
    roles: frozenset[Role]
    issuer: str
    issued_at: float
    expires_at: float
    token_id: str | None = None

    @property
    def is_platform_admin(self) -> bool:
        """True for those who register and suspend tenants."""
        return "platform-admin" in self.roles


@immutable
class Access:
    """A principal at work in one tenant."""

    principal: Principal
    tenant_id: TenantId
