# intent_ref: tests.telemetry
"""What the platform tells about itself: one trace from request to projection, metrics, and log lines that hold no secrets."""

import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from projections.catalogue import READ_MODELS
from tests.acceptance.http_modules import http_module
from tests.acceptance.outside import API, Outside, Tenant, assert_problem, token
from tests.acceptance.trace_collector import Collector, trace_collector
from tests.platforms import Served, temporary_directory
from tests.waiting import wait_until

CANARY = "canary-" + secrets.token_hex(6)


@dataclass
class Watched:
    """A platform that exports traces to `collector` and logs everything it can."""

    outside: Outside
    collector: Collector

    def log(self) -> list[dict[str, Any]]:
        """Its log lines; all must be JSON, apart from what `serve` says on stdout."""
        lines = self.outside.served.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def samples(self) -> list[Any]:
        text = (await self.outside.client.get("/metrics")).text
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with trace_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
async def watched(collector: Collector) -> AsyncIterator[Watched]:
    with temporary_directory() as directory:
        served = Served(directory / "data", settings={"log_level": "debug"})
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        os.environ.update(exporting)
        try:
            await served.start()
        finally:
            for name in exporting:
                del os.environ[name]
        try:
            async with httpx.AsyncClient(base_url=served.address, timeout=30) as client:
                yield Watched(Outside(served, client), collector)
        finally:
            await served.stop()


def builder(url: str) -> dict[str, Any]:
    return {"name": "builder", "actions": [{"name": "build-image"}], "transport": {"type": "http", "url": url}}


async def test_request_append_module_and_projection_are_one_trace(watched: Watched):
    tenant = await watched.outside.tenant()
    with http_module(lambda asked: (200, {})) as module:
        await tenant.post("/modules", builder(module.url))
        intent = (await tenant.intent([{"action": "build-image"}, {"action": "no-op"}])).json()["id"]
        started = await tenant.post(f"/intents/{intent}/execute")
        await tenant.ended(started.json()["execution_id"])
        trace_id = module.asked[0].headers["traceparent"].split("-")[1]

    def complete() -> bool:
        names = [span.name for span in watched.collector.trace(trace_id).values()]
        return names.count("append") >= 3 and names.count("project executions") >= 6 and "module no-op" in names

    await wait_until(complete, 10, what="the whole trace")
    spans = watched.collector.trace(trace_id)
    by_name = {span.name: span for span in spans.values()}
    request = by_name[f"POST {API}/intents/{{intent_id}}/execute"]
    assert request.parent_id == ""
    assert {span.name for span in spans.values()} == {
        request.name, "append", "module build-image", "module no-op", "project executions",
    }  # fmt: skip
    assert all(span.parent_id in spans for span in spans.values() if span is not request), "nobody hangs in the air"

    def way_up(span_id: str) -> list[str]:
        return [spans[span_id].name, *way_up(spans[span_id].parent_id)] if span_id in spans else []

    # The second step was started by the answer to the first, which the request brought about.
    assert way_up(by_name["module no-op"].span_id) == ["module no-op", "module build-image", request.name]
    assert by_name["module no-op"].attributes["quantum.tenant"] == tenant.id
    # The module got its own span's id, so that what it does can be hung below it.
    assert module.asked[0].headers["traceparent"].split("-")[2] == by_name["module build-image"].span_id
    assert all(link == trace_id for span in spans.values() for link in span.links)


async def test_a_clients_trace_goes_on_in_ours_and_is_named_in_problems(watched: Watched):
    tenant = await watched.outside.tenant()
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
    refused = await tenant.post("/intents", {"name": "x"}, headers=headers)
    assert assert_problem(refused, 422)["trace_id"] == trace_id
    spans = await wait_until(lambda: watched.collector.trace(trace_id), 10)
    assert {span.parent_id for span in spans.values()} == {span_id}


async def test_health_and_metrics_make_no_traces(watched: Watched):
    await watched.outside.client.get("/health/ready")
    await watched.outside.client.get("/metrics")
    await watched.outside.client.get(f"{API}/tenants", headers=watched.outside.admin())
    await wait_until(lambda: any(span.name == f"GET {API}/tenants" for span in watched.collector.spans), 10)
    assert not [span.name for span in watched.collector.spans if "health" in span.name or "metrics" in span.name]


async def test_without_an_exporter_a_module_still_learns_the_requests_trace(outside: Outside, tenant: Tenant):
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    with http_module(lambda asked: (200, {})) as module:
        await tenant.post("/modules", builder(module.url))
        intent = (await tenant.intent([{"action": "build-image"}, {"action": "build-image"}])).json()["id"]
        started = await tenant.post(f"/intents/{intent}/execute", headers={"traceparent": traceparent})
        await tenant.ended(started.json()["execution_id"])
        assert [asked.headers["traceparent"] for asked in module.asked] == [traceparent, traceparent]


async def test_metrics_tell_of_appends_conflicts_lag_reactions_and_requests(watched: Watched):
    tenant = await watched.outside.tenant()
    await tenant.ended(await tenant.start([{"action": "no-op"}]))
    assert (await watched.outside.client.request("PROPFIND", f"{API}/intents")).status_code == 405
    samples = await watched.samples()
    values: dict[str, float] = {}
    for sample in samples:
        values[sample.name] = max(sample.value, values.get(sample.name, 0.0))
    for name in (
        "quantum_append_duration_seconds_count", "quantum_append_batch_size_count", "quantum_append_events_total",
        "quantum_saga_reactions_total", "quantum_saga_recorded_total", "quantum_saga_call_duration_seconds_count",
        "quantum_stream_delivered_total", "quantum_projection_events_total", "http_server_request_duration_seconds_count",
    ):  # fmt: skip
        assert values.get(name, 0) > 0, f"{name} of {sorted(values)}"
    for name in ("quantum_append_conflicts_total", "quantum_projection_lag_events", "quantum_projection_lag_seconds",
                 "quantum_relay_lag_events", "quantum_saga_running"):  # fmt: skip
        assert name in values, f"{name} of {sorted(values)}"
    projections = {sample.labels["projection"] for sample in samples if sample.name == "quantum_projection_lag_events"}
    assert projections == {model.name for model in READ_MODELS}
    assert {"intents", "executions"} <= projections
    methods = {sample.labels["http_request_method"] for sample in samples if "http_request_method" in sample.labels}
    assert methods <= {"GET", "POST", "PUT", "DELETE", "other"}, "what clients make up is no label"


async def test_refusals_and_failures_are_log_lines_with_correlation_tenant_and_trace(watched: Watched):
    unknown = {"Authorization": f"Bearer {token(watched.outside.data_dir, ('no-such-tenant',), 'author')}"}
    own = {"Quantum-Correlation-Id": "conversation-1"}
    refused = await watched.outside.client.get(f"{API}/intents", headers={**unknown, **own})
    problem = assert_problem(refused, 403)
    assert_problem(await watched.outside.client.get(f"{API}/intents"), 401)
    tenant = await watched.outside.tenant()
    assert_problem(await tenant.post("/modules", {}, role="viewer"), 403)
    assert_problem(await tenant.get("/intents", headers={"Quantum-Min-Position": "cTEuOTk5OTk5OTk5"}), 503)

    def told(problem_code: str) -> dict[str, Any]:
        return next(line for line in watched.log() if line.get("problem") == problem_code)

    line = told("tenant-unknown")
    assert line.items() >= {
        "level": "info", "correlation_id": "conversation-1", "tenant": "no-such-tenant", "trace_id": problem["trace_id"],
        "method": "GET", "route": f"{API}/intents", "status": 403,
    }.items()  # fmt: skip
    assert told("token-missing")["level"] == "info"
    assert told("role-missing")["status"] == 403
    assert told("not-caught-up").items() >= {"level": "error", "status": 503, "tenant": tenant.id}.items()
    assert all({"event", "level", "timestamp"} <= set(line) for line in watched.log())


async def test_no_payload_no_token_and_no_definition_reaches_logs_or_metrics(watched: Watched):
    tenant = await watched.outside.tenant()
    note = {"note": CANARY, "sandbox": {"fail": f"{CANARY} failed"}}
    body = {
        "name": CANARY, "description": CANARY, "labels": {CANARY: CANARY},
        "definition": {
            "target": CANARY, "steps": [{"action": "notify", "channel": CANARY}, {"action": "build-image", "id": CANARY}],
        },
    }  # fmt: skip
    with http_module(lambda asked: (500, {CANARY: CANARY})) as module:
        await tenant.post("/modules", {**builder(module.url), "name": f"x-{CANARY}"})
        created = await tenant.post("/intents", body, headers={"Idempotency-Key": CANARY})
        assert created.status_code == 201, created.text
        inputs = {"inputs": {CANARY: CANARY}}
        started = await tenant.post(f"/intents/{created.json()['id']}/execute", inputs)
        ended = await tenant.ended(started.json()["execution_id"])
        assert CANARY in json.dumps(ended["steps"][1]["error"])
    failed = await tenant.ended(await tenant.start([{"action": "no-op", **note}]))
    assert CANARY in failed["error"]["message"]
    await tenant.post(f"/executions/{failed['execution_id']}/cancel", {"reason": CANARY})
    for path in (f"/intents?q={CANARY}&name={CANARY}", f"/intents/{CANARY}", f"/intents?{CANARY}=1", f"/{CANARY}",
                 f"/executions/{CANARY}/events", f"/modules/x-{CANARY}"):  # fmt: skip
        await tenant.get(path)
    for raw in (f'{{"{CANARY}": ', f'["{CANARY}"]', f'{{"name": "{CANARY}", "definition": "{CANARY}"}}'):
        await tenant.request("POST", "/intents", content=raw)
    for value in (f"Bearer {CANARY}", f"Basic {CANARY}", f"Bearer {CANARY}.{CANARY}.{CANARY}"):
        answer = await watched.outside.client.get(f"{API}/intents", headers={"Authorization": value})
        assert_problem(answer, 401)
    for header in ("Last-Event-ID", "Quantum-Min-Position", "If-Match", "X-Tenant-Id", "traceparent", "User-Agent", "Cookie"):
        await tenant.get("/intents", headers={header: CANARY})
    await watched.outside.client.request("POST", f"{API}/tenants", json={"id": CANARY, "name": CANARY}, headers=tenant.headers())
    written = watched.outside.served.log_file.read_text()
    logged = "\n".join(line for line in written.splitlines() if line.startswith("{"))
    assert "request" in logged
    metrics = (await watched.outside.client.get("/metrics")).text
    for text in (logged, metrics):
        assert CANARY not in text
        for carried in {tenant.headers()["Authorization"], watched.outside.admin()["Authorization"]}:
            assert carried.removeprefix("Bearer ") not in text
            assert carried.rsplit(".", 1)[1] not in text
    assert tenant.id not in metrics, "no tenant is a label"
    assert not [sample for sample in await watched.samples() if any("tenant" in name for name in sample.labels)]
