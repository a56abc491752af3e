# intent_ref: event-store.pooler
"""Connections through a pooler in transaction mode, such as pgbouncer.

The driver sends a query in two steps: it has the statement parsed, then binds it to its arguments. Between the two the pooler
sees no open transaction and may give the server connection to somebody else; then the second step meets no statement, or
another client's. Inside a transaction both steps go to one server connection. (asyncpg's own advice for poolers, not to cache
statements, is needed as well and does not prevent this.)
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import asyncpg

_Connection = asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection


class PinnedConnection(_Connection):
    """A connection whose every query with arguments runs in a transaction: its own where the caller has opened none."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As `asyncpg.Connection.execute`."""
        if not args or self.is_in_transaction():  # without arguments it is one step
            return await super().execute(query, *args, timeout=timeout)
        async with self.transaction():
            return await super().execute(query, *args, timeout=timeout)

    async def executemany(self, command: str, args: Iterable[Any], *, timeout: float | None = None) -> None:
        """As `asyncpg.Connection.executemany`."""
        if self.is_in_transaction():
            return await super().executemany(command, args, timeout=timeout)
        async with self.transaction():
            return await super().executemany(command, args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As `asyncpg.Connection.fetch`."""
        if self.is_in_transaction():
            return await super().fetch(query, *args, **options)
        async with self.transaction():
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As `asyncpg.Connection.fetchrow`."""
        if self.is_in_transaction():
            return await super().fetchrow(query, *args, **options)
        async with self.transaction():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As `asyncpg.Connection.fetchval`."""
        if self.is_in_transaction():
            return await super().fetchval(query, *args, **options)
        async with self.transaction():
            return await super().fetchval(query, *args, **options)
