# intent_ref: modules.contract
"""What a module is asked, and how it answers: the one contract of plug-ins, HTTP modules and the sandbox.

A module may be asked the same thing twice (the platform can die between a call and the record of its outcome). Then
`idempotency_key` is the same, and whoever has effects uses it to have them once.
"""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from typing import Any, Protocol

from domain.immutable import immutable
from domain.module import Module


@immutable
class Invocation:
    """One attempt of one step. `deadline` is when the platform stops waiting; `parameters` are the step's own keys.

    `authored` are the parameters as the definition has them, where `parameters` came out of expressions: references to secrets
    count only where they stand in it. Modules do not see it.
    """

    tenant_id: str
    execution_id: str
    step: str
    action: str
    attempt: int
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    target: str
    idempotency_key: str
    deadline: datetime
    traceparent: str | None = None
    authored: Any = None


class ModuleError(Exception):
    """The attempt has failed. `code` is stable and `message` is a sentence for the user; neither holds a stack trace.

    Not `retryable` means that the same attempt again cannot succeed. What does not count (`counts`) was no attempt at all,
    since nobody was asked, and uses none of those that the step's policy allows; `details.retry_after_seconds` may say when to
    come back.
    """

    def __init__(
        self, code: str, message: str, *, retryable: bool = True, details: Mapping[str, Any] | None = None, counts: bool = True
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.retryable, self.counts = code, message, retryable, counts
        self.details: dict[str, Any] = dict(details or {})


@immutable
class Deferred:
    """Instead of a result: the module has taken the work on and will say by callback what came of it."""

    reason: str


class InProcessModule(Protocol):
    """A plug-in: what it can do, and the doing. `call` may be cancelled at any await; it must not block the event loop."""

    @property
    def module(self) -> Module:
        """Name and actions. The transport is set by the platform."""
        ...

    async def call(self, invocation: Invocation) -> Any:
        """Carries out `invocation.action` and returns a JSON value of 256 KiB at most; raises `ModuleError`."""
        ...


@immutable
class BrokenPlugin:
    """A plug-in that could not be loaded, and why, as a sentence."""

    name: str
    reason: str


@immutable
class Plugins:
    """The plug-ins found, by name, and those that are broken."""

    found: dict[str, InProcessModule] = field(default_factory=dict)
    broken: tuple[BrokenPlugin, ...] = ()
