# intent_ref: event-store.faults
"""What the driver raises when the database is away, restarting or out of connections: worth trying again, nobody's mistake."""

import asyncpg

DATABASE_AWAY: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)

DATABASE_FAULTS: tuple[type[Exception], ...] = (*DATABASE_AWAY, asyncpg.PostgresError)
"""Those, and whatever else the database itself says."""
