# intent_ref: streaming.kafka
"""How a Kafka cluster is reached, and clients of it that end within a known time, also when it is away."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, KafkaTimeoutError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from domain.immutable import immutable

_CLOSE_SECONDS_MAX = 5.0
_RETRY_MS = 200
_SAID_AGAIN_SECONDS = 60.0
_BROKERS_DEFAULT = -1

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

log = structlog.get_logger(__name__)


@immutable
class KafkaSettings:
    """Which cluster and topic, and how it is reached.

    For the Kafka endpoint of Event Hubs: `SASL_SSL`, `PLAIN`, the user `$ConnectionString`, and the connection string as
    password. `token` gives access tokens for OAUTHBEARER. A missing topic is made with `topic_partitions` partitions and the
    cluster's own replication; 0 leaves that to others. A record above `record_bytes_max` is sent as a reference.
    """

    bootstrap: str
    topic: str = "quantum.events"
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: Callable[[], Awaitable[str]] | None = field(default=None, repr=False)
    ca_file: Path | None = None
    topic_partitions: int = 12
    record_bytes_max: int = 900_000
    request_seconds_max: float = 15.0
    publish_seconds_max: float = 20.0
    session_seconds: float = 10.0
    revoke_seconds_max: float = 30.0

    def group_id(self, group: str) -> str:
        """A group's name at the broker. With the topic's, because installations that share a cluster have groups of one name."""
        return f"{self.topic}.{group}"

    def connection(self) -> dict[str, Any]:
        """The options that all clients of the cluster share."""
        options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.bootstrap.split(",")],
            "security_protocol": self.security_protocol,
            "request_timeout_ms": round(self.request_seconds_max * 1000),
            "retry_backoff_ms": _RETRY_MS,
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = ssl.create_default_context(cafile=self.ca_file)
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            if self.token is not None:
                options["sasl_oauth_token_provider"] = _Tokens(self.token)
            else:
                options |= {"sasl_plain_username": self.username, "sasl_plain_password": self.password}
        return options


def quieten() -> None:
    """Lets aiokafka say each thing once a minute: while a broker is away, it would say a dozen things a second."""
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if name.split(".")[0] == "aiokafka" and not any(isinstance(known, _NowAndThen) for known in logger.filters):
            logger.addFilter(_NowAndThen())


class _NowAndThen(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._said: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record's sentence (whatever it is filled in with) has not been said for a while."""
        now = time.monotonic()
        if now - self._said.get(record.msg, -_SAID_AGAIN_SECONDS) < _SAID_AGAIN_SECONDS:
            return False
        self._said[record.msg] = now
        return True


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka carries no types
    def __init__(self, token: Callable[[], Awaitable[str]]) -> None:
        self._token = token

    async def token(self) -> str:
        """An access token that is still good for a while."""
        return await self._token()


async def ensure_topic(settings: KafkaSettings) -> None:
    """Makes the topic where it is missing and that is allowed; raises `KafkaError` where it is missing and stays so."""
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        await admin.start()
        if settings.topic in await admin.list_topics():
            return
        if settings.topic_partitions == 0:
            raise UnknownTopicOrPartitionError(f"{settings.topic} does not exist, and is not to be made")
        topic = NewTopic(settings.topic, settings.topic_partitions, 1)
        topic.replication_factor = _BROKERS_DEFAULT  # which NewTopic's constructor does not let through
        made = await admin.create_topics([topic])
        code = made.topic_errors[0][1]
        if code not in (0, TopicAlreadyExistsError.errno):
            raise for_code(code)(f"{settings.topic} cannot be made")
        if code == 0:
            log.info("made a topic", topic=settings.topic, partitions=settings.topic_partitions)
    finally:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await admin.close()


async def remove_topic(settings: KafkaSettings) -> None:
    """Takes the topic away, with all that is in it; raises `KafkaError` where that is not allowed."""
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        await admin.start()
        code = (await admin.delete_topics([settings.topic])).topic_error_codes[0][1]
        if code not in (0, UnknownTopicOrPartitionError.errno):
            raise for_code(code)(f"{settings.topic} cannot be removed")
    finally:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await admin.close()


async def end_producer(producer: AIOKafkaProducer) -> None:
    """Ends a producer whose messages nobody waits for any more.

    aiokafka's own `stop` sends what is left first, and with idempotence that is never given up: it would wait for the broker
    for ever. So what is left is failed here before. What was under way may have arrived; it is sent again by whoever lost it.
    """
    with contextlib.suppress(TimeoutError, KafkaError, OSError, KeyError):
        async with asyncio.timeout(_CLOSE_SECONDS_MAX):
            waiting = producer._message_accumulator
            left = [*waiting._pending_batches, *(batch for batches in waiting._batches.values() for batch in batches)]
            waiting.fail_all(KafkaTimeoutError("given up"))
            for future in [one for batch in left for one in (batch.future, batch._drain_waiter)]:
                if future.done() and not future.cancelled():
                    future.exception()  # nobody else will ask for it
            await producer.client.close()
            await producer.stop()


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leaves the group and ends a consumer; by force where the broker does not answer."""
    if await _ended(consumer.stop()):
        return
    log.warning("a consumer could not take its leave; its partitions move when its session ends")
    # What `stop` would have done next.
    if consumer._coordinator is not None:
        await _ended(consumer._coordinator._stop_heartbeat_task())
        await _ended(consumer._coordinator._stop_commit_offsets_refresh_task())
    if consumer._fetcher is not None:
        await _ended(consumer._fetcher.close())
    await _ended(consumer._client.close())


async def _ended(step: Awaitable[Any]) -> bool:
    """Whether a step towards the end of a client came to its own; False also where something of the client's was cancelled."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS_MAX):
            await step
    except (TimeoutError, KafkaError, OSError):
        return False
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return False
    return True
