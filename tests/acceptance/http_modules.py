# intent_ref: tests.contract
"""A module over HTTP, on 127.0.0.1 and with nothing of the platform inside: what somebody else would write."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request that the module has had."""

    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class HttpModule:
    """Where the module listens, and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)


Answer = Callable[[dict[str, Any]], tuple[int, Any]]


@contextmanager
def http_module(answer: Answer) -> Iterator[HttpModule]:
    """Serves until the end of the block; `answer` makes status and JSON body from the body of a request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            module.asked.append(Asked({name.lower(): value for name, value in self.headers.items()}, body))
            status, document = answer(body)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    module = HttpModule(f"http://127.0.0.1:{server.server_address[1]}/actions")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield module
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
