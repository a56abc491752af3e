# intent_ref: tests.event-hubs-stand-in
"""One connection of a client: bytes in and out of proton's engine, and what its links do."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from proton import Collector, Condition, Connection, Delivery, Event, Link, Message, Transport

from tests.event_hubs.frames import Filler
from tests.event_hubs.links import Reader, Refusal, reader_of
from tests.event_hubs.management import CBS, MANAGEMENT, answer, node_of

if TYPE_CHECKING:
    from tests.event_hubs.server import EventHubsServer

_FRAME_BYTES = 65_536
_PUBLISHER_CREDIT = 1_000
_PIECE_BYTES = 262_144

log = logging.getLogger(__name__)


class ClientConnection(asyncio.Protocol):
    """Serves one client. Everything happens in the loop's thread; nothing waits."""

    def __init__(self, server: "EventHubsServer") -> None:
        self._server = server
        self._engine, self._filler, self._connection = Transport(Transport.SERVER), Filler(), Connection()
        self._events = Collector()
        self._socket: Any = None
        self._writable = True
        self._more_later = False
        self._received: dict[str, bytearray] = {}
        self.readers: dict[str, Reader] = {}
        self.publishers: dict[str, Link] = {}
        self._replies: dict[str, Link] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport
        self._engine.max_frame_size = _FRAME_BYTES
        self._engine.require_auth(False)
        self._engine.sasl().allowed_mechs("ANONYMOUS")
        self._connection.collect(self._events)
        self._engine.bind(self._connection)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        for reader in list(self.readers.values()):
            self._server.left(reader)
        self.readers.clear()
        self._engine.close_tail()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.feed()

    def abort(self) -> None:
        """Drops the connection, without a word to the client."""
        if self._socket is not None:
            self._socket.abort()

    def data_received(self, data: bytes) -> None:
        if self._server.silent:
            return
        at = 0
        while at < len(data):
            room = self._engine.capacity()
            if room <= 0:
                self.abort()
                return
            self._engine.push(data[at : at + room])
            at += room
            self._dispatch()
        self.pump()

    def pump(self) -> None:
        """Handles what the engine has to say, and writes what it has to send."""
        self._dispatch()
        while (pending := self._engine.pending()) > 0:
            data = self._engine.peek(min(pending, _PIECE_BYTES)) or b""
            self._engine.pop(len(data))
            self._socket.write(self._filler.fill(data))
            self._dispatch()
        if self._engine.pending() < 0:
            self._socket.close()

    def feed(self) -> None:
        """Sends readers what there is for them, in pieces, so that the other connections get their turn."""
        if self._server.silent or self._socket is None or self._socket.is_closing():
            return
        again = False
        for reader in self.readers.values():
            if self._writable:
                again |= reader.send()
        self.pump()
        if again and not self._more_later:
            self._more_later = True
            asyncio.get_running_loop().call_soon(self._feed_again)

    def _feed_again(self) -> None:
        self._more_later = False
        self.feed()

    def close_link(self, link: Link, condition: str, description: str) -> None:
        """Detaches a link with an error."""
        link.condition = Condition(condition, description)
        link.close()
        self._forget(link)

    def _dispatch(self) -> None:
        event: Any
        while (event := self._events.peek()) is not None:
            try:
                self._handle(event)
            except Refusal as refusal:
                assert event.link is not None
                self.close_link(event.link, refusal.condition, str(refusal))
            finally:
                self._events.pop()

    def _handle(self, event: Any) -> None:
        match event.type:
            case Event.CONNECTION_REMOTE_OPEN:
                event.connection.container = "event-hubs-stand-in"
                event.connection.open()
            case Event.SESSION_REMOTE_OPEN:
                event.session.open()
            case Event.LINK_REMOTE_OPEN:
                self._attach(event.link)
            case Event.LINK_FLOW if event.link.name in self.readers:
                if self.readers[event.link.name].send():
                    asyncio.get_running_loop().call_soon(self.feed)
            case Event.DELIVERY if event.link.is_receiver:
                self._receive(event.link, event.delivery)
            case Event.LINK_REMOTE_CLOSE | Event.LINK_REMOTE_DETACH:
                self._forget(event.link)
                event.link.close()
            case Event.SESSION_REMOTE_CLOSE:
                event.session.close()
            case Event.CONNECTION_REMOTE_CLOSE:
                event.connection.close()
            case _:
                pass

    def _attach(self, link: Link) -> None:
        """Opens our end of a link, which asks for what its address says."""
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.max_message_size = self._server.message_bytes_max
        if link.is_receiver:
            link.open()
            node = node_of(link.remote_target.address)
            if node not in (CBS, MANAGEMENT):
                self._server.hub_and_partition(node)
                self.publishers[link.name] = link
            link.flow(_PUBLISHER_CREDIT)
            return
        node = node_of(link.remote_source.address)
        link.snd_settle_mode = Link.SND_SETTLED
        link.open()
        if node in (CBS, MANAGEMENT):
            self._replies[node] = link
            return
        reader = reader_of(self._server.hubs, node, link, self)
        self._server.arrived(reader)
        self.readers[link.name] = reader

    def _forget(self, link: Link) -> None:
        self.publishers.pop(link.name, None)
        reader = self.readers.pop(link.name, None)
        if reader is not None:
            self._server.left(reader)

    def _receive(self, link: Link, delivery: Delivery) -> None:
        """Takes a message in as many pieces as it comes in, and answers it."""
        if delivery.link.current != delivery:
            return
        buffer = self._received.setdefault(link.name, bytearray())
        if delivery.pending:
            buffer += link.recv(delivery.pending) or b""
        if delivery.partial:
            return
        del self._received[link.name]
        link.advance()
        node = node_of(link.remote_target.address)
        if node in (CBS, MANAGEMENT):
            delivery.update(Delivery.ACCEPTED)
            self._answer(node, bytes(buffer))
        else:
            refused = self._server.take(node, bytes(buffer))
            if refused is not None and refused.detaches:
                delivery.settle()
                raise refused
            if refused is not None:
                delivery.local.condition = Condition(refused.condition, str(refused))
            delivery.update(Delivery.ACCEPTED if refused is None else Delivery.REJECTED)
        delivery.settle()
        link.flow(1)

    def _answer(self, node: str, request: bytes) -> None:
        message = Message()
        message.decode(request)
        reply_link = self._replies.get(node)
        if reply_link is not None:
            reply_link.send(answer(node, message, self._server.hubs))
