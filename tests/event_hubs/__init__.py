# intent_ref: tests.event-hubs-stand-in
"""A stand-in for Azure Event Hubs that the unmodified SDK talks to: AMQP 1.0 over plain TCP on loopback, by way of proton.

It exists because no emulator runs without containers. It keeps its partitions in memory, also over a `restart`, and breaks on
command: it drops links and connections, is busy, refuses, or falls silent. What it does not have: TLS, the check of tokens,
retention, and the Kafka and HTTP doors of the real thing.
"""

from tests.event_hubs.server import EventHubsServer

__all__ = ["EventHubsServer"]
