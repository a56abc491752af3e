# intent_ref: tests.demo-engines
"""The demo's story with each engine under the stream: it ends well, and in the same words."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.event_hubs.process import event_hubs_process
from tests.kafka_broker import kafka_broker
from tests.platforms import temporary_directory

PREFIX = "QUANTUM_DEMO_ALONE_"
"""What reaches the story's own settings; `QUANTUM_STREAM` is about other platforms."""
_PASSING = (
    (re.compile(r"^.*\[(error|warning) .*\n", re.MULTILINE), ""),  # what a client library says of a broker that has just started
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


async def story(name: str) -> str:
    """The story as it is told over an engine, without what is different each time."""
    async with engine(name) as settings:
        environment = {**os.environ, **{PREFIX + setting: value for setting, value in settings.items()}}
        with temporary_directory() as folder:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "quantum", "demo", "--data-dir", str(folder), env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                async with asyncio.timeout(90):
                    text = (await process.communicate())[0].decode()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    assert process.returncode == 0, text
    for pattern, word in _PASSING:
        text = pattern.sub(word, text)
    return text[text.index("Quantum") :]  # a client library may have said something before


@pytest.fixture(scope="module")
def embedded_story() -> list[str]:
    """The embedded engine's, told once."""
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded", "kafka", "event-hubs"])
async def test_the_story_ends_well_and_the_same_over(name: str, embedded_story: list[str]):
    if not embedded_story:
        embedded_story.append(await story("embedded"))
    told = embedded_story[0] if name == "embedded" else await story(name)
    assert told.count("✔") >= 9
    assert "the execution is completed" in told
    assert "replay gives the same state as the read model" in told
    assert told == embedded_story[0]
