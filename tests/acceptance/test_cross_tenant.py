# intent_ref: tests.cross-tenant
"""Every route, with two tenants' ids, names, keys, cursors and tokens mixed: nothing of one ever appears to the other."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from access.roles import ROLES
from commands.handle import Envelope, Shell, handle
from commands.intent import ArchiveIntent, CreateIntent
from domain.definition import Limits, Rules
from domain.module import Modules
from domain.values import IntentId, TenantId, execution_stream, intent_stream
from event_store.ids import uuid7
from modules.artifacts.files import FileArtifacts
from quantum.app import Platform
from tests.api_probe import Operation, assert_problem, operations_of, places, replaced, value_at
from tests.conftest import Database
from tests.http_platform import API, Http, Tenant, serving
from tests.waiting import wait_until
from write_api.writing import utc_now

KEYS = ("key-1", "key-2", "key-3")
_STREAM_SECONDS_MAX = 2.0


@dataclass
class Owned:
    """What one tenant has. `secrets` are in its data and nowhere else; `words` by kind go into others' requests."""

    tenant: Tenant
    canary: str
    values: dict[str, str] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    """The accepted bodies of its own requests."""

    @property
    def secrets(self) -> set[str]:
        """What may never be in an answer to somebody else, unless they have sent it themselves."""
        return {self.canary, *(value for name, value in self.values.items() if name.endswith("_id"))}


@dataclass
class World:
    """Three tenants on one platform; `victim` never acts."""

    http: Http
    operations: list[Operation]
    actors: list[Owned]
    victim: Owned

    @property
    def everybody(self) -> list[Owned]:
        return [*self.actors, self.victim]

    async def versions(self) -> dict[str, dict[str, int]]:
        """The version of every stream, by tenant, as people have brought it about: sagas may still be at work."""
        rows = await self.http.platform.store.platform_pool.fetch(
            "SELECT tenant_id, stream_id, max(version) AS version FROM quantum.events"
            " WHERE metadata ->> 'actor' NOT LIKE 'saga:%' GROUP BY 1, 2"
        )
        found: dict[str, dict[str, int]] = {owned.tenant.id: {} for owned in self.everybody}
        for row in rows:
            found.setdefault(row["tenant_id"], {})[row["stream_id"]] = row["version"]
        return found


@pytest.fixture(scope="module")
async def world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with serving(database, Path(tmp_path_factory.mktemp("data"))) as http:
        operations = operations_of((await http.client.get("/openapi.json")).json())
        owned = [await _owner(http, name) for name in ("alpha", "beta", "victim")]
        yield World(http, operations, owned[:2], owned[2])


async def _owner(http: Http, name: str) -> Owned:
    """A tenant that has something of everything, all of it marked."""
    tenant = Tenant(http, f"{name}-{uuid7().hex[-6:]}")
    canary = f"canary{uuid7().hex[-10:]}"
    admin = http.bearer("platform", roles=["platform-admin"])
    answer = await http.client.post(f"{API}/tenants", json={"id": tenant.id, "name": f"{name} {canary}"}, headers=admin)
    assert answer.status_code == 201, answer.text
    for more in ("", "-more"):
        module = {
            "name": f"module-{canary}{more}", "transport": f"https://example.com/{canary}",
            "actions": [{"name": f"action-{canary}{more}", "input_schema": {"title": canary}}],
        }  # fmt: skip
        assert (await tenant.post("/modules", module)).status_code == 201
    steps = [{"action": "no-op", "note": canary}, {"action": "notify", "sandbox": {"fail": canary, "retryable": False}}]
    described = {"description": f"about {canary}", "labels": {f"label-{canary}": canary}}
    intent = await tenant.intent(f"intent-{canary}", steps, **described)
    assert intent.status_code == 201, intent.text
    path = f"/intents/{intent.json()['id']}"
    started = await tenant.post(f"{path}/execute", {"inputs": {"secret-thing": canary}})
    for number in range(4):
        await tenant.intent(f"more-{number}-{canary}", [])
        await tenant.post(f"{path}/execute", {})
    execution_path = f"/executions/{started.json()['execution_id']}"

    async def ended() -> httpx.Response | None:
        shown = await tenant.get(execution_path)
        return shown if shown.status_code == 200 and shown.json()["status"] == "failed" else None

    assert canary in (await wait_until(ended, what="the execution to end")).text
    artifact = await FileArtifacts(http.platform.settings.data_dir / "artifacts").put(tenant.id, f'{{"a":"{canary}"}}'.encode())
    owned = Owned(tenant, canary)
    owned.values = {
        "tenant_id": tenant.id, "intent_id": intent.json()["id"], "execution_id": started.json()["execution_id"],
        "name": f"module-{canary}", "version": "1",
        "step": "no-op", "signal": f"signal-{canary}", "subscription_id": f"subscription-{canary}",
        "lease_token": f"lease-{canary}",
        "type": "quantum.intent.created.v1", "position": started.headers["Quantum-Position"],
        "token": "of-nobody", "artifact_id": artifact.id,
    }  # fmt: skip
    owned.tokens = [started.headers["Quantum-Position"], intent.headers["Quantum-Position"]]
    for listed in ("/intents?limit=1", "/executions?limit=1", "/modules?limit=1", f"{execution_path}/events?limit=1"):
        page = (await tenant.get(listed, after=started, headers={"Accept": "application/json"})).json()
        owned.cursors.append(page["next_cursor"])
    assert all(owned.cursors)
    return owned


@st.composite
def requests(draw: st.DrawFn, world: World, operation: Operation) -> dict[str, Any]:
    """A request to one operation, in the name of one tenant, with what belongs to others anywhere in it."""
    actor = draw(st.sampled_from(world.actors))
    owners = [one for one in world.everybody if one is not actor]
    other = draw(st.sampled_from(owners))

    def mixed(name: str) -> st.SearchStrategy[str]:
        return st.sampled_from([other.values[name], other.values[name], actor.values[name]])

    words = [other.canary, *other.values.values(), f"intent-{other.canary}", f"label-{other.canary}={other.canary}"]
    anything = st.sampled_from([*words, *other.cursors, *other.tokens, "active", "1", f"action-{other.canary}"])
    query = {name: draw(anything) for name in operation.query_names if draw(st.booleans())}
    if "cursor" in query:
        query["cursor"] = draw(st.sampled_from(other.cursors))
    if "limit" in query:
        query["limit"] = draw(st.sampled_from(["1", "200"]))
    headers = {"Accept": draw(st.sampled_from(["application/json", "text/event-stream", "*/*"]))}
    offered = {
        "X-Tenant-Id": st.sampled_from([other.tenant.id, actor.tenant.id]),
        "Idempotency-Key": st.sampled_from(KEYS),
        "If-Match": st.sampled_from(["*", '"1"', '"2"']),
        "If-None-Match": st.sampled_from(["*", '"1"']),
        "Last-Event-ID": st.sampled_from([*other.tokens, *actor.tokens]),
        "Quantum-Min-Position": st.sampled_from(other.tokens),
    }
    for name, values in offered.items():
        if (name in operation.header_names and draw(st.booleans())) or draw(st.integers(0, 9)) == 0:
            headers[name] = draw(values)
    covered = [actor, other] if draw(st.integers(0, 9)) == 0 else [actor]
    of_platform = not operation.path.startswith(f"{API}/tenants")
    roles = draw(st.lists(st.sampled_from(sorted(ROLES if of_platform else ROLES - {"platform-admin"})), min_size=1, max_size=2))
    body = operation.body
    if body is not None:
        for place in draw(st.lists(st.sampled_from(list(places(body))), max_size=2)):
            with contextlib.suppress(KeyError, IndexError, TypeError):
                if place and isinstance(value_at(body, place), str):
                    body = replaced(body, place, draw(anything))
    return {
        "actor": actor, "covered": covered, "roles": roles, "headers": headers, "query": query, "body": body,
        "path": operation.path.format(**{name: draw(mixed(name)) for name in operation.path_names}),
    }  # fmt: skip


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    phases=[Phase.generate],  # the failing request is in the message; making the 35 around it smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
async def test_whatever_is_mixed_into_a_request_nothing_of_another_tenant_is_told_or_changed(world: World, data: st.DataObject):
    for operation in world.operations:
        if not operation.is_public:
            await _told_nothing(world, operation, data.draw(requests(world, operation), label=str(operation)))


async def _told_nothing(world: World, operation: Operation, request: dict[str, Any]) -> None:
    actor: Owned = request["actor"]
    covered: Sequence[Owned] = request["covered"]
    token = world.http.token(*(one.tenant.id for one in covered), roles=request["roles"], subject="eve")
    headers = {**request["headers"], "Authorization": f"Bearer {token}"}
    may_see = covered if operation.path.startswith(f"{API}/tenants") else [_meant(covered, headers)]
    before = await world.versions()
    answer = await _answer(world.http.client, operation.method, request, headers)
    after = await world.versions()
    assert answer.status_code < 500, (answer.status_code, answer.text)
    sent = json.dumps([request["path"], request["query"], request["headers"], request["body"], actor.tenant.id])
    if answer.is_success and request["body"] is not None:
        for one in covered:  # what it has put there itself, it may read back later
            one.stored.append(json.dumps(request["body"]))
    sent += "".join(text for one in covered for text in one.stored)
    told = answer.text + repr(answer.headers.raw)
    for one in world.everybody:
        if one in may_see:
            continue
        shown = [secret for secret in one.secrets if secret in told and secret not in sent]
        assert not shown, f"{shown} of {one.tenant.id} in the answer {answer.status_code} {told[:2000]}"
        assert after[one.tenant.id] == before[one.tenant.id], f"{one.tenant.id} was changed by {actor.tenant.id}"
    is_about_tenants = operation.path.startswith(f"{API}/tenants")
    if headers.get("X-Tenant-Id", actor.tenant.id) not in {one.tenant.id for one in covered} and not is_about_tenants:
        assert answer.status_code == 403


def _meant(covered: Sequence[Owned], headers: dict[str, str]) -> Owned | None:
    """The tenant a request is about: the only one of its token, or the one that it names."""
    if (named := headers.get("X-Tenant-Id")) is not None:
        return next((one for one in covered if one.tenant.id == named), None)
    return covered[0] if len(covered) == 1 else None


async def _answer(client: httpx.AsyncClient, method: str, request: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    """The answer; of a stream what comes in a while."""
    content = None if request["body"] is None else orjson.dumps(request["body"])
    came = b""
    async with client.stream(
        method, request["path"], params=request["query"], headers=headers, content=content
    ) as answer:  # fmt: skip
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STREAM_SECONDS_MAX):
                async for chunk in answer.aiter_raw():
                    came += chunk
    return httpx.Response(answer.status_code, headers=answer.headers, content=came)


async def test_a_name_that_another_tenant_has_taken_is_free(world: World):
    alpha, beta = (one.tenant for one in world.actors)
    for body in ({"name": "shared-name", "definition": {"target": "t", "steps": []}},):
        first, second = await alpha.post("/intents", body), await beta.post("/intents", body)
        assert (first.status_code, second.status_code) == (201, 201)
        assert (await alpha.post("/intents", body)).json()["code"] == "intent-name-taken"
    module = {"name": "shared-module", "actions": [{"name": "shared-action"}], "transport": "https://example.com/x"}
    for tenant in (alpha, beta):
        registered = await tenant.post("/modules", module)
        assert registered.status_code == 201
        assert (await tenant.intent("uses-it", [{"action": "shared-action"}])).status_code == 201
    assert (await alpha.request("DELETE", "/modules/shared-module")).status_code == 204
    assert (await beta.get("/modules/shared-module", after=registered)).status_code == 200
    assert (await beta.intent("uses-it-still", [{"action": "shared-action"}])).status_code == 201


async def test_an_action_of_another_tenants_module_is_unknown_and_not_named(world: World):
    other = world.victim
    answer = await world.actors[0].tenant.intent("thief", [{"action": f"action-{other.canary}"[:-1]}])
    assert_problem(answer, 422)
    assert other.canary not in answer.text, "a suggestion came from another tenant's modules"


async def test_one_idempotency_key_is_another_command_in_each_tenant(world: World):
    alpha, beta = (one.tenant for one in world.actors)
    headers = {"Idempotency-Key": "the-very-same"}
    bodies = [{"name": f"keyed-{tenant.id}", "definition": {"target": "t", "steps": []}} for tenant in (alpha, beta)]
    answers = [
        await tenant.post("/intents", body, headers=headers) for tenant, body in zip((alpha, beta), bodies, strict=True)
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [201, 201]
    assert [answer.json()["name"] for answer in answers] == [body["name"] for body in bodies]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert "Idempotency-Replayed" not in answers[1].headers


async def test_ids_that_another_tenant_uses_are_mine_as_well_and_both_keep_their_own(world: World):
    """Ids come from the platform; here they are made to clash, as a bug or a restored backup could make them."""
    platform, other, mine = world.http.platform, world.victim, world.actors[0].tenant
    intent_id = IntentId(other.values["intent_id"])
    stolen_command = (await platform.store.read_stream(TenantId(other.tenant.id), intent_stream(intent_id)))[0].command_id
    created = CreateIntent(intent_id=intent_id, name="clash", definition={"target": "mine", "steps": []}, at=utc_now())
    envelope = Envelope(TenantId(mine.id), stolen_command, "eve", "c")
    outcome = await handle(_shell(platform), created, envelope)
    assert (outcome.version, outcome.replayed) == (1, False)
    theirs_before = (await other.tenant.get(f"/intents/{intent_id}")).json()
    position = await platform.store.horizon()

    async def shown() -> httpx.Response | None:
        answer = await mine.get(f"/intents/{intent_id}")
        return answer if answer.status_code == 200 else None

    assert (await wait_until(shown)).json()["name"] == "clash"
    archive = ArchiveIntent(intent_id=intent_id, at=utc_now())
    await handle(_shell(platform), archive, Envelope(TenantId(mine.id), uuid7(), "eve", "c"))
    assert position < await platform.store.horizon()

    async def archived() -> bool:
        return bool((await mine.get(f"/intents/{intent_id}")).json()["status"] == "archived")

    await wait_until(archived)
    assert (await other.tenant.get(f"/intents/{intent_id}")).json() == theirs_before
    for one, name in ((mine, "clash"), (other.tenant, theirs_before["name"])):
        listed = (await one.get("/intents", params={"name": name})).json()["items"]
        assert [item["id"] for item in listed] == [intent_id]
        versions = (await one.get(f"/intents/{intent_id}/versions")).json()["items"]
        assert [item["version"] for item in versions] == [1]


async def test_a_stream_of_events_never_carries_another_tenants_execution_of_the_same_id(world: World):
    other, mine = world.victim, world.actors[1].tenant
    for path in (f"/executions/{other.values['execution_id']}/events", f"/executions/{other.values['execution_id']}"):
        for accept in ("text/event-stream", "application/json"):
            answer = await mine.get(path, headers={"Accept": accept, "Last-Event-ID": other.tokens[1]})
            assert_problem(answer, 404)
            assert other.canary not in answer.text
    stream = execution_stream(other.values["execution_id"])  # type: ignore[arg-type]
    assert await world.http.platform.store.read_stream(TenantId(mine.id), stream) == []


async def test_a_cursor_of_another_tenant_is_refused(world: World):
    mine = world.actors[0].tenant
    for path, cursor in zip(("/intents", "/executions", "/modules"), world.victim.cursors, strict=False):
        assert_problem(await mine.get(f"{path}?limit=1&cursor={cursor}"), 400)


async def test_search_finds_nothing_of_others_whatever_is_asked(world: World):
    mine, other = await world.http.tenant(), world.victim  # the actors may have sent the words themselves by now
    hostile = (
        other.canary, other.canary[:8], f'"{other.canary}"', f"{other.canary} OR x", f"={other.tenant.id}",
        f"@intent-{other.canary}", f"#label-{other.canary}", "' | '" + other.canary, f"{other.canary}:*", "* OR 1=1",
        f"x' | '={other.tenant.id}", "-x", "!x",
        f"\\' | {other.canary}", "a\nb", f"about {other.canary} & !x",
    )  # fmt: skip
    for query in hostile:
        for parameter in ("q", "name", "label"):
            answer = await mine.get("/intents", params={parameter: query, "limit": "200"})
            assert answer.status_code in (200, 422), answer.text
            assert answer.status_code == 422 or {item["tenant_id"] for item in answer.json()["items"]} <= {mine.id}
            assert answer.status_code == 422 or other.canary not in answer.text
    assert (await other.tenant.get("/intents", params={"q": other.canary})).json()["items"], "the query would find it"


async def test_what_serves_everybody_names_nobody(world: World):
    for path in ("/metrics", "/health/ready", "/health/live", "/openapi.json", "/docs"):
        answer = await world.http.client.get(path)
        assert answer.status_code == 200
        for one in world.everybody:
            assert not [secret for secret in one.secrets if secret in answer.text], path


async def test_connections_go_back_to_the_pool_without_a_tenant(world: World):
    pool = world.http.platform.store.tenant_pool
    await asyncio.gather(*(one.tenant.get(f"/intents/{one.values['intent_id']}") for one in world.everybody * 10))
    await asyncio.gather(*(one.tenant.get("/intents", params={"q": one.canary}) for one in world.everybody * 10))
    connections = [await pool.acquire() for _ in range(pool.get_max_size())]
    try:
        for connection in connections:
            assert await connection.fetchval("SELECT quantum.current_tenant()") is None
            assert not await connection.fetchval("SELECT current_setting('app.batch_tenants', true)")
    finally:
        for connection in connections:
            await pool.release(connection)


def _shell(platform: Platform) -> Shell:
    return Shell(platform.store, Modules({}), Rules(Limits(), ()))
