# intent_ref: tests.golden
"""One example of every event: each field filled in, with values as they come in life. `python -m tests.golden.write` keeps them.

An example here may change at will; the file that was written from it never does.
"""

from datetime import UTC, datetime, timedelta

from domain.custom_event import CustomEventEmitted
from domain.execution_events import (
    CancellationRequested,
    CompensationFailed,
    CompensationStarted,
    ExecutionAdmitted,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionFailing,
    ExecutionPaused,
    ExecutionQueued,
    ExecutionRerun,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionStalled,
    ExecutionStarted,
    ExecutionTerminated,
    ResourceProvisioned,
    ResourceReleased,
    SignalReceived,
    StepApproved,
    StepCancelled,
    StepCompensated,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepFallingBack,
    StepRejected,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepWaiting,
)
from domain.execution_terms import Options, Parent, StepLimits
from domain.intent import (
    IntentActivated,
    IntentArchived,
    IntentCreated,
    IntentDeprecated,
    IntentRevised,
    IntentRolledBack,
    IntentSchedulePaused,
    IntentScheduleResumed,
)
from domain.module import Action, ModuleChanged, ModuleRegistered, ModuleRemoved, Rate, RetryPolicy, Transport
from domain.plan import Child, Control, ForEach, Gate, PlannedStep, Work
from domain.pull_subscription import (
    PullStart,
    PullSubscriptionChanged,
    PullSubscriptionCreated,
    PullSubscriptionDeleted,
    PullTerms,
)
from domain.subscription import (
    Start,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionDisabled,
    SubscriptionEnabled,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionSecretRotated,
    Terms,
)
from domain.tenant import TenantLimitsSet, TenantReactivated, TenantRegistered, TenantSuspended
from domain.tenant_limits import TenantLimits
from domain.values import (
    ActionName,
    ExecutionId,
    IntentId,
    ModuleName,
    SecretId,
    StepId,
    SubscriptionId,
    TenantId,
    Version,
)
from event_store.codec import DomainEvent

_AT = datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC)
_TENANT = TenantId("tenant-123")
_INTENT = IntentId("01936b0e-5c00-7000-8000-000000000001")
_EXECUTION = ExecutionId("01936b0e-5c00-7000-8000-000000000002")
_SUBSCRIPTION = SubscriptionId("01936b0e-5c00-7000-8000-000000000003")
_SECRET, _NEW_SECRET = SecretId("01936b0e-5c00-7000-8000-000000000004"), SecretId("01936b0e-5c00-7000-8000-000000000005")
_BUILD, _DEPLOY = StepId("step-1"), StepId("step-2")
_DEFINITION = {
    "target": "production",
    "steps": [
        {"action": "build-docker-image", "image": "myapp:latest", "context": "./app"},
        {
            "action": "deploy-to-kubernetes", "namespace": "production", "replicas": 3,
            "ratio": 0.5, "note": "größer ✓", "tags": [None, True],
        },
    ],
}  # fmt: skip
_ERROR = {"code": "timeout", "message": "No answer within 30 s.", "details": {"attempt": 3}}
_RETRY = RetryPolicy(attempts_max=3, initial_seconds=0.5, backoff=2.0, cap_seconds=30.0)
_ROOT = ExecutionId("01936b0e-5c00-7000-8000-000000000009")
_PARENT = Parent(ExecutionId("01936b0e-5c00-7000-8000-000000000006"), StepId("rollout"))
_CHILD = ExecutionId("01936b0e-5c00-7000-8000-000000000007")
_STEP_LIMITS = StepLimits(
    1, _AT + timedelta(minutes=1), _AT + timedelta(hours=1), "cluster-eu", 2, ActionName("deploy-to-kubernetes")
)  # fmt: skip
_WORK = Work(ActionName("remove-image"), ModuleName("sandbox"), {"image": "myapp:latest"}, 60.0, _RETRY, True)
_CONTROL = Control(
    "inputs.replicas > 0", 1, True, (
        Gate("wait", 5.0), Gate("approval", "${{ inputs.patience }}", None, "fail", ("operator",), None, "Really?"),
        Gate("signal", None, None, "skip", (), "go"), Gate("wait", None, "2026-12-24T18:00:00", zone="Europe/Berlin"),
    ),
    "workflow", Child("release", 3, {"image": "${{ item }}"}), ForEach(["a", "b"], 2), True, _WORK, _WORK, 10.0, 600.0, 30.0,
    "cluster-${{ inputs.region }}", 2, True,
)  # fmt: skip
_ACTIONS = (
    Action(
        ActionName("build-docker-image"),
        {"type": "object"},
        {"type": "object", "required": ["digest"]},
        120.0,
        _RETRY,
        ActionName("remove-image"),
        Rate(10, 1.5),
        5,
    ),
    Action(ActionName("push-to-registry")),
)
_SIGNED = Transport("http", url="https://modules.example.com/azure", secret="secret://azure-signing")
_TERMS = Terms(
    "https://hooks.example.com/quantum", ("quantum.execution.*", "quantum.intent.created"), ("execution/*",), "The größte hook.",
    "parallel", 20, ("X-Team",), SecretId("01936b0e-5c00-7000-8000-000000000008"),
)  # fmt: skip

EXAMPLES: tuple[DomainEvent, ...] = (
    TenantRegistered(_TENANT, "Ünïcode GmbH", _AT),
    TenantSuspended(_TENANT, "unpaid", _AT),
    TenantReactivated(_TENANT, _AT),
    TenantLimitsSet(_TENANT, TenantLimits(50, 20, "reject", 600, 10_000, 2.5), _AT),
    IntentCreated(_INTENT, "deploy-web-app", _DEFINITION, "Brings the web app to production.", {"team": "web"}, _AT),
    IntentRevised(_INTENT, Version(2), _DEFINITION, "Three replicas.", {"team": "web", "tier": "1"}, _AT),
    IntentRolledBack(_INTENT, Version(3), Version(1), _DEFINITION, _AT),
    IntentDeprecated(_INTENT, _AT),
    IntentActivated(_INTENT, _AT),
    IntentArchived(_INTENT, "deploy-web-app", _AT),
    IntentSchedulePaused(_INTENT, _AT),
    IntentScheduleResumed(_INTENT, _AT),
    ModuleRegistered(ModuleName("registry.azure"), _ACTIONS, _SIGNED, _AT),
    ModuleChanged(ModuleName("registry.azure"), _ACTIONS, Transport("in-process", plugin="azure"), _AT),
    ModuleRemoved(ModuleName("registry.azure"), _AT),
    SubscriptionCreated(_SUBSCRIPTION, _TERMS, Start(position=42, time=_AT), _SECRET, _AT),
    SubscriptionChanged(_SUBSCRIPTION, Terms("https://hooks.example.com/other"), _AT),
    SubscriptionSecretRotated(_SUBSCRIPTION, _NEW_SECRET, _SECRET, _AT + timedelta(days=1), _AT),
    SubscriptionPaused(_SUBSCRIPTION, _AT),
    SubscriptionResumed(_SUBSCRIPTION, _AT),
    SubscriptionDisabled(_SUBSCRIPTION, "gone", "The receiver answered 410.", _AT),
    SubscriptionEnabled(_SUBSCRIPTION, _AT),
    SubscriptionDeleted(_SUBSCRIPTION, _AT),
    PullSubscriptionCreated(
        _SUBSCRIPTION,
        PullTerms(("quantum.execution.*",), ("execution/*",), "to the ledger", "per-subject", 60.0, 7, 250),
        PullStart(42, _AT),
        _AT,
    ),
    PullSubscriptionChanged(_SUBSCRIPTION, PullTerms(lease_seconds=120.0, deliveries_max=20), _AT),
    PullSubscriptionDeleted(_SUBSCRIPTION, _AT),
    ExecutionStarted(
        _EXECUTION, _INTENT, "deploy-web-app", Version(2), "production", {"replicas": 3, "dry_run": False},
        (
            PlannedStep(
                _BUILD, ActionName("build-docker-image"), ModuleName("sandbox"), (), {"image": "myapp:latest"}, 120.0, _RETRY,
                _CONTROL,
            ),
            PlannedStep(
                _DEPLOY, ActionName("deploy-to-kubernetes"), ModuleName("sandbox"), (_BUILD,), {"replicas": 3}, 30.0,
                RetryPolicy(jitter=0.2, non_retryable=("input-invalid",)),
            ),
        ),
        _AT,
        Options(
            _TENANT, 1, "order-7", _AT + timedelta(hours=1), _PARENT, 1, "ada", {"url": "${{ steps.x.result.url }}"}, _ROOT
        ),
    ),
    StepStarted(_EXECUTION, _BUILD, ActionName("build-docker-image"), 1, _AT, _STEP_LIMITS),
    StepRetrying(_EXECUTION, _BUILD, 2, _ERROR, _AT + timedelta(seconds=0.5), _AT, _STEP_LIMITS),
    StepCompleted(_EXECUTION, _BUILD, 2, {"digest": "sha256:0a1b", "layers": [1, 2, 3]}, _AT),
    StepFailed(_EXECUTION, _DEPLOY, 3, _ERROR, _AT, ["eu-1", None, "us-1"], _CHILD),
    StepSkipped(_EXECUTION, _DEPLOY, "condition", _AT),
    StepWaiting(
        _EXECUTION, _DEPLOY, "approval", 0, _AT + timedelta(days=1), "fail",
        {"roles": ["operator"], "message": "To production?"}, _AT, _STEP_LIMITS,
    ),
    StepApproved(_EXECUTION, _DEPLOY, "ada", "Go ahead.", _AT),
    StepRejected(_EXECUTION, _DEPLOY, "ada", "Not on a Friday.", _AT),
    StepExpanded(_EXECUTION, _DEPLOY, ("eu", {"name": "us", "replicas": 2}), _AT),
    StepFallingBack(_EXECUTION, _DEPLOY, _ERROR, _AT),
    StepCancelled(_EXECUTION, _DEPLOY, _CHILD, _AT),
    SignalReceived(_EXECUTION, "payment-received", {"amount": 12.5}, _AT),
    ResourceProvisioned(_EXECUTION, _DEPLOY, "vm", "vm-17", {"region": "eu-west"}, _AT),
    ResourceReleased(_EXECUTION, _DEPLOY, "vm", "vm-17", _AT),
    CancellationRequested(_EXECUTION, "superseded", _AT),
    ExecutionFailing(_EXECUTION, _ERROR, _AT),
    CompensationStarted(_EXECUTION, "failed", (StepId("step-2[1]"), _BUILD), _AT),
    StepCompensated(_EXECUTION, StepId("~step-1"), 1, {"removed": True}, _AT),
    CompensationFailed(_EXECUTION, StepId("~step-2[1]"), 2, _ERROR, _AT),
    ExecutionCompleted(_EXECUTION, _AT, {"url": "https://shop.example.com"}, _PARENT),
    ExecutionFailed(_EXECUTION, _DEPLOY, _ERROR, _AT, (StepId("step-2[1]"),), _PARENT),
    ExecutionCancelled(_EXECUTION, "superseded", _AT, (_BUILD,), (_CHILD,), _PARENT),
    ExecutionTerminated(_EXECUTION, "runaway", _AT, (_CHILD,), _PARENT),
    ExecutionPaused(_EXECUTION, _AT),
    ExecutionResumed(_EXECUTION, _AT),
    ExecutionRetried(_EXECUTION, (_DEPLOY,), _AT),
    ExecutionRerun(_EXECUTION, _BUILD, (_BUILD, _DEPLOY), _AT),
    CustomEventEmitted(_EXECUTION, _DEPLOY, "order.placed", {"total": 120, "lines": [{"sku": "a"}]}, _AT),
    ExecutionStalled(_EXECUTION, ("a dispatch of step-1",), _AT),
    ExecutionQueued(_EXECUTION, 2, 4, _AT),
    ExecutionAdmitted(_EXECUTION, _AT),
)  # fmt: skip
