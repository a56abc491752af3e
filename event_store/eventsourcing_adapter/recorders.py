# intent_ref: event-store.eventsourcing-adapter
"""The `eventsourcing` package's recorders over our log.

Each stored event is an event of our log, topic `eventsourcing.stored.v1`, in the stream `eventsourcing:<sequence>:<originator>`.
A *sequence* is what that package keeps in one table: an application's events, or its snapshots. The payload holds the package's
own four fields as JSON (`state`, which may be compressed or encrypted, in Base64), so that the log alone tells the whole story.

An insert is one round trip (quantum.insert_stored_events), all or nothing; it is sent again under the same command id when the
connection breaks, and takes effect once.
"""

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import orjson
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    InterfaceError,
    Notification,
    OperationalError,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.utils import retry

from event_store.eventsourcing_adapter.datastore import Connection, Datastore
from event_store.eventsourcing_adapter.subscription import QuantumSubscription
from event_store.group_commit import APPEND_BYTES_MAX, BUSY_SECONDS_MAX, EVENTS_MAX
from event_store.ids import uuid7
from event_store.records import AppendTooLarge, Metadata, metadata_bytes

F = TypeVar("F", bound=Callable[..., Any])

_INSERT = """
SELECT busy, notification_ids FROM quantum.insert_stored_events(
    %s, %s, %s, %s, %s, %s::text[], %s::int[], %s::int[], %s::text[], %s::bigint[], %s::text[], %s::uuid[], %s::bytea[],
    %s, %s, %s)
"""
_READ_EVENTS = "SELECT originator_version, topic, payload FROM quantum.read_stored_events(%s, %s, %s, %s, %s, %s, %s)"
_READ_NOTIFICATIONS = """
SELECT notification_id, originator_id, originator_version, topic, payload
  FROM quantum.read_notifications(%s, %s, %s, %s, %s::text[], %s)
"""
_LAST_NOTIFICATION = "SELECT quantum.last_notification(%s, %s)"
_TRACK = "SELECT quantum.track_notification(%s, %s, %s, %s)"
_TRACKED = "SELECT quantum.tracked_notification(%s, %s, %s)"
_BUSY_PAUSE_SECONDS = 0.002
_BUSY_PAUSE_SECONDS_MAX = 0.05


def _while_away(function: F) -> F:
    """Tries again for some two seconds while the database is away, as that package's own recorders do."""
    decorated: F = retry((InterfaceError, OperationalError), max_attempts=10, wait=0.2)(function)
    return decorated


class QuantumAggregateRecorder(AggregateRecorder):
    """Stored events by originator and version; for snapshots, and for events nobody follows."""

    _numbered = False

    def __init__(self, datastore: Datastore, *, sequence: str = "stored_events") -> None:
        self.datastore, self.sequence = datastore, sequence

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Stores all of them or none.

        Raises `IntegrityError` where one of the versions is there already, `OperationalError` after 5 s behind another writer of
        the same originator, `DataError` above 4,096 events or 64 MiB.
        """
        self._insert(stored_events)
        return None

    def select_events(
        self, originator_id: UUID | str, *, gt: int | None = None, lte: int | None = None, desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:  # fmt: skip
        """Events of one originator, in the order of their versions or the reverse."""
        rows = self._rows(_READ_EVENTS, (self.sequence, str(originator_id), gt, lte, desc, limit))
        own_id = self._originator(str(originator_id))
        return [StoredEvent(own_id, version, topic, _state(payload)) for version, topic, payload in rows]

    def _insert(self, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None, tracker: str = "") -> list[int]:
        command_id = uuid7()
        metadata = metadata_bytes(Metadata(str(command_id), None, "eventsourcing", None)).decode()
        arguments = (
            self.datastore.tenant_id, self.sequence, self._numbered, command_id, metadata,
            *_arrays(self.sequence, stored_events),
            tracker, tracking and tracking.application_name, tracking and tracking.notification_id,
        )  # fmt: skip
        notification_ids = self._insert_patiently(arguments)
        if stored_events:
            self.datastore.announce()
        return notification_ids

    @_while_away
    def _insert_patiently(self, arguments: tuple[Any, ...]) -> list[int]:
        pause, deadline = _BUSY_PAUSE_SECONDS, time.monotonic() + BUSY_SECONDS_MAX
        while True:
            with self.datastore.connection() as connection:
                row = connection.execute(_INSERT, arguments).fetchone()
            assert row is not None, "the function answers with one row"
            busy, notification_ids = row
            if not busy:
                return notification_ids or []
            if time.monotonic() > deadline:
                raise OperationalError("Another transaction has been writing the same originator all the while: try again.")
            time.sleep(pause)
            pause = min(pause * 2, _BUSY_PAUSE_SECONDS_MAX)

    @_while_away
    def _rows(self, query: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self.datastore.connection() as connection:
            return connection.execute(query.encode(), (self.datastore.tenant_id, *arguments)).fetchall()

    def _originator(self, text: str) -> UUID | str:
        return text if self.datastore.text_ids else UUID(text)


class QuantumApplicationRecorder(QuantumAggregateRecorder, ApplicationRecorder):
    """Events of an application, numbered from 1 without gaps in the order of their commits: its inserts queue up."""

    _numbered = True

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """As `QuantumAggregateRecorder.insert_events`, and answers with the notification ids, in the order given."""
        return self._insert(stored_events)

    def select_notifications(
        self, start: int | None, limit: int, stop: int | None = None, topics: Sequence[str] = (), *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:  # fmt: skip
        """Up to `limit` notifications from `start` (or after it) to `stop`, of all topics or of some."""
        first = 1 if start is None else start if inclusive_of_start else start + 1
        rows = self._rows(_READ_NOTIFICATIONS, (self.sequence, first, stop, list(topics), limit))
        return [
            Notification(id=number, originator_id=self._originator(originator), originator_version=version, topic=topic,
                         state=_state(payload))
            for number, originator, version, topic, payload in rows
        ]  # fmt: skip

    def max_notification_id(self) -> int | None:
        """The newest notification's id, or None."""
        newest: int | None = self._rows(_LAST_NOTIFICATION, (self.sequence,))[0][0]
        return newest

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """Notifications after `gt`, for ever."""
        return QuantumSubscription(self, gt, topics)


class QuantumTrackingRecorder(TrackingRecorder):
    """How far a follower has come. Subclass it to keep a read model: write rows and `track` in one `datastore.transaction()`."""

    def __init__(self, datastore: Datastore, *, tracker: str = "notification_tracking") -> None:
        self.datastore, self.tracker = datastore, tracker

    @_while_away
    def insert_tracking(self, tracking: Tracking) -> None:
        """Raises `IntegrityError` where this notification, or one after it, was tracked before."""
        with self.datastore.connection() as connection:
            self.track(connection, tracking)

    def track(self, connection: Connection, tracking: Tracking) -> None:
        """As `insert_tracking`, inside the caller's transaction."""
        given = (self.datastore.tenant_id, self.tracker, tracking.application_name, tracking.notification_id)
        connection.execute(_TRACK, given)

    @_while_away
    def max_tracking_id(self, application_name: str) -> int | None:
        """The last notification of that application that was tracked, or None."""
        with self.datastore.connection() as connection:
            row = connection.execute(_TRACKED, (self.datastore.tenant_id, self.tracker, application_name)).fetchone()
        assert row is not None, "the function answers with one row"
        newest: int | None = row[0]
        return newest


class QuantumProcessRecorder(QuantumTrackingRecorder, QuantumApplicationRecorder, ProcessRecorder):
    """Events and the tracking of the notification they react to, stored together."""

    def __init__(self, datastore: Datastore, *, sequence: str = "stored_events", tracker: str = "notification_tracking") -> None:
        QuantumApplicationRecorder.__init__(self, datastore, sequence=sequence)
        QuantumTrackingRecorder.__init__(self, datastore, tracker=tracker)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """As `QuantumApplicationRecorder.insert_events`; `tracking=` is stored with them, or nothing is."""
        return self._insert(stored_events, kwargs.get("tracking"), self.tracker)


def _arrays(sequence: str, stored_events: Sequence[StoredEvent]) -> tuple[list[Any], ...]:
    """The arrays of quantum.insert_stored_events, in its order: streams, then events with their stream's number and place."""
    numbers: dict[str, int] = {}
    places: list[int] = []
    parts: list[int] = []
    counts: dict[int, int] = {}
    for stored in stored_events:
        part = numbers.setdefault(str(stored.originator_id), len(numbers) + 1)
        counts[part] = counts.get(part, 0) + 1
        parts.append(part)
        places.append(counts[part])
    payloads = [_payload(stored) for stored in stored_events]
    if len(payloads) > EVENTS_MAX or sum(map(len, payloads)) > APPEND_BYTES_MAX:
        raise DataError(str(AppendTooLarge.__doc__))
    return (
        [f"eventsourcing:{sequence}:{originator}" for originator in numbers],
        parts,
        places,
        [str(stored.originator_id) for stored in stored_events],
        [stored.originator_version for stored in stored_events],
        [stored.topic for stored in stored_events],
        [uuid7() for _ in stored_events],
        payloads,
    )


def _payload(stored: StoredEvent) -> bytes:
    return orjson.dumps(
        {
            "originator_id": str(stored.originator_id),
            "originator_version": stored.originator_version,
            "topic": stored.topic,
            "state": base64.b64encode(stored.state).decode(),
        }
    )


def _state(payload: bytes) -> bytes:
    return base64.b64decode(orjson.loads(payload)["state"])
