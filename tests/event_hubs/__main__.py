# intent_ref: tests.event-hubs-stand-in
"""The stand-in as a process: `python -m tests.event_hubs --port 5672`. It says where it listens, and takes commands.

Commands come from its input, one a line: `restart`, `drop-connections`, `drop-links`, `busy N`, `count`. Each is answered
by one line.
"""

import argparse
import asyncio
import sys

from tests.event_hubs.server import EventHubsServer


async def _command(server: EventHubsServer, line: str) -> str:
    match line.split():
        case ["restart"]:
            await server.restart()
        case ["drop-connections"]:
            server.drop_connections()
        case ["drop-links"]:
            server.drop_links()
        case ["busy", times]:
            server.be_busy(int(times))
        case ["count"]:
            return str(server.events)
        case _:
            return "unknown"
    return "ok"


async def _serve(server: EventHubsServer) -> None:
    await server.start()
    print(server.connection_string, flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(await _command(server, line.decode()), flush=True)
    await server.stop()


def main() -> None:
    """Serves until the input ends."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--hub", default="events")
    arguments.add_argument("--partitions", type=int, default=4)
    found = arguments.parse_args()
    asyncio.run(_serve(EventHubsServer(hub=found.hub, partitions=found.partitions, port=found.port)))


if __name__ == "__main__":
    main()
