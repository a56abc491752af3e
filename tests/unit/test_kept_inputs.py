# intent_ref: commands.kept-inputs
"""Inputs that are too large for the log: what is stored apart, what a schema is held against, what expressions may do with it."""

from typing import Any

import orjson
import pytest

from commands.execution_commands import StartExecution
from commands.execution_start import Start, begun, startable
from commands.expressions import ExpressionFailed, evaluate
from commands.kept_inputs import judged_inputs, recorded_inputs
from domain import intent as intents
from domain.definition import Limits, Rules
from domain.execution_events import ExecutionStarted, StepFailed, StepSkipped
from domain.intent import IntentCreated
from domain.refusals import ArtifactQuotaReached, Invalid
from domain.values import ExecutionId, IntentId, TenantId
from modules.artifacts.claim_check import claims_in
from modules.artifacts.inputs import InputArtifacts, large_members
from modules.artifacts.store import (
    JSON,
    UNLESS_SAID,
    Artifact,
    ArtifactLimits,
    Opened,
    check_place,
    check_size,
    described,
    unknown,
)
from modules.contract import ModuleError
from tests import artifact_contract as promised
from tests.unit.samples import AT, modules_of

TENANT = TenantId("tenant-123")
MODULES = modules_of(sandbox=("build", "tell"))
BIG = {"rows": ["größe" * 50] * 1_200}


class Kept:
    """An artifact store in a dictionary, under the contract of all of them."""

    def __init__(self, limits: ArtifactLimits = UNLESS_SAID) -> None:
        self.by_place: dict[tuple[str, str], bytes] = {}
        self.limits, self.puts = limits, 0

    async def put(self, tenant_id: str, data: bytes, content_type: str = JSON) -> Artifact:
        artifact = described(data, content_type)
        check_size(len(data), sum(map(len, self.by_place.values())), self.limits)
        self.by_place[tenant_id, artifact.id] = data
        self.puts += 1
        return artifact

    async def get(self, tenant_id: str, artifact_id: str) -> bytes:
        if (tenant_id, artifact_id) not in self.by_place:
            raise unknown(artifact_id)
        return self.by_place[tenant_id, artifact_id]

    async def open(self, tenant_id: str, artifact_id: str) -> Any:
        data = self.by_place.get((tenant_id, artifact_id)) if check_place(tenant_id, artifact_id) else None
        if data is None:
            return None

        async def chunks() -> Any:
            yield data

        return Opened(described(data), chunks())

    async def delete(self, tenant_id: str, artifact_id: str) -> bool:
        return self.by_place.pop((tenant_id, artifact_id), None) is not None

    async def sweep(self, older_than: Any) -> int:
        return 0


def start(inputs: dict[str, Any], schema: dict[str, Any] | None = None, *steps: Any) -> tuple[Start, StartExecution]:
    """An intent with this schema that is to be started with these inputs."""
    definition = {"target": "t", "steps": list(steps) or [{"action": "build"}], **({"inputs": schema} if schema else {})}
    intent = intents.evolve(None, IntentCreated(IntentId("i"), "i", definition, None, {}, AT))
    command = StartExecution(execution_id=ExecutionId("e"), intent_id=IntentId("i"), inputs=inputs, tenant_id=TENANT, at=AT)
    return startable(intent, command, MODULES, Rules(Limits(), ())), command


async def recorded(inputs: dict[str, Any], schema: dict[str, Any] | None, store: Kept, tenant: str = TENANT) -> dict[str, Any]:
    return await recorded_inputs(*start(inputs, schema), InputArtifacts(store), TenantId(tenant))


async def claim_to(store: Kept, value: Any, tenant: str = TENANT) -> dict[str, Any]:
    return (await InputArtifacts(store).kept(TenantId(tenant), {"value": value}))["value"]


async def test_the_store_of_these_tests_is_one_like_the_others():
    await promised.check_tenants_do_not_meet(Kept())
    await promised.check_claims(Kept())


def test_the_largest_members_give_way_until_the_rest_is_small():
    assert large_members({"a": "x" * 100, "b": "y" * 10}, 1_000) == frozenset()
    inputs = {"small": 1, "a": "x" * 200_000, "b": "y" * 300_000, "c": "z" * 10_000}
    assert large_members(inputs, 262_144) == {"b"}
    assert large_members({**inputs, "d": "w" * 280_000}, 262_144) == {"b", "d"}


def test_many_small_members_go_together_as_one():
    assert large_members({f"k{number}": "x" * 100 for number in range(5_000)}, 262_144) is None
    assert large_members({f"k{number}": "x" * 20_000 for number in range(50)}, 262_144) is None


async def test_small_inputs_stay_as_they_are_and_nothing_is_stored():
    store = Kept()
    assert await recorded({"a": 1}, None, store) == {"a": 1}
    assert await recorded({}, None, store) == {}
    assert store.puts == 0


async def test_what_is_large_leaves_a_claim_and_what_is_small_stays_to_be_seen():
    store = Kept()
    found = await recorded({"replicas": 3, "big": BIG}, None, store)
    assert found["replicas"] == 3
    assert found["big"]["$artifact"]["size"] == len(orjson.dumps(BIG))
    assert await InputArtifacts(store).redeemed(TENANT, found) == {"replicas": 3, "big": BIG}
    assert len(orjson.dumps(found)) < 1_000


async def test_the_same_inputs_again_leave_the_same_claims_and_no_orphan():
    store = Kept()
    many = {f"k{number}": "x" * 100 for number in range(5_000)}
    for inputs in ({"big": BIG, "n": 1}, many):
        before = await recorded(inputs, None, store)
        held = dict(store.by_place)
        assert await recorded(inputs, None, store) == before
        assert store.by_place == held
    assert set(before) == {"$artifact"}


async def test_the_schema_is_held_against_the_real_value_and_a_refusal_stores_nothing():
    store = Kept()
    schema = {"properties": {"big": {"type": "object", "required": ["rows"], "properties": {"rows": {"type": "array"}}}}}
    found = await recorded({"big": BIG}, schema, store)
    assert set(found["big"]) == {"$artifact"}
    empty = Kept()
    with pytest.raises(Invalid) as raised:
        await recorded({"big": {"row": BIG["rows"]}}, schema, empty)
    assert raised.value.faults[0].pointer.startswith("/inputs")
    assert empty.puts == 0


async def test_a_claim_among_inputs_is_judged_by_what_it_stands_for_and_recorded_as_it_is():
    store = Kept()
    claim = await claim_to(store, BIG)
    rows = {"type": "object", "required": ["rows"], "properties": {"rows": {"type": "array", "maxItems": 1_200}}}
    puts = store.puts
    assert await recorded({"big": claim}, {"properties": {"big": rows}}, store) == {"big": claim}
    assert store.puts == puts
    short = {**rows, "properties": {"rows": {"type": "array", "maxItems": 5}}}
    with pytest.raises(Invalid):
        await recorded({"big": claim}, {"properties": {"big": short}}, store)


async def test_defaults_go_into_the_value_and_never_into_its_claim():
    store = Kept()
    claim = await claim_to(store, BIG)
    schema = {"properties": {"big": {"type": "object", "properties": {"depth": {"default": 7}}}, "n": {"default": 1}}}
    found = await recorded({"big": claim, "a": 2}, schema, store)
    assert (found["n"], found["a"], set(found["big"])) == (1, 2, {"$artifact"})
    assert (await InputArtifacts(store).redeemed(TENANT, found))["big"] == {**BIG, "depth": 7}


async def test_what_is_stored_has_no_claim_inside():
    store = Kept()
    claim = await claim_to(store, BIG)
    found = await recorded({"both": {"claim": claim, "more": ["y" * 1_000] * 300}}, None, store)
    assert claims_in(orjson.loads(await store.get(TENANT, found["both"]["$artifact"]["id"]))) == []
    assert (await InputArtifacts(store).redeemed(TENANT, found))["both"]["claim"] == BIG


@pytest.mark.parametrize("forged", [{"id": "0" * 64}, {"id": "../secrets"}, {"size": 1}, {"size": None}])
async def test_a_forged_claim_and_that_of_another_tenant_are_refused_by_the_schema(forged: dict[str, Any]):
    store = Kept()
    claim = await claim_to(store, BIG)
    schema = {"properties": {"big": {}}}
    with pytest.raises(Invalid) as raised:
        await recorded({"big": {"$artifact": {**claim["$artifact"], **forged}}}, schema, store)
    assert raised.value.faults[0].code in ("artifact-unknown", "artifact-corrupt")
    with pytest.raises(Invalid) as raised:
        await recorded({"big": claim}, schema, store, "tenant-456")
    assert raised.value.faults[0].code == "artifact-unknown"


async def test_inputs_that_are_a_claim_to_a_list_are_no_inputs():
    store = Kept()
    claim = await claim_to(store, [1] * 200_000)
    with pytest.raises(Invalid):
        await recorded(claim, {"properties": {}}, store)


async def test_a_full_store_refuses_the_start_and_one_that_is_away_may_be_asked_again():
    with pytest.raises(ArtifactQuotaReached):
        await recorded({"big": BIG}, None, Kept(ArtifactLimits(tenant_bytes_max=1_000)))
    with pytest.raises(Invalid) as raised:
        await recorded({"big": BIG}, None, Kept(ArtifactLimits(artifact_bytes_max=1_000)))
    assert raised.value.faults[0].code == "artifact-too-large"

    class Away(Kept):
        async def put(self, tenant_id: str, data: bytes, content_type: str = JSON) -> Artifact:
            raise ModuleError("artifact-unavailable", "It does not answer.")

    with pytest.raises(ModuleError):
        await recorded({"big": BIG}, None, Away())


async def test_a_plan_judges_claims_and_stores_nothing():
    store = Kept()
    assert await judged_inputs(*start({"big": BIG}), InputArtifacts(store), TENANT) == {"big": BIG}
    assert store.puts == 0


@pytest.mark.parametrize(
    "expression",
    [
        "inputs.big.rows",
        "inputs.big.rows[0]",
        "size(inputs.big)",
        "inputs.big.map(r, r)",
        "has(inputs.big.rows)",
        "'x' in inputs.big",
    ],
)
async def test_an_expression_that_looks_inside_an_artifact_says_so(expression: str):
    inputs = await recorded({"big": BIG}, None, Kept())
    with pytest.raises(ExpressionFailed, match="bytes and lies beside the log as an artifact"):
        evaluate(f"${{{{ {expression} }}}}", {"inputs": inputs})


async def test_an_artifact_is_handed_on_whole_and_its_claim_can_be_read():
    inputs = await recorded({"big": BIG, "n": 2}, None, Kept())
    given = {"all": "${{ inputs.big }}", "n": "${{ inputs.n }}", "size": "${{ inputs.big['$artifact'].size }}"}
    assert evaluate(given, {"inputs": inputs}) == {"all": inputs["big"], "n": 2, "size": len(orjson.dumps(BIG))}


async def test_steps_decide_on_what_is_recorded():
    steps = [
        {"id": "inside", "action": "build", "depends_on": [], "when": "inputs.big.rows == []", "on_failure": "continue"},
        {"id": "beside", "action": "build", "depends_on": [], "when": "inputs.n == 3"},
        {"id": "loop", "action": "build", "depends_on": [], "foreach": "${{ inputs.list }}", "on_failure": "continue"},
    ]
    begin, command = start({"big": BIG, "n": 2, "list": ["y" * 1_000] * 400}, None, *steps)
    inputs = await recorded_inputs(begin, command, InputArtifacts(Kept()), TENANT)
    events = begun(begin, command, inputs).events
    (started,) = [event for event in events if isinstance(event, ExecutionStarted)]
    assert started.inputs == inputs
    failed = {event.step: event.error for event in events if isinstance(event, StepFailed)}
    assert "as an artifact" in failed["inside"]["message"]
    assert "an artifact" in failed["loop"]["message"]
    assert [event.step for event in events if isinstance(event, StepSkipped)] == ["beside"]
