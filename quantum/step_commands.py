# intent_ref: quantum.step-commands
"""What steps may do to the platform itself: emit events, give commands. In their own tenant, in the name of their execution.

A command's id follows from the attempt, so that an attempt which is made twice has its effect once. An execution may command no
more than its starter might have: by default what everybody may do who can start executions at all. What an author alone may do
(`create-intent`, `deprecate-intent`) has to be allowed by the installation, since then whoever starts the execution does it too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from commands.custom_event import EmitEvent
from commands.execution import CancelExecution, SignalExecution, StartExecution
from commands.handle import NAME_SCOPE, Command, Envelope, Outcome, Shell, handle
from commands.intent import CreateIntent, DeprecateIntent
from domain import execution
from domain.refusals import Invalid, LimitReached, Refusal
from domain.values import ExecutionId, IntentId, StepId, TenantId, execution_stream, intent_stream
from event_store.ids import derived_id
from event_store.records import StoreUnavailable, StreamBusy
from modules.command import Command as CommandModule
from modules.contract import InProcessModule, Invocation, ModuleError
from modules.emit import Emit
from modules.transform import Transform

ACTOR_PREFIX = "execution:"
_TRIES_MAX = 5
_PAUSE_SECONDS = 0.2
_FAULTS_SHOWN_MAX = 10


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Start(_Arguments):
    intent: str
    version: int | None = None
    inputs: dict[str, Any] = {}
    business_key: str | None = None


class _Cancel(_Arguments):
    execution_id: str
    reason: str | None = None


class _Signal(_Arguments):
    execution_id: str
    signal: str
    payload: Any = None


class _Create(_Arguments):
    name: str
    definition: Any
    description: str | None = None
    labels: dict[str, str] = {}


class _Deprecate(_Arguments):
    intent_id: str


class StepCommands:
    """The built-in modules that need the shell. It is given when there is one: the shell has to know their actions first."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = allowed
        self._shell: Shell | None = None

    def modules(self) -> dict[str, InProcessModule]:
        """`emit`, `transform`, and `command` where any is allowed."""
        found: list[InProcessModule] = [Emit(self.emit), Transform()]
        if self._allowed:
            found.append(CommandModule(self.command, self._allowed))
        return {one.module.name: one for one in found}

    def use(self, shell: Shell) -> None:
        """From now on commands go there."""
        self._shell = shell

    async def emit(self, invocation: Invocation, type: str, data: Any) -> dict[str, Any]:
        """An event of the tenant's own. Raises `ModuleError`."""
        command = EmitEvent(
            execution_id=ExecutionId(invocation.execution_id), step=StepId(invocation.step), type=type, data=data,
            at=datetime.now(UTC),
        )  # fmt: skip
        await self._obeyed(command, invocation)
        return {"type": type}

    async def command(self, invocation: Invocation, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One of the allowed commands. Raises `ModuleError`."""
        if name not in self._allowed:
            raise ModuleError("command-not-allowed", f"The command {name!r} is not allowed here.", retryable=False)
        try:
            command = await COMMANDS[name](self._require_shell(), invocation, arguments)
        except ValidationError as fault:
            raise _invalid([{"pointer": _pointer(one["loc"]), "detail": one["msg"]} for one in fault.errors()]) from fault
        outcome = await self._obeyed(command, invocation)
        if isinstance(command, StartExecution | CancelExecution | SignalExecution):
            found = outcome.state
            return {"execution_id": found.execution_id, "intent_id": found.intent_id, "status": found.status}
        return {"intent_id": outcome.state.intent_id, "name": outcome.state.name, "status": outcome.state.status}

    async def _obeyed(self, command: Command, invocation: Invocation) -> Outcome[Any]:
        envelope = Envelope(
            TenantId(invocation.tenant_id), _command_id(invocation), f"{ACTOR_PREFIX}{invocation.execution_id}",
            invocation.execution_id, traceparent=invocation.traceparent,
        )  # fmt: skip
        tries = 0
        while True:
            try:
                outcome: Outcome[Any] = await handle(self._require_shell(), command, envelope)
                return outcome
            except Invalid as refusal:
                raise _invalid([{"pointer": one.pointer, "detail": one.detail} for one in refusal.faults]) from refusal
            except LimitReached as refusal:
                details = {"retry_after_seconds": refusal.again_seconds}
                raise ModuleError(refusal.code, str(refusal), details=details) from refusal
            except Refusal as refusal:
                raise ModuleError(refusal.code, str(refusal), retryable=False) from refusal
            except (StreamBusy, StoreUnavailable) as fault:
                tries += 1
                if tries >= _TRIES_MAX:
                    raise ModuleError("store-unavailable", "The event store cannot take the command now.") from fault
                await asyncio.sleep(_PAUSE_SECONDS * tries)

    def _require_shell(self) -> Shell:
        assert self._shell is not None, "the composition root gives the shell before anything runs"
        return self._shell


def _command_id(invocation: Invocation) -> UUID:
    return derived_id(UUID(invocation.idempotency_key), "command")


def _invalid(faults: list[dict[str, Any]]) -> ModuleError:
    message = f"The step's parameters do not fit: {faults[0]['detail']}" if faults else "The step's parameters do not fit."
    return ModuleError("input-invalid", message, retryable=False, details={"faults": faults[:_FAULTS_SHOWN_MAX]})


def _pointer(path: tuple[str | int, ...]) -> str:
    return "".join(f"/{part}" for part in ("arguments", *path))


async def _start(shell: Shell, invocation: Invocation, arguments: dict[str, Any]) -> Command:
    said = _Start.model_validate(arguments)
    tenant_id = TenantId(invocation.tenant_id)
    # A name first, as with workflows; else an id.
    holder = await shell.store.claim_holder(tenant_id, NAME_SCOPE, said.intent)
    prefix = intent_stream(IntentId(""))
    own = await shell.store.load(tenant_id, execution_stream(ExecutionId(invocation.execution_id)), execution.evolve)
    depth = 0 if own.state is None else own.state.options.depth
    root = (None if own.state is None else own.state.options.root) or ExecutionId(invocation.execution_id)
    return StartExecution(
        execution_id=ExecutionId(str(_command_id(invocation))),
        intent_id=IntentId(said.intent if holder is None else holder.removeprefix(prefix)),
        version=said.version, inputs=said.inputs, tenant_id=tenant_id, business_key=said.business_key, depth=depth + 1,
        root=root, started_by=f"execution {invocation.execution_id}", at=datetime.now(UTC),
    )  # fmt: skip


async def _cancel(_shell: Shell, _invocation: Invocation, arguments: dict[str, Any]) -> Command:
    said = _Cancel.model_validate(arguments)
    return CancelExecution(execution_id=ExecutionId(said.execution_id), reason=said.reason, at=datetime.now(UTC))


async def _signal(_shell: Shell, _invocation: Invocation, arguments: dict[str, Any]) -> Command:
    said = _Signal.model_validate(arguments)
    return SignalExecution(
        execution_id=ExecutionId(said.execution_id), name=said.signal, payload=said.payload, at=datetime.now(UTC)
    )


async def _create(_shell: Shell, invocation: Invocation, arguments: dict[str, Any]) -> Command:
    said = _Create.model_validate(arguments)
    return CreateIntent(
        intent_id=IntentId(str(_command_id(invocation))), name=said.name, definition=said.definition,
        description=said.description, labels=said.labels, at=datetime.now(UTC),
    )  # fmt: skip


async def _deprecate(_shell: Shell, _invocation: Invocation, arguments: dict[str, Any]) -> Command:
    said = _Deprecate.model_validate(arguments)
    return DeprecateIntent(intent_id=IntentId(said.intent_id), at=datetime.now(UTC))


COMMANDS: dict[str, Callable[[Shell, Invocation, dict[str, Any]], Awaitable[Command]]] = {
    "start-execution": _start,
    "cancel-execution": _cancel,
    "signal-execution": _signal,
    "create-intent": _create,
    "deprecate-intent": _deprecate,
}
"""The commands there are for steps."""
