# intent_ref: quantum.app
"""The composition root: the one place that knows all the parts and wires them for a role."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import httpx
import structlog
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

import read_api.executions
import read_api.intents
import read_api.modules
import read_api.tenants
import write_api.executions
import write_api.intents
import write_api.modules
import write_api.tenants
from access.gate import Gate
from access.http.dispatch import Dispatch
from access.http.edge import Edge
from access.http.handlers import install
from access.http.routing import describe, mount
from access.issuer import LocalIssuer
from access.keys import LocalKeys, RemoteKeys
from access.tenant_directory import TenantDirectory
from access.tokens import TokenVerifier, TrustedIssuer
from commands.handle import Shell
from domain.definition import Limits, Rules
from event_store.store import EventStore
from modules.catalogue import Caller, builtin, in_process
from modules.contract import InProcessModule
from modules.http import HttpModules
from modules.plugins import load_plugins
from projections.documents import DocumentReader
from projections.freshness import Freshness
from projections.runner import ProjectionRunner
from quantum.databases import Databases, connected, databases
from quantum.issuing import local_issuer
from quantum.settings import Settings
from quantum.telemetry import Telemetry
from read_api.health import health_router
from read_api.reading import ReadSide
from sagas.execution import ExecutionSaga
from sagas.execution import Limits as SagaLimits
from streaming.embedded import EmbeddedTransport
from streaming.relay import Relay

WRITES = frozenset({"all", "write-api"})
READS = frozenset({"all", "read-api"})
PROJECTS = frozenset({"all", "projector"})
EXECUTES = frozenset({"all", "worker", "saga"})
RELAYS = frozenset({"all", "relay"})
STOP_SECONDS_MAX = 20.0
CALL_GRACE_SECONDS = 3.0
"""What modules get to answer when the platform stops; what they answer later is asked again after the next start."""
_RESTART_SECONDS = 1.0

log = structlog.get_logger(__name__)


class NotInThisRelease(Exception):
    """A setting asks for something that this release does not have yet."""


@dataclass(frozen=True, slots=True)
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
    limits = Limits(steps_max=settings.steps_max, depth_max=settings.depth_max)
    return Rules(limits, settings.forbidden_targets)


@asynccontextmanager
async def platform(settings: Settings, report: Callable[[str], None] = lambda name: None) -> AsyncIterator[Platform]:
    """The platform in the role of `settings`, running; it stops in order at the end.

    Raises `SettingsError`-like exceptions with a sentence where it cannot start.
    """
    if settings.stream != "embedded":
        raise NotInThisRelease(f"QUANTUM_STREAM={settings.stream} is not in this release yet: leave it at `embedded`.")
    async with AsyncExitStack() as stack:
        telemetry = Telemetry()
        stack.callback(telemetry.close)
        issuer = local_issuer(settings)
        where = await stack.enter_async_context(databases(settings, report))
        store = await connected(where, settings)
        stack.push_async_callback(store.close)
        telemetry.observe_store(store)

        http = HttpModules(allow_private=settings.private_addresses_on)
        stack.push_async_callback(http.close)
        running = _in_process_modules(settings, http)
        shell = Shell(store, builtin(running), rules_of(settings))
        freshness = Freshness(store.tenant_pool)
        stack.push_async_callback(freshness.close)

        if settings.role in PROJECTS:
            projections = ProjectionRunner(store, freshness, batch_size=settings.projector_batch_events)
            telemetry.observe_projections(projections)
            projections.start()
            stack.push_async_callback(projections.close)
        stop = asyncio.Event()
        workers = await stack.enter_async_context(_supervised(stop))
        if settings.role in EXECUTES:
            transport = EmbeddedTransport(store)
            limits = SagaLimits(calls_max=settings.worker_concurrency, grace_seconds=CALL_GRACE_SECONDS)
            saga = ExecutionSaga(shell, transport, Caller(running, http).call, limits=limits, trace=telemetry.attempt)
            telemetry.observe_saga(saga, transport)
            workers("execution saga", lambda: saga.run(stop))
        if settings.role in RELAYS:
            relay = Relay(store, EmbeddedTransport(store))
            telemetry.observe_relay(relay, store)
            workers("relay", lambda: relay.run(stop))

        gate = await stack.enter_async_context(_gate(settings, store, issuer))
        reads = ReadSide(DocumentReader(store.tenant_pool), store.tenant_pool, store.platform_pool, freshness, store.last_written)
        api = _api(settings, shell, gate, reads, telemetry)
        app = telemetry.observed(Edge(Dispatch(api), request_bytes_max=settings.request_bytes_max))
        yield Platform(settings, where, store, app, api, telemetry, issuer)


def _in_process_modules(settings: Settings, http: HttpModules) -> dict[str, InProcessModule]:
    own = in_process(http, sandbox=settings.sandbox_on)
    taken = frozenset(own) | {action.name for part in own.values() for action in part.module.actions}
    plugins = load_plugins(taken=taken)
    for broken in plugins.broken:
        log.warning("a plug-in is broken and left out", plugin=broken.name, reason=broken.reason)
    return in_process(http, sandbox=settings.sandbox_on, plugins=plugins)


@asynccontextmanager
async def _gate(settings: Settings, store: EventStore, issuer: LocalIssuer) -> AsyncIterator[Gate]:
    trusted = [TrustedIssuer(issuer.issuer, issuer.audience, LocalKeys(issuer.jwks()))]
    async with httpx.AsyncClient() as client:
        if settings.auth_issuer is not None and settings.auth_jwks_url is not None:
            keys = RemoteKeys(settings.auth_jwks_url, client)
            trusted = [TrustedIssuer(settings.auth_issuer, settings.auth_audience, keys)]
        tenants = TenantDirectory(store)
        tenants.start()
        try:
            yield Gate(TokenVerifier(trusted, leeway_seconds=settings.auth_leeway_seconds), tenants)
        finally:
            await tenants.close()


def _api(settings: Settings, shell: Shell, gate: Gate, reads: ReadSide, telemetry: Telemetry) -> FastAPI:
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
    routers: list[APIRouter] = []
    if settings.role in WRITES:
        routers += [
            write_api.intents.intents_router(shell, gate),
            write_api.executions.executions_router(shell, gate),
            write_api.modules.modules_router(shell, gate),
            write_api.tenants.tenants_router(shell, gate),
        ]
    if settings.role in READS:
        routers += [
            read_api.intents.intents_router(reads, gate),
            read_api.executions.executions_router(reads, gate, shell.store),
            read_api.modules.modules_router(reads, gate, shell.builtin),
            read_api.tenants.tenants_router(reads, gate),
        ]
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
async def _supervised(stop: asyncio.Event) -> AsyncIterator[Callable[[str, Callable[[], Awaitable[None]]], None]]:
    """Starts what is given to it, and starts it again should it fail; at the end sets `stop` and waits a while for all."""
    tasks: list[asyncio.Task[None]] = []

    async def keep(name: str, run: Callable[[], Awaitable[None]]) -> None:
        while not stop.is_set():
            try:
                await run()
            except Exception as fault:
                log.error("a part failed and is started again", part=name, exc_info=fault)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RESTART_SECONDS):
                        await stop.wait()

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
