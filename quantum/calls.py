# intent_ref: quantum.calls
"""Wires what stands around a call to a module: secrets, callbacks, circuit breakers and the artifact store."""

import asyncio
import base64
import binascii
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from fastapi import APIRouter

import read_api.artifacts
import write_api.callbacks
from access.gate import Gate
from access.http.problems import unavailable
from access.http.request_keys import KeyedAnswers
from commands.handle import Shell
from domain.immutable import immutable
from domain.values import TenantId
from event_store.records import ArtifactsUnavailable
from modules.artifacts.files import FileArtifacts
from modules.artifacts.inputs import InputArtifacts
from modules.artifacts.store import ArtifactLimits, ArtifactStore, Opened
from modules.breaker import Breakers
from modules.callbacks import Callbacks
from modules.catalogue import Caller
from modules.contract import InProcessModule, ModuleError
from modules.http import HttpModules
from modules.key_files import KEY_BYTES, KeyUnusable, platform_key
from modules.secrets.environment import EnvironmentSecrets
from modules.secrets.resolving import SecretProvider, Secrets
from quantum.cli_secrets import secret_files
from quantum.issuing import keys_folder
from quantum.settings import Settings
from sagas.reactions import outcome_command_id
from sagas.signs_of_life import SignsOfLife
from streaming.waiting import first_of

SWEEP_SECONDS = 3_600.0

log = structlog.get_logger(__name__)


@immutable
class CallParts:
    """What a process needs to call modules, and to hear from them later."""

    secrets: Secrets
    callbacks: Callbacks
    breakers: Breakers
    artifacts: ArtifactStore
    artifact_bytes_max: int

    def inputs(self) -> "KeptInputs":
        """Where inputs go that are too large for the log."""
        return KeptInputs(InputArtifacts(self.artifacts))

    def http_modules(self, *, allow_private: bool) -> HttpModules:
        """Modules over HTTP, which may answer later."""
        return HttpModules(allow_private=allow_private, callbacks=self.callbacks, answer_bytes_max=self.artifact_bytes_max)

    def caller(self, running: dict[str, InProcessModule], http: HttpModules) -> Caller:
        """The one way to call any module."""
        return Caller(
            running, http, secrets=self.secrets, breakers=self.breakers, artifacts=self.artifacts,
            result_bytes_max=self.artifact_bytes_max,
        )  # fmt: skip


@asynccontextmanager
async def call_parts(settings: Settings) -> AsyncIterator[CallParts]:
    """The parts these settings ask for; what has connections is closed at the end. Raises `KeyUnusable`."""
    async with AsyncExitStack() as stack:
        files = secret_files(settings)
        providers: list[SecretProvider] = [files, EnvironmentSecrets(os.environ)]
        if settings.key_vault_url is not None:
            from quantum.key_vault import KeyVaultSecrets

            providers.append(await stack.enter_async_context(KeyVaultSecrets.at(settings.key_vault_url)))
        limits = ArtifactLimits(settings.artifact_bytes_max, settings.artifact_tenant_bytes_max)
        artifacts: ArtifactStore = FileArtifacts(settings.data_dir / "artifacts", limits)
        if settings.artifact_connection is not None:
            from quantum.blob_artifacts import BlobArtifacts

            connection = settings.artifact_connection.get_secret_value()
            blobs = BlobArtifacts.connected(connection, settings.artifact_container, limits)
            stack.push_async_callback(blobs.close)
            artifacts = blobs
        callbacks = Callbacks(callback_keys(settings), public_url(settings))
        yield CallParts(Secrets(providers), callbacks, Breakers(), artifacts, settings.artifact_bytes_max)


def public_url(settings: Settings) -> str:
    """How modules reach this platform, without a slash at the end."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - said, not listened on
    return f"http://{f'[{host}]' if host.count(':') > 1 and not host.startswith('[') else host}:{settings.port}"


def callback_keys(settings: Settings) -> list[bytes]:
    """The keys of callbacks: of the setting, the first of which signs, or the one in the data directory. Raises `KeyUnusable`."""
    if settings.callback_key is None:
        return [platform_key(keys_folder(settings.data_dir) / "callbacks.key")]
    try:
        keys = [base64.b64decode(part.strip(), validate=True) for part in settings.callback_key.get_secret_value().split(",")]
    except (binascii.Error, ValueError):
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise KeyUnusable(f"QUANTUM_CALLBACK_KEY should be {KEY_BYTES} bytes in base64, several with commas between.")
    return keys


def writing(shell: Shell, parts: CallParts, caller: Caller, keys: KeyedAnswers) -> list[APIRouter]:
    """The routes by which modules answer later."""
    found = write_api.callbacks.CallbackParts(parts.callbacks.verify, outcome_command_id, caller.settle, SignsOfLife(shell))
    return [write_api.callbacks.callbacks_router(shell, found, keys)]


def reading(gate: Gate, parts: CallParts) -> list[APIRouter]:
    """The routes that show what steps have stored beside the log."""
    return [read_api.artifacts.artifacts_router(gate, _ReadableArtifacts(parts.artifacts))]


async def sweep_artifacts(artifacts: ArtifactStore, days: float, stop: asyncio.Event) -> None:
    """Once an hour removes artifacts that are older than `days`, until `stop` is set."""
    while not stop.is_set():
        try:
            count = await artifacts.sweep(datetime.now(UTC) - timedelta(days=days))
            if count:
                log.info("old artifacts are removed", count=count)
        except ModuleError as fault:
            log.warning("old artifacts are removed later", fault=fault.message)
        await first_of(SWEEP_SECONDS, stop)


class KeptInputs:
    """The store as commands need it: what is away may be sent again, as with the log."""

    def __init__(self, artifacts: InputArtifacts) -> None:
        self._artifacts = artifacts

    @property
    def inline_bytes_max(self) -> int:
        """As `commands.kept_values.ValueStore` has it."""
        return self._artifacts.inline_bytes_max

    async def redeemed(self, tenant_id: TenantId, inputs: dict[str, Any]) -> dict[str, Any]:
        """As `commands.kept_values.ValueStore` has it."""
        try:
            return await self._artifacts.redeemed(tenant_id, inputs)
        except ModuleError as fault:
            raise ArtifactsUnavailable(fault.message) from fault

    async def kept(self, tenant_id: TenantId, value: Any, bytes_max: int) -> Any:
        """As `commands.kept_values.ValueStore` has it."""
        try:
            return await self._artifacts.kept(tenant_id, value, bytes_max)
        except ModuleError as fault:
            raise ArtifactsUnavailable(fault.message) from fault


class _ReadableArtifacts:
    """The store as routes need it: what is away is a problem document."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def open(self, tenant_id: str, artifact_id: str) -> Opened | None:
        try:
            return await self._store.open(tenant_id, artifact_id)
        except ModuleError as fault:
            raise unavailable("artifacts-unavailable", fault.message, retry_after_seconds=5) from fault
