# intent_ref: projections.documents
"""Single documents, read together: concurrent reads of a process become one SQL call, each under its own tenant's security."""

import asyncio
from collections.abc import Iterable
from typing import Any

from domain.immutable import immutable
from projections.pages import storable

BATCH_MAX = 256
QUEUE_MAX = 20_000
ID_CHARACTERS_MAX = 200


@immutable
class Document:
    """A row's ready answer, its version for the ETag, and the position of the last event in it."""

    body: bytes
    version: int
    position: int


class TooManyReads(Exception):
    """20,000 reads are waiting already. Try again in a moment."""


def point_reads(table: str, key: str) -> str:
    """SQL of `quantum.read_<table>(tenants, ids)`, which `DocumentReader` calls.

    It works with the caller's rights and walks the tenants it is asked for, so that row-level security holds for each.
    """
    return f"""
CREATE OR REPLACE FUNCTION quantum.read_{table}(tenants text[], ids text[])
    RETURNS TABLE (number bigint, version integer, "position" bigint, document bytea)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    current_one text;
BEGIN
    FOR current_one IN SELECT DISTINCT tenant FROM unnest(tenants) AS tenant LOOP
        PERFORM set_config('app.tenant_id', current_one, true);
        RETURN QUERY
            SELECT wanted.number, found.version, found.position, found.document
              FROM unnest(tenants, ids) WITH ORDINALITY AS wanted (tenant, id, number)
              JOIN quantum_read.{table} AS found ON found.tenant_id = wanted.tenant AND found.{key} = wanted.id
             WHERE wanted.tenant = current_one;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION quantum.read_{table} FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.read_{table} TO quantum_app, quantum_platform;
"""  # noqa: S608 - names of our own tables


class DocumentReader:
    """Reads documents by id from `tenant_pool`. At most `lanes` SQL calls are under way; what comes meanwhile goes together."""

    def __init__(self, tenant_pool: Any, *, lanes: int = 2) -> None:
        self._pool, self._lanes = tenant_pool, lanes
        self._queue: dict[tuple[str, str, str], asyncio.Future[Document | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def read(self, table: str, tenant_id: str, identity: str) -> Document | None:
        """The document of that id in the tenant, as it is now; None where there is none. Raises what the pool raises."""
        if not storable(tenant_id, identity) or len(identity) > ID_CHARACTERS_MAX:
            return None
        key = (table, tenant_id, identity)
        answer = self._queue.get(key)
        if answer is None:
            if len(self._queue) >= QUEUE_MAX:
                raise TooManyReads(str(TooManyReads.__doc__))
            answer = self._queue[key] = asyncio.get_running_loop().create_future()
            if len(self._running) < self._lanes:
                task = asyncio.create_task(self._serve(), name="document-reads")
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Ends reads under way; whoever waits for one is cancelled."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for answer in self._queue.values():
            answer.cancel()
        self._queue.clear()

    async def _serve(self) -> None:
        while self._queue:
            keys = list(self._queue)[:BATCH_MAX]
            batch = {key: self._queue.pop(key) for key in keys}
            for table in {key[0] for key in keys}:
                await self._fetch(table, {key: answer for key, answer in batch.items() if key[0] == table})

    async def _fetch(self, table: str, batch: dict[tuple[str, str, str], asyncio.Future[Document | None]]) -> None:
        keys = list(batch)
        try:
            rows: Iterable[Any] = await self._pool.fetch(
                f"SELECT number, version, position, document FROM quantum.read_{table}($1::text[], $2::text[])",  # noqa: S608
                [key[1] for key in keys],
                [key[2] for key in keys],
            )
        except BaseException as fault:
            for answer in batch.values():
                if not answer.done():
                    if isinstance(fault, asyncio.CancelledError):
                        answer.cancel()
                    else:
                        answer.set_exception(fault)
                        answer.exception()  # whoever asked may have gone; then nobody else looks at it
            if isinstance(fault, Exception):
                return
            raise
        for row in rows:
            answer = batch.pop(keys[row["number"] - 1])
            if not answer.done():
                answer.set_result(Document(row["document"], row["version"], row["position"]))
        for answer in batch.values():
            if not answer.done():
                answer.set_result(None)
