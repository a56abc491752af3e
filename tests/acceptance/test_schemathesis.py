# intent_ref: tests.schemathesis
"""schemathesis drives every operation of `/openapi.json` over a real server: what the description says is what happens."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.platforms import API, Served
from write_api.work import WAIT_SECONDS_MAX

pytestmark = [pytest.mark.slow]
EXAMPLES_MAX = 8
SEED = 20261121
STEPS = [{"action": "no-op"}, {"action": "wait", "seconds": 0}]
CHECKS = {
    # As documented: statuses, media types, headers, bodies; and what is wrong is refused, with the right word for it.
    "not_a_server_error": {"enabled": True, "expected-statuses": ["2xx", "3xx", "4xx", 503]},
    "status_code_conformance": {"enabled": True},
    "content_type_conformance": {"enabled": True},
    "response_headers_conformance": {"enabled": True},
    "response_schema_conformance": {"enabled": True},
    "ignored_auth": {"enabled": True},
    "missing_required_header": {"enabled": True, "expected-statuses": [400, 401, 403, 404, 422, 428]},
    # Cursors and positions are opaque, and a definition has rules no schema says: what fits the schema may still be refused.
    "positive_data_acceptance": {"enabled": False},
    "negative_data_rejection": {"enabled": True, "expected-statuses": ["4xx", 503]},
}

# Where some methods are left out of the description, that they work is no fault.
_OF_ALL_METHODS = ("unsupported_method", "allow_header_conformance")


@dataclass(frozen=True)
class Target:
    """A platform with a tenant that has one of everything, and what to put where a path asks for it."""

    address: str
    bearer: dict[str, str]
    parameters: dict[str, str]


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Nobody waits here: as `query.wait`, for polls that say it in their body. What is out of bounds stays so."""
    if isinstance(body, dict) and type(wait := body.get("wait")) is int and 0 < wait <= WAIT_SECONDS_MAX:
        return {**body, "wait": 0}
    return body


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    directory = Path(tempfile.mkdtemp(prefix="quantum-test-"))
    served = Served(directory / "data", settings={"log_level": "warning"})
    served.data_dir.mkdir()
    try:
        with asyncio.Runner() as runner:
            runner.run(served.start())
            yield _prepared(served)
            runner.run(served.stop())
    finally:
        served.kill()
        served.kill_database()
        shutil.rmtree(directory, ignore_errors=True)


def _prepared(served: Served) -> Target:
    bearer = served.bearer("acme", roles=("platform-admin",))
    with httpx.Client(base_url=served.address + API, headers=bearer) as client:
        for tenant in ("acme", "globex"):
            client.post("/tenants", json={"id": tenant, "name": tenant}).raise_for_status()
        intent = client.post("/intents", json={"name": "deploy", "definition": {"target": "t", "steps": STEPS}}).json()
        execution = client.post(f"/intents/{intent['id']}/execute", json={}).json()
        module = {"name": "mine", "actions": [{"name": "mine"}], "transport": "https://example.com/x"}
        written = client.post("/modules", json=module).raise_for_status()
    return Target(
        served.address, bearer,
        # Suspending goes to a tenant of its own, so that the one under test stays open.
        {"path.intent_id": intent["id"], "path.execution_id": execution["execution_id"], "path.name": "mine",
         "path.tenant_id": "globex", "path.type": "quantum.intent.created.v1",
         "path.position": written.headers["Quantum-Position"],
         "header.Quantum-Min-Position": written.headers["Quantum-Position"], "header.If-Match": "*"},
    )  # fmt: skip


@pytest.mark.parametrize("ids", ["any", "existing"])
def test_every_operation_does_what_its_description_says(target: Target, ids: str):
    parameters = target.parameters if ids == "existing" else {}
    failures, statuses = _run(target, parameters, lambda method, path: not _ends_the_test(method, path, bool(parameters)))
    assert not failures, "\n\n".join(failures[:20])
    assert len({label for label, _ in statuses}) >= (27 if parameters else 29)
    if ids == "existing":
        obeyed = {label for label, status in statuses if status < 300}
        assert len(obeyed) > 18, f"too few operations were ever obeyed: {sorted(obeyed)}"


def test_operations_on_tenants_do_what_their_description_says(target: Target):
    failures, statuses = _run(target, {"path.tenant_id": "globex"}, lambda _, path: path.startswith(f"{API}/tenants"))
    assert not failures, "\n\n".join(failures[:20])
    assert (f"POST {API}/tenants/{{tenant_id}}/suspend", 200) in statuses


def _ends_the_test(method: str, path: str, has_ids: bool) -> bool:
    """What is found in lists is tried in paths: the tenant under test would be suspended, and all the rest be a 403. And of
    what exists, once it is gone, all the rest would be a 409."""
    return path.endswith("/suspend") or (has_ids and method == "delete")


def _run(
    target: Target, parameters: dict[str, str], is_wanted: Callable[[str, str], bool]
) -> tuple[list[str], dict[tuple[str, int], int]]:
    """What failed, in words, and how often each operation answered with which status."""
    config: dict[str, Any] = {
        "seed": SEED,
        "base-url": target.address,
        "headers": target.bearer,
        "request-timeout": 20,
        "checks": {**CHECKS, **{name: {"enabled": not parameters} for name in _OF_ALL_METHODS}},
        "parameters": {"query.wait": 0, **parameters},  # a long poll may take the minute it is asked to take
        "generation": {"max-examples": EXAMPLES_MAX, "deterministic": True, "mode": "all", "no-shrink": True, "allow-x00": True},
        "phases": {"stateful": {"enabled": not parameters, "generation": {"max-examples": 10}}},
        "suppress-health-check": ["all"],
    }
    document = httpx.get(f"{target.address}/openapi.json").json()
    document["paths"] = {
        path: {method: operation for method, operation in methods.items() if is_wanted(method, path)}
        for path, methods in document["paths"].items()
    }
    if parameters:
        _leave_out(document, "X-Tenant-Id")  # any tenant but the token's is a 403, and nothing behind it is reached
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(config))
    found: dict[str, str] = {}
    statuses: dict[tuple[str, int], int] = {}
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished(recorder=recorder):
                for case_id, interaction in recorder.interactions.items():
                    if interaction.response is not None:
                        key = (recorder.cases[case_id].value.operation.label, interaction.response.status_code)
                        statuses[key] = statuses.get(key, 0) + 1
                for case_id, checks in recorder.checks.items():
                    for check in checks:
                        if check.failure_info is not None:
                            failure = check.failure_info.failure
                            label = recorder.cases[case_id].value.operation.label
                            told = f"{label}: {failure}\n{check.failure_info.code_sample}"
                            found.setdefault(f"{label} {failure.title}", told[:3000])
            case events.NonFatalError(info=info) | events.FatalError(exception=info):
                found.setdefault(str(info)[:200], f"{event}"[:3000])
            case _:
                pass
    totals = {status: sum(n for (_, one), n in statuses.items() if one == status) for status in sorted({s for _, s in statuses})}
    print(f"{sum(statuses.values())} requests, seed {SEED}, by status {totals}")
    return list(found.values()), statuses


def _leave_out(document: dict[str, Any], name: str) -> None:
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["parameters"] = [one for one in operation["parameters"] if one["name"] != name]
