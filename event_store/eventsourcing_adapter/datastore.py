# intent_ref: event-store.eventsourcing-adapter
"""Connections of one tenant for synchronous code, and the database's errors as the `eventsourcing` package names them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
from eventsourcing import persistence
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from domain.values import TenantId
from event_store.tenancy import check_role

Connection = psycopg.Connection[tuple[Any, ...]]
CHANNEL = "quantum_log"
_ACQUIRE_SECONDS_MAX = 30.0
_CONNECT_SECONDS_MAX = 10

# A wake-up may be lost: it is worth no wait for the disk. Never sent inside the append (see event_store/wakeups.py).
_ANNOUNCE = f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {CHANNEL}, 'eventsourcing'; COMMIT"

# The first that fits, so the special ones come first.
_TRANSLATIONS: tuple[tuple[type[psycopg.Error], type[persistence.PersistenceError]], ...] = (
    (psycopg.errors.LockNotAvailable, persistence.OperationalError),
    (psycopg.DataError, persistence.DataError),
    (psycopg.IntegrityError, persistence.IntegrityError),
    (psycopg.InternalError, persistence.InternalError),
    (psycopg.NotSupportedError, persistence.NotSupportedError),
    (psycopg.ProgrammingError, persistence.ProgrammingError),
    (psycopg.OperationalError, persistence.OperationalError),
    (psycopg.DatabaseError, persistence.DatabaseError),
    (psycopg.InterfaceError, persistence.InterfaceError),
    (psycopg.Error, persistence.PersistenceError),
)


class Datastore:
    """The log as one tenant's synchronous code sees it: under row-level security, through a small pool.

    The login is checked before the first use: raises `event_store.tenancy.UnsafeRole` where tenants would not be apart.
    """

    def __init__(
        self, dsn: str, tenant_id: TenantId, *, listen_dsn: str | None = None, pool_size: int = 10, text_ids: bool = False
    ) -> None:
        self.tenant_id, self.text_ids = tenant_id, text_ids
        self._listen_dsn = listen_dsn or dsn
        self._checked = False
        # No prepared statements, so that a pooler in transaction mode may stand in between.
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            dsn, min_size=1, max_size=pool_size, timeout=_ACQUIRE_SECONDS_MAX, open=True,
            kwargs={"autocommit": True, "prepare_threshold": None, "connect_timeout": _CONNECT_SECONDS_MAX},
        )  # fmt: skip

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection whose every statement is a transaction of its own; no tenant is set on it yet."""
        with translated_errors(), self._pool.connection() as connection:
            if not self._checked:
                _check_login(connection)
                self._checked = True
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that sees and writes the tenant's rows alone; for recorders of one's own that keep more than events."""
        with self.connection() as connection, connection.transaction():
            connection.execute("SELECT set_config('app.tenant_id', %s, true)", (self.tenant_id,))
            yield connection

    def announce(self) -> None:
        """Tells subscribers, here and in the platform, that the log has grown. Where it fails they see it at their next poll."""
        with contextlib.suppress(persistence.PersistenceError), self.connection() as connection:
            connection.execute(_ANNOUNCE)

    def listening_connection(self) -> Connection:
        """A connection of the caller's own on which LISTEN works."""
        with translated_errors():
            return psycopg.connect(self._listen_dsn, autocommit=True, connect_timeout=_CONNECT_SECONDS_MAX)

    def close(self) -> None:
        """Gives the connections back."""
        self._pool.close()


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raises the `eventsourcing` package's error for one of the driver's."""
    try:
        yield
    except psycopg.Error as fault:
        for theirs, ours in _TRANSLATIONS:
            if isinstance(fault, theirs):
                raise ours(str(fault)) from fault
        raise


class _Rows:
    """Answers the one question of `check_role` from a synchronous connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetchrow(self, query: str, *arguments: Any) -> dict[str, Any] | None:
        cursor: psycopg.RawCursor[dict[str, Any]] = psycopg.RawCursor(self._connection, row_factory=dict_row)
        return cursor.execute(query.encode(), arguments).fetchone()


def _check_login(connection: Connection) -> None:
    # `check_role` awaits nothing but that row, so one step takes it to its end: no event loop is needed, or disturbed.
    with contextlib.suppress(StopIteration):
        check_role(_Rows(connection), "QUANTUM_DATABASE_URL", "quantum_app").send(None)
