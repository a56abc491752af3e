# intent_ref: tests.execution-patterns
"""Intents defined, started and steered by name on a real log, while execution sagas run."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from commands.execution_commands import StartExecution, TerminateExecution
from commands.handle import Envelope, Shell, handle
from commands.intent import CreateIntent
from domain import execution
from domain.definition import Limits, Rules
from domain.execution import ENDED, Execution
from domain.execution_events import ExecutionEvent
from domain.module import Action, Module, Transport
from domain.refusals import ExecutionHasEnded
from domain.runs import StepRun
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, StepId, TenantId, execution_stream
from event_store.ids import uuid7
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from modules.catalogue import Caller, builtin, in_process
from modules.contract import Invocation, Plugins
from modules.http import HttpModules
from sagas.execution import ExecutionSaga
from sagas.execution import Limits as SagaLimits
from streaming.embedded import EmbeddedTransport
from tests.unit.execution_play import told
from tests.waiting import wait_until

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_CALM = SagaLimits(grace_seconds=2.0)


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Bench:
    """A plug-in of the tests: keeps what it was asked, and answers as told: with its parameters unless told otherwise."""

    ACTIONS = ("do", "undo", "slow")

    def __init__(self) -> None:
        actions = tuple(Action(ActionName(name)) for name in self.ACTIONS)
        self.module = Module(ModuleName("bench"), actions, Transport("in-process", plugin="bench"), _EPOCH, _EPOCH)
        self.asked: list[Invocation] = []
        self.answer: Callable[[Invocation], Awaitable[Any]] = self.echo

    async def echo(self, invocation: Invocation) -> Any:
        """The parameters."""
        return invocation.parameters

    async def call(self, invocation: Invocation) -> Any:
        """What a module does."""
        self.asked.append(invocation)
        return await self.answer(invocation)

    def steps_asked(self) -> list[str]:
        """The runs in the order in which they were asked for."""
        return [invocation.step for invocation in self.asked]


class ExecutionWorld:
    """One tenant on a store: the sandbox and a bench, a shell, and intents by their names."""

    def __init__(self, store: EventStore, tenant: str, bench: Bench | None = None) -> None:
        self.store, self.tenant, self.bench = store, TenantId(tenant), bench or Bench()
        http = HttpModules(allow_private=True)
        running = in_process(http, sandbox=True, plugins=Plugins({"bench": self.bench}))
        self.shell = Shell(store, builtin(running), Rules(Limits(), ()))
        self.caller = Caller(running, http)
        self._intents: dict[str, IntentId] = {}
        self.started: list[Running] = []

    def envelope(self) -> Envelope:
        """A command of a user's."""
        return Envelope(self.tenant, uuid7(), "user:test", "corr")

    async def define(self, name: str, definition: dict[str, Any]) -> IntentId:
        """An intent of that name; defined once."""
        if name not in self._intents:
            intent_id = IntentId(str(uuid7()))
            command = CreateIntent(intent_id=intent_id, name=name, definition=definition, at=now())
            await handle(self.shell, command, self.envelope())
            self._intents[name] = intent_id
        return self._intents[name]

    async def run(self, *steps: Any, inputs: dict[str, Any] | None = None, **definition: Any) -> "Running":
        """An execution of these steps, under way."""
        name = f"i-{uuid7()}"
        await self.define(name, {"target": "production", "steps": list(steps), **definition})
        return await self.start(name, inputs)

    async def start(self, name: str, inputs: dict[str, Any] | None = None, **more: Any) -> "Running":
        """An execution of the intent of that name, under way."""
        execution_id = ExecutionId(str(uuid7()))
        command = StartExecution(
            execution_id=execution_id, intent_id=self._intents[name], inputs=inputs or {}, tenant_id=self.tenant, at=now(), **more
        )  # fmt: skip
        await handle(self.shell, command, self.envelope())
        self.started.append(Running(self, execution_id))
        return self.started[-1]

    async def swept(self) -> None:
        """Ends whatever was started here, and returns when sagas have nothing left to do for it."""
        for running in self.started:
            with contextlib.suppress(ExecutionHasEnded):
                await running.say(TerminateExecution, reason=None)

        async def nothing_left() -> bool:
            return await self.rows() == 0

        await wait_until(nothing_left, 30, what="nothing to be left to do")

    async def rows(self) -> int:
        """How many things the tenant's executions wait for."""
        count: int = await self.store.platform_pool.fetchval(
            "SELECT count(*) FROM quantum.saga_dispatches WHERE tenant_id = $1", self.tenant
        )
        return count


class Running:
    """An execution that sagas carry out."""

    def __init__(self, world: ExecutionWorld, execution_id: ExecutionId) -> None:
        self.world, self.id = world, execution_id

    async def say(self, command: type[Any], **fields: Any) -> None:
        """Gives the execution a command."""
        if "step" in fields:
            fields["step"] = StepId(fields["step"])
        await handle(self.world.shell, command(execution_id=self.id, at=now(), **fields), self.world.envelope())

    async def state(self) -> Execution:
        """The execution as the log has it."""
        loaded = await self.world.store.load(self.world.tenant, execution_stream(self.id), execution.evolve)
        assert loaded.state is not None
        return loaded.state

    async def until_beginning(self) -> None:
        """Returns once the execution is there."""
        stream = execution_stream(self.id)

        async def begun() -> bool:
            return bool(await self.world.store.read_stream(self.world.tenant, stream))

        await wait_until(begun, what=f"execution {self.id} to begin")

    async def until(self, holds: Callable[[Execution], bool], *, what: str, timeout_seconds: float = 20.0) -> Execution:
        """The first state for which that holds."""

        async def look() -> Execution | None:
            try:
                state = await self.state()
            except StoreUnavailable:
                return None
            return state if holds(state) else None

        state = await wait_until(look, timeout_seconds, what=f"{what} in execution {self.id}")
        assert state is not None
        return state

    async def until_run(self, run: str, status: str) -> StepRun:
        """The run, once it has that status."""
        state = await self.until(lambda state: _status(state, run) == status, what=f"{run} to be {status}")
        return state.runs[StepId(run)]

    async def ended(self, status: str = "completed", timeout_seconds: float = 20.0) -> Execution:
        """The execution at its end, which has to be that one."""
        state = await self.until(lambda state: state.status in ENDED, what="the end", timeout_seconds=timeout_seconds)
        assert state.status == status, await self.lines()
        return state

    async def events(self) -> list[ExecutionEvent]:
        """All that has happened."""
        recorded = await self.world.store.read_stream(self.world.tenant, execution_stream(self.id))
        return [event.event for event in recorded]  # type: ignore[misc]

    async def lines(self) -> list[str]:
        """All that has happened, in short lines."""
        return [told(event) for event in await self.events()]


def _status(state: Execution, run: str) -> str | None:
    found = state.runs.get(StepId(run))
    return None if found is None else found.status


@asynccontextmanager
async def sagas_on(*worlds: ExecutionWorld, limits: SagaLimits = _CALM) -> AsyncIterator[list[ExecutionSaga]]:
    """A saga worker for each of the worlds; all share whatever is on the log."""
    stop = asyncio.Event()
    sagas = [ExecutionSaga(world.shell, EmbeddedTransport(world.store), world.caller.call, limits=limits) for world in worlds]
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(saga.run(stop)) for saga in sagas]
        stack.push_async_callback(_finish, tasks, stop)
        yield sagas


async def _finish(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    stop.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
