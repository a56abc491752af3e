# intent_ref: tests.http
"""Modules over HTTP: registering, changing and removing them, and what is no module."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.http_platform import API, Http, serving

SCHEMA = {"type": "object", "properties": {"image": {"type": "string"}}, "$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}
ACTION = {"name": "paint", "input_schema": SCHEMA, "output_schema": {"type": "object"}, "timeout": "2m", "retry": 3}
HTTP = {"type": "http", "url": "https://paint.example.com/actions"}


@pytest.fixture(scope="module")
async def http(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Http]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as running:
        yield running


async def test_a_module_is_registered_used_changed_and_removed(http: Http):
    tenant = await http.tenant()
    assert (await tenant.intent("needs-paint", [{"action": "paint"}])).status_code == 422
    registered = await tenant.post("/modules", {"name": "painter", "actions": [ACTION], "transport": HTTP})
    body = registered.json()
    assert (registered.status_code, registered.headers["Location"]) == (201, f"{API}/modules/painter")
    assert (body["name"], body["built_in"], body["actions"][0]["timeout"]) == ("painter", False, 120)
    assert body["actions"][0]["retry"]["attempts_max"] == 3
    assert body["actions"][0]["input_schema"] == SCHEMA
    assert (await tenant.get("/modules/painter", after=registered)).json() == body
    assert (await tenant.intent("needs-paint", [{"action": "paint"}])).status_code == 201

    change = {"actions": [{"name": "draw"}], "transport": "https://draw.example.com"}
    changed = await tenant.request("PUT", "/modules/painter", json=change)
    assert (changed.status_code, [action["name"] for action in changed.json()["actions"]]) == (200, ["draw"])
    assert changed.json()["transport"]["url"] == "https://draw.example.com"
    closed = {"state": "closed", "processes": []}
    assert (await tenant.get("/modules/painter", after=changed)).json() == {**changed.json(), "circuit": closed}
    assert (await tenant.intent("again", [{"action": "paint"}])).status_code == 422

    removed = await tenant.request("DELETE", "/modules/painter")
    assert (removed.status_code, removed.content) == (204, b"")
    assert (await tenant.get("/modules/painter", after=removed)).status_code == 404
    assert (await tenant.request("DELETE", "/modules/painter")).status_code == 404


async def test_what_was_read_of_a_module_may_be_sent_back(http: Http):
    tenant = await http.tenant()
    retry = {"max_attempts": 4, "initial_interval": "500ms", "backoff": 1.5, "max_interval": 30}
    registered = await tenant.post(
        "/modules", {"name": "m", "actions": [{**ACTION, "retry": retry}, {"name": "bare"}], "transport": HTTP}
    )
    body = registered.json()
    again = await tenant.request("PUT", "/modules/m", json={key: body[key] for key in ("name", "actions", "transport")})
    assert (again.status_code, {**again.json(), "circuit": body["circuit"]}) == (200, body)


async def test_modules_that_come_with_the_platform_are_listed_after_the_tenants_own(http: Http):
    tenant = await http.tenant()
    for number in range(3):
        module = {"name": f"own-{number}", "actions": [{"name": f"a-{number}"}], "transport": HTTP}
        last = await tenant.post("/modules", module)
    whole = await tenant.get("/modules", after=last)
    names = [(item["name"], item["built_in"]) for item in whole.json()["items"]]
    assert names[:3] == [("own-2", False), ("own-1", False), ("own-0", False)]
    assert {"http", "sandbox"} <= {name for name, built_in in names if built_in}
    for limit in (1, 2, 3, len(names) - 1):
        seen: list[str] = []
        address = f"{API}/modules?limit={limit}"
        while address:
            answer = await http.client.get(address, headers=http.bearer(tenant.id))
            assert len(answer.json()["items"]) <= limit
            seen += [item["name"] for item in answer.json()["items"]]
            address = answer.links["next"]["url"] if "next" in answer.links else ""
        assert seen == [name for name, _ in names]
    assert (await tenant.get("/modules/sandbox")).json()["built_in"] is True
    for cursor in ("builtin-", "builtin-99", "builtin-x", "builtin--1"):
        assert (await tenant.get(f"/modules?cursor={cursor}")).status_code == 400


async def test_names_and_actions_belong_to_one_module(http: Http):
    tenant = await http.tenant()
    assert (await tenant.post("/modules", {"name": "a", "actions": [{"name": "x"}], "transport": HTTP})).status_code == 201
    for body, code in [
        ({"name": "a", "actions": [{"name": "y"}], "transport": HTTP}, "module-name-taken"),
        ({"name": "b", "actions": [{"name": "x"}], "transport": HTTP}, "action-taken"),
        ({"name": "sandbox", "actions": [{"name": "y"}], "transport": HTTP}, "module-name-taken"),
        ({"name": "b", "actions": [{"name": "build-docker-image"}], "transport": HTTP}, "action-taken"),
    ]:
        answer = await tenant.post("/modules", body)
        assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert (await tenant.request("DELETE", "/modules/sandbox")).status_code == 422


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "Not A Name"}, "/name"),
        ({"name": 7}, "/name"),
        ({"actions": []}, "/actions"),
        ({"actions": [{}]}, "/actions/0/name"),
        ({"actions": [{"name": "a"}, {"name": "a"}]}, "/actions/1/name"),
        ({"actions": [{"name": "a", "timeout": 0}]}, "/actions/0/timeout"),
        ({"actions": [{"name": "a", "timeout": "soon"}]}, "/actions/0/timeout"),
        ({"actions": [{"name": "a", "retry": 0}]}, "/actions/0/retry"),
        ({"actions": [{"name": "a", "retry": {"max_atempts": 2}}]}, "/actions/0/retry/max_atempts"),
        ({"actions": [{"name": "a", "input_schema": {"type": "strnig"}}]}, "/actions/0/input_schema/type"),
        ({"actions": [{"name": "a", "input_schema": {"not": {"type": 7}}}]}, "/actions/0/input_schema/not/type"),
        ({"actions": [{"name": "a", "output_schema": {"pattern": "("}}]}, "/actions/0/output_schema/pattern"),
        ({"actions": [{"name": "a", "input_schema": {"$schema": "https://example.com/x"}}]}, "/actions/0/input_schema/$schema"),
        ({"actions": [{"name": "a", "input_schema": {"$ref": "#/nowhere"}}]}, "/actions/0/input_schema"),
        ({"actions": [{"name": "a", "input_schema": True}]}, "/actions/0/input_schema"),
        ({"transport": {"type": "http"}}, "/transport/url"),
        ({"transport": "ftp://example.com"}, "/transport/url"),
        ({"transport": "file:///etc/passwd"}, "/transport/url"),
        ({"transport": "https://user:secret@example.com"}, "/transport/url"),
        ({"transport": {"type": "in-process"}}, "/transport/plugin"),
        ({"transport": {"type": "carrier-pigeon"}}, "/transport/type"),
        ({"transport": {"type": "http", "url": "https://example.com", "x": 1}}, "/transport/x"),
        ({"transport": 7}, "/transport"),
        ({"extra": 1}, "/extra"),
    ],
)
async def test_what_is_no_module_is_refused_with_the_place(http: Http, change: dict[str, Any], pointer: str):
    tenant = await http.tenant()
    answer = await tenant.post("/modules", {"name": "m", "actions": [{"name": "a"}], "transport": HTTP, **change})
    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


async def test_a_schema_that_refers_elsewhere_is_refused_and_nothing_is_fetched(http: Http):
    tenant = await http.tenant()
    place = f"{http.address}/metrics"
    before = http.platform.telemetry.exposition().count(b'route="/metrics"')
    for schema in (
        {"$ref": place}, {"properties": {"a": {"$ref": place}}}, {"$id": place, "$ref": "x"}, {"$dynamicRef": place},
        {"allOf": [{"$ref": "file:///etc/passwd"}]},
    ):  # fmt: skip
        module = {"name": "m", "actions": [{"name": "a", "input_schema": schema}], "transport": HTTP}
        answer = await tenant.post("/modules", module)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "remote-reference"), schema
    assert http.platform.telemetry.exposition().count(b'route="/metrics"') == before


async def test_the_transport_may_be_said_as_it_is_read(http: Http):
    tenant = await http.tenant()
    transport = {"kind": "http", "url": "https://example.com", "plugin": None}
    answer = await tenant.post("/modules", {"name": "m", "actions": [{"name": "a"}], "transport": transport})
    assert (answer.status_code, answer.json()["transport"]["url"]) == (201, "https://example.com")


async def test_a_change_names_the_module_it_is_about_if_any(http: Http):
    tenant = await http.tenant()
    await tenant.post("/modules", {"name": "m", "actions": [{"name": "a"}], "transport": HTTP})
    change = {"actions": [{"name": "b"}], "transport": HTTP}
    assert (await tenant.request("PUT", "/modules/m", json={**change, "name": "n"})).status_code == 422
    assert (await tenant.request("PUT", "/modules/n", json=change)).status_code == 404
    assert (await tenant.request("PUT", "/modules/m", json={**change, "name": "m"})).status_code == 200
