# intent_ref: streaming.event-hubs
"""How to reach an event hub: by connection string, or as an identity of Entra ID. The SDK's clients are made here.

The SDK waits by `asyncio.wait_for`, which before Python 3.12 can swallow a cancellation: the task goes on as if nothing had
happened. So nothing of it is awaited directly: what does not end is cancelled again, and nobody waits for it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypedDict, TypeVar

import structlog
from azure.eventhub import parse_connection_string
from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient

from domain.immutable import immutable

T = TypeVar("T")
ANSWER_SECONDS_MAX = 20.0
"""How long the service may take to answer; the SDK would wait for ever."""
_CLOSE_SECONDS_MAX = 5.0
_CANCELLATIONS_MAX = 10
_NEVER_SECONDS = 86_400.0
"""The SDK's own balancing has nothing to do: each of its receivers gets one partition that this process owns."""


log = structlog.get_logger(__name__)
_abandoned: set[asyncio.Task[None]] = set()


class NoSuchHub(ValueError):
    """An event hub is named by a connection string, or by its namespace and name."""


class _Retries(TypedDict):
    """Few and quick: what the SDK gives up on is tried again by those who know what has been done already."""

    retry_total: int
    retry_backoff_factor: float
    retry_backoff_max: float


_RETRIES: _Retries = {"retry_total": 2, "retry_backoff_factor": 0.2, "retry_backoff_max": 2.0}


@immutable
class EventHub:
    """Where an event hub is, and how to prove who we are there.

    `connection` is a connection string; the name may be in it. Without one, `namespace` is the host
    (`….servicebus.windows.net`), and `credential` an `AsyncTokenCredential`.
    """

    connection: str | None = None
    name: str | None = None
    namespace: str | None = None
    credential: Any = None

    def __post_init__(self) -> None:
        if self.connection is None and (self.namespace is None or self.name is None or self.credential is None):
            raise NoSuchHub(str(NoSuchHub.__doc__))

    def producer(self) -> EventHubProducerClient:
        """A client that publishes. Opens nothing yet."""
        if self.connection is not None:
            return EventHubProducerClient.from_connection_string(self.connection, eventhub_name=self.name, **_RETRIES)
        return EventHubProducerClient(str(self.namespace), str(self.name), self.credential, **_RETRIES)

    def consumer(self, group: str) -> EventHubConsumerClient:
        """A client that reads as a member of a consumer group. Opens nothing yet."""
        if self.connection is not None:
            return EventHubConsumerClient.from_connection_string(
                self.connection, group, eventhub_name=self.name, load_balancing_interval=_NEVER_SECONDS, **_RETRIES
            )
        return EventHubConsumerClient(
            str(self.namespace), str(self.name), group, self.credential, load_balancing_interval=_NEVER_SECONDS, **_RETRIES
        )

    def address(self) -> tuple[str, str]:
        """(namespace, name of the hub): what checkpoints are filed under."""
        if self.connection is None:
            return str(self.namespace), str(self.name)
        parts = parse_connection_string(self.connection)
        return parts.fully_qualified_namespace, self.name or str(parts.eventhub_name)


def entra_credential() -> Any:
    """What azure-identity finds of this process: a managed identity, a workload's, the environment's. To be closed at the end."""
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential()


async def within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """The result of a call of the SDK; `TimeoutError` when there is none in time. A call that is late is put down elsewhere."""
    task = asyncio.create_task(call)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            putting_down = asyncio.create_task(put_down(task))
            _abandoned.add(putting_down)
            putting_down.add_done_callback(_abandoned.discard)
    if not task.done():
        raise TimeoutError(f"No answer within {seconds} seconds.")
    return task.result()


async def put_down(task: asyncio.Task[Any], client: Any = None) -> None:
    """Cancels a task of the SDK until it ends, by way of its client too: a cancelled receiver may have left one behind."""
    for _ in range(_CANCELLATIONS_MAX):
        task.cancel()
        await asyncio.wait([task], timeout=2.0)
        if task.done():
            break
        if client is not None:
            await closed(client)
    else:
        log.error("a task of the SDK does not end", task=repr(task))
    if task.done() and not task.cancelled():
        task.exception()


async def closed(client: Any) -> None:
    """Closes a client of the SDK, which may hang or fail when its connection is broken; that is nobody's business then."""
    try:
        await within(_CLOSE_SECONDS_MAX, client.close())
    except Exception as fault:
        log.debug("a client of the event hub did not close in order", fault=repr(fault))
