# intent_ref: tests.event-hubs-stand-in
"""The server: its hubs, who reads which partition, and the faults it makes on command."""

import asyncio

from tests.event_hubs.connection import ClientConnection
from tests.event_hubs.links import Reader, Refusal
from tests.event_hubs.partition_log import Hub
from tests.waiting import wait_until

HOST = "127.0.0.1"


class EventHubsServer:
    """A namespace with one event hub. `start` and `stop` as often as one likes: the data stays."""

    def __init__(self, *, hub: str = "events", partitions: int = 4, port: int = 0, message_bytes_max: int = 1_048_576) -> None:
        self.hubs = {hub: Hub(hub, partitions)}
        self.name, self.port, self.message_bytes_max = hub, port, message_bytes_max
        self.connections: set[ClientConnection] = set()
        self.silent = False
        self.stolen = 0
        self.refused_epochs = 0
        self._readers: dict[tuple[str, int], list[Reader]] = {}
        self._busy = 0
        self._listener: asyncio.Server | None = None

    @property
    def hub(self) -> Hub:
        """The one event hub."""
        return self.hubs[self.name]

    @property
    def connection_string(self) -> str:
        """What the SDK needs to come here."""
        return (
            f"Endpoint=sb://localhost:{self.port};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;"
            f"UseDevelopmentEmulator=true;EntityPath={self.name}"
        )

    @property
    def events(self) -> int:
        """How many events all partitions have."""
        return sum(len(partition.events) for partition in self.hub.partitions.values())

    async def start(self) -> None:
        """Listens, on the port it had before."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: ClientConnection(self), HOST, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Closes the port and drops all connections, from one moment to the next; the data stays."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.drop_connections()

    async def stop(self) -> None:
        """The same, and waits until they are gone."""
        self.kill()
        await wait_until(lambda: not self.connections, what="the connections to be gone")

    async def restart(self) -> None:
        """Stops and starts: clients see their connections broken, and the events they left."""
        await self.stop()
        await self.start()

    def drop_connections(self) -> None:
        """Breaks every connection, without a word to the clients."""
        for connection in list(self.connections):
            connection.abort()

    def drop_links(self) -> int:
        """Detaches every link of publishers and readers, as the service does when it moves a partition."""
        dropped = 0
        for connection in list(self.connections):
            links = [reader.link for reader in connection.readers.values()] + list(connection.publishers.values())
            for link in links:
                connection.close_link(link, "amqp:link:detach-forced", "The link was detached by force.")
                dropped += 1
            connection.pump()
        return dropped

    def be_busy(self, times: int) -> None:
        """Refuses the next messages: the throughput units are used up."""
        self._busy = times

    def be_silent(self, silent: bool = True) -> None:
        """Neither reads nor answers, though connections stay; those of a silent time are dropped at its end."""
        self.silent = silent
        if not silent:
            self.drop_connections()

    def readers(self, group: str) -> dict[str, int | None]:
        """The epoch of the reader of each partition that a group reads."""
        return {
            reader.partition.number: reader.epoch
            for readers in self._readers.values() for reader in readers if reader.group == group
        }  # fmt: skip

    def hub_and_partition(self, node: str) -> tuple[Hub, str | None]:
        """What an address for publishing names; raises `Refusal`."""
        name, _, rest = node.partition("/")
        hub, number = self.hubs.get(name), rest.removeprefix("Partitions/") or None
        if hub is None or (number is not None and number not in hub.partitions):
            raise Refusal("amqp:not-found", f"The messaging entity '{node}' could not be found.")
        return hub, number

    def take(self, node: str, message: bytes) -> Refusal | None:
        """Stores what was published; the refusal where it is not stored."""
        if self._busy > 0:
            self._busy -= 1
            return Refusal("com.microsoft:server-busy", "The request was terminated because it was throttled.", detaches=False)
        if len(message) > self.message_bytes_max:
            return Refusal("amqp:link:message-size-exceeded", f"The message has {len(message)} bytes.")
        hub, number = self.hub_and_partition(node)
        for grown in hub.append(message, number):
            self._wake(hub, grown)
        return None

    def _wake(self, hub: Hub, number: str) -> None:
        loop = asyncio.get_running_loop()
        partition = hub.partitions[number]
        for (_, which), readers in self._readers.items():
            if which == id(partition):
                for reader in readers:
                    loop.call_soon(reader.connection.feed)

    def arrived(self, reader: Reader) -> None:
        """Lets a reader in. With an epoch it takes the partition from whoever has no higher one; raises `Refusal`."""
        here = self._readers.setdefault((reader.group, id(reader.partition)), [])
        highest = max((other.epoch for other in here if other.epoch is not None), default=None)
        if highest is not None and (reader.epoch is None or reader.epoch < highest):
            self.refused_epochs += 1
            raise Refusal(
                "amqp:link:stolen",
                f"A receiver with a higher epoch '{highest}' exists; one with epoch {reader.epoch} cannot be created.",
            )
        if reader.epoch is not None:
            for other in list(here):
                self.stolen += 1
                other.connection.close_link(
                    other.link,
                    "amqp:link:stolen",
                    f"New receiver was created with epoch {reader.epoch}: this one is disconnected.",
                )
                if other.connection is not reader.connection:
                    asyncio.get_running_loop().call_soon(other.connection.feed)
        here.append(reader)
        asyncio.get_running_loop().call_soon(reader.connection.feed)

    def left(self, reader: Reader) -> None:
        """A reader is gone."""
        here = self._readers.get((reader.group, id(reader.partition)), [])
        if reader in here:
            here.remove(reader)
