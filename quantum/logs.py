# intent_ref: quantum.logs
"""Log lines: JSON on stderr, each with the request's correlation id, tenant and trace. No payload, no token, ever."""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from starlette.types import Scope

from modules.secrets.redaction import hide_in_log
from quantum.settings import Settings

if TYPE_CHECKING:
    from sagas.dispatches import Dispatch

request_scope: ContextVar[Scope | None] = ContextVar("request_scope", default=None)
"""The request that the running code serves, if it serves one."""

attempt_under_way: ContextVar["Dispatch | None"] = ContextVar("attempt_under_way", default=None)
"""The attempt of a step that the running code makes, if it makes one."""

_every_request = False
log = structlog.get_logger("quantum.http")


def configure_logging(settings: Settings) -> None:
    """Log lines on stderr: JSON, or coloured for a console. Each has the request's correlation id, tenant and trace id."""
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if settings.log_format == "console"
        else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,  # a plug-in may have bound some
        _with_attempt,
        _with_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_in_log,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    global _every_request  # noqa: PLW0603 - as the logging it belongs to, one a process
    _every_request = level <= logging.DEBUG


def _with_attempt(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    attempt = attempt_under_way.get()
    if attempt is not None:
        line.setdefault("tenant", attempt.tenant_id)
        line.setdefault("correlation_id", attempt.correlation_id)
        line.setdefault("execution", attempt.execution_id)
        line.setdefault("step", attempt.step)
        if attempt.traceparent is not None:
            line.setdefault("trace_id", attempt.traceparent.split("-")[1])
    return line


def _with_request(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    scope = request_scope.get()
    if scope is not None:
        if (correlation_id := scope.get("quantum.correlation_id")) is not None:
            line.setdefault("correlation_id", correlation_id)
        if (tenant_id := scope.get("quantum.tenant_id")) is not None:
            line.setdefault("tenant", tenant_id)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        line.setdefault("trace_id", format(span.trace_id, "032x"))
    return line


def log_request(scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
    """Requests that were refused for whom they came from, and those that failed; on level `debug` all.

    Never the address as it came, nor anything sent: the route and the problem's code say what there is to know.
    """
    if status >= 500:
        tell = log.error
    elif status in (401, 403):
        tell = log.info
    elif _every_request:
        tell = log.debug
    else:
        return
    problem = scope.get("quantum.problem")
    tell("request", method=method, route=route, status=status, seconds=round(seconds, 6), problem=problem)
