# intent_ref: modules.catalogue
"""The modules that come with the platform, and the one way to call any module."""

from collections.abc import Awaitable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import structlog

from domain.module import Action, Module, Modules, Transport
from modules.artifacts.claim_check import checked_in, checked_out, claims_in
from modules.artifacts.store import ArtifactStore
from modules.breaker import Breakers
from modules.callbacks import Settled
from modules.contract import Deferred, InProcessModule, Invocation, ModuleError, Plugins
from modules.http import HttpModules
from modules.results import RESULT_BYTES_MAX, storable, storable_error
from modules.sandbox import Sandbox
from modules.schemas import Schemas
from modules.secrets.redaction import Redaction
from modules.secrets.resolving import Resolved, Secrets

log = structlog.get_logger(__name__)


def in_process(http: HttpModules, *, sandbox: bool, plugins: Plugins | None = None) -> dict[str, InProcessModule]:
    """Everything that runs inside this process, by name: `http`, the sandbox where it is on, and the plug-ins."""
    found: dict[str, InProcessModule] = {http.module.name: http}
    if sandbox:
        box = Sandbox()
        found[box.module.name] = box
    return {**(plugins.found if plugins is not None else {}), **found}


def builtin(running: Mapping[str, InProcessModule]) -> Modules:
    """What every tenant can use without registering it: the modules of `in_process`."""
    return Modules({name: replace(part.module, transport=Transport("in-process", plugin=name)) for name, part in running.items()})


class Caller:
    """Calls a module wherever it is, and holds what goes in and comes out against the action's schemas.

    With `secrets`, references in parameters become values for the call, and are kept out of whatever comes of it. With
    `breakers`, an endpoint that keeps failing is left alone for a while. With `artifacts`, results over 256 KiB (and up to
    `result_bytes_max`) leave a claim, and modules get the values that claims among their parameters stand for.
    """

    def __init__(
        self, running: Mapping[str, InProcessModule], http: HttpModules, *, secrets: Secrets | None = None,
        breakers: Breakers | None = None, artifacts: ArtifactStore | None = None, result_bytes_max: int = RESULT_BYTES_MAX,
    ) -> None:  # fmt: skip
        self._running, self._http, self._schemas = running, http, Schemas()
        self._secrets, self._breakers = secrets, breakers
        self._artifacts, self._result_bytes_max = artifacts, result_bytes_max

    async def call(self, module: Module, invocation: Invocation) -> Any:
        """The module's result as plain JSON, or `Deferred`; raises `ModuleError` and nothing else (but for being cancelled)."""
        action = module.action(invocation.action)
        if action is None:
            raise _without(module, invocation.action)
        known = Resolved(invocation.parameters)
        if invocation.parameters:
            known = await self._known(invocation.tenant_id, invocation.parameters, invocation.authored)
        used, signing_secret = known.used, None
        if module.transport.secret is not None:
            signing_secret = await self._signing_secret(module, module.transport.secret, invocation.tenant_id)
            used = used.with_values(dict.fromkeys(signing_secret.split(), "signature"))
        filled = replace(invocation, parameters=known.parameters) if known.used else invocation
        with used.in_force():
            try:
                if self._artifacts is not None and _has_claims(filled):
                    filled = await _with_artifacts(self._artifacts, filled)
                self._schemas.check(
                    action.input_schema, filled.parameters, code="input-invalid", what="The step's parameters", retryable=False
                )  # fmt: skip
                result = await self._reach(module, filled, signing_secret)
                if isinstance(result, Deferred):
                    return result
                result = self._judged(action, result, used)
                if self._artifacts is None or result is None:
                    return result
                return await checked_in(self._artifacts, invocation.tenant_id, result)
            except ModuleError as error:
                fault = error
            except Exception as crash:
                log.warning("a module crashed", module=module.name, action=invocation.action, fault=type(crash).__name__)
                message = f"The module {module.name!r} crashed: {type(crash).__name__}: {str(crash)[:500]}"
                if not used:
                    raise ModuleError("module-crashed", message) from crash
                fault = ModuleError("module-crashed", message)
        if not used:
            raise fault
        raise _redacted(fault, used)  # outside the handler: a chained exception would carry what this one leaves out

    async def prepared(self, module: Module, invocation: Invocation) -> Invocation:
        """The invocation with all that a worker needs who fetches it: secrets, artifacts. Raises `ModuleError`, as `call`."""
        action = module.action(invocation.action)
        if action is None:
            raise _without(module, invocation.action)
        known = await self._known(invocation.tenant_id, invocation.parameters, invocation.authored)
        try:
            filled = replace(invocation, parameters=known.parameters) if known.used else invocation
            if self._artifacts is not None and _has_claims(filled):
                filled = await _with_artifacts(self._artifacts, filled)
            self._schemas.check(
                action.input_schema, filled.parameters, code="input-invalid", what="The step's parameters", retryable=False
            )  # fmt: skip
            return filled
        except ModuleError as error:
            fault = error
        raise _redacted(fault, known.used)  # outside the handler, as in `call`

    async def settle(
        self, tenant_id: str, module: Module, action_name: str, authored: Any, *, result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> Settled:  # fmt: skip
        """What a module sent by callback (`error`: code, message, retryable, details), judged as if it had answered at once.

        `authored` are the step's parameters as the definition has them: what they refer to is kept out of the outcome.
        """
        action = module.action(action_name)
        try:
            used = (await self._known(tenant_id, authored, authored)).used
        except ModuleError as fault:
            if fault.code == "secret-unavailable":
                return Settled(try_again=fault.message)
            used = Redaction({})  # what has been deleted cannot be recognised any more
        try:
            if error is not None:
                raise ModuleError(
                    str(error["code"]), str(error["message"]), retryable=bool(error.get("retryable", True)),
                    details=error.get("details"),
                )  # fmt: skip
            if action is None:
                raise _without(module, action_name)
            result = self._judged(action, result, used)
            if self._artifacts is not None:
                result = await checked_in(self._artifacts, tenant_id, result)
            return Settled(result=result)
        except ModuleError as fault:
            clean = _redacted(fault, used)
            if error is None and clean.code == "artifact-unavailable":
                return Settled(try_again=clean.message)
            return Settled(error=storable_error(clean), retryable=clean.retryable)

    def _judged(self, action: Action, result: Any, used: Redaction) -> Any:
        """The result as it may be stored, with nothing in it that must not be. Raises `ModuleError`."""
        result = used.value(storable(result, self._result_bytes_max))
        self._schemas.check(action.output_schema, result, code="output-invalid", what="The module's result", retryable=True)
        return result

    async def _known(self, tenant_id: str, parameters: Any, authored: Any) -> Resolved:
        if self._secrets is None:
            return Resolved(parameters)
        return await self._secrets.resolve(tenant_id, parameters, authored=authored)

    async def _signing_secret(self, module: Module, reference: str, tenant_id: str) -> str:
        if self._secrets is None:
            message = f"The module {module.name!r} wants signed requests, and this process has no secrets."
            raise ModuleError("secret-unavailable", message)
        return await self._secrets.reveal(tenant_id, reference)

    def _reach(self, module: Module, invocation: Invocation, signing_secret: str | None) -> Awaitable[Any]:
        """What is to be awaited for the answer. Raises `ModuleError` where the module is nowhere to be reached."""
        transport = module.transport
        if transport.kind == "http":
            if transport.url is None:
                raise ModuleError("module-unavailable", f"The module {module.name!r} has no URL.")
            return self._asked(transport.url, invocation, signing_secret)
        if transport.kind == "pull":
            raise ModuleError("module-unavailable", f"Workers fetch the work of the module {module.name!r}; it cannot be called.")
        plugin = self._running.get(transport.plugin or module.name)
        if plugin is None:
            raise ModuleError("module-unavailable", f"The module {module.name!r} is not installed in this process.")
        return plugin.call(invocation)

    async def _asked(self, url: str, invocation: Invocation, signing_secret: str | None) -> Any:
        with nullcontext() if self._breakers is None else self._breakers.guarding(invocation.tenant_id, url):
            return await self._http.ask(url, invocation, signing_secret)


def _has_claims(invocation: Invocation) -> bool:
    return bool(invocation.parameters and claims_in(invocation.parameters)) or bool(
        invocation.inputs and claims_in(invocation.inputs)
    )


async def _with_artifacts(store: ArtifactStore, invocation: Invocation) -> Invocation:
    parameters = await checked_out(store, invocation.tenant_id, invocation.parameters)
    inputs = await checked_out(store, invocation.tenant_id, invocation.inputs)
    return replace(invocation, parameters=parameters, inputs=inputs)


def _without(module: Module, action: str) -> ModuleError:
    return ModuleError("module-unavailable", f"The module {module.name!r} has no action {action!r} any more.")


def _redacted(error: ModuleError, used: Redaction) -> ModuleError:
    return ModuleError(
        used.text(str(error.code)), used.text(str(error.message)), retryable=error.retryable, details=used.value(error.details),
        counts=error.counts,
    )  # fmt: skip
