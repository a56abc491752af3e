# intent_ref: domain.module
"""A tenant's modules: which module carries out which action, and how it is reached."""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, assert_never

from domain.immutable import immutable
from domain.values import ActionName, ModuleName


@immutable
class RetryPolicy:
    """How often an attempt may be made, and how long to wait between: `initial * backoff^(n-1)` seconds, at most `cap`.

    `jitter` is the part of a wait, from 0 to 1, that chance takes away, so that what failed together does not return together.
    Errors whose codes are `non_retryable` are final at once.
    """

    attempts_max: int = 1
    initial_seconds: float = 1.0
    backoff: float = 2.0
    cap_seconds: float = 60.0
    jitter: float = 0.0
    non_retryable: tuple[str, ...] = ()

    def delay_seconds(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt` (the first is 1) has failed."""
        return min(self.cap_seconds, self.initial_seconds * self.backoff ** min(attempt - 1, 64))


@immutable
class Rate:
    """How often an action may be begun in a tenant: `max` at once, and as many again in every `per_seconds`."""

    max: int
    per_seconds: float


@immutable
class Action:
    """What a module can do. Schemas are JSON Schemas; `timeout_seconds` and `retry` hold where a step says nothing.

    `compensate` is the action that undoes this one, with the same parameters. `rate` and `concurrency` (how many at once in the
    tenant) hold over all workers.
    """

    name: ActionName
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    compensate: ActionName | None = None
    rate: Rate | None = None
    concurrency: int | None = None

    @property
    def is_metered(self) -> bool:
        """True where the action has limits of its own."""
        return self.rate is not None or self.concurrency is not None


@immutable
class Transport:
    """How a module is reached: `http` at `url`, `in-process` as the plug-in named `plugin`, or `pull`: its workers come for work.

    `secret` refers to what requests over HTTP are signed with, as `secret://name`; the secret itself is nowhere in the log.
    """

    kind: Literal["http", "in-process", "pull"]
    url: str | None = None
    plugin: str | None = None
    secret: str | None = None


@immutable
class ModuleRegistered:
    name: ModuleName
    actions: tuple[Action, ...]
    transport: Transport
    at: datetime


@immutable
class ModuleChanged:
    name: ModuleName
    actions: tuple[Action, ...]
    transport: Transport
    at: datetime


@immutable
class ModuleRemoved:
    name: ModuleName
    at: datetime


ModuleEvent = ModuleRegistered | ModuleChanged | ModuleRemoved


@immutable
class Module:
    """A registered module."""

    name: ModuleName
    actions: tuple[Action, ...]
    transport: Transport
    created_at: datetime
    updated_at: datetime

    def action(self, name: str) -> Action | None:
        """The action of that name, if the module has it."""
        for action in self.actions:
            if action.name == name:
                return action
        return None


@dataclass(frozen=True)
class Modules:
    """All modules of a tenant, by name."""

    by_name: dict[str, Module]

    def with_action(self, action: str) -> Module | None:
        """The module that carries out `action`."""
        return self._by_action.get(action)

    @cached_property
    def _by_action(self) -> dict[str, Module]:
        return {action.name: module for module in reversed(self.by_name.values()) for action in module.actions}


def evolve(state: Modules | None, event: ModuleEvent) -> Modules:
    """The tenant's modules after `event`."""
    known = dict(state.by_name) if state is not None else {}
    match event:
        case ModuleRegistered():
            known[event.name] = Module(event.name, event.actions, event.transport, event.at, event.at)
        case ModuleChanged():
            known[event.name] = replace(known[event.name], actions=event.actions, transport=event.transport, updated_at=event.at)
        case ModuleRemoved():
            del known[event.name]
        case _:
            assert_never(event)
    return Modules(known)
