# intent_ref: read-api.events
"""The documents of the feed, as models for the API's description."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_TYPE = "quantum.execution.completed.v1"
_SUBJECT = "execution/01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11"


class CloudEvent(BaseModel):
    """A CloudEvent 1.0. `data` is what its type's schema says; `sequence` counts within the subject, without gaps;
    `position` is the token that goes on behind it."""

    model_config = ConfigDict(extra="allow")
    specversion: Literal["1.0"]
    id: str = Field(examples=["01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c12"])
    source: str = Field(examples=["/quantum"])
    type: str = Field(examples=[_TYPE])
    subject: str = Field(examples=[_SUBJECT])
    time: datetime = Field(examples=["2026-11-21T09:30:00.123456Z"])
    datacontenttype: Literal["application/json"]
    dataschema: str = Field(examples=[f"quantum:event-types/{_TYPE}"])
    tenantid: str = Field(examples=["tenant-123"])
    sequence: str = Field(examples=["0000000008"])
    position: str = Field(examples=["cTEuNDI"])
    partitionkey: str = Field(examples=["tenant-123/execution-01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11"])
    correlationid: str | None = None
    causationid: str | None = None
    actor: str | None = None
    traceparent: str | None = None
    data: Any


class EventPage(BaseModel):
    """A page of the feed. `next` is always there: pass it as `after` to go on, now or later. `next_cursor` is the same while
    there is more to read at once, else null."""

    items: list[CloudEvent]
    next: str = Field(examples=["cTEuNDI"])
    next_cursor: str | None


class EventType(BaseModel):
    """A type of event, with the JSON Schema (2020-12) of its `data`."""

    type: str = Field(examples=[_TYPE])
    version: int = Field(ge=1)
    title: str = Field(examples=["ExecutionCompleted"])
    description: str
    superseded_by: str | None
    schema_: dict[str, Any] = Field(alias="schema")


class EventTypePage(BaseModel):
    """All types of events, by name."""

    items: list[EventType]
    next_cursor: None
