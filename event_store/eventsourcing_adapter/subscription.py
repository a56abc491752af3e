# intent_ref: event-store.eventsourcing-adapter
"""Notifications as they come, for synchronous code: woken by NOTIFY, and by a slow poll where a wake-up was lost."""

import time
from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING

from eventsourcing.persistence import ListenNotifySubscription, PersistenceError

from event_store.eventsourcing_adapter.datastore import CHANNEL, Connection, translated_errors

if TYPE_CHECKING:
    from event_store.eventsourcing_adapter.recorders import QuantumApplicationRecorder

_POLL_SECONDS = 1.0
_NOTICE_SECONDS_MAX = 0.1
"""How long a stop may go unnoticed."""


class QuantumSubscription(ListenNotifySubscription["QuantumApplicationRecorder"]):
    """The package's pulling subscription, with a thread that listens. As a context manager it ends both its threads."""

    def __init__(self, recorder: "QuantumApplicationRecorder", gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._listen_thread = Thread(target=self._listen, name="quantum-listen", daemon=True)
        self._listen_thread.start()

    def __exit__(self, *args: object, **kwargs: object) -> None:
        try:
            super().__exit__(*args, **kwargs)
        finally:
            self._listen_thread.join()

    def _listen(self) -> None:
        while not self._has_been_stopped:
            try:
                connection = self._recorder.datastore.listening_connection()
                try:
                    self._wake_while_heard(connection)
                finally:
                    connection.close()
            except PersistenceError:
                # The pulling thread meets the same trouble and has its own patience with it.
                self._has_been_notified.set()
                time.sleep(_NOTICE_SECONDS_MAX)

    def _wake_while_heard(self, connection: Connection) -> None:
        with translated_errors():
            connection.execute(f"LISTEN {CHANNEL}".encode())
            poll_at = time.monotonic()  # at once: what was committed before LISTEN took hold was not heard
            while not self._has_been_stopped:
                heard = False
                for _ in connection.notifies(timeout=_NOTICE_SECONDS_MAX, stop_after=1):
                    heard = True
                if heard or time.monotonic() >= poll_at:
                    self._has_been_notified.set()
                    poll_at = time.monotonic() + _POLL_SECONDS
