# intent_ref: domain.refusals
"""Why a command is refused: one class a reason, a stable code, the facts as attributes. No HTTP here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class Refusal(Exception):
    """A command that cannot be obeyed. The message is a sentence for the user."""

    code: ClassVar[str] = "refused"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an input: where, as an RFC 6901 JSON pointer, and what."""

    pointer: str
    detail: str
    code: str = "invalid"


class Invalid(Refusal):
    """The input breaks rules; every fault is listed."""

    code = "validation-failed"

    def __init__(self, faults: Sequence[Fault]) -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"The input has {count}; `errors` lists each with its place.")
        self.faults = tuple(faults)


class DefinitionInvalid(Invalid):
    """A definition that breaks rules."""

    code = "definition-invalid"


class NotFound(Refusal):
    """There is no such thing in this tenant, or wherever else it was looked for."""

    code = "not-found"

    def __init__(self, kind: str, identity: str, where: str = "in this tenant") -> None:
        super().__init__(f"There is no {kind} {identity!r} {where}.")
        self.kind, self.identity = kind, identity


class TenantExists(Refusal):
    code = "tenant-exists"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"The tenant {tenant_id!r} is registered already.")
        self.tenant_id = tenant_id


class TenantUnknown(Refusal):
    code = "tenant-unknown"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"The tenant {tenant_id!r} is not registered. A platform-admin registers it with POST /api/v1/tenants.")
        self.tenant_id = tenant_id


class TenantIsSuspended(Refusal):
    code = "tenant-suspended"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"The tenant {tenant_id!r} is suspended: it can be read, not changed, until it is reactivated.")
        self.tenant_id = tenant_id


class IntentNameTaken(Refusal):
    code = "intent-name-taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"Another intent of this tenant is named {name!r}. Choose another name, or archive that intent.")
        self.name = name


class IntentIsArchived(Refusal):
    code = "intent-archived"

    def __init__(self, intent_id: str) -> None:
        super().__init__(f"The intent {intent_id} is archived: its history can be read, and nothing else.")
        self.intent_id = intent_id


class IntentVersionStale(Refusal):
    code = "intent-version-stale"

    def __init__(self, intent_id: str, expected: int, actual: int) -> None:
        super().__init__(
            f"The intent {intent_id} is at version {actual}, not {expected}. Read it again, then repeat your change."
        )
        self.intent_id, self.expected, self.actual = intent_id, expected, actual


class IntentNotExecutable(Invalid):
    """The intent is fine to keep and cannot be executed as it is."""

    code = "intent-not-executable"


class ModuleNameTaken(Refusal):
    code = "module-name-taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"A module named {name!r} is registered already. Change it with PUT /api/v1/modules/{name}.")
        self.name = name


class ActionTaken(Refusal):
    code = "action-taken"

    def __init__(self, action: str, module: str) -> None:
        super().__init__(f"The action {action!r} belongs to the module {module!r} already; an action has one module.")
        self.action, self.module = action, module


class TooManyModules(Refusal):
    code = "too-many-modules"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A tenant may have {limit} modules. Remove one that is not needed.")
        self.limit = limit


class ExecutionHasEnded(Refusal):
    code = "execution-ended"

    def __init__(self, execution_id: str, status: str) -> None:
        super().__init__(f"The execution {execution_id} has ended: it is {status}.")
        self.execution_id, self.status = execution_id, status


class ExecutionNotPaused(Refusal):
    code = "execution-not-paused"

    def __init__(self, execution_id: str, status: str) -> None:
        super().__init__(f"The execution {execution_id} is {status}, so there is nothing to resume.")
        self.execution_id, self.status = execution_id, status


class ExecutionNotFailed(Refusal):
    code = "execution-not-failed"

    def __init__(self, execution_id: str, status: str) -> None:
        super().__init__(f"The execution {execution_id} is {status}; only a failed one can be retried.")
        self.execution_id, self.status = execution_id, status


class StepNotRunning(Refusal):
    code = "step-not-running"

    def __init__(self, execution_id: str, step: str, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} of step {step!r} of execution {execution_id} is not running: its answer comes too late."
        )
        self.execution_id, self.step, self.attempt = execution_id, step, attempt
