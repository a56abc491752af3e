# intent_ref: quantum.app
"""The composition root: the one place that knows all the parts and wires them for a role."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import httpx
import structlog
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

import read_api.event_types
import read_api.events
import read_api.executions
import read_api.explanations
import read_api.intents
import read_api.modules
import read_api.resources
import read_api.tenants
import read_api.workflows
import write_api.approvals
import write_api.executions
import write_api.intents
import write_api.modules
import write_api.plans
import write_api.tenants
import write_api.workflows
from access.gate import Gate
from access.holding_limits import HoldingLimits
from access.http.dispatch import Dispatch
from access.http.edge import Edge
from access.http.handlers import install
from access.http.request_keys import KeyedAnswers
from access.http.routing import describe, mount
from access.issuer import LocalIssuer
from access.keys import LocalKeys, RemoteKeys
from access.tenant_directory import TenantDirectory
from access.tokens import TokenVerifier, TrustedIssuer
from commands.handle import Shell
from domain.definition import Limits, Rules
from domain.immutable import immutable
from event_store.codec import TOPICS, UPCASTERS
from event_store.store import EventStore
from modules.catalogue import Caller, builtin, in_process
from modules.contract import InProcessModule
from modules.http import HttpModules
from modules.plugins import load_plugins
from modules.secrets.keyring import Keyring
from projections.documents import DocumentReader
from projections.freshness import Freshness
from projections.runner import ProjectionRunner
from quantum import bulk, calls, circuits, limits, pulling, request_keys, starting, streams, sweeping, webhooks, work
from quantum.databases import Databases, connected, databases
from quantum.issuing import local_issuer
from quantum.settings import Settings
from quantum.step_commands import StepCommands
from quantum.telemetry import Telemetry
from read_api.event_feed import EventFeed
from read_api.health import health_router
from read_api.reading import ReadSide
from sagas.execution import ExecutionSaga
from sagas.execution import Limits as SagaLimits
from sagas.stalls import StallCheck
from sagas.work_bell import WorkBell
from streaming import cloud_events
from streaming.asyncapi import asyncapi_document
from streaming.event_types import event_types
from streaming.relay import Relay
from streaming.transport import Message
from streaming.waiting import first_of

WRITES = frozenset({"all", "write-api"})
READS = frozenset({"all", "read-api"})
PROJECTS = frozenset({"all", "projector"})
EXECUTES = frozenset({"all", "worker", "saga"})
RELAYS = frozenset({"all", "relay"})
DELIVERS = frozenset({"all", "worker", "webhooks"})
STOP_SECONDS_MAX = 20.0
RELAYED_TOGETHER = 1_000
CALL_GRACE_SECONDS = 3.0
"""What modules get to answer when the platform stops; what they answer later is asked again after the next start."""
_RESTART_SECONDS = 1.0

Workers = Callable[[str, Callable[[], Awaitable[None]]], None]
"""(name, what to run) -> it runs, and is started again should it fail."""

log = structlog.get_logger(__name__)


@immutable
class Platform:
    """What runs in this process. `app` is the HTTP application of its role."""

    settings: Settings
    databases: Databases
    store: EventStore
    app: ASGIApp
    api: FastAPI
    telemetry: Telemetry
    issuer: LocalIssuer


def rules_of(settings: Settings) -> Rules:
    """The rules for definitions that the settings make."""
    most = Limits(steps_max=settings.steps_max, depth_max=settings.depth_max)
    return Rules(most, settings.forbidden_targets)


@asynccontextmanager
async def platform(settings: Settings, report: Callable[[str], None] = lambda name: None) -> AsyncIterator[Platform]:
    """The platform in the role of `settings`, running; it stops in order at the end.

    Raises `SettingsError`-like exceptions with a sentence where it cannot start.
    """
    async with AsyncExitStack() as stack:
        telemetry = Telemetry()
        stack.callback(telemetry.close)
        issuer = local_issuer(settings)
        where = await stack.enter_async_context(databases(settings, report))
        store = await connected(where, settings)
        stack.push_async_callback(store.close)
        telemetry.observe_store(store)

        parts = await stack.enter_async_context(calls.call_parts(settings))
        http = parts.http_modules(allow_private=settings.private_addresses_on)
        stack.push_async_callback(http.close)
        step_commands = StepCommands(settings.step_commands)
        running = _in_process_modules(settings, http, step_commands.modules())
        caller = parts.caller(running, http)
        bell = await stack.enter_async_context(work.work_bell(store))
        tenants, start_limits = await stack.enter_async_context(limits.asked(settings, store))
        holding, descent = HoldingLimits(store.platform_pool), limits.descent(settings, store)
        shell = Shell(
            store, builtin(running), rules_of(settings), start_limits.may_start, parts.inputs(),
            may_hold=holding.may_hold, may_descend=descent.may_descend,
        )  # fmt: skip
        step_commands.use(shell)
        freshness = Freshness(store.tenant_pool)
        stack.push_async_callback(freshness.close)

        if settings.role in PROJECTS:
            projections = ProjectionRunner(store, freshness, batch_size=settings.projector_batch_events)
            telemetry.observe_projections(projections)
            projections.start()
            stack.push_async_callback(projections.close)
        stop = asyncio.Event()
        workers = await stack.enter_async_context(_supervised(stop))
        transport = await stack.enter_async_context(streams.stream(settings, store))
        telemetry.observe_stream(transport.statistics)
        if settings.role in EXECUTES:
            _execute(settings, shell, transport, caller, parts, bell, telemetry, workers, stop)
            starting.start(shell, transport, settings.event_source, telemetry, workers, stop)
        webhook_keys = webhooks.keyring(settings)
        if settings.role in DELIVERS:
            deliverer = webhooks.deliverer(settings, store, shell, webhook_keys)
            telemetry.observe_webhooks(deliverer)
            workers("webhooks", lambda: deliverer.run(stop))
        if settings.role in RELAYS:
            relay = Relay(store, transport, name=streams.relay_name(settings), batch_max=RELAYED_TOGETHER)
            telemetry.observe_relay(relay)
            workers("relay", lambda: relay.run(stop))

        gate = await stack.enter_async_context(_gate(settings, tenants, issuer, request_keys.answers(store)))
        feed = EventFeed(store, _outside(settings).frame)
        stack.push_async_callback(feed.close)
        reads = ReadSide(DocumentReader(store.tenant_pool), store.tenant_pool, store.platform_pool, freshness, store.last_written)
        api = _api(settings, shell, gate, reads, feed, telemetry, webhook_keys, parts, caller, bell)
        app = telemetry.observed(Edge(Dispatch(api), request_bytes_max=settings.request_bytes_max))
        yield Platform(settings, where, store, app, api, telemetry, issuer)


def _execute(
    settings: Settings, shell: Shell, transport: streams.MeasuredTransport, caller: Caller, parts: calls.CallParts,
    bell: WorkBell, telemetry: Telemetry, workers: Workers, stop: asyncio.Event,
) -> None:  # fmt: skip
    """The execution saga, what it goes by, the check that it forgets nothing, and the sweeping behind it."""
    limits.keep_rows(shell.store, transport, workers, stop)
    room = max(1, settings.worker_concurrency * 7 // 8)  # no tenant keeps the last places from the others
    most = SagaLimits(settings.worker_concurrency, room, CALL_GRACE_SECONDS, limits.installation(settings))
    saga = ExecutionSaga(shell, transport, caller.call, limits=most, trace=telemetry.attempt, offered=bell.offer)
    telemetry.observe_saga(saga)
    telemetry.observe_offered(bell)
    telemetry.observe_breakers(parts.breakers)
    circuits.keep_rows(shell.store, parts.breakers, workers, stop)
    workers("execution saga", lambda: saga.run(stop))
    stalls = StallCheck(shell, hearing=streams.hearing(settings, shell.store, transport))
    telemetry.observe_stalls(stalls)
    workers("stall check", lambda: stalls.run(stop))
    workers("sweeper", lambda: sweeping.sweep(settings, shell.store, stop))
    workers("artifact sweeper", lambda: calls.sweep_artifacts(parts.artifacts, settings.artifact_days, stop))


def _in_process_modules(
    settings: Settings, http: HttpModules, ours: dict[str, InProcessModule]
) -> dict[str, InProcessModule]:  # fmt: skip
    own = {**in_process(http, sandbox=settings.sandbox_on), **ours}
    taken = frozenset(own) | {action.name for part in own.values() for action in part.module.actions}
    plugins = load_plugins(taken=taken)
    for broken in plugins.broken:
        log.warning("a plug-in is broken and left out", plugin=broken.name, reason=broken.reason)
    return {**in_process(http, sandbox=settings.sandbox_on, plugins=plugins), **ours}


@asynccontextmanager
async def _gate(
    settings: Settings, tenants: TenantDirectory, issuer: LocalIssuer, keyed: KeyedAnswers
) -> AsyncIterator[Gate]:  # fmt: skip
    trusted = [TrustedIssuer(issuer.issuer, issuer.audience, LocalKeys(issuer.jwks()))]
    async with httpx.AsyncClient() as client:
        if settings.auth_issuer is not None and settings.auth_jwks_url is not None:
            keys = RemoteKeys(settings.auth_jwks_url, client)
            trusted = [TrustedIssuer(settings.auth_issuer, settings.auth_audience, keys)]
        yield Gate(TokenVerifier(trusted, leeway_seconds=settings.auth_leeway_seconds), tenants, keyed)


def _outside(settings: Settings) -> read_api.events.Outside:
    """How events look outside this installation: as CloudEvents from its source."""
    return read_api.events.Outside(
        lambda event: cloud_events.structured(Message.of(event), settings.event_source),
        cloud_events.type_of, cloud_events.stream_of, frozenset(TOPICS) | frozenset(UPCASTERS),
    )  # fmt: skip


def _api(
    settings: Settings, shell: Shell, gate: Gate, reads: ReadSide, feed: EventFeed, telemetry: Telemetry, webhook_keys: Keyring,
    parts: calls.CallParts, caller: Caller, bell: WorkBell,
) -> FastAPI:  # fmt: skip
    app = FastAPI(
        title="Quantum",
        version=version("quantum"),
        description="Orchestration for many tenants on one event log: intents say what should happen, executions do it.",
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    install(app)
    pulls = pulling.reader(settings, shell.store, feed)
    routers: list[APIRouter] = []
    if settings.role in WRITES:
        routers += [
            write_api.intents.intents_router(shell, gate),
            write_api.executions.executions_router(shell, gate),
            write_api.approvals.approvals_router(shell, gate),
            write_api.plans.plans_router(shell, gate),
            write_api.workflows.workflows_router(shell, gate),
            write_api.modules.modules_router(shell, gate),
            write_api.tenants.tenants_router(shell, gate),
            *bulk.writing(shell, gate, reads),
            *limits.writing(settings, shell, gate),
            *starting.writing(shell, gate),
            *webhooks.writing(shell, gate, webhook_keys),
            *pulling.writing(shell, gate, pulls),
            *calls.writing(shell, parts, caller, gate.keys),
            *work.writing(shell, gate, caller, bell, telemetry, limits.installation(settings)),
        ]
    if settings.role in READS:
        followers = read_api.events.follower_places()
        telemetry.observe_followers(followers)
        routers += [
            read_api.intents.intents_router(reads, gate),
            read_api.events.events_router(_outside(settings), gate, shell.store, feed, followers),
            read_api.event_types.event_types_router([one.document() for one in event_types()], gate),
            read_api.executions.executions_router(reads, gate, shell.store),
            read_api.explanations.explanations_router(gate, shell.store, installation=limits.installation(settings)),
            read_api.resources.resources_router(reads, gate),
            read_api.workflows.workflows_router(reads, gate),
            read_api.modules.modules_router(reads, gate, shell.builtin),
            read_api.tenants.tenants_router(reads, gate),
            webhooks.reading(reads, gate),
            pulling.reading(gate, shell.store, pulls),
            *limits.reading(settings, shell.store, gate),
            *starting.reading(shell.store, gate),
            *calls.reading(gate, parts),
        ]
    routers.append(read_api.event_types.asyncapi_router(lambda: asyncapi_document(event_types(), version=version("quantum"))))
    routers.append(health_router({"event-store": shell.store.horizon, "tenants": lambda: _answers(shell.store)}))
    mount(app, routers)

    async def metrics(request: Request) -> Response:
        """All metrics, as Prometheus text."""
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_route("/metrics", metrics, include_in_schema=False)
    describe(app)
    return app


async def _answers(store: EventStore) -> None:
    await store.tenant_pool.fetchval("SELECT 1")


@asynccontextmanager
async def _supervised(stop: asyncio.Event) -> AsyncIterator[Workers]:
    """Starts what is given to it, and starts it again should it fail; at the end sets `stop` and waits a while for all."""
    tasks: list[asyncio.Task[None]] = []

    async def keep(name: str, run: Callable[[], Awaitable[None]]) -> None:
        while not stop.is_set():
            try:
                await run()
            except Exception as fault:
                log.error("a part failed and is started again", part=name, exc_info=fault)
                await first_of(_RESTART_SECONDS, stop)

    def start(name: str, run: Callable[[], Awaitable[None]]) -> None:
        tasks.append(asyncio.create_task(keep(name, run), name=name))

    try:
        yield start
    finally:
        stop.set()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS_MAX)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
