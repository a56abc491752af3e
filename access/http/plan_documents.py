# intent_ref: access.plan-documents
"""The documents of plans, explanations and resources, as models for the API's description."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from access.http.documents import RetryPolicy
from domain.execution import ExecutionStatus
from domain.runs import StepStatus

_EXECUTION_ID = "01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11"


class PlannedRetry(RetryPolicy):
    """How failed attempts are made again. `jitter` is the part of a wait that chance takes; what is not retried has codes."""

    jitter: float
    non_retryable: list[str]


class PlannedStep(BaseModel):
    """A step as it would be carried out, with everything filled in. `control` is what it says beyond its action, if anything."""

    id: str
    kind: Literal["action", "workflow", "wait", "approval", "signal", "none"]
    action: str
    module: str | None
    depends_on: list[str]
    parameters: dict[str, Any]
    timeout_seconds: float
    retry: PlannedRetry
    control: dict[str, Any] | None
    begins_at_once: bool


class CriticalPath(BaseModel):
    """The longest chain of steps that wait for each other."""

    steps: list[str]
    length: int


class Plan(BaseModel):
    """What an execution would do. `order` has every step behind all it depends on."""

    intent_id: str
    intent_name: str
    version: int
    target: str
    inputs: dict[str, Any]
    priority: int
    steps: list[PlannedStep]
    order: list[str]
    critical_path: CriticalPath


class Explanation(BaseModel):
    """Why a step, or one item of it, has not come further: `sentence` for people, `reason` and `facts` for programs."""

    step: str = Field(examples=["deploy[2]"])
    status: StepStatus
    reason: Literal[
        "depends-on", "paused", "ending", "compensating", "timer", "approval", "signal", "child", "retry", "queued", "slot",
        "under-way", "callback", "offered", "fetched", "overdue", "items", "not-handed-out", "turn", "limit", "next",
    ]  # fmt: skip
    sentence: str
    facts: dict[str, Any]


class Explained(BaseModel):
    """Why an execution has not come further. Unfinished steps in the order of the plan, at most 1,000 with their items."""

    execution_id: str = Field(examples=[_EXECUTION_ID])
    status: ExecutionStatus
    sentence: str
    steps: list[Explanation]


class Maker(BaseModel):
    """The step of an execution."""

    execution_id: str = Field(examples=[_EXECUTION_ID])
    step: str


class Resource(BaseModel):
    """Something that a step has made. `execution_id` and `step` say which; `id` is the maker's own."""

    type: str = Field(examples=["vm"])
    id: str = Field(examples=["vm-1"])
    status: Literal["provisioned", "released"]
    attributes: dict[str, Any]
    execution_id: str = Field(examples=[_EXECUTION_ID])
    step: str
    provisioned_at: datetime | None
    released_at: datetime | None
    released_by: Maker | None


class ResourcePage(BaseModel):
    """A page of resources, those made last first."""

    items: list[Resource]
    next_cursor: str | None
