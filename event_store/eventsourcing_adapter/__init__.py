# intent_ref: event-store.eventsourcing-adapter
"""The event store for the `eventsourcing` package (9.5): `PERSISTENCE_MODULE=event_store.eventsourcing_adapter`.

Applications written with that package keep their events in our log: under a tenant, by its row-level security, in front of every
subscriber, in every audit. Its environment:

- `QUANTUM_DATABASE_URL`: the database, with the login quantum_app;
- `QUANTUM_TENANT`: the tenant everything belongs to;
- `QUANTUM_DATABASE_LISTEN_URL`: the same login past a pooler in transaction mode, where LISTEN does not work through one;
- `QUANTUM_POOL_SIZE` (10): connections at most; `ORIGINATOR_ID_TYPE`: `uuid` (the default) or `text`.

As with all of that package's settings, a variable with an application's name in front (`SHOP_QUANTUM_TENANT`) holds for that one.
Needs the extra `quantum[eventsourcing]`. What is stored how: `recorders.py` and migration 0008.
"""

from event_store.eventsourcing_adapter.factory import QuantumFactory
from event_store.eventsourcing_adapter.recorders import (
    QuantumAggregateRecorder,
    QuantumApplicationRecorder,
    QuantumProcessRecorder,
    QuantumTrackingRecorder,
)

Factory = QuantumFactory

__all__ = [
    "Factory",
    "QuantumAggregateRecorder",
    "QuantumApplicationRecorder",
    "QuantumFactory",
    "QuantumProcessRecorder",
    "QuantumTrackingRecorder",
]
