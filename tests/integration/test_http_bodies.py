# intent_ref: tests.http
"""Whatever a client sends as a body, it gets a problem document with a 4xx status, and nothing is written."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from access.http.json_body import DEPTH_MAX
from access.http.routing import operation_of
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving

KEYS = st.text(max_size=8) | st.sampled_from(
    ["name", "definition", "target", "steps", "action", "id", "depends_on", "timeout", "retry", "labels", "description", "inputs",
     "version", "actions", "transport", "input_schema", "$ref", "type", "url", "reason", "when"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["\0", "a" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
DEFINITIONS = JSON | st.fixed_dictionaries({"target": JSON, "steps": st.lists(JSON | st.dictionaries(KEYS, JSON), max_size=4)})
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture(scope="module")
async def tenant(http: Http) -> Tenant:
    return await http.tenant()


def writes(http: Http) -> list[tuple[str, str]]:
    """(method, path) of every route with a body, for ids that do not exist."""
    found = []
    for route in http.platform.api.routes:
        operation = operation_of(route)
        takes_anything = operation is not None and "/signals/" in operation.path
        if operation is not None and operation.body is not None and operation.permission is not None and not takes_anything:
            filled = {"intent_id": NOBODY, "execution_id": NOBODY}
            path = operation.path.format_map(defaultdict(lambda: "nobody", filled))
            found.append((operation.method, path))
    return found


def check_refused(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "trace_id"} <= set(answer.json())


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (b"{", (400,)), (b"not json", (400,)), (b"\xff\xfe", (400,)), (b'{"a":NaN}', (400,)), (b"{'a':1}", (400,)),
        (b"\x00", (400,)), (b'{"a":"\\ud800"}', (400,)), (b"[]", (422,)), (b"7", (422,)), (b"null", (422,)), (b'"x"', (422,)),
        (b'{"a":"\\u0000"}', (422,)), (b'{"\\u0000":1}', (422,)), (b'{"name":' + b"9" * 50 + b"}", (422,)),
        (b"[" * 500_000, (400, 422)), (b'{"a":' * (DEPTH_MAX + 5) + b"1" + b"}" * (DEPTH_MAX + 5), (422,)),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, (400, 422)),
    ],
)  # fmt: skip
async def test_every_write_refuses_what_is_no_sound_json_object(http: Http, content: bytes, statuses: tuple[int, ...]):
    tenant = await http.tenant()
    before = await http.platform.store.horizon()
    bearer = http.bearer(tenant.id, roles=["platform-admin"])
    for method, path in writes(http):
        headers = {**bearer, "If-Match": "*", "Content-Type": "application/json"}
        check_refused(await http.client.request(method, path, content=content, headers=headers), *statuses)
    assert await http.platform.store.horizon() == before


async def test_ten_megabytes_are_refused_and_the_answer_is_heard(http: Http, tenant: Tenant):
    for method, path in writes(http):
        headers = {**http.bearer(tenant.id, roles=["platform-admin"]), "If-Match": "*"}
        check_refused(await http.client.request(method, path, content=b" " * 10_000_000, headers=headers), 413)


async def test_ten_megabytes_without_a_length_are_refused(http: Http, tenant: Tenant):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b'"' * 100_000

    answer = await http.client.post(f"{API}/intents", content=pieces(), headers=http.bearer(tenant.id))
    check_refused(answer, 413)


async def test_a_client_that_asks_first_is_refused_before_it_sends(http: Http, tenant: Tenant):
    parts = urlsplit(http.address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    token = http.token(tenant.id)
    head = f"POST {API}/intents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 99999999\r\n"
    writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(KEYS, JSON, max_size=5), number=st.integers(0, 100))
async def test_no_object_causes_a_server_error(http: Http, tenant: Tenant, body: dict[str, Any], number: int):
    routes = writes(http)
    method, path = routes[number % len(routes)]
    headers = {**http.bearer(tenant.id), "If-Match": "*", "Content-Type": "application/json"}
    answer = await http.client.request(method, path, content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["Content-Type"] == "application/problem+json"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(definition=DEFINITIONS)
async def test_no_definition_causes_a_server_error(http: Http, tenant: Tenant, definition: Any):
    content = json.dumps({"name": "fuzzed", "definition": definition}).encode()
    answer = await http.client.post(f"{API}/intents", content=content, headers=http.bearer(tenant.id))
    assert answer.status_code in (201, 400, 409, 422), answer.text
    if answer.status_code == 201:
        intent_id = answer.json()["id"]
        assert (await tenant.get(f"/intents/{intent_id}", after=answer)).json() == answer.json()
        assert (await tenant.post(f"/intents/{intent_id}/execute")).status_code in (202, 422)
        await tenant.request("DELETE", f"/intents/{intent_id}")


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(
        ["Authorization", "X-Tenant-Id", "Idempotency-Key", "If-Match", "If-None-Match", "Quantum-Min-Position", "Last-Event-ID",
         "Quantum-Correlation-Id", "traceparent", "Accept", "Content-Type"]
    ),
    value=st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60).map(str.strip),
)  # fmt: skip
async def test_no_header_causes_a_server_error(http: Http, tenant: Tenant, name: str, value: str):
    own = {key.encode(): text.encode() for key, text in http.bearer(tenant.id).items()}
    headers = {**own, name.encode(): value.encode("latin-1")}
    for method, path in [("GET", f"/intents/{NOBODY}"), ("PUT", f"/intents/{NOBODY}"), ("GET", f"/executions/{NOBODY}/events")]:
        answer = await http.client.request(method, API + path, headers=headers, content=b"{}" if method == "PUT" else b"")
        assert answer.status_code < 500, (name, value, answer.text)
