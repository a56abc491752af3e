# intent_ref: tests.broker-restarts
"""A process that tests kill: a relay, or a consumer that notes in a file what it has handled.

`python -m tests.chaos.stream_worker relay|consume ENGINE ADDRESS APP_DSN PLATFORM_DSN [GROUP FILE]`
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from event_store.store import EventStore
from streaming.relay import Relay
from streaming.transport import Message
from tests.transport_engines import transport_at


def line_of(message: Message) -> str:
    """What is noted of a message. The end mark tells a whole line from one whose writer was killed in the middle."""
    return f"{message.position} {message.event_id} {message.key} {message.version} ."


def note(file: int, messages: Sequence[Message]) -> None:
    """Adds lines to a file that all members of a group write to, with one call, so that they do not mix."""
    os.write(file, ("\n" + "\n".join(line_of(message) for message in messages)).encode())


def open_notes(path: Path) -> int:
    """A descriptor for `note`; what is written is the kernel's at once, whatever happens to the process."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


async def main(role: str, engine: str, address: str, app_dsn: str, platform_dsn: str, *more: str) -> None:
    """Works until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = await EventStore.connect(app_dsn=app_dsn, platform_dsn=platform_dsn)
    transport = transport_at(engine, address, store)
    try:
        if role == "relay":
            await Relay(store, transport, name="chaos", batch_max=1_000).run(stop)
        else:
            group, path = more
            file = open_notes(Path(path))

            async def handle(messages: Sequence[Message]) -> None:
                note(file, messages)

            await transport.consume(group, handle, stop=stop)
    finally:
        await transport.close()
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
