# intent_ref: sagas.circuits
"""Circuit breakers of this process as rows, so that whoever shows modules can show them, from whatever process.

What changes is written within a second; what is not closed is written again every minute, and expires after three: a process that
dies leaves nothing behind for longer. The rows decide nothing: each process goes by its own breakers.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from event_store.faults import DATABASE_FAULTS
from streaming.waiting import first_of

PAUSE_SECONDS: Final = 1.0
REFRESH_SECONDS: Final = 60.0
EXPIRY_SECONDS: Final = 180.0
_QUERY_SECONDS_MAX: Final = 10.0
_ROWS_AT_ONCE: Final = 1_000
_WRITE: Final = """
INSERT INTO quantum.module_circuits AS known
       (tenant_id, endpoint, process, state, since, failures, next_probe_at, expires_at)
SELECT one.tenant_id, encode(sha256(convert_to(one.url, 'UTF8')), 'hex'), $1, one.state,
       now() - make_interval(secs => one.seconds), one.failures,
       now() + make_interval(secs => one.probe_in), now() + make_interval(secs => $8)
  FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[], $6::int[], $7::float8[])
       AS one (tenant_id, url, state, seconds, failures, probe_in)
    ON CONFLICT (tenant_id, endpoint, process) DO UPDATE
   SET state = excluded.state, since = excluded.since, failures = excluded.failures, next_probe_at = excluded.next_probe_at,
       expires_at = excluded.expires_at
"""
_SWEEP: Final = """
DELETE FROM quantum.module_circuits
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM quantum.module_circuits WHERE expires_at < now() LIMIT $1))
"""

log = structlog.get_logger(__name__)


class Circuit(Protocol):
    """How a breaker stands: `modules.breaker.Circuit`."""

    @property
    def tenant_id(self) -> str:
        """Whose module it is."""
        ...

    @property
    def url(self) -> str:
        """The module's address."""
        ...

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        ...

    @property
    def seconds(self) -> float:
        """For how long."""
        ...

    @property
    def failures(self) -> int:
        """How many failures have led to it."""
        ...

    @property
    def probe_in_seconds(self) -> float | None:
        """When the endpoint is asked again, while it is open."""
        ...


class Circuits(Protocol):
    """The breakers of a process: `modules.breaker.Breakers`."""

    def on_change(self, told: Callable[[], None]) -> None:
        """`told` is called when a breaker has changed."""
        ...

    def take_changes(self) -> Sequence[Circuit]:
        """Those that have changed since this was asked last."""
        ...

    def not_closed(self) -> Sequence[Circuit]:
        """Those that keep calls back."""
        ...


class CircuitRows:
    """The rows of one process, which goes by the name `process`."""

    def __init__(self, platform_pool: Any, circuits: Circuits, process: str) -> None:
        self._pool, self._circuits, self._process = platform_pool, circuits, process
        self._changed = asyncio.Event()
        self._pending: dict[tuple[str, str], tuple[float, Circuit]] = {}
        circuits.on_change(self._changed.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Writes what changes until `stop` is set; then removes what it has written."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + REFRESH_SECONDS
        while not stop.is_set():
            await first_of(max(0.0, refresh_at - loop.time()), stop, self._changed)
            self._changed.clear()
            is_due = loop.time() >= refresh_at
            if is_due:
                refresh_at = loop.time() + REFRESH_SECONDS
            try:
                await self.write(refresh=is_due)
            except DATABASE_FAULTS as fault:
                log.warning("circuit breakers are written later", fault=repr(fault))
                self._changed.set()
            await first_of(PAUSE_SECONDS, stop)
        with contextlib.suppress(*DATABASE_FAULTS):
            await self._execute("DELETE FROM quantum.module_circuits WHERE process = $1", self._process)

    async def write(self, *, refresh: bool = False) -> None:
        """Stores what has changed; with `refresh`, also what is not closed, and sweeps what has expired. Raises as the driver."""
        now = asyncio.get_running_loop().time()
        for circuit in (*(self._circuits.not_closed() if refresh else ()), *self._circuits.take_changes()):
            self._pending[circuit.tenant_id, circuit.url] = (now, circuit)
        while pending := list(self._pending.values())[:_ROWS_AT_ONCE]:
            rows = [(row, now - taken_at) for taken_at, row in pending]  # they may have waited for the database
            await self._execute(
                _WRITE, self._process, [row.tenant_id for row, _ in rows], [row.url for row, _ in rows],
                [row.state for row, _ in rows], [row.seconds + late for row, late in rows], [row.failures for row, _ in rows],
                [None if row.probe_in_seconds is None else row.probe_in_seconds - late for row, late in rows], EXPIRY_SECONDS,
            )  # fmt: skip
            for row, _ in rows:
                del self._pending[row.tenant_id, row.url]
        if refresh:
            await self._execute(_SWEEP, _ROWS_AT_ONCE)

    async def _execute(self, query: str, *arguments: Any) -> None:
        async with asyncio.timeout(_QUERY_SECONDS_MAX):
            await self._pool.execute(query, *arguments)
