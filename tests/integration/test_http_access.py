# intent_ref: tests.http
"""Who may use which route: every route by every role, every token that should not count, every other tenant's id."""

import base64
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from joserfc.jwk import OKPKey

from access.http.operations import Operation
from access.http.routing import API_PREFIX, operation_of
from access.issuer import LocalIssuer
from access.roles import ROLES
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving

PUBLIC = {"/health/live", "/health/ready", "/asyncapi.json", f"{API_PREFIX}/callbacks/{{token}}"}
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


def operations(http: Http) -> list[Operation]:
    return [found for route in http.platform.api.routes if (found := operation_of(route)) is not None]


def address_of(operation: Operation, **values: str) -> str:
    filled = {"intent_id": NOBODY, "execution_id": NOBODY, "version": "1", **values}
    return operation.path.format_map(defaultdict(lambda: "nobody", filled))


def body_of(operation: Operation) -> Any:
    return {} if operation.method in ("POST", "PUT", "PATCH") else None


async def test_every_route_under_the_api_says_which_permission_it_asks_for(http: Http):
    routes = [route for route in http.platform.api.routes if isinstance(route, APIRoute)]
    assert len(routes) > 25
    for route in routes:
        operation = operation_of(route)
        assert operation is not None, f"{route.path} was not declared with a permission"
        assert operation.permission is not None or route.path in PUBLIC, route.path
        assert route.path.startswith(API_PREFIX) or route.path in PUBLIC
    undeclared = {getattr(route, "path", "") for route in http.platform.api.routes if not isinstance(route, APIRoute)}
    assert {path for path in undeclared if path.startswith("/api")} == set()


async def test_every_route_is_refused_without_a_token_and_with_a_forged_one(http: Http):
    forged = LocalIssuer([OKPKey.generate_key("Ed25519")]).issue(["t"], sorted(ROLES), "eve", 1)
    for operation in operations(http):
        if operation.permission is None:
            continue
        for headers in ({}, {"Authorization": f"Bearer {forged}"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
            answer = await http.client.request(operation.method, address_of(operation), headers=headers, json=body_of(operation))
            assert answer.status_code == 401, (operation.method, operation.path, answer.text)
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="quantum"')
            assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_every_route_is_open_to_the_roles_that_have_its_permission_and_closed_to_others(http: Http, role: str):
    tenant = await http.tenant()
    for operation in operations(http):
        if operation.permission is None:
            continue
        answer = await http.client.request(
            operation.method, address_of(operation), headers=http.bearer(tenant.id, roles=[role]), json=body_of(operation)
        )
        is_allowed = role in operation.permission.roles
        assert (answer.status_code == 403) != is_allowed, (operation.method, operation.path, answer.text)
        if not is_allowed:
            assert answer.json()["code"] == "role-missing"


async def test_without_any_role_nothing_can_be_read(http: Http):
    tenant = await http.tenant()
    for operation in operations(http):
        if operation.permission is not None:
            headers = http.bearer(tenant.id, roles=[])
            answer = await http.client.request(operation.method, address_of(operation), headers=headers, json=body_of(operation))
            assert answer.status_code == 403


async def test_the_platforms_own_key_does_not_save_a_token_that_was_tampered_with(http: Http):
    tenant = await http.tenant()
    header, claims, signature = http.token(tenant.id, roles=["viewer"]).split(".")
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=="))

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    promoted = {**decoded, "roles": ["platform-admin"]}
    attempts = {
        f"{header}.{part(promoted)}.{signature}": "token-signature-invalid",
        f"{part({'alg': 'none'})}.{part(promoted)}.": "token-algorithm-refused",
        f"{part({'alg': 'HS256'})}.{part(promoted)}.{signature}": "token-algorithm-refused",
        "x" * 9000: "token-too-long",
        "é": "token-malformed",
    }
    for token, code in attempts.items():
        answer = await http.client.get(f"{API}/intents", headers={"Authorization": f"Bearer {token}".encode("latin-1")})
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert f'error="invalid_token", error_description="{code}"' in answer.headers["WWW-Authenticate"]


async def test_an_expired_token_is_refused(http: Http):
    tenant = await http.tenant()
    issuer = LocalIssuer.open(http.platform.settings.data_dir / "keys")
    issuer._clock = lambda: time.time() - 7200
    headers = {"Authorization": f"Bearer {issuer.issue([tenant.id], ['viewer'], 'ada', 1)}"}
    answer = await http.client.get(f"{API}/intents", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "token-expired")


async def test_what_belongs_to_another_tenant_does_not_exist_by_any_route(http: Http):
    owner, stranger = await http.tenant(), await http.tenant()
    values = await _things_of(owner)
    for operation in operations(http):
        if operation.permission is None or not operation.permission.in_tenant or "{" not in operation.path:
            continue
        if "/work/" in operation.path:
            continue  # for workers alone: tests of their own try other tenants' leases
        foreign, nobody = [
            await _ask(stranger, operation, address_of(operation, **given)) for given in (values, {"version": "1"})
        ]
        expected = 422 if operation.body is not None and operation.body_required and foreign.status_code == 422 else 404
        assert foreign.status_code == nobody.status_code == expected, (operation.method, operation.path, foreign.text)
        assert _without_ids(foreign.text, values) == _without_ids(nobody.text, values)
    for path in ("/intents", "/executions", "/modules"):
        text = (await stranger.get(path)).text
        assert not any(value in text for name, value in values.items() if name != "version")
    assert (await owner.get(f"/executions/{values['execution_id']}")).status_code == 200


async def _things_of(owner: Tenant) -> dict[str, str]:
    intent = await owner.intent("secret-plan")
    execution_id = await owner.execution()
    module = {"name": "secret-module", "actions": [{"name": "secret-action"}], "transport": "https://example.com/x"}
    registered = await owner.post("/modules", module)
    assert registered.status_code == 201, registered.text
    await owner.get("/modules", after=registered)
    return {"intent_id": intent.json()["id"], "execution_id": execution_id, "name": "secret-module", "version": "1"}


async def _ask(tenant: Tenant, operation: Operation, address: str) -> Any:
    bodies = {"Revision": {"definition": {"target": "t", "steps": []}}, "RollBack": {"version": 1},
              "ModuleDescription": {"actions": [{"name": "a"}], "transport": "https://example.com/x"}}  # fmt: skip
    body = bodies.get(operation.body.__name__ if operation.body is not None else "", body_of(operation))
    options = {} if body is None else {"json": body}
    path = address.removeprefix(API)
    return await tenant.request(operation.method, path, headers={"If-Match": "*"}, **options)


def _without_ids(text: str, values: dict[str, str]) -> str:
    found = json.loads(text)
    found.pop("trace_id", None)
    text = json.dumps(found)
    for value in [value for name, value in values.items() if name != "version"]:
        text = text.replace(value, "*")
    return text.replace(NOBODY, "*").replace("nobody", "*")


async def test_health_needs_no_token(http: Http):
    for path in ("/health/live", "/health/ready"):
        answer = await http.client.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
