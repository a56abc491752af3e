# intent_ref: quantum.logs
"""Log lines say which request or attempt they belong to."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from domain.module import RetryPolicy
from domain.plan import Work
from domain.values import ActionName, ModuleName
from event_store.ids import uuid7
from quantum.logs import configure_logging, log_request, request_scope
from quantum.settings import Settings
from quantum.telemetry import Telemetry
from sagas.dispatches import Dispatch

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    """Telemetry that exports nothing; logging is as it was afterwards."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    configuration, handlers = structlog.get_config(), logging.root.handlers[:]
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()
    structlog.configure(**configuration)
    logging.root.handlers[:] = handlers


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_within_an_attempt_names_tenant_conversation_and_trace(telemetry: Telemetry, capsys: pytest.CaptureFixture[str]):
    configure_logging(Settings(log_format="json", log_level="info"))
    dispatch = Dispatch("acme", "e-1", "build", 1, datetime.now(UTC), uuid7(), uuid7(), "c-1", TRACEPARENT)
    work = Work(ActionName("build-image"), ModuleName("sandbox"), {}, 10.0, RetryPolicy())
    with telemetry.attempt(dispatch, work) as traceparent:
        structlog.get_logger().warning("inside")
    assert traceparent == TRACEPARENT, "without an exporter, the cause's own is handed on"
    structlog.get_logger().warning("outside")
    inside, outside = logged(capsys)
    expected = {"tenant": "acme", "correlation_id": "c-1", "execution": "e-1", "step": "build", "trace_id": TRACE}
    assert inside.items() >= expected.items()
    assert not expected.keys() & outside.keys()


def test_a_line_keeps_what_a_plug_in_has_bound(telemetry: Telemetry, capsys: pytest.CaptureFixture[str]):
    configure_logging(Settings(log_format="json", log_level="info"))
    with structlog.contextvars.bound_contextvars(order="o-1"):
        structlog.get_logger().warning("inside")
    assert logged(capsys)[0]["order"] == "o-1"


@pytest.mark.parametrize(
    ("level", "status", "told"),
    [("info", 200, None), ("info", 404, None), ("info", 401, "info"), ("info", 403, "info"), ("info", 500, "error"),
     ("error", 403, None), ("error", 503, "error"), ("debug", 200, "debug"), ("debug", 404, "debug")],
)  # fmt: skip
def test_refusals_are_told_on_info_failures_on_error_and_the_rest_on_debug(
    telemetry: Telemetry, capsys: pytest.CaptureFixture[str], level: str, status: int, told: str | None
):
    configure_logging(Settings(log_format="json", log_level=level))
    scope = {"quantum.correlation_id": "c-2", "quantum.tenant_id": "acme", "quantum.problem": "why"}
    token = request_scope.set(scope)
    log_request(scope, "GET", "/route", status, 0.5)
    request_scope.reset(token)
    lines = logged(capsys)
    assert [line["level"] for line in lines] == ([told] if told else [])
    for line in lines:
        expected = {"tenant": "acme", "correlation_id": "c-2", "status": status, "route": "/route", "problem": "why"}
        assert line.items() >= expected.items()
