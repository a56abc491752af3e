# intent_ref: event-store.request-keys
"""Requests under idempotency keys of which no event tells: what each was, who carries it out, and how it was answered."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import orjson

from domain.immutable import immutable
from event_store.faults import DATABASE_AWAY
from event_store.records import StoreUnavailable

KEPT_SECONDS: Final = 86_400.0
ANSWER_BYTES_MAX: Final = 4 << 20
QUERY_SECONDS_MAX: Final = 10.0
_GIVING_UP_SECONDS_MAX: Final = 2.0
_SWEPT_AT_ONCE: Final = 1_000
_FIND: Final = "SELECT * FROM quantum.find_request($1, $2)"
_BEGIN: Final = "SELECT * FROM quantum.begin_request($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_NOTE: Final = "SELECT quantum.note_request($1, $2, $3, $4)"
_END: Final = "SELECT quantum.end_request($1, $2, $3, $4, $5, $6, $7)"
_GIVE_UP: Final = "SELECT quantum.give_request_up($1, $2, $3)"
_SWEEP: Final = (
    "DELETE FROM quantum.request_keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM quantum.request_keys"
    " WHERE kept_until < now() - make_interval(secs => $1) LIMIT $2)) RETURNING 1"
)


@immutable
class KeptAnswer:
    """An answer as it was given. `body`: None where it was too large to be kept."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes | None


@immutable
class KnownRequest:
    """The request that has a key. `request_hash` tells a repeat from another one; `answer`: None while it is under way."""

    request_hash: str
    answer: KeptAnswer | None


class RequestKeys:
    """Reads and writes as the tenant; sweeps as the platform. Every call raises `StoreUnavailable`."""

    def __init__(self, tenant_pool: Any, platform_pool: Any) -> None:
        self._tenant_pool, self._platform_pool = tenant_pool, platform_pool

    async def find(self, tenant_id: str, command_id: UUID) -> KnownRequest | None:
        """The request under this id, if it has come before."""
        return _known(await _fetched(self._tenant_pool, _FIND, tenant_id, command_id))

    async def begin(
        self, tenant_id: str, command_id: UUID, request_hash: str, holder: UUID, seconds: float,
        kept_seconds: float = KEPT_SECONDS,
    ) -> KnownRequest | None:  # fmt: skip
        """Puts the request down for `holder`, who has so many seconds; the one that has the key already, where one has."""
        return _known(
            await _fetched(
                self._tenant_pool, _BEGIN, tenant_id, command_id, request_hash, holder, seconds, kept_seconds, None, None, None
            )
        )

    async def note(self, tenant_id: str, command_id: UUID, holder: UUID, about: Any = None) -> Any:
        """Keeps what the request is about, unless that is kept already; what it is, None where nothing is kept."""
        said = None if about is None else orjson.dumps(about).decode()
        ((noted,),) = await _fetched(self._tenant_pool, _NOTE, tenant_id, command_id, holder, said)
        return None if noted is None else orjson.loads(noted)

    async def tell(
        self, tenant_id: str, command_id: UUID, request_hash: str, holder: UUID, answer: KeptAnswer
    ) -> KnownRequest | None:
        """Keeps the answer of a request that was not put down before; the one that has the key already, where one has."""
        return _known(
            await _fetched(
                self._tenant_pool, _BEGIN, tenant_id, command_id, request_hash, holder, 0.0, KEPT_SECONDS, *_columns(answer)
            )
        )

    async def end(
        self, tenant_id: str, command_id: UUID, holder: UUID, answer: KeptAnswer, kept_seconds: float = KEPT_SECONDS
    ) -> None:
        """Keeps the answer of what `holder` has carried out."""
        await _fetched(self._tenant_pool, _END, tenant_id, command_id, holder, *_columns(answer), kept_seconds)

    async def give_up(self, tenant_id: str, command_id: UUID, holder: UUID) -> None:
        """Frees a key whose request came to nothing."""
        await _fetched(self._tenant_pool, _GIVE_UP, tenant_id, command_id, holder, seconds_max=_GIVING_UP_SECONDS_MAX)

    async def sweep(self, after_seconds: float = 0.0) -> int:
        """Removes what is not to be kept any longer, so many seconds after its time, at most a thousand at once; how many."""
        return len(await _fetched(self._platform_pool, _SWEEP, after_seconds, _SWEPT_AT_ONCE))


def _columns(answer: KeptAnswer) -> tuple[int, str, bytes | None]:
    body = answer.body if answer.body is None or len(answer.body) <= ANSWER_BYTES_MAX else None
    return answer.status, orjson.dumps(list(answer.headers)).decode(), body


def _known(rows: Any) -> KnownRequest | None:
    if not rows:
        return None
    request_hash, status, headers, body = rows[0]
    if status is None:
        return KnownRequest(request_hash, None)
    return KnownRequest(request_hash, KeptAnswer(status, [(name, value) for name, value in orjson.loads(headers)], body))


async def _fetched(pool: Any, query: str, *arguments: Any, seconds_max: float = QUERY_SECONDS_MAX) -> Any:
    try:
        async with asyncio.timeout(seconds_max):
            return await pool.fetch(query, *arguments)
    except DATABASE_AWAY as fault:
        raise StoreUnavailable(str(StoreUnavailable.__doc__)) from fault
