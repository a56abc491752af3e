# intent_ref: domain.subscription
"""A tenant's subscriptions: which events go to which address outside, and whether they go at present."""

from dataclasses import replace
from datetime import datetime
from typing import Literal, assert_never

from domain.immutable import immutable
from domain.values import SecretId, SubscriptionId

Order = Literal["per-subject", "parallel"]
"""`per-subject`: an event waits for the earlier ones of its subject; `parallel`: every event goes as soon as it can."""
SubscriptionStatus = Literal["active", "paused", "disabled"]


@immutable
class Start:
    """Which events a subscription begins with: those after `position`, those recorded at or after `time`, or, with neither,
    those after the subscription itself."""

    position: int | None = None
    time: datetime | None = None


@immutable
class Terms:
    """What is delivered, where to and how. `types` and `subjects` are patterns in which `*` stands for any text.

    `headers` are the names of those that go with every delivery. Their values may be credentials and are never here: they are
    sealed under `headers_id`, as secrets are. Names without it are of a time when the values were in the event itself.
    """

    url: str
    types: tuple[str, ...] = ("*",)
    subjects: tuple[str, ...] = ()
    description: str | None = None
    order: Order = "per-subject"
    max_in_flight: int = 10
    headers: tuple[str, ...] = ()
    headers_id: SecretId | None = None


@immutable
class SubscriptionCreated:
    """Somebody outside subscribed to the tenant's events."""

    subscription_id: SubscriptionId
    terms: Terms
    start: Start
    secret_id: SecretId
    at: datetime


@immutable
class SubscriptionChanged:
    """A subscription wants other events, or wants them elsewhere; `terms` are all that hold from now on."""

    subscription_id: SubscriptionId
    terms: Terms
    at: datetime


@immutable
class SubscriptionSecretRotated:
    """From now on signatures are made with the new secret, and until `former_until` with the former one as well."""

    subscription_id: SubscriptionId
    secret_id: SecretId
    former_secret_id: SecretId
    former_until: datetime
    at: datetime


@immutable
class SubscriptionPaused:
    subscription_id: SubscriptionId
    at: datetime


@immutable
class SubscriptionResumed:
    subscription_id: SubscriptionId
    at: datetime


@immutable
class SubscriptionDisabled:
    """The platform gave up: `reason` is `gone` (the receiver answered 410) or `failing` (nothing got through for days)."""

    subscription_id: SubscriptionId
    reason: str
    detail: str
    at: datetime


@immutable
class SubscriptionEnabled:
    subscription_id: SubscriptionId
    at: datetime


@immutable
class SubscriptionDeleted:
    subscription_id: SubscriptionId
    at: datetime


SubscriptionEvent = (
    SubscriptionCreated | SubscriptionChanged | SubscriptionSecretRotated | SubscriptionPaused | SubscriptionResumed
    | SubscriptionDisabled | SubscriptionEnabled | SubscriptionDeleted
)  # fmt: skip


@immutable
class Subscription:
    """A subscription as its events left it. Secrets are named here, never held."""

    subscription_id: SubscriptionId
    terms: Terms
    start: Start
    secret_id: SecretId
    created_at: datetime
    updated_at: datetime
    status: SubscriptionStatus = "active"
    former_secret_id: SecretId | None = None
    former_until: datetime | None = None
    disabled_reason: str | None = None
    disabled_detail: str | None = None
    version: int = 1
    """Grows with every change: what an entity tag says."""


@immutable
class Subscriptions:
    """All subscriptions of a tenant, by id."""

    by_id: dict[str, Subscription]


def evolve(state: Subscriptions | None, event: SubscriptionEvent) -> Subscriptions:
    """The tenant's subscriptions after `event`."""
    known = dict(state.by_id) if state is not None else {}
    if isinstance(event, SubscriptionDeleted):
        del known[event.subscription_id]
    elif isinstance(event, SubscriptionCreated):
        known[event.subscription_id] = created(event)
    else:
        known[event.subscription_id] = changed(known[event.subscription_id], event)
    return Subscriptions(known)


def created(event: SubscriptionCreated) -> Subscription:
    """A new subscription."""
    return Subscription(event.subscription_id, event.terms, event.start, event.secret_id, event.at, event.at)


Change = (
    SubscriptionChanged | SubscriptionSecretRotated | SubscriptionPaused | SubscriptionResumed | SubscriptionDisabled
    | SubscriptionEnabled
)  # fmt: skip


def changed(subscription: Subscription, event: Change) -> Subscription:
    """The subscription after a change."""
    after = replace(subscription, updated_at=event.at, version=subscription.version + 1)
    match event:
        case SubscriptionChanged():
            return replace(after, terms=event.terms)
        case SubscriptionSecretRotated():
            return replace(
                after, secret_id=event.secret_id, former_secret_id=event.former_secret_id, former_until=event.former_until
            )
        case SubscriptionPaused():
            return replace(after, status="paused")
        case SubscriptionDisabled():
            return replace(after, status="disabled", disabled_reason=event.reason, disabled_detail=event.detail)
        case SubscriptionResumed() | SubscriptionEnabled():
            return replace(after, status="active", disabled_reason=None, disabled_detail=None)
        case _:
            assert_never(event)
