# intent_ref: streaming.tenant-classes
"""Tenants in classes, each on a stream of its own: the relay publishes to the class's, the platform's consumers read them all.

So an external system can be given the right to read the topic (or the hub) of some tenants and no other's. The engine does not
matter: there is one transport of it for each class.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from domain.subscription_rules import matches
from streaming.delivery import Statistics
from streaming.progress import ClassedProgress, Progress
from streaming.transport import Handler, Message, Transport


@dataclass(frozen=True)
class TenantClasses:
    """Which topic (or hub) a tenant's events are on: that of the first pattern that matches its id, else `default`."""

    rules: tuple[tuple[str, str], ...]
    default: str

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics, each once."""
        return tuple(dict.fromkeys((self.default, *(topic for _, topic in self.rules))))

    def topic_of(self, tenant_id: str) -> str:
        """The topic of a tenant."""
        return _topic_of(self, tenant_id)


@lru_cache(maxsize=16_384)
def _topic_of(classes: TenantClasses, tenant_id: str) -> str:
    return next((topic for pattern, topic in classes.rules if matches(pattern, tenant_id)), classes.default)


class Part(Transport, Protocol):
    """A transport of one class, and what it counts."""

    statistics: Statistics

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        ...


Make = Callable[[str, Callable[[str], bool]], Part]
"""(topic, whether a tenant's events are on it) -> the transport of that topic."""


class ClassedTransport:
    """`Transport` over one of each class."""

    reads_the_log = False

    def __init__(self, classes: TenantClasses, make: Make) -> None:
        self._classes = classes
        self.statistics = Statistics()
        self._parts: dict[str, Part] = {}
        for topic in classes.topics:
            self._parts[topic] = make(topic, self._is_on(topic))
            self._parts[topic].statistics = self.statistics

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Transport.publish`. A topic that is away holds up all: they are one cluster's, and the log goes out in order."""
        by_topic: dict[str, list[Message]] = {}
        for message in messages:
            by_topic.setdefault(self._classes.topic_of(message.tenant_id), []).append(message)
        results = await asyncio.gather(
            *(self._parts[topic].publish(its) for topic, its in by_topic.items()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def consume(
        self, group: str, handler: Handler, *, stop: asyncio.Event,
        topics: frozenset[str] | None = None, batch_max: int = 500,
    ) -> None:  # fmt: skip
        """See `Transport.consume`: a member of the group on each topic. Calls of the handler do not overlap here either."""
        handling = asyncio.Lock()

        async def one_at_a_time(messages: Sequence[Message]) -> None:
            async with handling:
                await handler(messages)

        try:
            async with asyncio.TaskGroup() as members:
                for part in self._parts.values():
                    members.create_task(part.consume(group, one_at_a_time, stop=stop, topics=topics, batch_max=batch_max))
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from faults

    async def progress(self, group: str) -> Progress:
        """See `streaming.progress.Ask`."""
        found = await asyncio.gather(*(part.progress(group) for part in self._parts.values()))
        return ClassedProgress(
            lambda key: self._classes.topic_of(key.partition("/")[0]), dict(zip(self._parts, found, strict=True))
        )

    async def close(self) -> None:
        """Closes all of them."""
        await asyncio.gather(*(part.close() for part in self._parts.values()))

    def _is_on(self, topic: str) -> Callable[[str], bool]:
        return lambda tenant_id: self._classes.topic_of(tenant_id) == topic
