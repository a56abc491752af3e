# intent_ref: access.roles
"""Which role may do what. Every route names one permission of this table; what is not granted is refused."""

from typing import Final, Literal, get_args

from domain.immutable import immutable

Role = Literal["platform-admin", "tenant-admin", "author", "operator", "viewer", "auditor", "service"]
ROLES: Final[frozenset[Role]] = frozenset(get_args(Role))


@immutable
class Permission:
    """What a route asks of its caller.

    `writes` is refused while the tenant is suspended. Without `in_tenant` the route is about tenants themselves and asks for
    none: it works before the first one is registered.
    """

    name: str
    roles: frozenset[Role]
    writes: bool
    in_tenant: bool = True


def _granted(name: str, *roles: Role, in_tenant: bool = True) -> Permission:
    return Permission(name, frozenset(roles), not name.endswith(":read"), in_tenant)


TENANTS_MANAGE: Final = _granted("tenants:manage", "platform-admin", in_tenant=False)
TENANTS_READ: Final = _granted("tenants:read", *ROLES, in_tenant=False)
INTENTS_READ: Final = _granted("intents:read", *ROLES)
INTENTS_WRITE: Final = _granted("intents:write", "author", "tenant-admin", "platform-admin")
EXECUTIONS_READ: Final = _granted("executions:read", *ROLES)
EXECUTIONS_START: Final = _granted("executions:start", "operator", "author", "tenant-admin", "service", "platform-admin")
EXECUTIONS_CONTROL: Final = _granted("executions:control", "operator", "author", "tenant-admin", "service", "platform-admin")
EXECUTIONS_APPROVE: Final = _granted("executions:approve", "operator", "author", "tenant-admin", "service", "platform-admin")
RESOURCES_READ: Final = _granted("resources:read", *ROLES)
EVENTS_READ: Final = _granted("events:read", *ROLES)
ARTIFACTS_READ: Final = _granted("artifacts:read", *ROLES)
WORK_CARRY_OUT: Final = _granted("work:carry-out", "service", "platform-admin")
MODULES_READ: Final = _granted("modules:read", *ROLES)
MODULES_WRITE: Final = _granted("modules:write", "tenant-admin", "platform-admin")
SUBSCRIPTIONS_READ: Final = _granted("subscriptions:read", *ROLES)
SUBSCRIPTIONS_WRITE: Final = _granted("subscriptions:write", "tenant-admin", "service", "platform-admin")

PERMISSIONS: Final[dict[str, Permission]] = {
    permission.name: permission
    for permission in (
        TENANTS_MANAGE,
        TENANTS_READ,
        INTENTS_READ,
        INTENTS_WRITE,
        EXECUTIONS_READ,
        EXECUTIONS_START,
        EXECUTIONS_CONTROL,
        EXECUTIONS_APPROVE,
        RESOURCES_READ,
        EVENTS_READ,
        ARTIFACTS_READ,
        WORK_CARRY_OUT,
        MODULES_READ,
        MODULES_WRITE,
        SUBSCRIPTIONS_READ,
        SUBSCRIPTIONS_WRITE,
    )
}


def allows(roles: frozenset[Role], permission: Permission) -> bool:
    """True when one of `roles` has the permission."""
    return not permission.roles.isdisjoint(roles)
