# intent_ref: access.roles
"""Who may do what, as a table."""

import pytest

from access.roles import PERMISSIONS, ROLES, allows

WRITERS = {
    "tenants:manage": {"platform-admin"},
    "intents:write": {"author", "tenant-admin", "platform-admin"},
    "executions:start": {"operator", "author", "tenant-admin", "service", "platform-admin"},
    "executions:control": {"operator", "author", "tenant-admin", "service", "platform-admin"},
    "executions:approve": {"operator", "author", "tenant-admin", "service", "platform-admin"},
    "modules:write": {"tenant-admin", "platform-admin"},
    "work:carry-out": {"service", "platform-admin"},
    "subscriptions:write": {"tenant-admin", "service", "platform-admin"},
}


@pytest.mark.parametrize("name", sorted(PERMISSIONS))
def test_a_permission_belongs_to_exactly_these_roles(name: str):
    expected = WRITERS.get(name, set(ROLES))
    assert {role for role in ROLES if allows(frozenset({role}), PERMISSIONS[name])} == expected


def test_what_is_no_read_writes():
    assert {name for name, permission in PERMISSIONS.items() if permission.writes} == set(WRITERS)


def test_without_roles_nothing_is_allowed():
    assert not any(allows(frozenset(), permission) for permission in PERMISSIONS.values())


def test_viewers_and_auditors_change_nothing():
    for permission in PERMISSIONS.values():
        assert not (permission.writes and allows(frozenset({"viewer", "auditor"}), permission))
