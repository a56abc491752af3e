# intent_ref: event-store.snapshots
"""Folded states: a bounded cache in the process, and snapshots that the store takes by itself of streams that grow long.

Both only save reading: a load always asks the log for what came after. A snapshot carries the fingerprint of its state's
shape; when the code's shape differs, the stream is folded from its events again.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

import orjson
import structlog
from pydantic import TypeAdapter

from domain.immutable import immutable
from domain.values import StreamId, TenantId
from event_store.faults import DATABASE_FAULTS
from event_store.waiting import settled

if TYPE_CHECKING:
    from event_store.store import EventStore

S = TypeVar("S")
SNAPSHOT_EVERY_VERSIONS = 200
CACHED_STATES_MAX = 4096
OVER_STATES_MAX = 100
"""How many are kept of what is over, such as executions. Hardly anybody asks for those again, and memory that is used again
soon is still in the processor's caches: with 4,000 of them, and 2,000 events in the tail, a step took an eighth longer."""
SNAPSHOTS_QUEUED_MAX = 256

log = structlog.get_logger(__name__)


@immutable
class Loaded(Generic[S]):
    """A stream's state and the version it stands at; no state and 0 where there is no stream."""

    state: S | None
    version: int


class StateCache:
    """States by (tenant, stream), least recently used first out; those that say of themselves `is_over` do not stay for long."""

    def __init__(self, store: "EventStore") -> None:
        self._store = store
        self._states: OrderedDict[tuple[str, str], Loaded[Any]] = OrderedDict()
        self._over: deque[tuple[str, str]] = deque()
        self._snapshots: set[asyncio.Task[None]] = set()
        self._next_loads: dict[tuple[str, str], asyncio.Future[Loaded[Any]]] = {}

    async def close(self) -> None:
        """Waits for snapshots under way."""
        for task in self._snapshots:
            task.cancel()
        await asyncio.gather(*self._snapshots, return_exceptions=True)

    def cached(self, tenant_id: TenantId, stream_id: StreamId) -> Loaded[Any] | None:
        """The state as this process saw it last; others may have moved on since."""
        known = self._states.get((tenant_id, stream_id))
        if known is not None:
            self._states.move_to_end((tenant_id, stream_id))
        return known

    async def load(self, tenant_id: TenantId, stream_id: StreamId, evolve: Callable[[S | None, Any], S]) -> Loaded[S]:
        """The state now: what is cached, plus the events after it. Who asks at the same moment as others shares one look."""
        key = (tenant_id, stream_id)
        while (shared := self._next_loads.get(key)) is not None:
            await settled(shared)
            if not shared.cancelled():
                return shared.result()
        shared = self._next_loads[key] = asyncio.get_running_loop().create_future()
        try:
            try:
                await asyncio.sleep(0)
            finally:
                del self._next_loads[key]  # whoever asks from now on may know of something newer than what is about to be read
            loaded = await self._read(tenant_id, stream_id, evolve)
            shared.set_result(loaded)
            return loaded
        finally:
            if not shared.done():
                shared.cancel()

    async def _read(self, tenant_id: TenantId, stream_id: StreamId, evolve: Callable[[S | None, Any], S]) -> Loaded[S]:
        known = self._states.get((tenant_id, stream_id))
        loaded: Loaded[S] = known if known is not None else Loaded(None, 0)
        while True:
            events = await self._store.read_stream(tenant_id, stream_id, after=loaded.version, limit=SNAPSHOT_EVERY_VERSIONS)
            if not events:
                break
            if known is None and len(events) == SNAPSHOT_EVERY_VERSIONS:
                known = await self._snapshot(tenant_id, stream_id, evolve)
                if known is not None and known.version > loaded.version:
                    loaded = known
                    continue
                known = loaded
            state = loaded.state
            for event in events:
                state = evolve(state, event.event)
            loaded = Loaded(state, events[-1].version)
            if len(events) < SNAPSHOT_EVERY_VERSIONS:
                break
        if loaded.version:
            self.keep(tenant_id, stream_id, evolve, loaded)
        return loaded

    def keep(
        self,
        tenant_id: TenantId,
        stream_id: StreamId,
        evolve: Callable[[S | None, Any], S],
        loaded: Loaded[S],
    ) -> None:
        """Remembers a state that is certainly in the log, and takes a snapshot when the stream has grown enough."""
        key = (tenant_id, stream_id)
        before = self._states.get(key)
        if before is not None and before.version > loaded.version:
            return
        self._states[key] = loaded
        self._states.move_to_end(key)
        if len(self._states) > CACHED_STATES_MAX:
            self._states.popitem(last=False)
        if _is_over(loaded):
            self._over.append(key)
            if len(self._over) > OVER_STATES_MAX:
                self._let_go(self._over.popleft())
        last = before.version if before is not None else 0
        crossed = loaded.version // SNAPSHOT_EVERY_VERSIONS > last // SNAPSHOT_EVERY_VERSIONS
        if crossed and len(self._snapshots) < SNAPSHOTS_QUEUED_MAX:
            task = asyncio.create_task(self._take(tenant_id, stream_id, evolve, loaded))
            self._snapshots.add(task)
            task.add_done_callback(self._snapshots.discard)

    def _let_go(self, key: tuple[str, str]) -> None:
        known = self._states.get(key)
        if known is not None and _is_over(known):  # else it has been begun again
            del self._states[key]

    async def _take(self, tenant_id: TenantId, stream_id: StreamId, evolve: Any, loaded: Loaded[Any]) -> None:
        _, shape = _adapter(evolve)
        data = orjson.dumps(loaded.state, option=orjson.OPT_NON_STR_KEYS, default=_plain)
        try:
            async with self._store.tenant_pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
                await connection.execute(
                    "INSERT INTO quantum.snapshots AS kept (tenant_id, stream_id, version, shape, state)"
                    " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, stream_id) DO UPDATE"
                    " SET version = excluded.version, shape = excluded.shape, state = excluded.state"
                    " WHERE kept.version < excluded.version OR kept.shape <> excluded.shape",
                    tenant_id, stream_id, loaded.version, shape, data,
                )  # fmt: skip
        except DATABASE_FAULTS as fault:
            log.warning("a snapshot was not taken; loading reads more events until the next", fault=repr(fault))

    async def _snapshot(self, tenant_id: TenantId, stream_id: StreamId, evolve: Any) -> Loaded[Any] | None:
        adapter, shape = _adapter(evolve)
        async with self._store.tenant_pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
            row = await connection.fetchrow(
                "SELECT version, state FROM quantum.snapshots WHERE tenant_id = $1 AND stream_id = $2 AND shape = $3",
                tenant_id, stream_id, shape,
            )  # fmt: skip
        if row is None:
            return None
        with contextlib.suppress(ValueError):
            return Loaded(adapter.validate_json(row["state"]), row["version"])
        return None


def _is_over(loaded: Loaded[Any]) -> bool:
    return getattr(loaded.state, "is_over", False)


def _plain(value: object) -> object:
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"a state may not hold {type(value).__name__}")


@cache
def _adapter(evolve: Callable[..., Any]) -> tuple[TypeAdapter[Any], str]:
    """How to restore the state that `evolve` returns, and the fingerprint of its shape."""
    state = get_type_hints(evolve)["return"]
    adapter: TypeAdapter[Any] = TypeAdapter(state)
    shape = orjson.dumps(adapter.json_schema(), option=orjson.OPT_SORT_KEYS)
    return adapter, hashlib.sha256(shape).hexdigest()[:32]
