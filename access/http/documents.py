# intent_ref: access.documents
"""The documents that answers carry, as models for the API's description. `domain.documents` and the log make them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.execution import ExecutionStatus, StepStatus
from domain.intent import IntentStatus
from domain.tenant import TenantStatus

_INTENT_ID = "01980c5e-0c1d-7a51-9d0e-0b6a3f6f2a10"
_EXECUTION_ID = "01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11"
_AT = "2026-11-21T09:30:00.123456Z"
DEFINITION_EXAMPLE: dict[str, Any] = {
    "target": "production",
    "steps": [
        {"action": "build-docker-image", "image": "myapp:latest", "context": "./app"},
        {"action": "push-to-registry", "registry": "azurecr.io", "image": "myapp:latest"},
        {"action": "deploy-to-kubernetes", "namespace": "production", "replicas": 3},
    ],
}


class ProblemFault(BaseModel):
    """One thing wrong: where, as an RFC 6901 JSON pointer (`/query/<name>` for the query), and what."""

    pointer: str
    detail: str
    code: str


class Problem(BaseModel):
    """RFC 9457. `code` is the last part of `type`; `trace_id` finds the request in traces and logs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/not-found",
                    "title": "There is no such thing",
                    "status": 404,
                    "detail": f"There is no intent '{_INTENT_ID}' in this tenant.",
                    "instance": f"/api/v1/intents/{_INTENT_ID}",
                    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                    "code": "not-found",
                }
            ]
        }
    )
    type: str
    title: str
    status: int
    detail: str
    instance: str
    trace_id: str
    code: str
    errors: list[ProblemFault] = Field(default_factory=list)


class Tenant(BaseModel):
    """A tenant."""

    id: str = Field(examples=["tenant-123"])
    name: str = Field(examples=["Acme"])
    status: TenantStatus
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])


class Intent(BaseModel):
    """An intent with the definition of its current version."""

    id: str = Field(examples=[_INTENT_ID])
    name: str = Field(examples=["deploy-web-app"])
    version: int = Field(ge=1, examples=[1])
    tenant_id: str = Field(examples=["tenant-123"])
    status: IntentStatus
    definition: dict[str, Any] = Field(examples=[DEFINITION_EXAMPLE])
    description: str | None
    labels: dict[str, str] = Field(examples=[{"team": "web"}])
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])


class IntentVersion(BaseModel):
    """One version of an intent's definition; `rolled_back_to` is the version it repeats, if it does."""

    intent_id: str = Field(examples=[_INTENT_ID])
    version: int = Field(ge=1, examples=[1])
    definition: dict[str, Any] = Field(examples=[DEFINITION_EXAMPLE])
    created_at: datetime = Field(examples=[_AT])
    rolled_back_to: int | None


class ExecutionReceipt(BaseModel):
    """An execution that has been asked for something; `GET /executions/{execution_id}` and its events tell the rest."""

    execution_id: str = Field(examples=[_EXECUTION_ID])
    intent_id: str = Field(examples=[_INTENT_ID])
    version: int = Field(ge=1, examples=[1])
    status: ExecutionStatus


class ExecutionStep(BaseModel):
    """A step and how far it has come."""

    id: str = Field(examples=["build-docker-image"])
    action: str = Field(examples=["build-docker-image"])
    status: StepStatus
    attempts: int = Field(ge=0)
    depends_on: list[str]
    result: Any
    error: dict[str, Any] | None
    started_at: datetime | None
    completed_at: datetime | None


class Execution(BaseModel):
    """An execution with every step, in the order of its plan."""

    id: str = Field(examples=[_EXECUTION_ID])
    execution_id: str = Field(examples=[_EXECUTION_ID])
    intent_id: str = Field(examples=[_INTENT_ID])
    intent_name: str = Field(examples=["deploy-web-app"])
    version: int = Field(ge=1)
    tenant_id: str = Field(examples=["tenant-123"])
    status: ExecutionStatus
    target: str = Field(examples=["production"])
    inputs: dict[str, Any]
    error: dict[str, Any] | None
    started_at: datetime = Field(examples=[_AT])
    completed_at: datetime | None
    updated_at: datetime = Field(examples=[_AT])
    steps: list[ExecutionStep]


ExecutionEventType = Literal[
    "execution_started", "step_started", "step_retrying", "step_completed", "step_failed", "execution_completed",
    "execution_failed", "execution_cancelled", "execution_paused", "execution_resumed", "execution_retried",
]  # fmt: skip


class ExecutionEvent(BaseModel):
    """Something that happened to an execution, with the keys that apply to its type."""

    model_config = ConfigDict(extra="allow")
    type: ExecutionEventType
    execution_id: str = Field(examples=[_EXECUTION_ID])
    at: datetime = Field(examples=[_AT])
    step: str | None = Field(None, examples=["build-docker-image"])
    result: Any = None
    error: dict[str, Any] | None = None


class RetryPolicy(BaseModel):
    """How often an attempt may be made, and the waits between: `initial_seconds * backoff^(n-1)`, at most `cap_seconds`."""

    attempts_max: int
    initial_seconds: float
    backoff: float
    cap_seconds: float


class Action(BaseModel):
    """What a module can do. Schemas are JSON Schemas, `timeout` is in seconds."""

    name: str = Field(examples=["build-docker-image"])
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    timeout: float | None
    retry: RetryPolicy | None


class Transport(BaseModel):
    """How a module is reached: over HTTP at `url`, or in the platform's process as the plug-in named `plugin`."""

    kind: Literal["http", "in-process"]
    url: str | None
    plugin: str | None


class Module(BaseModel):
    """A module; `built_in` marks those that come with the platform."""

    name: str = Field(examples=["docker"])
    actions: list[Action]
    transport: Transport
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])
    built_in: bool


class TenantPage(BaseModel):
    """A page of tenants."""

    items: list[Tenant]
    next_cursor: str | None


class IntentPage(BaseModel):
    """A page of intents, newest first."""

    items: list[Intent]
    next_cursor: str | None


class IntentVersionPage(BaseModel):
    """A page of an intent's versions, newest first."""

    items: list[IntentVersion]
    next_cursor: str | None


class ExecutionPage(BaseModel):
    """A page of executions, newest first."""

    items: list[Execution]
    next_cursor: str | None


class ExecutionEventPage(BaseModel):
    """A page of an execution's events, in the order in which they happened."""

    items: list[ExecutionEvent]
    next_cursor: str | None


class ModulePage(BaseModel):
    """A page of modules: the tenant's own, newest first, then those that come with the platform."""

    items: list[Module]
    next_cursor: str | None


class Health(BaseModel):
    """Whether the process lives or is ready, and each part that was asked."""

    status: Literal["ok", "unavailable"]
    parts: dict[str, str] = Field(examples=[{"event-store": "ok"}])
