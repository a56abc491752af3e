# intent_ref: access.documents
"""The documents that answers about subscriptions carry, as models for the API's description."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.subscription import Order, SubscriptionStatus

_ID = "01980c5e-9a10-7b33-8c5c-2d8b7e1f4a12"
_AT = "2026-11-21T09:30:00.123456Z"
SECRET_EXAMPLE = "whsec_…"  # noqa: S105 - shows the form


class Disabled(BaseModel):
    """Why the platform gave up: `gone` (the receiver answered 410) or `failing` (nothing got through for days)."""

    reason: str = Field(examples=["gone"])
    detail: str


class Subscription(BaseModel):
    """A subscription. Its secret is told when it is made, and never again."""

    id: str = Field(examples=[_ID])
    url: str = Field(examples=["https://hooks.example.com/quantum"])
    types: list[str] = Field(examples=[["quantum.execution.*"]])
    subjects: list[str] = Field(examples=[["execution/*"]])
    description: str | None
    order: Order
    max_in_flight: int
    headers: list[str] = Field(examples=[["Authorization"]], description="Their names; their values are told to nobody.")
    status: SubscriptionStatus
    disabled: Disabled | None
    begins: str = Field(alias="from", examples=["now"])
    former_secret_until: datetime | None
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])
    version: int = Field(ge=1, description="Grows with every change: the `ETag`.")


class SubscriptionWithSecret(Subscription):
    """A subscription with the secret that was made just now. `secret` is null where the request was a repeat."""

    secret: str | None = Field(examples=[SECRET_EXAMPLE])


class SubscriptionPage(BaseModel):
    """A page of subscriptions, newest first."""

    items: list[Subscription]
    next_cursor: str | None


class DeliveryAttempt(BaseModel):
    """One request to the receiver. `error` says in a word why it does not count as delivered; `response` begins its body."""

    at: datetime = Field(examples=[_AT])
    status: int | None = Field(examples=[503])
    duration_ms: float = Field(examples=[12.5])
    error: str | None = Field(examples=["status-503"])
    response: str


DeliveryStatus = Literal["delivered", "failed", "retrying", "waiting"]


class Delivery(BaseModel):
    """An event on its way to a subscription; `id` is the receiver's `webhook-id`. At most 20 attempts are shown."""

    model_config = ConfigDict(json_schema_extra={"examples": []})
    id: str
    event_id: str
    type: str = Field(examples=["quantum.execution.completed.v1"])
    subject: str = Field(examples=["execution/01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c11"])
    status: DeliveryStatus
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    attempts: list[DeliveryAttempt]


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    items: list[Delivery]
    next_cursor: str | None


class DeliveryRequested(BaseModel):
    """What will be delivered: the delivery's id where it is one, else null."""

    delivery_id: str | None
