# intent_ref: tests.projections
"""Random histories of tenants, intents, modules and executions, such as commands could have written."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from domain import execution, intent, module, tenant
from domain.execution_events import ExecutionStarted, ResourceProvisioned
from domain.module import Action, RetryPolicy, Transport
from domain.plan import PlannedStep
from domain.subscription import Start, SubscriptionCreated, Terms
from domain.values import (
    ActionName,
    ExecutionId,
    IntentId,
    ModuleName,
    SecretId,
    StepId,
    StreamId,
    SubscriptionId,
    TenantId,
    Version,
    execution_stream,
    intent_stream,
    modules_stream,
    tenant_stream,
)
from event_store import codec
from event_store.ids import uuid7
from event_store.records import ANY_VERSION, Metadata, NewEvent, StreamAppend
from event_store.store import EventStore
from tests.execution_histories import continuations, starts

BEGIN = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
METADATA = Metadata("correlation-1", None, "user-1", None)

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('"\\,{}\x1f\n\'NULL'), max_size=12
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
LABELS = st.dictionaries(TEXT, TEXT, max_size=3)
DEFINITIONS = st.dictionaries(TEXT, JSON, max_size=3)


@dataclass(frozen=True, slots=True)
class Happened:
    """One event, in whose tenant, on which stream."""

    tenant: int
    stream_id: StreamId
    event: codec.DomainEvent


def evolve_of(stream_id: str) -> Callable[[Any, Any], Any]:
    """The fold of the concept that a stream belongs to."""
    if stream_id == modules_stream():
        return module.evolve
    folds: dict[str, Callable[[Any, Any], Any]] = {
        "tenant": tenant.evolve,
        "intent": intent.evolve,
        "execution": execution.evolve,
    }
    return folds[stream_id.split("-", 1)[0]]


def states(history: Iterable[Happened]) -> dict[tuple[int, str], Any]:
    """The state of every stream after its events."""
    folded: dict[tuple[int, str], Any] = {}
    for happened in history:
        key = (happened.tenant, happened.stream_id)
        folded[key] = evolve_of(happened.stream_id)(folded.get(key), happened.event)
    return folded


@st.composite
def histories(draw: st.DrawFn, tenants: int = 3, events_max: int = 40) -> list[Happened]:
    """Events of several tenants, interleaved. Ids are the same in every tenant, so that one tenant's could pass for another's."""
    happened: list[Happened] = []
    folded: dict[tuple[int, str], Any] = defaultdict(lambda: None)
    at = BEGIN
    for _ in range(draw(st.integers(1, events_max))):
        at += timedelta(microseconds=draw(st.sampled_from([1, 1_000_000])))
        owner = draw(st.integers(0, tenants - 1))
        stream_id, events = draw(st.sampled_from([_tenant, _intent, _intent, _module, _execution, _execution]))(
            draw, owner, folded, at
        )
        for event in events:
            happened.append(Happened(owner, stream_id, event))
            folded[owner, stream_id] = evolve_of(stream_id)(folded[owner, stream_id], event)
    return happened


def _tenant(draw: st.DrawFn, owner: int, folded: Any, at: datetime) -> tuple[StreamId, list[Any]]:
    tenant_id = TenantId(f"t{owner}")
    stream_id = tenant_stream(tenant_id)
    if folded[owner, stream_id] is None:
        return stream_id, [tenant.TenantRegistered(tenant_id, draw(TEXT), at)]
    event_class = draw(st.sampled_from([tenant.TenantSuspended, tenant.TenantReactivated]))
    return stream_id, [tenant.TenantReactivated(tenant_id, at) if event_class is tenant.TenantReactivated
                       else tenant.TenantSuspended(tenant_id, draw(st.none() | TEXT), at)]  # fmt: skip


def _intent(draw: st.DrawFn, owner: int, folded: Any, at: datetime) -> tuple[StreamId, list[Any]]:
    intent_id = IntentId(draw(st.sampled_from(["i-1", "i-2"])))
    stream_id = intent_stream(intent_id)
    state = folded[owner, stream_id]
    if state is None:
        name, about = draw(TEXT), draw(st.none() | TEXT)
        return stream_id, [intent.IntentCreated(intent_id, name, draw(DEFINITIONS), about, draw(LABELS), at)]
    version = Version(len(state.versions) + 1)
    kind = draw(st.sampled_from(["revised", "revised", "rolled back", "deprecated", "activated", "archived"]))
    if kind == "revised":
        about = draw(st.none() | TEXT)
        return stream_id, [intent.IntentRevised(intent_id, version, draw(DEFINITIONS), about, draw(LABELS), at)]
    if kind == "rolled back":
        to = draw(st.integers(1, len(state.versions)))
        definition = state.version(to).definition
        return stream_id, [intent.IntentRolledBack(intent_id, version, Version(to), definition, at)]
    if kind == "archived":
        return stream_id, [intent.IntentArchived(intent_id, state.name, at)]
    return stream_id, [intent.IntentDeprecated(intent_id, at) if kind == "deprecated" else intent.IntentActivated(intent_id, at)]


def _module(draw: st.DrawFn, owner: int, folded: Any, at: datetime) -> tuple[StreamId, list[Any]]:
    name = ModuleName(draw(st.sampled_from(["m-1", "m-2"])))
    stream_id = modules_stream()
    state = folded[owner, stream_id]
    action = Action(
        ActionName(draw(TEXT)), draw(st.none() | DEFINITIONS), None, draw(st.sampled_from([None, 1.5, 300.0])),
        draw(st.sampled_from([None, RetryPolicy(3, 2.0)])),
    )  # fmt: skip
    transport = draw(st.sampled_from([Transport("http", url="https://example.org/x"), Transport("in-process", plugin="p")]))
    if state is None or name not in state.by_name:
        return stream_id, [module.ModuleRegistered(name, (action,), transport, at)]
    if draw(st.booleans()):
        return stream_id, [module.ModuleRemoved(name, at)]
    return stream_id, [module.ModuleChanged(name, (action,), transport, at)]


def _execution(draw: st.DrawFn, owner: int, folded: Any, at: datetime) -> tuple[StreamId, list[Any]]:
    execution_id = ExecutionId(draw(st.sampled_from(["e-1", "e-2"])))
    stream_id = execution_stream(execution_id)
    state = folded[owner, stream_id]
    if state is None:
        return stream_id, draw(starts(at, execution_id))
    return stream_id, draw(continuations(state, at))


async def record(store: EventStore, tenant_id: str, stream_id: str, *events: codec.DomainEvent) -> int:
    """Stores events on one stream, as one command would; gives the position to wait for."""
    new = [NewEvent(uuid7(), *codec.encode(event)) for event in events]
    part = StreamAppend(StreamId(stream_id), new, ANY_VERSION)
    return (await store.append(TenantId(tenant_id), [part], command_id=uuid7(), metadata=METADATA)).position


def created(intent_id: str, name: str = "deploy-web-app", **changes: Any) -> intent.IntentCreated:
    """An intent's first event."""
    facts: dict[str, Any] = {
        "definition": {"target": "production", "steps": [{"action": "build-docker-image", "image": "myapp:latest"}]},
        "description": None,
        "labels": {},
        "at": BEGIN,
    }
    return intent.IntentCreated(IntentId(intent_id), name, **{**facts, **changes})


def deprecated(intent_id: str) -> intent.IntentDeprecated:
    """An intent's deprecation."""
    return intent.IntentDeprecated(IntentId(intent_id), BEGIN)


def started(execution_id: str, **changes: Any) -> ExecutionStarted:
    """An execution's first event, of one step."""
    facts: dict[str, Any] = {
        "intent_id": IntentId("i-1"), "intent_name": "deploy-web-app", "version": Version(1), "target": "production",
        "inputs": {}, "at": BEGIN,
        "steps": (PlannedStep(StepId("build"), ActionName("act"), ModuleName("m-1"), (), {}, 300.0, RetryPolicy()),),
    }  # fmt: skip
    return ExecutionStarted(ExecutionId(execution_id), **{**facts, **changes})


def registered(name: str, *actions: str) -> module.ModuleRegistered:
    """A module's first event."""
    transport = Transport("http", url="https://example.org")
    return module.ModuleRegistered(ModuleName(name), tuple(Action(ActionName(action)) for action in actions), transport, BEGIN)


def provisioned(execution_id: str, step: str, kind: str, identity: str) -> ResourceProvisioned:
    """A resource that a step has made."""
    return ResourceProvisioned(ExecutionId(execution_id), StepId(step), kind, identity, {"size": 2}, BEGIN)


def subscribed(subscription_id: str) -> SubscriptionCreated:
    """A subscription's first event."""
    terms = Terms("https://hooks.example.org/x")
    return SubscriptionCreated(SubscriptionId(subscription_id), terms, Start(position=0), SecretId("secret-1"), BEGIN)
