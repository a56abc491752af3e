# intent_ref: tests.demo-engines
"""The demo with each engine under the stream, as `make demo` runs it: it ends well, and in the same words."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from azure.eventhub import EventData

from quantum.demo_stream import SOURCE, story_settings
from quantum.settings import SettingsError
from streaming.event_hubs_client import EventHub
from streaming.event_hubs_look import sources_of
from tests.event_hubs.process import event_hubs_process
from tests.kafka_broker import kafka_broker
from tests.platforms import free_port

ROOT = Path(__file__).parents[2]
_STREAM = re.compile(r"^ +events travel through .*\n", re.MULTILINE)
_PASSING = (
    (_STREAM, ""),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d\d:\d\d:\d\d\.\d+|\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\dT<time>\S*"), "<time>"),
    (re.compile(r"http://\S+|/\S+/quantum-(test|demo)-\S+"), "<place>"),
    (re.compile(r"position \d+"), "position <n>"),
    (re.compile(r"[0-9]+\.[0-9]+ seconds"), "<n> seconds"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
)


@asynccontextmanager
async def engine(name: str) -> AsyncIterator[dict[str, str]]:
    """The settings of a running engine, as anybody would set them."""
    if name == "kafka":
        async with kafka_broker() as broker:
            yield {"QUANTUM_STREAM": name, "QUANTUM_KAFKA_BOOTSTRAP": broker.bootstrap}
    elif name == "event-hubs":
        async with event_hubs_process() as hub:
            yield {"QUANTUM_STREAM": name, "QUANTUM_EVENT_HUBS_CONNECTION": hub.connection_string}
    else:
        yield {"QUANTUM_STREAM": name}


async def demo(settings: Mapping[str, str]) -> tuple[int, str]:
    """(exit status, what it said) of `make demo`'s command, with this interpreter."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("QUANTUM_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quantum", "demo", env={**ours, **settings}, cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            text = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, text


def same_words(text: str) -> str:
    """The story without what is different each time."""
    for pattern, word in _PASSING:
        text = pattern.sub(word, text)
    return text


async def story(settings: Mapping[str, str]) -> str:
    """A story that ended well."""
    status, text = await demo(settings)
    assert status == 0, text
    assert bool(_STREAM.search(text)) == (settings["QUANTUM_STREAM"] != "embedded"), text
    return same_words(text)


@pytest.fixture(scope="module")
def embedded_story() -> list[str]:
    """The embedded engine's, told once."""
    return []


def test_make_demo_is_this_command():
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    assert recipe[1].strip() == "@$(BIN)/quantum demo"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded", "kafka", "event-hubs"])
async def test_the_story_ends_well_and_the_same_over(name: str, embedded_story: list[str]):
    if not embedded_story:
        embedded_story.append(await story({"QUANTUM_STREAM": "embedded"}))
    async with engine(name) as settings:
        told = embedded_story[0] if name == "embedded" else await story(settings)
        assert told.count("✔") >= 9
        assert "the execution is completed" in told
        assert "replay gives the same state as the read model" in told
        assert told == embedded_story[0]
        if name == "kafka":
            assert await _topics(settings["QUANTUM_KAFKA_BOOTSTRAP"]) <= {"__consumer_offsets"}  # its own is gone with it
        if name == "event-hubs":
            hub = EventHub(settings["QUANTUM_EVENT_HUBS_CONNECTION"])
            assert await sources_of(hub, seconds=10) == {SOURCE}
            assert await story(settings) == told  # what earlier demos have left in the hub is in nobody's way


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "broker"),
    [
        ("kafka", "QUANTUM_KAFKA_BOOTSTRAP"),
        ("event-hubs", "QUANTUM_EVENT_HUBS_CONNECTION"),
    ],
)
async def test_a_broker_that_cannot_be_reached_is_named_in_a_sentence(engine: str, broker: str):
    port = free_port()
    secret = "dGhlIGtleSBvZiB0aGUgaHVi"
    address = (
        f"127.0.0.1:{port}" if engine == "kafka"
        else f"Endpoint=sb://localhost:{port};SharedAccessKeyName=x;SharedAccessKey={secret};UseDevelopmentEmulator=true;EntityPath=e"
    )  # fmt: skip
    status, text = await demo({"QUANTUM_STREAM": engine, broker: address})
    assert status == 1
    assert "The demo stopped:" in text
    assert broker in text
    assert "leave QUANTUM_STREAM unset" in text
    assert "Traceback" not in text
    assert secret not in text


@pytest.mark.slow
async def test_a_hub_with_another_platforms_events_is_left_alone():
    async with event_hubs_process() as hub:
        sender = EventHub(hub.connection_string).producer()
        async with sender:
            batch = await sender.create_batch(partition_id="2")
            event = EventData(b"{}")
            event.properties = {"cloudEvents:source": "quantum://production"}
            batch.add(event)
            await sender.send_batch(batch)
        status, text = await demo({"QUANTUM_STREAM": "event-hubs", "QUANTUM_EVENT_HUBS_CONNECTION": hub.connection_string})
        assert status == 1
        assert "holds events of quantum://production" in text
        assert await hub.tell("count") == "1"


def test_only_what_is_said_of_the_stream_reaches_the_story(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in {
        "STREAM": "kafka", "KAFKA_BOOTSTRAP": "broker:9092", "KAFKA_TOPIC_PARTITIONS": "3", "STREAM_CLASSES": "gold-*=gold",
        "DATABASE_URL": "postgresql://quantum_app@production/quantum", "PORT": "1", "EVENT_SOURCE": "quantum://production",
        "EVENT_HUBS_CHECKPOINTS": "blob", "EVENT_HUBS_BLOB_CONNECTION": "x", "REDIS_URL": "redis://production", "LOG_LEVEL": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"QUANTUM_{name}", value)
    settings = story_settings(tmp_path)
    assert (settings.stream, settings.kafka_bootstrap, settings.kafka_topic_partitions) == ("kafka", "broker:9092", 3)
    assert settings.embedded_database
    assert settings.data_dir == tmp_path
    assert (settings.port, settings.redis_url, settings.stream_classes) == (0, None, ())
    assert (settings.event_source, settings.event_hubs_checkpoints) == (SOURCE, "postgres")


def test_an_engine_without_its_address_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("QUANTUM_STREAM", "kafka")
    monkeypatch.delenv("QUANTUM_KAFKA_BOOTSTRAP", raising=False)
    with pytest.raises(SettingsError, match="QUANTUM_KAFKA_BOOTSTRAP is missing"):
        story_settings(tmp_path)


async def _topics(bootstrap: str) -> set[str]:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()
