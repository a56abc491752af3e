# intent_ref: event-store.tenancy
"""Connections that see one tenant's rows, and the check that a login cannot see more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from domain.values import TenantId


class UnsafeRole(Exception):
    """Row-level security would not hold for this database login."""


@asynccontextmanager
async def tenant_connection(pool: Any, tenant_id: TenantId) -> AsyncIterator[Any]:
    """A connection in a read transaction in which row-level security shows `tenant_id`'s rows and no others."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
        yield connection


async def check_role(connection: Any, variable: str, role: str) -> None:
    """Raises `UnsafeRole` unless the login works as `role` and can neither bypass row-level security nor own the log."""
    row = await connection.fetchrow(
        "SELECT current_user AS name, session_user AS login, bool_or(r.rolsuper) AS is_super,"
        "       bool_or(r.rolbypassrls) AS bypasses,"
        "       bool_or(pg_has_role(r.oid, 'quantum_owner', 'MEMBER')"
        "            OR pg_has_role(r.oid, 'quantum_log_writer', 'MEMBER')) AS owns,"
        "       bool_and(pg_has_role(r.oid, $1, 'MEMBER')) AS is_member"
        "  FROM pg_roles AS r WHERE r.rolname IN (current_user, session_user)",
        role,
    )
    assert row is not None
    way_out = f"Run `quantum migrate` with an administrator's login, then let {variable} log in as {role}."
    if row["is_super"] or row["bypasses"]:
        what = "a superuser" if row["is_super"] else "a role with BYPASSRLS"
        raise UnsafeRole(f"{variable} logs in as {row['login']}, {what}: row-level security would not hold. {way_out}")
    if row["owns"]:
        raise UnsafeRole(f"{variable} logs in as {row['login']}, which owns the tables or can become their owner. {way_out}")
    if not row["is_member"]:
        raise UnsafeRole(f"{variable} logs in as {row['login']}, which is not a member of {role}. {way_out}")
