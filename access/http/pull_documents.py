# intent_ref: access.documents
"""The documents that answers about pull subscriptions carry, as models for the API's description."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from domain.subscription import Order

_ID = "01980c5e-9a10-7b33-8c5c-2d8b7e1f4a12"
_EVENT = "01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c12"


class PullSubscription(BaseModel):
    """A pull subscription: what is given out, and how."""

    id: str = Field(examples=[_ID])
    types: list[str] = Field(examples=[["quantum.execution.*"]])
    subjects: list[str] = Field(examples=[["execution/*"]])
    description: str | None
    order: Order
    lease: float = Field(description="Seconds an event is the reader's, unless a pull says otherwise.")
    max_deliveries: int = Field(description="How often an event is given out before it is a dead letter.")
    max_unacknowledged: int = Field(description="How many events may be given out, or wait to be so again, at a time.")
    created_at: datetime
    updated_at: datetime
    version: int = Field(ge=1, description="Grows with every change: the `ETag`.")


class PullState(PullSubscription):
    """A pull subscription and how it stands."""

    position: str | None = Field(description="Everything up to there was given out at least once; null before the first pull.")
    leased: int
    waiting: int = Field(description="Events to be given out again: their lease is over, or they were given back.")
    dead_letters: int


class PullSubscriptionPage(BaseModel):
    """A tenant's pull subscriptions, oldest first: all of them."""

    items: list[PullSubscription]
    next_cursor: None


class PulledEvent(BaseModel):
    """An event and its lease. `delivery` counts how often it was given out; `event` is a CloudEvent 1.0 as in `GET /events`."""

    id: str = Field(examples=[_EVENT])
    lease: str = Field(examples=[f"{_EVENT}/1"])
    delivery: int = Field(ge=1)
    leased_until: datetime
    event: dict[str, object]


class PulledPage(BaseModel):
    """What there was, in order; nothing where nothing came in time, or where `unacknowledged` has come to the limit."""

    items: list[PulledEvent]
    unacknowledged: int
    max_unacknowledged: int


class Acknowledged(BaseModel):
    """What is done now, and which of the ids are nothing that is given out: done before, dead letters, or never given out."""

    acknowledged: list[str] = Field(examples=[[_EVENT]])
    unknown: list[str]


class GivenBack(BaseModel):
    """Whether the event comes again, or is a dead letter now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": _EVENT, "dead_letter": False}]})
    id: str
    dead_letter: bool


class ExtendedLease(BaseModel):
    """A lease that lasts longer."""

    id: str = Field(examples=[_EVENT])
    leased_until: datetime


class Extended(BaseModel):
    """Which leases last longer, and which ids are nothing that the caller holds."""

    items: list[ExtendedLease]
    unknown: list[str]


class PullDeadLetter(BaseModel):
    """An event that was given out in vain as often as it may be."""

    id: str = Field(examples=[_EVENT])
    position: str = Field(examples=["cTEuNDI"])
    type: str = Field(examples=["quantum.execution.completed.v1"])
    subject: str = Field(examples=["execution/01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11"])
    deliveries: int
    reason: str
    first_at: datetime
    dead_at: datetime
    redriven: bool = Field(description="Asked for again; it is given out as soon as its subject is free.")


class PullDeadLetterPage(BaseModel):
    """Dead letters in the order of the log."""

    items: list[PullDeadLetter]
    next_cursor: str | None


class Counted(BaseModel):
    """How many it were."""

    count: int
