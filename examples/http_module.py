# intent_ref: examples.modules
"""A module over HTTP on the standard library alone: `python examples/http_module.py 9000`, then register its address.

Its action `greet` takes a `name`. What was answered once is answered the same again: the platform asks at least once.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_answers: dict[str, dict[str, Any]] = {}  # by idempotency key; where effects matter, keep it where they are kept


def greet(invocation: dict[str, Any]) -> dict[str, Any]:
    """Carries out the action."""
    return {"greeting": f"Hello, {invocation['parameters']['name']}!", "attempt": invocation["attempt"]}


class Module(BaseHTTPRequestHandler):
    """Answers the platform's invocations."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One attempt of one step."""
        invocation = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if invocation["action"] != "greet":
            self._answer(404, {"message": f"There is no action {invocation['action']!r} here."})
            return
        key = invocation["idempotency_key"]
        if key not in _answers:
            _answers[key] = greet(invocation)
        self._answer(200, _answers[key])

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Module)
    print(f"http://127.0.0.1:{server.server_address[1]}/actions", flush=True)  # noqa: T201 - says where it listens
    server.serve_forever()
