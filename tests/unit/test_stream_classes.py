# intent_ref: tests.tenant-classes
"""Tenants in classes: how they are said, whose topic is which, and what a transport over several does."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from quantum.settings import SettingsError, load_settings
from quantum.streams import relay_name
from streaming.delivery import Statistics
from streaming.tenant_classes import ClassedTransport, TenantClasses
from streaming.transport import Handler, Message, TransportAway
from tests.streams import AT

CLASSES = TenantClasses((("gold-*", "quantum.gold"), ("acme", "quantum.gold"), ("*-eu", "quantum.eu")), "quantum.events")


def message(tenant: str, position: int) -> Message:
    return Message(UUID(int=position), position, tenant, "s", position, "intent.deprecated.v1", b"{}", "{}", AT)


def test_the_first_pattern_that_matches_says_the_topic() -> None:
    tenants = {
        "gold-1": "quantum.gold",
        "acme": "quantum.gold",
        "gold-eu": "quantum.gold",
        "x-eu": "quantum.eu",
        "acme2": "quantum.events",
    }
    assert {tenant: CLASSES.topic_of(tenant) for tenant in tenants} == tenants
    assert CLASSES.topics == ("quantum.events", "quantum.gold", "quantum.eu")


def test_classes_are_said_in_one_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTUM_STREAM_CLASSES", " gold-*=quantum.gold, acme = quantum.gold ")
    settings = load_settings(data_dir=tmp_path, stream="kafka", kafka_bootstrap="h:1")
    assert settings.stream_classes == (("gold-*", "quantum.gold"), ("acme", "quantum.gold"))
    assert relay_name(settings) == "kafka:quantum.events"


@pytest.mark.parametrize("given", ["gold", "gold=", "=topic", "Gold=topic", "gold=a topic", "gold=a=b"])
def test_what_is_no_class_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("QUANTUM_STREAM_CLASSES", given)
    with pytest.raises(SettingsError, match="QUANTUM_STREAM_CLASSES should be of the form pattern=topic"):
        load_settings()


class _Part:
    """A topic in memory, which notes what it is given and hands over what it was told to."""

    reads_the_log = False

    def __init__(self, topic: str, is_ours: Callable[[str], bool]) -> None:
        self.topic, self.is_ours, self.statistics = topic, is_ours, Statistics()
        self.published: list[int] = []
        self.fault: Exception | None = None
        self.closed = False

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.fault is not None:
            raise self.fault
        self.published += [one.position for one in messages]

    async def consume(
        self, group: str, handler: Handler, *, stop: asyncio.Event, topics: frozenset[str] | None = None, batch_max: int = 500
    ) -> None:
        if self.fault is not None:
            raise self.fault
        await handler([message(self.topic, position) for position in self.published])
        await stop.wait()

    async def close(self) -> None:
        self.closed = True


def transport() -> tuple[ClassedTransport, dict[str, _Part]]:
    parts: dict[str, _Part] = {}

    def make(topic: str, is_ours: Callable[[str], bool]) -> _Part:
        parts[topic] = _Part(topic, is_ours)
        return parts[topic]

    return ClassedTransport(CLASSES, make), parts


async def test_each_message_goes_to_its_tenants_topic_in_order_and_faults_are_told() -> None:
    classed, parts = transport()
    await classed.publish(
        [message(tenant, number) for number, tenant in enumerate(("acme", "other", "gold-1", "x-eu", "acme"), 1)]
    )
    assert {topic: part.published for topic, part in parts.items()} == {
        "quantum.events": [2], "quantum.gold": [1, 3, 5], "quantum.eu": [4],
    }  # fmt: skip
    assert [part.is_ours("gold-7") for part in parts.values()] == [False, True, False]
    parts["quantum.eu"].fault = TransportAway("away")
    with pytest.raises(TransportAway):
        await classed.publish([message("acme", 6), message("x-eu", 7)])
    assert parts["quantum.gold"].published[-1] == 6
    await classed.close()
    assert all(part.closed for part in parts.values())


async def test_a_consumer_reads_all_topics_and_its_handler_is_called_one_at_a_time() -> None:
    classed, parts = transport()
    await classed.publish([message("acme", 1), message("other", 2), message("x-eu", 3)])
    seen: list[int] = []
    inside = 0

    async def handle(messages: Sequence[Message]) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        for _ in range(3):
            await asyncio.sleep(0)
        seen.extend(one.position for one in messages)
        inside -= 1
        if len(seen) == 3:
            stop.set()

    stop = asyncio.Event()
    async with asyncio.timeout(10):
        await classed.consume("g", handle, stop=stop)
    assert sorted(seen) == [1, 2, 3]
    assert all(part.statistics is classed.statistics for part in parts.values())
    parts["quantum.eu"].fault = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        await classed.consume("g", handle, stop=asyncio.Event())
