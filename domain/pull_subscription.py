# intent_ref: domain.pull-subscription
"""A tenant's pull subscriptions: which events wait to be fetched, under which terms. How far each has come is not here."""

from dataclasses import replace
from datetime import datetime
from typing import assert_never
from uuid import UUID

from domain.immutable import immutable
from domain.input_rules import text_faults
from domain.refusals import Fault
from domain.subscription import Order
from domain.subscription_rules import DESCRIPTION_CHARS_MAX, patterns_faults
from domain.values import SubscriptionId

LEASE_SECONDS_MAX = 3_600.0
DELIVERIES_MAX = 100
UNACKNOWLEDGED_MAX = 10_000


@immutable
class PullTerms:
    """What is given out and how. The order holds for good: who wants another makes another subscription.

    `types` and `subjects` are patterns in which `*` stands for any text. An event given out is its reader's for `lease_seconds`
    unless a pull says otherwise; one that was given out `deliveries_max` times in vain is a dead letter. No more than
    `unacknowledged_max` are given out, or wait to be so again, at a time.
    """

    types: tuple[str, ...] = ("*",)
    subjects: tuple[str, ...] = ()
    description: str | None = None
    order: Order = "per-subject"
    lease_seconds: float = 30.0
    deliveries_max: int = 5
    unacknowledged_max: int = 1_000


@immutable
class PullStart:
    """It begins behind `position`, and where `time` is said, with what was recorded at that time or later."""

    position: int
    time: datetime | None = None


@immutable
class PullSubscriptionCreated:
    """Events wait to be fetched from now on, under these terms; they begin at `start`."""

    subscription_id: SubscriptionId
    terms: PullTerms
    start: PullStart
    at: datetime


@immutable
class PullSubscriptionChanged:
    """`terms` are all that hold from now on, for what is given out; leases that are out end as they would have."""

    subscription_id: SubscriptionId
    terms: PullTerms
    at: datetime


@immutable
class PullSubscriptionDeleted:
    """Nothing can be fetched or acknowledged any more."""

    subscription_id: SubscriptionId
    at: datetime


PullSubscriptionEvent = PullSubscriptionCreated | PullSubscriptionChanged | PullSubscriptionDeleted


@immutable
class PullSubscription:
    """A pull subscription. `version` grows with every change: what an entity tag says."""

    subscription_id: SubscriptionId
    terms: PullTerms
    start: PullStart
    created_at: datetime
    updated_at: datetime
    version: int = 1


@immutable
class PullSubscriptions:
    """All pull subscriptions of a tenant, by id, in the order they were made."""

    by_id: dict[str, PullSubscription]


def evolve(state: PullSubscriptions | None, event: PullSubscriptionEvent) -> PullSubscriptions:
    """The tenant's pull subscriptions after `event`."""
    known = dict(state.by_id) if state is not None else {}
    match event:
        case PullSubscriptionCreated():
            known[event.subscription_id] = PullSubscription(event.subscription_id, event.terms, event.start, event.at, event.at)
        case PullSubscriptionChanged():
            before = known[event.subscription_id]
            known[event.subscription_id] = replace(before, terms=event.terms, updated_at=event.at, version=before.version + 1)
        case PullSubscriptionDeleted():
            del known[event.subscription_id]
        case _:
            assert_never(event)
    return PullSubscriptions(known)


def pull_terms_faults(terms: PullTerms) -> list[Fault]:
    """What is wrong with the terms, each by its pointer."""
    faults = patterns_faults(terms.types, terms.subjects)
    faults += text_faults(terms.description, "/description", DESCRIPTION_CHARS_MAX)
    for name, value, least, most in (
        ("lease", terms.lease_seconds, 1, LEASE_SECONDS_MAX),
        ("max_deliveries", terms.deliveries_max, 1, DELIVERIES_MAX),
        ("max_unacknowledged", terms.unacknowledged_max, 1, UNACKNOWLEDGED_MAX),
    ):
        if not least <= value <= most:
            faults.append(Fault(f"/{name}", f"This must be from {least} to {most:,.0f}.", "invalid"))
    return faults


@immutable
class ReadLease:
    """Which giving-out of an event is meant; without a `delivery`, whichever there is."""

    event_id: UUID
    delivery: int | None = None

    @classmethod
    def read(cls, text: str) -> "ReadLease | None":
        """An event's id, or what `written` gave; None for what is neither."""
        id, slash, delivery = text.partition("/")
        if slash and not (delivery.isascii() and delivery.isdigit() and len(delivery) <= 9):
            return None
        try:
            return cls(UUID(id), int(delivery) if slash else None)
        except ValueError:
            return None

    def written(self) -> str:
        """The text a reader gets and sends back."""
        return str(self.event_id) if self.delivery is None else f"{self.event_id}/{self.delivery}"


@immutable
class Pulled:
    """An event that was given out, as the outside sees it; it is the reader's until `leased_until`."""

    lease: ReadLease
    leased_until: datetime
    position: int
    envelope: bytes


@immutable
class PullStanding:
    """How a subscription stands: `cursor` is None before the first pull; `waiting` are those to be given out again."""

    cursor: int | None
    leased: int
    waiting: int
    dead_letters: int
    redriven: int
    due_seconds: float | None
    """Until the first of those that are given out, or wait, may be given out again."""

    @property
    def unacknowledged(self) -> int:
        """What counts against the limit."""
        return self.leased + self.waiting


@immutable
class PullDeadLetter:
    """An event that was given out in vain as often as it may be. `is_redriven`: it is to be given out again."""

    position: int
    event_id: UUID
    type: str
    subject: str
    deliveries: int
    reason: str
    first_at: datetime
    dead_at: datetime
    is_redriven: bool
