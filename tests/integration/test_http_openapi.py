# intent_ref: tests.http
"""The description of the API says what the API does: schemathesis holds every answer against it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from access.http.problems import KINDS
from access.http.routing import operation_of
from tests.conftest import Database
from tests.http_platform import Http, serving


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture(scope="module")
async def document(http: Http) -> dict[str, Any]:
    answer = await http.client.get("/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


async def test_every_declared_route_is_described(http: Http, document: dict[str, Any]):
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    declared = [found for route in http.platform.api.routes if (found := operation_of(route)) is not None]
    assert described == {(operation.method.lower(), operation.path) for operation in declared}
    ids = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}
    assert len(ids) == len(declared)


async def test_every_operation_tells_its_errors_as_problem_documents(document: dict[str, Any]):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/api"):
                continue
            takes_a_token = not path.startswith("/api/v1/callbacks/")  # the address itself is the authority there
            expected = {"400", "401", "422", "503", *(["403"] if takes_a_token else [])}
            assert expected <= set(operation["responses"]), (method, path)
            assert ("404" in operation["responses"]) == ("{" in path)
            assert operation["security"] == ([{"bearer": []}] if takes_a_token else [])
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
                    assert any(kind.status == int(status) for kind in KINDS.values())


async def test_every_reference_leads_somewhere_and_every_schema_is_one(document: dict[str, Any]):
    left: list[Any] = [document]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if isinstance(one.get("$ref"), str):
                name = one["$ref"].removeprefix("#/components/schemas/")
                assert name in document["components"]["schemas"]
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}), name


async def test_examples_of_bodies_are_accepted(http: Http, document: dict[str, Any]):
    tenant = await http.tenant()
    examples = {name: schema.get("examples", []) for name, schema in document["components"]["schemas"].items()}
    assert (await tenant.post("/intents", examples["NewIntent"][0])).status_code == 201
    assert (await tenant.post("/modules", examples["NewModule"][0])).status_code == 201
    created = (await tenant.intent("another")).json()
    for body in examples["Start"]:
        assert (await tenant.post(f"/intents/{created['id']}/execute", body)).status_code == 202


async def test_the_docs_page_can_load_what_it_shows(http: Http):
    answer = await http.client.get("/docs")
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert "Content-Security-Policy" not in answer.headers


@pytest.mark.slow
@pytest.mark.endurance
async def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(http: Http, tmp_path: Path):
    tenant = await http.tenant()
    checks = (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
        "response_schema_conformance",
    )  # fmt: skip
    # A long poll may take the minute it is asked to take.
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"query.wait" = 0\n')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", f"{http.address}/openapi.json", "--checks", ",".join(checks),
        "-H", f"Authorization: Bearer {http.token(tenant.id, roles=['platform-admin'])}", "--max-examples", "25",
        "--request-timeout", "20", "--generation-deterministic", "--continue-on-failure", "--no-color",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout=300)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()[-8000:]
