# intent_ref: quantum.streams
"""Which engine carries the stream, by `QUANTUM_STREAM`, and on which topics, by `QUANTUM_STREAM_CLASSES`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from event_store.store import EventStore
from quantum.settings import Settings
from sagas.hearing import Hearing
from streaming.delivery import Statistics
from streaming.embedded import EmbeddedTransport
from streaming.progress import Progress
from streaming.tenant_classes import ClassedTransport, TenantClasses
from streaming.transport import Transport

if TYPE_CHECKING:
    from streaming.kafka_clients import KafkaSettings


class MeasuredTransport(Transport, Protocol):
    """A transport, and what telemetry reads of it."""

    statistics: Statistics

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        ...


def hearing(settings: Settings, store: EventStore, transport: MeasuredTransport) -> Hearing:
    """How the stall check finds out what the execution saga has heard of."""
    return Hearing(store, transport.progress, None if transport.reads_the_log else relay_name(settings))


@asynccontextmanager
async def stream(settings: Settings, store: EventStore) -> AsyncIterator[MeasuredTransport]:
    """The transport of this process. It needs no broker yet: one that is away is waited for where it is used."""
    if settings.stream == "event-hubs":
        from quantum.event_hubs import event_hubs

        async with event_hubs(settings, store) as hub:
            yield hub
        return
    transport = _kafka(settings, store) if settings.stream == "kafka" else EmbeddedTransport(store)
    try:
        yield transport
    finally:
        await transport.close()


def relay_name(settings: Settings) -> str:
    """Whose checkpoint the relay goes by: each engine and topic has its own, and another one starts with the first event.

    Classes of tenants change nothing about it: there is one relay, and what it published before stays where it is.
    """
    if settings.stream == "event-hubs":
        from quantum.event_hubs import hub_name

        return f"event-hubs:{hub_name(settings)}"
    return {"embedded": "relay", "kafka": f"kafka:{settings.kafka_topic}"}[settings.stream]


def kafka_settings(settings: Settings) -> "KafkaSettings":
    """Which cluster and topic, and how it is reached. aiokafka is imported where it was chosen, and nowhere else."""
    from streaming.kafka_clients import KafkaSettings

    password = settings.kafka_sasl_password
    return KafkaSettings(
        settings.kafka_bootstrap or "", settings.kafka_topic, security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism, username=settings.kafka_sasl_username,
        password=None if password is None else password.get_secret_value(), ca_file=settings.kafka_ca_file,
        topic_partitions=settings.kafka_topic_partitions, record_bytes_max=settings.kafka_record_bytes_max,
    )  # fmt: skip


def _kafka(settings: Settings, store: EventStore) -> MeasuredTransport:
    """One transport, or one for each class of tenants."""
    from streaming.kafka import KafkaTransport

    kafka = kafka_settings(settings)

    def on(topic: str, is_ours: Callable[[str], bool]) -> KafkaTransport:
        return KafkaTransport(replace(kafka, topic=topic), store, source=settings.event_source, is_ours=is_ours)

    if settings.stream_classes:
        return ClassedTransport(TenantClasses(settings.stream_classes, settings.kafka_topic), on)
    return KafkaTransport(kafka, store, source=settings.event_source)
