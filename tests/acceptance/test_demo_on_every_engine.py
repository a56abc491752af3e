# intent_ref: tests.demo-engines
"""The demo's story with each engine under the stream: it ends well, and in the same words."""

import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from quantum.demo import tell
from tests.event_hubs.process import event_hubs_process
from tests.kafka_broker import kafka_broker
from tests.platforms import temporary_directory

PREFIX = "QUANTUM_DEMO_ALONE_"
"""What reaches the story's own settings; `QUANTUM_STREAM` is about other platforms."""
_PASSING = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d\d:\d\d:\d\d\.\d+|\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\dT<time>\S*"), "<time>"),
    (re.compile(r"http://\S+|/\S+/quantum-test-\S+"), "<place>"),
    (re.compile(r"position \d+"), "position <n>"),
    (re.compile(r"[0-9]+\.[0-9]+ seconds"), "<n> seconds"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
)


@asynccontextmanager
async def engine(name: str) -> AsyncIterator[dict[str, str]]:
    """The settings of a running engine."""
    if name == "kafka":
        async with kafka_broker() as broker:
            yield {"STREAM": name, "KAFKA_BOOTSTRAP": broker.bootstrap, "KAFKA_TOPIC": broker.topic("demo")}
    elif name == "event-hubs":
        async with event_hubs_process() as hub:
            yield {"STREAM": name, "EVENT_HUBS_CONNECTION": hub.connection_string}
    else:
        yield {"STREAM": name}


async def story(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The story as it is told over an engine, without what is different each time."""
    async with engine(name) as settings:
        for setting, value in settings.items():
            monkeypatch.setenv(PREFIX + setting, value)
        told = io.StringIO()
        with temporary_directory() as folder:
            status = await tell(folder, Console(file=told, width=200, no_color=True, force_terminal=False))
        assert status == 0, told.getvalue()
    text = told.getvalue()
    for pattern, word in _PASSING:
        text = pattern.sub(word, text)
    return text


@pytest.fixture(scope="module")
def embedded_story() -> list[str]:
    """The embedded engine's, told once."""
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded", "kafka", "event-hubs"])
async def test_the_story_ends_well_and_the_same_over(name: str, monkeypatch: pytest.MonkeyPatch, embedded_story: list[str]):
    if not embedded_story:
        with pytest.MonkeyPatch.context() as own:
            embedded_story.append(await story("embedded", own))
    told = embedded_story[0] if name == "embedded" else await story(name, monkeypatch)
    assert told.count("✔") >= 9
    assert "the execution is completed" in told
    assert "replay gives the same state as the read model" in told
    assert told == embedded_story[0]
