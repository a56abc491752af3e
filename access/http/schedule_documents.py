# intent_ref: access.documents
"""The documents of answers about what starts by itself, as models for the API's description."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

_INTENT_ID = "01980c5e-0c1d-7a51-9d0e-0b6a3f6f2a10"
_EXECUTION_ID = "01980c5e-5b7f-5c22-8b4b-3f9a6f0d7c11"
_EVENT_ID = "01980c5e-6c1a-7d33-8c5c-2d8b7e1f4a12"
_AT = "2026-11-21T09:30:00Z"


class NotStarted(BaseModel):
    """Why nothing was started: `at` a moment, for the `time` of a schedule or the event of a trigger."""

    code: str = Field(examples=["intent-not-executable"])
    message: str
    at: datetime = Field(examples=[_AT])
    time: datetime | None = None
    event_id: str | None = None
    faults: list[dict[str, str]] | None = None


class ScheduledRun(BaseModel):
    """A run: the `time` it was for, and its execution."""

    time: datetime = Field(examples=[_AT])
    execution_id: str = Field(examples=[_EXECUTION_ID])


class OwedRun(BaseModel):
    """A time that a limit refused, and that is tried again: how often it was since when, and when it will be next."""

    time: datetime = Field(examples=[_AT])
    since: datetime = Field(examples=[_AT])
    tries: int = Field(ge=1)
    again_at: datetime | None = Field(examples=[_AT])


class Schedule(BaseModel):
    """An intent's schedule as its current version has it, and what has become of it.

    `active` with times to come, `ended` without; `paused` and `archived` start nothing. `next_runs` are the next ten times,
    without their jitter. `passed_over` counts times at which the last run was still under way. `last_error` goes with the next
    run. `missed` counts the times that were refused and are not tried again; `last_missed` says why the last of them was.
    """

    intent_id: str = Field(examples=[_INTENT_ID])
    version: int = Field(ge=1, examples=[1])
    status: Literal["active", "paused", "ended", "archived"]
    schedule: dict[str, Any] = Field(examples=[{"cron": "30 2 * * *", "timezone": "Europe/Berlin", "missed": "once"}])
    next_runs: list[datetime] = Field(examples=[[_AT]])
    runs: int = Field(ge=0)
    passed_over: int = Field(ge=0)
    last_run: ScheduledRun | None
    last_error: NotStarted | None
    owed: OwedRun | None
    missed: int = Field(ge=0)
    last_missed: NotStarted | None


class ScheduleReceipt(BaseModel):
    """An intent's schedule, as it stands right after."""

    intent_id: str = Field(examples=[_INTENT_ID])
    version: int = Field(ge=1, examples=[1])
    status: Literal["active", "paused"]


class TriggeredRun(BaseModel):
    """A run: the event that started it, when, and its execution."""

    event_id: str = Field(examples=[_EVENT_ID])
    at: datetime = Field(examples=[_AT])
    execution_id: str = Field(examples=[_EXECUTION_ID])


class RefusedStart(BaseModel):
    """An execution that an event was to start and that is not tried again by itself: how often it was, and why it was refused."""

    event_id: str = Field(examples=[_EVENT_ID])
    position: str = Field(examples=["cTEuNDI"])
    tries: int = Field(ge=0)
    first_at: datetime = Field(examples=[_AT])
    last_at: datetime = Field(examples=[_AT])
    error: NotStarted


class RefusedStartPage(BaseModel):
    """A page of them."""

    items: list[RefusedStart]
    next_cursor: str | None


class RefusedStarts(BaseModel):
    """How many of them it was done with."""

    count: int = Field(ge=0)


class Trigger(BaseModel):
    """An intent's trigger as its current version has it, and what has become of it.

    `waiting` starts that a limit refused are tried again; `dead_letters` are not, until somebody asks for it.
    """

    intent_id: str = Field(examples=[_INTENT_ID])
    version: int = Field(ge=1, examples=[1])
    status: Literal["active", "archived"]
    trigger: dict[str, Any] = Field(examples=[{"type": "order.placed", "when": "event.data.total > 100"}])
    runs: int = Field(ge=0)
    last_run: TriggeredRun | None
    last_error: NotStarted | None
    waiting: int = Field(ge=0)
    dead_letters: int = Field(ge=0)
