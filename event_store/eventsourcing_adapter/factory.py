# intent_ref: event-store.eventsourcing-adapter
"""Makes recorders from the environment, as the `eventsourcing` package asks for them."""

from typing import Any

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic

from domain.values import TenantId, is_tenant_id
from event_store.eventsourcing_adapter.datastore import Datastore
from event_store.eventsourcing_adapter.recorders import (
    QuantumAggregateRecorder,
    QuantumApplicationRecorder,
    QuantumProcessRecorder,
    QuantumTrackingRecorder,
)


class QuantumFactory(InfrastructureFactory[QuantumTrackingRecorder]):
    """Recorders over the log of one tenant. Raises `OSError` with a sentence where the environment does not say enough."""

    DATABASE_URL = "QUANTUM_DATABASE_URL"
    LISTEN_URL = "QUANTUM_DATABASE_LISTEN_URL"
    TENANT = "QUANTUM_TENANT"
    POOL_SIZE = "QUANTUM_POOL_SIZE"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        dsn, tenant = self.env.get(self.DATABASE_URL), self.env.get(self.TENANT)
        if not dsn:
            raise OSError(f"{self.DATABASE_URL} is missing: it names the database with the login quantum_app.")
        if not tenant or not is_tenant_id(tenant):
            raise OSError(f"{self.TENANT} is {tenant!r}: it must be a tenant's id, such as tenant-123.")
        pool_size = self.env.get(self.POOL_SIZE) or "10"
        if not pool_size.isdecimal() or not 1 <= int(pool_size) <= 1000:
            raise OSError(f"{self.POOL_SIZE} is {pool_size!r}: it must be a number from 1 to 1000.")
        id_type = (self.env.get(self.ORIGINATOR_ID_TYPE) or "uuid").lower()
        if id_type not in ("uuid", "text"):
            raise OSError(f"{self.ORIGINATOR_ID_TYPE} is {id_type!r}: it must be uuid or text.")
        self.datastore = Datastore(
            dsn, TenantId(tenant), listen_dsn=self.env.get(self.LISTEN_URL), pool_size=int(pool_size), text_ids=id_type == "text"
        )

    def close(self) -> None:
        """Gives the connections back."""
        self.datastore.close()

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """A recorder without notifications, such as that of snapshots."""
        return QuantumAggregateRecorder(self.datastore, sequence=self._sequence(purpose))

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder of an application's events."""
        chosen = self._chosen(self.APPLICATION_RECORDER_TOPIC, QuantumApplicationRecorder)
        recorder: ApplicationRecorder = chosen(self.datastore, sequence=self._sequence("events"))
        return recorder

    def tracking_recorder(self, tracking_recorder_class: type[QuantumTrackingRecorder] | None = None) -> QuantumTrackingRecorder:
        """The recorder of a follower: of that class, of the one the environment names, or the plain one."""
        chosen = tracking_recorder_class or self._chosen(self.TRACKING_RECORDER_TOPIC, QuantumTrackingRecorder)
        recorder: QuantumTrackingRecorder = chosen(self.datastore, tracker=self._tracker())
        return recorder

    def process_recorder(self) -> ProcessRecorder:
        """The recorder of an application that follows others."""
        chosen = self._chosen(self.PROCESS_RECORDER_TOPIC, QuantumProcessRecorder)
        recorder: ProcessRecorder = chosen(self.datastore, sequence=self._sequence("events"), tracker=self._tracker())
        return recorder

    def _chosen(self, variable: str, default: type[Any]) -> type[Any]:
        topic = self.env.get(variable)
        chosen: type[Any] = resolve_topic(topic) if topic else default
        if not issubclass(chosen, default):
            raise OSError(f"{variable} names {chosen.__qualname__}, which is no {default.__name__}.")
        return chosen

    def _sequence(self, purpose: str) -> str:
        return f"{self.env.name.lower() or 'stored'}_{purpose}"

    def _tracker(self) -> str:
        return f"{self.env.name.lower() or 'notification'}_tracking"
