# intent_ref: quantum.telemetry
"""Traces and metrics, by OpenTelemetry.

Traces leave the process only where OpenTelemetry's own variables say where to (`OTEL_EXPORTER_OTLP_ENDPOINT`); without, no
span is made. An event carries the traceparent of what caused it, so request, append, saga, module and projection are one
trace; where a span goes on after a pause of its own (saga, projection) it also links to its cause. Metrics are always kept,
for `/metrics`. No label holds a payload, a token or a tenant.
"""

import contextlib
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.http.presence import Places
from domain.plan import Work
from event_store.records import RecordedEvent
from event_store.store import EventStore
from modules.breaker import Breakers
from projections.runner import ProjectionRunner
from quantum.logs import attempt_under_way, log_request, request_scope
from sagas.dispatches import Dispatch
from sagas.execution import ExecutionSaga
from sagas.pull_work import Statistics as PullStatistics
from sagas.schedules import ScheduleSaga
from sagas.stalls import StallCheck
from sagas.triggers import TriggerSaga
from sagas.work_bell import WorkBell
from streaming.delivery import Statistics as StreamStatistics
from streaming.relay import Relay
from streaming.webhooks.dispatcher import Dispatcher

_EXPORT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_SPANS_A_BATCH_MAX = 200
_LABELS_MAX = 1_000
_UNTRACED = "^[a-z]+://[^/]+/(health/|metrics$|api/v1/callbacks/)"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_propagator = TraceContextTextMapPropagator()


class Distribution(Collector):
    """How often a value fell into which bucket, by labels. Each step of an execution records one, which OpenTelemetry's histogram
    takes eight microseconds for; counting into plain lists takes half of one."""

    def __init__(self, name: str, description: str, labels: tuple[str, ...], bounds: tuple[float, ...] = _SECONDS) -> None:
        self._name, self._description, self._labels, self._bounds = name, description, labels, bounds
        self._counts: dict[tuple[str, ...], list[float]] = {}

    def record(self, value: float, *labels: str) -> None:
        """Counts one, whose labels are in the order of the names."""
        counts = self._counts.get(labels)
        if counts is None:
            if len(self._counts) >= _LABELS_MAX:  # outcomes are what modules say: of those there may be any number
                labels = ("other",) * len(self._labels)
            counts = self._counts.setdefault(labels, [0.0] * (len(self._bounds) + 2))
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram in Prometheus' form."""
        family = HistogramMetricFamily(self._name, self._description, labels=self._labels)
        for labels, counts in list(self._counts.items()):
            total, buckets = 0.0, []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts[:-1], strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(labels, buckets, sum_value=counts[-1])
        yield family


class Telemetry:
    """What the process tells about itself. Make one a process, before anything that is observed."""

    def __init__(self, service: str = "quantum") -> None:
        self.registry = CollectorRegistry()
        self.http = self._distribution(
            "http_server_request_duration_seconds", "Duration of HTTP requests",
            ("http_request_method", "http_route", "http_response_status_code"),
        )  # fmt: skip
        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service)})
        reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=self.registry)
        self._meters = MeterProvider(metric_readers=[reader], resource=resource)
        self._meter: metrics.Meter = self._meters.get_meter("quantum")
        self.tracers = _tracer_provider(resource)
        self._tracer = self.tracers.get_tracer("quantum") if self.tracers is not None else None

    def close(self) -> None:
        """Sends what is left."""
        if self.tracers is not None:
            self.tracers.shutdown()
        self._meters.shutdown()

    def exposition(self) -> bytes:
        """All metrics as Prometheus text."""
        return generate_latest(self.registry)

    def observed(self, app: ASGIApp) -> ASGIApp:
        """The application with its requests measured, and traced where traces are exported."""
        observed = _Observed(app, self.http, is_traced=self.tracers is not None)
        if self.tracers is None:
            return observed
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        # No span for each message sent: a stream of events sends any number.
        return OpenTelemetryMiddleware(
            observed, excluded_urls=_UNTRACED, tracer_provider=self.tracers, exclude_spans=["receive", "send"]
        )

    def observe_store(self, store: EventStore) -> None:
        """Append latency, batch size, conflicts, and a span an append."""
        latency = self._distribution("quantum_append_duration_seconds", "One batch, to its commit")
        size = self._distribution("quantum_append_batch_size", "Appends committed together", bounds=_COUNTS)

        def observe(appends: int, seconds: float) -> None:
            latency.record(seconds)
            size.record(appends)

        statistics = store.group_commit.statistics
        statistics.observe_batch = observe
        self._counter("quantum.append.events", "Events appended", lambda: statistics.events)
        self._counter("quantum.append.conflicts", "Appends refused for their expected version", lambda: statistics.conflicts)
        self._counter("quantum.append.busy", "Appends that met a lock and were tried again", lambda: statistics.busy)
        if self._tracer is not None:
            store.trace = self.span

    def observe_projections(self, runner: ProjectionRunner) -> None:
        """Lag, events and faults of each projection, and a span for each traced event that is applied."""

        def each(value: Callable[[Any], float]) -> Callable[[CallbackOptions], list[Observation]]:
            return lambda _options: [
                Observation(value(statistics), {"projection": name}) for name, statistics in runner.statistics.items()
            ]

        gauge, counter = self._meter.create_observable_gauge, self._meter.create_observable_counter
        gauge("quantum.projection.lag.events", [each(lambda s: s.lag_events)], description="Positions not yet looked at")
        gauge("quantum.projection.lag", [each(lambda s: s.lag_seconds)], unit="s", description="Age of the last event applied")
        gauge("quantum.projection.runs", [each(lambda s: s.state == "live")], description="1 where this process runs it")
        counter("quantum.projection.events", [each(lambda s: s.events)], description="Events applied")
        counter("quantum.projection.set_aside", [each(lambda s: s.set_aside)], description="Events set aside as faulty")
        if self._tracer is not None:
            for name, statistics in runner.statistics.items():
                statistics.observe_batch = self._projected(name)

    def observe_saga(self, saga: ExecutionSaga) -> None:
        """Reactions, and module calls."""
        statistics = saga.statistics
        calls = self._distribution("quantum_saga_call_duration_seconds", "Calls of modules", ("module", "outcome"))
        statistics.observe_call = lambda module, outcome, seconds: calls.record(
            seconds, module if module in ("sandbox", "http") else "other", outcome
        )
        self._counter("quantum.saga.reactions", "Reactions to streamed events", lambda: statistics.reactions)
        self._counter("quantum.saga.recorded", "Outcomes recorded", lambda: statistics.recorded)
        self._counter("quantum.saga.too_late", "Outcomes that came too late", lambda: statistics.too_late)
        self._counter("quantum.saga.postponed", "Attempts put off because recording failed", lambda: statistics.postponed)
        self._meter.create_observable_gauge(
            "quantum.saga.running", [lambda _options: [Observation(saga.running)]], description="Calls under way"
        )

    def observe_stalls(self, check: StallCheck) -> None:
        """Executions looked at, and those that nothing would have woken: the second is to stay 0."""
        statistics = check.statistics
        self._counter("quantum.saga.checked", "Executions held against what would wake them", lambda: statistics.checked)
        self._counter("quantum.saga.stalled", "Executions that nothing would have woken", lambda: statistics.stalled)
        self._counter("quantum.saga.left_to_stream", "Checks that left an execution to the stream", lambda: statistics.behind)

    def observe_offered(self, bell: WorkBell) -> None:
        """Work that modules' workers may fetch, as the sagas of this process offer it."""
        self._counter("quantum.work.offered", "Units of work offered to workers", lambda: bell.offered)

    def observe_fetched(self, statistics: PullStatistics) -> None:
        """What workers do with it."""
        self._counter("quantum.work.fetched", "Units of work fetched", lambda: statistics.fetched)
        self._counter("quantum.work.completed", "Units of work with a result", lambda: statistics.completed)
        self._counter("quantum.work.failed", "Units of work that failed", lambda: statistics.failed)
        self._counter("quantum.work.released", "Units of work given back undone", lambda: statistics.released)
        self._counter("quantum.work.expired", "Units handed on because their worker fell silent", lambda: statistics.expired)
        self._counter("quantum.work.fenced", "Answers refused because the lease was lost", lambda: statistics.fenced)

    def observe_breakers(self, breakers: Breakers) -> None:
        """How many circuit breakers of this process are in which state."""

        def states(_options: CallbackOptions) -> list[Observation]:
            return [Observation(count, {"state": state}) for state, count in breakers.states().items()]

        self._meter.create_observable_gauge("quantum.modules.breakers", [states], description="Circuit breakers of modules")

    def observe_starting(self, schedules: ScheduleSaga, triggers: TriggerSaga) -> None:
        """Executions that started by themselves, and those that were to and did not."""
        times, events = schedules.statistics, triggers.statistics
        self._counter("quantum.schedules.started", "Executions started at their time", lambda: times.started)
        self._counter("quantum.schedules.refused", "Times at which the start was refused", lambda: times.refused)
        self._counter("quantum.schedules.passed_over", "Times at which the last run was under way", lambda: times.passed_over)
        self._counter("quantum.schedules.missed", "Times that were not started in the end", lambda: times.missed)
        self._counter("quantum.triggers.started", "Executions started upon an event", lambda: events.started)
        self._counter("quantum.triggers.refused", "Events whose start was refused", lambda: events.refused)
        self._counter("quantum.triggers.tried_again", "Refused starts tried again", lambda: events.tried_again)
        self._counter("quantum.triggers.dead_letters", "Refused starts given up", lambda: events.dead_letters)
        self._counter("quantum.triggers.dropped", "Refused starts beyond those that are kept", lambda: events.dropped)

    def observe_webhooks(self, deliverer: Dispatcher) -> None:
        """Deliveries and how long receivers took, over all subscriptions."""
        statistics = deliverer.statistics
        attempts = self._distribution("quantum_webhooks_attempt_duration_seconds", "Webhook requests", ("outcome",))
        statistics.observe_attempt = lambda outcome, seconds: attempts.record(seconds, outcome)
        self._counter("quantum.webhooks.delivered", "Webhooks that were taken", lambda: statistics.delivered)
        self._counter("quantum.webhooks.failures", "Attempts that failed", lambda: statistics.failed_attempts)
        self._counter("quantum.webhooks.given_up", "Deliveries given up for good", lambda: statistics.given_up)
        self._counter("quantum.webhooks.disabled", "Subscriptions given up", lambda: statistics.disabled)
        gauge = self._meter.create_observable_gauge
        gauge("quantum.webhooks.subscriptions", [lambda _: [Observation(statistics.lanes)]], description="Those of this process")
        gauge("quantum.webhooks.behind", [lambda _: [Observation(statistics.behind)]], description="Those that read history")
        gauge("quantum.webhooks.running", [lambda _: [Observation(deliverer.in_flight)]], description="Requests under way")

    def observe_followers(self, places: Places) -> None:
        """How many follow the feeds of this process: open streams, and long polls that wait."""

        def followers(_options: CallbackOptions) -> list[Observation]:
            return [Observation(places.open)]

        self._meter.create_observable_gauge("quantum.events.followers", [followers], description="Open streams and long polls")

    def observe_stream(self, statistics: StreamStatistics) -> None:
        """What became of the messages of the stream."""
        self._counter("quantum.stream.delivered", "Messages delivered to consumers", lambda: statistics.delivered)
        self._counter("quantum.stream.dead_letters", "Messages passed over", lambda: statistics.dead_letters)
        self._counter("quantum.stream.redriven", "Dead letters dealt with after all", lambda: statistics.redriven)
        self._counter("quantum.stream.unreadable", "Records that are no events of ours", lambda: statistics.unreadable)

    def observe_relay(self, relay: Relay) -> None:
        """How far the relay is behind the log, as it saw both last; 0 where it does not lead."""
        statistics = relay.statistics

        def lag(_options: CallbackOptions) -> list[Observation]:
            return [Observation(statistics.lag)]

        self._meter.create_observable_gauge("quantum.relay.lag.events", [lag], description="Positions not yet published")
        self._counter("quantum.relay.published", "Messages published", lambda: statistics.published)
        self._counter("quantum.relay.failures", "Publications that failed", lambda: statistics.failures)

    @contextlib.contextmanager
    def span(self, name: str, traceparent: str | None, attributes: Mapping[str, str]) -> Iterator[str | None]:
        """A span around what follows, child of the current one or of `traceparent`; yields its own traceparent."""
        if self._tracer is None:
            yield traceparent
            return
        links, context = [], None
        if not trace.get_current_span().get_span_context().is_valid and traceparent is not None:
            context = _propagator.extract({"traceparent": traceparent})
            cause = trace.get_current_span(context).get_span_context()
            links = [Link(cause)] if cause.is_valid else []
        with self._tracer.start_as_current_span(
            name, context=context, links=links, attributes=dict(attributes), kind=SpanKind.INTERNAL
        ):
            carrier: dict[str, str] = {}
            _propagator.inject(carrier)
            yield carrier.get("traceparent", traceparent)

    def attempt(self, dispatch: Dispatch, work: Work) -> contextlib.AbstractContextManager[str | None]:
        """A `span` around an attempt of a step, within which log lines say whose it is."""
        if self._tracer is None:
            return _Attempt(dispatch, None)
        attributes = {
            "quantum.tenant": dispatch.tenant_id, "quantum.execution": dispatch.execution_id, "quantum.step": dispatch.step,
            "quantum.module": work.module, "quantum.action": work.action, "quantum.attempt": str(dispatch.attempt),
            "quantum.correlation_id": dispatch.correlation_id,
        }  # fmt: skip
        return _Attempt(dispatch, self.span(f"module {work.action}", dispatch.traceparent, attributes))

    def _projected(self, name: str) -> Callable[[Sequence[RecordedEvent], float], None]:
        tracer = self._tracer
        assert tracer is not None

        def observe(events: Sequence[RecordedEvent], seconds: float) -> None:
            ended = time.time_ns()
            for event in events[:_SPANS_A_BATCH_MAX]:
                if (traceparent := event.metadata.traceparent) is None:
                    continue
                context = _propagator.extract({"traceparent": traceparent})
                cause = trace.get_current_span(context).get_span_context()
                span = tracer.start_span(
                    f"project {name}", context=context, links=[Link(cause)], start_time=ended - int(seconds * 1e9),
                    attributes={"quantum.projection": name, "quantum.topic": event.topic},
                )  # fmt: skip
                span.end(ended)

        return observe

    def _distribution(
        self, name: str, description: str, labels: tuple[str, ...] = (), bounds: tuple[float, ...] = _SECONDS
    ) -> Distribution:
        distribution = Distribution(name, description, labels, bounds)
        self.registry.register(distribution)
        return distribution

    def _counter(self, name: str, description: str, value: Callable[[], float]) -> None:
        self._meter.create_observable_counter(name, [lambda _options: [Observation(value())]], description=description)


def _tracer_provider(resource: Resource) -> TracerProvider | None:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(os.environ.get(v) for v in _EXPORT_VARIABLES):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class _Attempt:
    """What `Telemetry.attempt` gives. Every step of an execution enters one, so it costs next to nothing where nobody logs."""

    __slots__ = ("_dispatch", "_span", "_token")

    def __init__(self, dispatch: Dispatch, span: contextlib.AbstractContextManager[str | None] | None) -> None:
        self._dispatch, self._span = dispatch, span

    def __enter__(self) -> str | None:
        traceparent = self._dispatch.traceparent if self._span is None else self._span.__enter__()
        self._token = attempt_under_way.set(self._dispatch)
        return traceparent

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._span is not None:
                self._span.__exit__(kind, fault, trace)
        finally:
            attempt_under_way.reset(self._token)


class _Observed:
    """Measures each request, and logs those that were refused for whom they came from and those that failed."""

    def __init__(self, app: ASGIApp, durations: Distribution, *, is_traced: bool) -> None:
        self._app, self._durations, self._is_traced = app, durations, is_traced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        # Whatever a client makes up, the labels are a closed set.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        token = request_scope.set(scope)
        try:
            await self._app(scope, receive, _naming(scope, method, send) if self._is_traced else send)
        finally:
            seconds = time.perf_counter() - began
            route, status = _route(scope), scope.get("quantum.status", 500)
            self._durations.record(seconds, method, route, str(status))
            log_request(scope, method, route, status, seconds)
            request_scope.reset(token)


def _naming(scope: Scope, method: str, send: Send) -> Send:
    """Names the request's span by its route, which is known by now, before the answer's last part ends the span."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            trace.get_current_span().update_name(f"{method} {_route(scope)}")
        await send(message)

    return named


def _route(scope: Scope) -> str:
    """The route's pattern, never the address as it came."""
    return getattr(scope.get("route"), "path", "none")
