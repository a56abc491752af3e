# intent_ref: tests.telemetry
"""An OTLP/HTTP receiver that keeps the spans it gets."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


@dataclass(frozen=True)
class Span:
    """A span as it was exported, ids in hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    attributes: dict[str, Any]
    links: tuple[str, ...]


@dataclass
class Collector:
    """Where to export to, and what has come."""

    address: str
    spans: list[Span] = field(default_factory=list)

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of one trace by id."""
        return {span.span_id: span for span in list(self.spans) if span.trace_id == trace_id}


@contextmanager
def trace_collector() -> Iterator[Collector]:
    """Receives until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {
                    one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in span.attributes
                }
                links = tuple(link.trace_id.hex() for link in span.links)
                yield Span(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name, attributes, links)
