# intent_ref: tests.golden
"""One example of every event: each field filled in, with values as they come in life. `python -m tests.golden.write` keeps them.

An example here may change at will; the file that was written from it never does.
"""

from datetime import UTC, datetime, timedelta

from domain.execution import (
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionRetried,
    ExecutionStarted,
    PlannedStep,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
)
from domain.intent import IntentActivated, IntentArchived, IntentCreated, IntentDeprecated, IntentRevised, IntentRolledBack
from domain.module import Action, ModuleChanged, ModuleRegistered, ModuleRemoved, RetryPolicy, Transport
from domain.tenant import TenantReactivated, TenantRegistered, TenantSuspended
from domain.values import ActionName, ExecutionId, IntentId, ModuleName, StepId, TenantId, Version
from event_store.codec import DomainEvent

_AT = datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC)
_TENANT = TenantId("tenant-123")
_INTENT = IntentId("01936b0e-5c00-7000-8000-000000000001")
_EXECUTION = ExecutionId("01936b0e-5c00-7000-8000-000000000002")
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
_ACTIONS = (
    Action(ActionName("build-docker-image"), {"type": "object"}, {"type": "object", "required": ["digest"]}, 120.0, _RETRY),
    Action(ActionName("push-to-registry")),
)

EXAMPLES: tuple[DomainEvent, ...] = (
    TenantRegistered(_TENANT, "Ünïcode GmbH", _AT),
    TenantSuspended(_TENANT, "unpaid", _AT),
    TenantReactivated(_TENANT, _AT),
    IntentCreated(_INTENT, "deploy-web-app", _DEFINITION, "Brings the web app to production.", {"team": "web"}, _AT),
    IntentRevised(_INTENT, Version(2), _DEFINITION, "Three replicas.", {"team": "web", "tier": "1"}, _AT),
    IntentRolledBack(_INTENT, Version(3), Version(1), _DEFINITION, _AT),
    IntentDeprecated(_INTENT, _AT),
    IntentActivated(_INTENT, _AT),
    IntentArchived(_INTENT, "deploy-web-app", _AT),
    ModuleRegistered(ModuleName("registry.azure"), _ACTIONS, Transport("http", url="https://modules.example.com/azure"), _AT),
    ModuleChanged(ModuleName("registry.azure"), _ACTIONS, Transport("in-process", plugin="azure"), _AT),
    ModuleRemoved(ModuleName("registry.azure"), _AT),
    ExecutionStarted(
        _EXECUTION, _INTENT, "deploy-web-app", Version(2), "production", {"replicas": 3, "dry_run": False},
        (
            PlannedStep(
                _BUILD, ActionName("build-docker-image"), ModuleName("sandbox"), (), {"image": "myapp:latest"}, 120.0, _RETRY,
            ),
            PlannedStep(
                _DEPLOY, ActionName("deploy-to-kubernetes"), ModuleName("sandbox"), (_BUILD,), {"replicas": 3}, 30.0,
                RetryPolicy(),
            ),
        ),
        _AT,
    ),
    StepStarted(_EXECUTION, _BUILD, ActionName("build-docker-image"), 1, _AT),
    StepRetrying(_EXECUTION, _BUILD, 2, _ERROR, _AT + timedelta(seconds=0.5), _AT),
    StepCompleted(_EXECUTION, _BUILD, 2, {"digest": "sha256:0a1b", "layers": [1, 2, 3]}, _AT),
    StepFailed(_EXECUTION, _DEPLOY, 3, _ERROR, _AT),
    ExecutionCompleted(_EXECUTION, _AT),
    ExecutionFailed(_EXECUTION, _DEPLOY, _ERROR, _AT),
    ExecutionCancelled(_EXECUTION, "superseded", _AT),
    ExecutionPaused(_EXECUTION, _AT),
    ExecutionResumed(_EXECUTION, _AT),
    ExecutionRetried(_EXECUTION, (_DEPLOY,), _AT),
)  # fmt: skip
