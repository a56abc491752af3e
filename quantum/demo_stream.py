# intent_ref: quantum.demo
"""The stream under the demo: the engine that `QUANTUM_STREAM` names, and nothing else of what the environment says.

The story's platform is its own. So that no other platform reads its events, nor it theirs, it makes a topic of its own at a
Kafka broker and takes it away again, and it leaves an event hub alone that holds what somebody else has published.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic_settings import PydanticBaseSettingsSource

from quantum.settings import Settings, said_in_environment, settings_of

SOURCE = "/quantum-demo"
"""Where the story's events say they come from: so a hub that earlier demos have used is told from another platform's."""
REACH_SECONDS_MAX = 15.0
_OURS = ("event_hubs_checkpoints", "event_hubs_blob_")  # the checkpoints are the story's, so they are in its own database


class StreamUnfit(Exception):
    """The stream cannot carry the story; the sentence says why, and the way out."""


class _Alone(Settings):
    """Settings that the environment does not reach: the story has a platform of its own, whatever is said about others."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: Any, init_settings: PydanticBaseSettingsSource, env_settings: Any, dotenv_settings: Any,
        file_secret_settings: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Only what is given."""
        return (init_settings,)


def story_settings(folder: Path) -> Settings:
    """The story's settings: all its own, but for how to reach the stream. Raises `SettingsError`."""
    said = said_in_environment(("stream", "kafka_", "event_hubs_"))
    stream = {name: value for name, value in said.items() if name != "stream_classes" and not name.startswith(_OURS)}
    return settings_of(_Alone, {
        **stream, "data_dir": folder, "port": 0, "log_level": "error", "log_format": "console", "event_source": SOURCE,
    })  # fmt: skip


@asynccontextmanager
async def stream_at_hand(settings: Settings) -> AsyncIterator[tuple[Settings, str | None]]:
    """The settings with the story's place on the stream, and a sentence about it; None with the embedded engine.

    Raises `StreamUnfit` where the broker cannot be reached, or what is there is somebody else's.
    """
    # What client libraries say of a broker that is away, the story says in one sentence.
    for library in ("aiokafka", "azure"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if settings.stream == "kafka":
        async with _kafka_topic(settings) as topic:
            yield settings.model_copy(update={"kafka_topic": topic}), f"events travel through Kafka, by the topic {topic}"
    elif settings.stream == "event-hubs":
        name = await _event_hub(settings)
        yield settings, f"events travel through Event Hubs, by the hub {name}"
    else:
        yield settings, None


@asynccontextmanager
async def _kafka_topic(settings: Settings) -> AsyncIterator[str]:
    """A topic for this run alone. Where topics are not to be made (`QUANTUM_KAFKA_TOPIC_PARTITIONS=0`), the one that is set."""
    from aiokafka.errors import KafkaError

    from quantum.streams import kafka_settings
    from streaming.kafka_clients import ensure_topic, remove_topic

    is_made = settings.kafka_topic_partitions > 0
    topic = f"{settings.kafka_topic[:180]}.demo-{secrets.token_hex(4)}" if is_made else settings.kafka_topic
    kafka = kafka_settings(settings.model_copy(update={"kafka_topic": topic}))
    try:
        async with asyncio.timeout(REACH_SECONDS_MAX):
            await ensure_topic(kafka)
    except (KafkaError, OSError, TimeoutError) as fault:
        raise StreamUnfit(
            f"Kafka at {settings.kafka_bootstrap} does not serve the topic {topic} ({_said(fault)}): see that it runs and that "
            "QUANTUM_KAFKA_BOOTSTRAP is right, or leave QUANTUM_STREAM unset, and the demo needs no broker."
        ) from fault
    try:
        yield topic
    finally:
        if is_made:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(REACH_SECONDS_MAX):
                    await remove_topic(kafka)


async def _event_hub(settings: Settings) -> str:
    """The hub's name, if it answers and holds nothing but what demos have published."""
    from quantum.event_hubs import hub_of
    from streaming.event_hubs_client import entra_credential
    from streaming.event_hubs_look import sources_of

    async with contextlib.AsyncExitStack() as stack:
        credential = None
        if settings.event_hubs_connection is None:
            credential = await stack.enter_async_context(entra_credential())
        hub = hub_of(settings, credential)
        namespace, name = hub.address()
        try:
            sources = await sources_of(hub, seconds=REACH_SECONDS_MAX)
        except Exception as fault:  # whatever the SDK lets out
            raise StreamUnfit(
                f"The event hub {name} at {namespace} cannot be reached ({_said(fault)}): see that it exists and that "
                "QUANTUM_EVENT_HUBS_CONNECTION is right, or leave QUANTUM_STREAM unset, and the demo needs no broker."
            ) from fault
    if others := sources - {SOURCE}:
        raise StreamUnfit(
            f"The event hub {name} holds events of {', '.join(sorted(others))}, whose readers the demo would disturb: make a hub "
            "for demos, with the same consumer groups, and name it with QUANTUM_EVENT_HUBS_NAME."
        )
    return name


def _said(fault: BaseException) -> str:
    """The first line of what a client library says, which may be nothing."""
    return str(fault).partition("\n")[0].strip() or type(fault).__name__
