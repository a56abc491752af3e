# intent_ref: tests.kill-nine
"""Clients that execute intents whatever happens to the platform, and the promises that have to hold afterwards."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import orjson

from domain import execution, intent
from domain.documents import execution_document, intent_document
from domain.execution import Execution
from domain.execution_events import StepCompleted, StepFailed, StepStarted
from domain.intent import Intent
from domain.values import TenantId
from event_store.records import RecordedEvent
from event_store.store import EventStore
from event_store.tokens import encode_token
from quantum.embedded_postgres import DatabaseUrls
from tests.platforms import API, Served
from tests.waiting import wait_until

TENANTS = ("acme", "globex")
STEPS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"action": "build-docker-image"}, {"action": "push-to-registry"}, {"action": "deploy-to-kubernetes"}],
    "slow": [{"action": "run-tests", "sandbox": {"take": 0.2}}, {"action": "no-op"}, {"action": "wait", "seconds": 0.05}],
    "retried": [
        {"action": "build-docker-image"},
        {"action": "push-to-registry", "sandbox": {"fail": "once", "fail_attempts": 1, "take": 0.05},
         "retry": {"max_attempts": 3, "initial_interval": 0.1}},
        {"action": "deploy-to-kubernetes", "sandbox": {"take": 0.1}},
    ],
    "failing": [
        {"action": "build-docker-image", "sandbox": {"take": 0.05}},
        {"action": "push-to-registry", "sandbox": {"fail": "for good", "retryable": False}},
        {"action": "deploy-to-kubernetes"},
    ],
}  # fmt: skip
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Accepted:
    """What the platform has answered to a command: it may not forget it."""

    tenant: str
    kind: str
    path: str
    key: str
    body: dict[str, Any]
    id: str
    position: str


@dataclass
class Load:
    """Sends each command, under its key, until it is accepted. Each execution takes a permit, so that a test sets the pace.

    Clients take `platforms` in turn, and go to the next when one does not answer.
    """

    platforms: Sequence[Served]
    intents: int
    executions: int
    permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    clients: int = 16
    timeout_seconds: float = 15.0
    accepted: list[Accepted] = field(default_factory=list)
    sent_again: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.bearers = {tenant: self.platforms[0].bearer(tenant, roles=("tenant-admin",)) for tenant in TENANTS}
        self._work = list(range(self.intents))

    async def register(self) -> None:
        """The tenants."""
        admin = self.platforms[0].bearer("platform")
        async with httpx.AsyncClient(base_url=self.platforms[0].address, timeout=10) as client:
            for tenant in TENANTS:
                answer = await client.post(f"{API}/tenants", json={"id": tenant, "name": tenant}, headers=admin)
                assert answer.status_code == 201, answer.text

    def release(self, executions: int) -> None:
        """Lets that many executions start."""
        for _ in range(executions):
            self.permits.release()

    async def run(self) -> None:
        """All intents, each with its executions; ends when all are accepted."""
        async with asyncio.TaskGroup() as clients:
            for number in range(self.clients):
                clients.create_task(self._client(number))

    async def _client(self, client_number: int) -> None:
        async with httpx.AsyncClient(timeout=self.timeout_seconds) as client:
            while self._work:
                number = self._work.pop()
                tenant, kind = TENANTS[number % 2], list(STEPS)[number // 2 % len(STEPS)]
                body = {"name": f"intent-{number}", "definition": {"target": "production", "steps": STEPS[kind]}}
                created = await self._send(client, client_number, tenant, kind, "/intents", f"create-{number}", body)
                for repeat in range(self.executions // self.intents):
                    await self.permits.acquire()
                    path, key = f"/intents/{created.id}/execute", f"execute-{number}-{repeat}"
                    await self._send(client, client_number, tenant, kind, path, key, {"inputs": {"repeat": repeat}})

    async def _send(
        self, client: httpx.AsyncClient, turn: int, tenant: str, kind: str, path: str, key: str, body: dict[str, Any]
    ) -> Accepted:
        """Sends until it is accepted. Only what may be sent again may come instead: no answer, or 503."""
        headers = {**self.bearers[tenant], "Idempotency-Key": key}
        while True:
            address = self.platforms[turn % len(self.platforms)].address
            try:
                answer = await client.post(address + API + path, json=body, headers=headers)
            except httpx.TransportError as fault:
                turn += 1
                await self._pause(type(fault).__name__)
                continue
            if answer.status_code == 503:
                assert answer.headers["Retry-After"]
                await self._pause(answer.json()["code"])
                continue
            assert answer.status_code in (201, 202), (answer.status_code, answer.text)
            told = answer.json()
            identity = told.get("execution_id") or told["id"]
            one = Accepted(tenant, kind, path, key, body, identity, answer.headers["Quantum-Position"])
            self.accepted.append(one)
            return one

    async def _pause(self, why: str) -> None:
        self.sent_again[why] += 1
        await asyncio.sleep(_PAUSE_SECONDS)


async def promises_hold(load: Load, platform: Served, urls: DatabaseUrls, *, timeout_seconds: float = 60) -> None:
    """Reads the log itself, then the read models, and sends everything once more."""
    assert len(load.accepted) == load.intents + load.executions
    store = await EventStore.connect(app_dsn=urls.app_dsn, platform_dsn=urls.platform_dsn)
    try:
        log = await _whole_log(load, store, timeout_seconds)
    finally:
        await store.close()
    streams: dict[tuple[str, str], list[RecordedEvent]] = defaultdict(list)
    for event in log:
        streams[event.tenant_id, event.stream_id].append(event)
    for name, events in streams.items():
        assert [event.version for event in events] == list(range(1, len(events) + 1)), f"{name} is not dense"
    assert len({event.event_id for event in log}) == len(log)
    kinds = Counter(name.partition("-")[0] for _, name in streams)
    assert (kinds["execution"], kinds["intent"]) == (load.executions, load.intents), "a key led to more than one, or to none"
    assert len({one.id for one in load.accepted}) == load.executions + load.intents

    documents = await _read_models(load, platform)
    assert len(documents) == load.executions + load.intents
    for one in load.accepted:
        is_execution = one.path.endswith("/execute")
        events = streams[one.tenant, f"{'execution' if is_execution else 'intent'}-{one.id}"]
        assert one.position in {encode_token(event.position) for event in events}, "what was accepted is not in the log"
        tenant = TenantId(one.tenant)
        document = (
            execution_document(tenant, _as_it_should(one, events)) if is_execution
            else intent_document(tenant, cast("Intent", _folded(intent.evolve, events)))
        )  # fmt: skip
        assert documents[one.tenant, one.id] == orjson.loads(orjson.dumps(document)), "a read model differs from the log"
    await _same_answers(load, platform)


async def _whole_log(load: Load, store: EventStore, timeout_seconds: float) -> list[RecordedEvent]:
    """The log once every execution has ended."""

    async def ended() -> bool:
        count: int = await store.platform_pool.fetchval(
            "SELECT count(*) FROM quantum.events WHERE topic IN ('execution.completed.v1', 'execution.failed.v1')"
        )
        return count >= load.executions

    await wait_until(ended, timeout_seconds, what="all executions to end", every_seconds=0.1)
    log: list[RecordedEvent] = []
    while (page := await store.read_log(log[-1].position if log else 0, limit=1000)).events:
        log += page.events
    return log


def _as_it_should(one: Accepted, events: list[RecordedEvent]) -> Execution:
    """The execution's state, when its events are exactly those that its kind has."""
    state = cast("Execution", _folded(execution.evolve, events))
    decoded = [event.event for event in events]
    completed = Counter(event.step for event in decoded if isinstance(event, StepCompleted))
    failed = Counter(event.step for event in decoded if isinstance(event, StepFailed))
    started = Counter(event.step for event in decoded if isinstance(event, StepStarted))
    actions = [step["action"] for step in STEPS[one.kind]]
    if one.kind == "failing":
        assert (state.status, dict(completed), dict(failed)) == ("failed", {actions[0]: 1}, {actions[1]: 1}), one
        assert started == dict.fromkeys(actions[:2], 1)
        return state
    assert (state.status, dict(completed), dict(failed)) == ("completed", dict.fromkeys(actions, 1), {}), one
    assert started == dict.fromkeys(actions, 1)
    attempts = [state.runs[step.id].attempts for step in state.steps]
    assert attempts == ([1, 2, 1] if one.kind == "retried" else [1, 1, 1]), one
    return state


def _folded(evolve: Any, events: list[RecordedEvent]) -> Any:
    state = None
    for event in events:
        state = evolve(state, event.event)
    return state


async def _read_models(load: Load, platform: Served) -> dict[tuple[str, str], Any]:
    """Every intent and execution as the lists have them, once they have seen the whole log."""
    found: dict[tuple[str, str], Any] = {}

    async def settled(tenant: str) -> bool:
        answer = await client.get(f"{API}/executions", params={"status": "running"}, headers=load.bearers[tenant])
        return answer.status_code == 200 and not answer.json()["items"]

    async with httpx.AsyncClient(base_url=platform.address, timeout=10) as client:
        for tenant in TENANTS:
            await wait_until(lambda tenant=tenant: settled(tenant), 30, what="the read models to catch up")
            for kind in ("intents", "executions"):
                query: dict[str, str] | None = {"limit": "200"}
                while query is not None:
                    answer = await client.get(f"{API}/{kind}", params=query, headers=load.bearers[tenant])
                    assert answer.status_code == 200, answer.text
                    page = answer.json()
                    for item in page["items"]:
                        assert (tenant, item["id"]) not in found
                        found[tenant, item["id"]] = item
                    query = {"limit": "200", "cursor": page["next_cursor"]} if page["next_cursor"] else None
    return found


async def _same_answers(load: Load, platform: Served) -> None:
    """Every command once more, under its key: the first answer again."""
    async with httpx.AsyncClient(base_url=platform.address, timeout=10) as client:
        for one in load.accepted:
            headers = {**load.bearers[one.tenant], "Idempotency-Key": one.key}
            answer = await client.post(API + one.path, json=one.body, headers=headers)
            assert answer.headers["Idempotency-Replayed"] == "true"
            told = answer.json()
            assert (told.get("execution_id") or told["id"], answer.headers["Quantum-Position"]) == (one.id, one.position)
