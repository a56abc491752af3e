# intent_ref: access.documents
"""The documents that answers carry, as models for the API's description. `domain.documents` and the log make them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.execution import ExecutionStatus
from domain.intent import IntentStatus
from domain.runs import StepStatus
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
    """An execution that has been asked for something; `GET /executions/{execution_id}` and its events tell the rest.

    `deduplicated`: nothing was started, because this execution runs for the same business key already. `queued`: it begins when
    another one ends, for as many are under way as the tenant may have.
    """

    execution_id: str = Field(examples=[_EXECUTION_ID])
    intent_id: str = Field(examples=[_INTENT_ID])
    version: int = Field(ge=1, examples=[1])
    status: ExecutionStatus
    deduplicated: bool = False
    queued: bool = False


class WaitingFor(BaseModel):
    """What a step waits for. `on_due` is what happens should its `due_at` come first.

    An approval says which `roles` may give it (any, where empty) and its `message`, a signal its name, a child which execution of
    which intent.
    """

    reason: Literal["timer", "approval", "signal", "child", "resume"]
    on_due: Literal["complete", "fail", "skip"]
    roles: list[str] | None = None
    message: Any = None
    signal: str | None = None
    execution_id: str | None = None
    intent: str | None = None
    version: int | None = None


class Compensation(BaseModel):
    """How far the undoing of a step has come."""

    status: StepStatus
    attempts: int = Field(ge=0)
    error: dict[str, Any] | None
    due_at: datetime | None
    started_at: datetime
    completed_at: datetime | None


class StepItem(BaseModel):
    """One item of a step that is done for each of a list. What it has given is in the result of the step."""

    id: str = Field(examples=["deploy[0]"])
    status: StepStatus
    attempts: int = Field(ge=0)
    error: dict[str, Any] | None
    fell_back: bool
    waiting_for: WaitingFor | None
    due_at: datetime | None
    compensation: Compensation | None
    started_at: datetime | None
    completed_at: datetime | None


class StepItems(BaseModel):
    """The items of a step: how many there are, how many are in which status, and the first 100."""

    total: int = Field(ge=0)
    statuses: dict[str, int] = Field(examples=[{"completed": 2, "running": 1}])
    runs: list[StepItem]


class ExecutionStep(BaseModel):
    """A step and how far it has come. At `due_at` it is tried again, or what it waits for has not come in time."""

    id: str = Field(examples=["build-docker-image"])
    action: str = Field(examples=["build-docker-image"])
    status: StepStatus
    attempts: int = Field(ge=0)
    depends_on: list[str]
    result: Any
    error: dict[str, Any] | None
    fell_back: bool
    waiting_for: WaitingFor | None
    due_at: datetime | None
    items: StepItems | None
    compensation: Compensation | None
    started_at: datetime | None
    completed_at: datetime | None


class ExecutionParent(BaseModel):
    """The step of another execution that this execution is carried out for."""

    execution_id: str = Field(examples=[_EXECUTION_ID])
    step: str


class HeldResource(BaseModel):
    """Something a step has made and nobody has released, by its maker's own id."""

    type: str = Field(examples=["vm"])
    id: str = Field(examples=["vm-1"])
    step: str


class Execution(BaseModel):
    """An execution with every step, in the order of its plan.

    `not_undone` are the steps whose undoing failed, `resources` what its steps have made and not released: of both the first 100.
    """

    id: str = Field(examples=[_EXECUTION_ID])
    execution_id: str = Field(examples=[_EXECUTION_ID])
    intent_id: str = Field(examples=[_INTENT_ID])
    intent_name: str = Field(examples=["deploy-web-app"])
    version: int = Field(ge=1)
    tenant_id: str = Field(examples=["tenant-123"])
    status: ExecutionStatus
    queued: bool = Field(description="It waits for its turn: as many executions are under way as the tenant may have.")
    target: str = Field(examples=["production"])
    inputs: dict[str, Any]
    priority: int = Field(ge=1, le=5)
    business_key: str | None
    deadline_at: datetime | None
    parent: ExecutionParent | None
    started_by: str | None
    result: Any
    error: dict[str, Any] | None
    reason: str | None
    not_undone: list[str]
    resources: list[HeldResource]
    started_at: datetime = Field(examples=[_AT])
    completed_at: datetime | None
    updated_at: datetime = Field(examples=[_AT])
    steps: list[ExecutionStep]


ExecutionEventType = Literal[
    "execution_started", "step_started", "step_retrying", "step_completed", "step_failed", "step_skipped", "step_waiting",
    "step_approved", "step_rejected", "step_expanded", "step_falling_back", "step_cancelled", "step_compensated",
    "signal_received", "resource_provisioned", "resource_released", "cancellation_requested", "compensation_started",
    "compensation_failed", "execution_failing", "execution_completed", "execution_failed", "execution_cancelled",
    "execution_terminated", "execution_paused", "execution_resumed", "execution_retried", "execution_rerun",
    "execution_stalled", "execution_queued", "execution_admitted",
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
    jitter: float = Field(description="The part of a wait that chance takes away.")
    non_retryable: list[str] = Field(description="Codes of errors that are final at once.")


class Rate(BaseModel):
    """`max` at once, and as many again in every `per` seconds."""

    max: int
    per: float


class Action(BaseModel):
    """What a module can do. Schemas are JSON Schemas, `timeout` is in seconds."""

    name: str = Field(examples=["build-docker-image"])
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    timeout: float | None
    retry: RetryPolicy | None
    rate: Rate | None = Field(description="How often it may be begun in the tenant.")
    concurrency: int | None = Field(description="How many may be under way at once in the tenant.")
    compensate: str | None = Field(description="The action that undoes this one, with the same parameters.")


class Transport(BaseModel):
    """How a module is reached: over HTTP at `url`, in the platform's process as the plug-in named `plugin`, or by workers that
    fetch its work (`pull`).

    `secret` refers to what requests over HTTP are signed with.
    """

    kind: Literal["http", "in-process", "pull"]
    url: str | None
    plugin: str | None
    secret: str | None


class CircuitProcess(BaseModel):
    """The circuit breaker of one process that calls the module: in this state `since` then, after so many failures."""

    process: str = Field(examples=["3f9a1c07"])
    state: Literal["closed", "open", "half-open"] = Field(examples=["open"])
    since: datetime = Field(examples=[_AT])
    failures: int = Field(ge=0, examples=[12])
    next_probe_at: datetime | None = Field(examples=[_AT], description="Until then nothing is asked; while it is open.")


class Circuit(BaseModel):
    """Whether calls go through: the worst state of any process, and what each process has said in the last three minutes."""

    state: Literal["closed", "open", "half-open"] = Field(examples=["open"])
    processes: list[CircuitProcess]


class Module(BaseModel):
    """A module; `built_in` marks those that come with the platform.

    `circuit` is for modules with an address of their own; a change does not say it, reads do.
    """

    name: str = Field(examples=["docker"])
    actions: list[Action]
    transport: Transport
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])
    built_in: bool
    circuit: Circuit | None = None


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
