# intent_ref: access.bulk-documents
"""The documents of requests about many executions, as models for the API's description."""

from typing import Literal

from pydantic import BaseModel, Field

from domain.execution import ExecutionStatus

_EXECUTION_ID = "0198a3f0-5b7c-7c21-9d0e-2f4f6f1b8a77"


class BulkProblem(BaseModel):
    """Why an execution was left as it is: the code and title that a request about it alone would have got, and the sentence."""

    code: str = Field(examples=["execution-ended"])
    title: str = Field(examples=["The execution has ended"])
    detail: str


class BulkOutcome(BaseModel):
    """One execution: `done` with the status it has now, `refused` with the reason, or, in a dry run, `found`."""

    execution_id: str = Field(examples=[_EXECUTION_ID])
    intent_name: str = Field(examples=["deploy"])
    outcome: Literal["done", "refused", "found"]
    status: ExecutionStatus
    problem: BulkProblem | None


class BulkAnswer(BaseModel):
    """What came of it. `more`: others fit that come after these; `next_cursor` goes on with them.

    `count` is how many fit from the cursor on, in a dry run; with `count_is_exact` false there are at least so many.
    """

    action: Literal["cancel", "terminate", "pause", "resume", "retry"]
    dry_run: bool
    done: int = Field(ge=0, examples=[2])
    refused: int = Field(ge=0, examples=[0])
    count: int | None = Field(examples=[None])
    count_is_exact: bool
    items: list[BulkOutcome]
    more: bool
    next_cursor: str | None
