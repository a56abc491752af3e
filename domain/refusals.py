# intent_ref: domain.refusals
"""Why a command is refused: one class a reason, a stable code, the facts as attributes. No HTTP here."""

from collections.abc import Sequence
from typing import ClassVar

from domain.immutable import immutable


class Refusal(Exception):
    """A command that cannot be obeyed. The message is a sentence for the user."""

    code: ClassVar[str] = "refused"


@immutable
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


class TooManyVersions(Refusal):
    code = "too-many-versions"

    def __init__(self, intent_id: str, limit: int) -> None:
        super().__init__(f"The intent {intent_id} has {limit:,} versions, which is all it may have. Create another intent.")
        self.intent_id, self.limit = intent_id, limit


class IntentHasNoSchedule(Refusal):
    code = "intent-has-no-schedule"

    def __init__(self, intent_id: str) -> None:
        super().__init__(f"The intent {intent_id} has no schedule. Revise it with a `schedule` in its definition.")
        self.intent_id = intent_id


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


class TooManyIntents(Refusal):
    code = "too-many-intents"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A tenant may have {limit:,} intents. Archive those that are not needed.")
        self.limit = limit


class TooManyTriggers(Refusal):
    code = "too-many-triggers"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A tenant may have {limit:,} intents that start upon events (`on`). Do without one, or archive one.")
        self.limit = limit


class TooManySchedules(Refusal):
    code = "too-many-schedules"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A tenant may have {limit:,} intents with a `schedule`. Do without one, or archive one.")
        self.limit = limit


class TooManySubscriptions(Refusal):
    code = "too-many-subscriptions"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A tenant may have {limit} subscriptions. Delete one that is not needed.")
        self.limit = limit


class SubscriptionVersionStale(Refusal):
    code = "subscription-version-stale"

    def __init__(self, subscription_id: str, actual: int) -> None:
        super().__init__(
            f"The subscription {subscription_id} is at version {actual} by now. Read it again, then repeat your change."
        )
        self.subscription_id, self.actual = subscription_id, actual


class SubscriptionIsDisabled(Refusal):
    code = "subscription-disabled"

    def __init__(self, subscription_id: str) -> None:
        super().__init__(f"The subscription {subscription_id} is disabled. Mend its receiver, then enable it.")
        self.subscription_id = subscription_id


class ExecutionHasEnded(Refusal):
    code = "execution-ended"

    def __init__(self, execution_id: str, status: str) -> None:
        super().__init__(f"The execution {execution_id} has ended: it is {status}.")
        self.execution_id, self.status = execution_id, status


class TooManyReruns(Refusal):
    code = "too-many-reruns"

    def __init__(self, execution_id: str, limit: int) -> None:
        super().__init__(f"The execution {execution_id} was begun again {limit:,} times, which is all it may be. Start another.")
        self.execution_id, self.limit = execution_id, limit


class ExecutionNotEnded(Refusal):
    code = "execution-not-ended"

    def __init__(self, execution_id: str, status: str) -> None:
        super().__init__(f"The execution {execution_id} is {status}: it can be run again from a step when it has ended.")
        self.execution_id, self.status = execution_id, status


class ExecutionExists(Refusal):
    code = "execution-exists"

    def __init__(self, business_key: str, execution_id: str) -> None:
        super().__init__(f"The execution {execution_id} runs for the key {business_key!r} already.")
        self.business_key, self.execution_id = business_key, execution_id


class StepNotWaiting(Refusal):
    code = "step-not-waiting"

    def __init__(self, execution_id: str, step: str) -> None:
        super().__init__(f"The step {step!r} of the execution {execution_id} does not wait for this (any more).")
        self.execution_id, self.step = execution_id, step


class StepNotAwaitingApproval(Refusal):
    code = "step-not-awaiting-approval"

    def __init__(self, execution_id: str, step: str) -> None:
        super().__init__(f"The step {step!r} of the execution {execution_id} does not wait for an approval.")
        self.execution_id, self.step = execution_id, step


class NotYourApproval(Refusal):
    code = "not-your-approval"

    def __init__(self, step: str, roles: Sequence[str]) -> None:
        super().__init__(f"The step {step!r} is approved or rejected by: {', '.join(roles)}.")
        self.step, self.roles = step, tuple(roles)


class TooManySignals(Refusal):
    code = "too-many-signals"

    def __init__(self, execution_id: str, limit: int) -> None:
        super().__init__(f"The execution {execution_id} holds {limit} signals that no step has asked for; more are not kept.")
        self.execution_id, self.limit = execution_id, limit


class LimitReached(Refusal):
    """`limit` names it. `most` is allowed (in `window_seconds`, where it is a rate); try again in `again_seconds`."""

    code = "limit-reached"

    def __init__(self, limit: str, most: int, sentence: str, *, again_seconds: int, window_seconds: int | None = None) -> None:
        super().__init__(f"{sentence} Nothing was started: try again in {again_seconds} s.")
        self.limit, self.most, self.again_seconds, self.window_seconds = limit, most, again_seconds, window_seconds


class ArtifactQuotaReached(Refusal):
    """Inputs are too large for the log, and the tenant has stored all it may store beside it."""

    code = "artifact-quota"


class EventTooLarge(Refusal):
    code = "event-too-large"

    def __init__(self, topic: str, size: int, limit: int) -> None:
        super().__init__(f"This would be written down with {size:,} bytes, of at most {limit:,} ({topic}). Say less at once.")
        self.topic, self.size, self.limit = topic, size, limit


class TooManyDescendants(Refusal):
    code = "too-many-descendants"

    def __init__(self, root: str, limit: int) -> None:
        super().__init__(f"The execution {root}, with what it has started, has started {limit:,} others, which is all it may.")
        self.root, self.limit = root, limit


class TriggeredTooDeep(Refusal):
    code = "triggered-too-deep"

    def __init__(self, intent_id: str, limit: int) -> None:
        super().__init__(f"The intent {intent_id} was not started: {limit} executions have started one another before it.")
        self.intent_id, self.limit = intent_id, limit


class TooManyCustomEvents(Refusal):
    code = "too-many-custom-events"

    def __init__(self, execution_id: str, limit: int) -> None:
        super().__init__(f"The steps of the execution {execution_id} have emitted {limit:,} events; more are not taken.")
        self.execution_id, self.limit = execution_id, limit


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


class CallbackTokenInvalid(Refusal):
    """The address of this callback was not made by the platform, or it has been changed on its way."""

    code = "callback-token-invalid"

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class CallbackExpired(Refusal):
    """Nobody waits for this callback any more: the attempt it belongs to had to be answered before."""

    code = "callback-expired"

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class CallbackAnswered(Refusal):
    code = "callback-answered"

    def __init__(self, execution_id: str, step: str, attempt: int) -> None:
        super().__init__(f"Attempt {attempt} of step {step!r} of execution {execution_id} has another outcome already.")
        self.execution_id, self.step, self.attempt = execution_id, step, attempt


class LeaseLost(Refusal):
    code = "lease-lost"

    def __init__(self, execution_id: str, step: str, attempt: int) -> None:
        super().__init__(
            f"The lease on attempt {attempt} of step {step!r} of execution {execution_id} is lost: somebody else has the work, "
            "or its time is over. Drop what you have of it, and fetch other work."
        )
        self.execution_id, self.step, self.attempt = execution_id, step, attempt


class StepNotRunning(Refusal):
    code = "step-not-running"

    def __init__(self, execution_id: str, step: str, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} of step {step!r} of execution {execution_id} is not running: its answer comes too late."
        )
        self.execution_id, self.step, self.attempt = execution_id, step, attempt
