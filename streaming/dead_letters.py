# intent_ref: streaming.dead-letters
"""Messages that a consumer group passed over, with the reason, and the way back to its handler.

What such a message said is not copied: it is in the log, at its position.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.immutable import immutable
from event_store.store import EventStore
from streaming.transport import Message

REASON_CHARACTERS_MAX = 2_000
REDRIVEN_TOGETHER = 100
SWEPT_AT_ONCE = 1_000

_COLUMNS = (
    "tenant_id, consumer_group, position, event_id, partition_key, topic, reason, attempts, first_failed_at, last_failed_at,"
    " redrive_requested_at, redriven_at"
)
_PUT = """
INSERT INTO quantum.stream_dead_letters AS known
       (tenant_id, consumer_group, position, event_id, partition_key, topic, reason, attempts, first_failed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() - make_interval(secs => $9))
    ON CONFLICT (tenant_id, consumer_group, position) DO UPDATE
   SET reason = excluded.reason, attempts = known.attempts + excluded.attempts, last_failed_at = now(),
       redrive_requested_at = NULL, redriven_at = NULL
"""
_LIST = f"""
SELECT {_COLUMNS} FROM quantum.stream_dead_letters
 WHERE ($1::text IS NULL OR consumer_group = $1) AND redriven_at IS NULL
 ORDER BY consumer_group, position LIMIT $2
"""  # noqa: S608 - constants only
_REQUEST = """
UPDATE quantum.stream_dead_letters SET redrive_requested_at = now()
 WHERE consumer_group = $1 AND ($2::bigint IS NULL OR position = $2) AND redriven_at IS NULL
"""
_REQUESTED = f"""
SELECT {_COLUMNS} FROM quantum.stream_dead_letters
 WHERE consumer_group = $1 AND position > $2 AND redrive_requested_at IS NOT NULL AND redriven_at IS NULL
 ORDER BY position LIMIT $3
"""  # noqa: S608
_DONE = """
UPDATE quantum.stream_dead_letters SET redriven_at = now()
 WHERE tenant_id = $1 AND consumer_group = $2 AND position = $3 AND redriven_at IS NULL
"""
_SWEEP = """
DELETE FROM quantum.stream_dead_letters WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM quantum.stream_dead_letters WHERE redriven_at < now() - make_interval(secs => $1) LIMIT $2))
   AND redriven_at < now() - make_interval(secs => $1)
"""


class NoDeadLetter(LookupError):
    """There is no such dead letter that waits to be redriven: `quantum streams dead-letters` lists those there are."""

    def __init__(self, group: str, position: int | None) -> None:
        where = f"group {group}" if position is None else f"group {group}, position {position}"
        super().__init__(f"{where}: {self.__doc__}")
        self.group, self.position = group, position


@immutable
class DeadLetter:
    """A message that was passed over. `attempts` counts the failures in which it had a part."""

    tenant_id: str
    group: str
    position: int
    event_id: UUID
    partition_key: str
    topic: str
    reason: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    redrive_requested_at: datetime | None
    redriven_at: datetime | None


class DeadLetters:
    """The dead letters of every group. All methods raise what the database raises (`DATABASE_FAULTS`, `StoreUnavailable`).

    `is_ours`: whether a tenant's letters are for this consumer to redrive; where tenants are in classes, another one has others.
    """

    def __init__(self, store: EventStore, is_ours: Callable[[str], bool] = lambda tenant_id: True) -> None:
        self._store, self.is_ours = store, is_ours

    async def put(self, group: str, message: Message, fault: BaseException, attempts: int, since_seconds: float) -> None:
        """Records that a group passes a message over; one known already gets the newer reason and the sum of attempts.

        `since_seconds` is how long ago it failed first.
        """
        await self._pool.execute(
            _PUT, message.tenant_id, group, message.position, message.event_id, message.key, message.topic,
            reason_of(fault), attempts, since_seconds,
        )  # fmt: skip

    async def list(self, group: str | None = None, *, limit: int = 1_000) -> Sequence[DeadLetter]:
        """Those that are not redriven yet, of one group or of all, in order of position."""
        return [DeadLetter(*row) for row in await self._pool.fetch(_LIST, group, limit)]

    async def redrive(self, group: str, position: int | None = None) -> int:
        """Asks that a group be given one, or all, of its dead letters again; how many.

        The group's consumers find them within seconds. Raises `NoDeadLetter` where a position has none.
        """
        status: str = await self._pool.execute(_REQUEST, group, position)
        count = int(status.rpartition(" ")[2])
        if position is not None and count == 0:
            raise NoDeadLetter(group, position)
        return count

    async def requested(self, group: str, after: int = 0) -> Sequence[DeadLetter]:
        """The next ones behind a position that somebody asked to redrive; few at a time."""
        return [DeadLetter(*row) for row in await self._pool.fetch(_REQUESTED, group, after, REDRIVEN_TOGETHER)]

    async def redriven(self, letter: DeadLetter) -> None:
        """The handler has dealt with it after all."""
        await self._pool.execute(_DONE, letter.tenant_id, letter.group, letter.position)

    async def sweep(self, days: float) -> int:
        """Removes letters that were redriven longer ago than that, at most a thousand at once; how many those were.

        One that nobody has redriven stays, however old it is.
        """
        status: str = await self._pool.execute(_SWEEP, days * 86_400, SWEPT_AT_ONCE)
        return int(status.rpartition(" ")[2])

    async def message(self, letter: DeadLetter) -> Message | None:
        """What the letter is about, from the log."""
        return await message_at(self._store, letter.tenant_id, letter.position)

    @property
    def _pool(self) -> Any:
        return self._store.platform_pool


async def message_at(store: EventStore, tenant_id: str, position: int) -> Message | None:
    """The event at a position of the log, if it is the tenant's; raises `StoreUnavailable`."""
    page = await store.read_log(position - 1, limit=1)
    found = [event for event in page.events if event.position == position and event.tenant_id == tenant_id]
    return Message.of(found[0]) if found else None


def reason_of(fault: BaseException) -> str:
    """The error as one text the database can hold."""
    return f"{type(fault).__name__}: {fault}".replace("\0", "")[:REASON_CHARACTERS_MAX]
