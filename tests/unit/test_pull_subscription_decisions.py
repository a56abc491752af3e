# intent_ref: tests.pull-subscriptions
"""What may be asked of a tenant's pull subscriptions, and what the texts that stand for leases may be."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from commands.pull_subscription import (
    PULL_SUBSCRIPTIONS_MAX,
    ChangePullSubscription,
    CreatePullSubscription,
    DeletePullSubscription,
    decide,
)
from domain.pull_subscription import (
    PullStart,
    PullSubscription,
    PullSubscriptionChanged,
    PullSubscriptionCreated,
    PullSubscriptionDeleted,
    PullSubscriptions,
    PullTerms,
    ReadLease,
    evolve,
)
from domain.refusals import Invalid, NotFound, SubscriptionVersionStale, TooManySubscriptions
from domain.values import SubscriptionId
from streaming.pull_subscriptions import subjects_pattern, types_pattern
from tests.streams import AT

ID = SubscriptionId("s-1")
TERMS = PullTerms(("quantum.execution.*",), ("execution/*",))
MADE = PullSubscriptionCreated(ID, TERMS, PullStart(7), AT)
EVENT = UUID("01980c5e-5b7f-7c22-8b4b-3f9a6f0d7c12")


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def create(terms: PullTerms = TERMS, id: str = ID) -> CreatePullSubscription:
    return CreatePullSubscription(subscription_id=SubscriptionId(id), terms=terms, start=PullStart(7), at=AT)


def test_one_is_made_once_and_deleted_once() -> None:
    assert decide(None, create()) == [MADE]
    state = evolve(None, MADE)
    assert state == PullSubscriptions({ID: PullSubscription(ID, TERMS, PullStart(7), AT, AT)})
    assert decide(state, create()) == []
    delete = DeletePullSubscription(subscription_id=ID, at=AT)
    assert decide(state, delete) == [PullSubscriptionDeleted(ID, AT)]
    assert evolve(state, PullSubscriptionDeleted(ID, AT)) == PullSubscriptions({})
    with pytest.raises(NotFound):
        decide(None, delete)


def test_a_change_keeps_what_it_does_not_name_and_says_so_once() -> None:
    state = evolve(None, MADE)
    change = ChangePullSubscription(subscription_id=ID, lease_seconds=120.0, types=("*",), at=after(60))
    terms = replace(TERMS, lease_seconds=120.0, types=("*",))
    assert decide(state, change) == [PullSubscriptionChanged(ID, terms, after(60))]
    state = evolve(state, PullSubscriptionChanged(ID, terms, after(60)))
    assert state.by_id[ID] == PullSubscription(ID, terms, PullStart(7), AT, after(60), 2)
    assert decide(state, change) == []
    with pytest.raises(NotFound):
        decide(None, change)


def test_a_change_that_was_based_on_another_version_is_refused() -> None:
    state = evolve(evolve(None, MADE), PullSubscriptionChanged(ID, TERMS, AT))
    change = ChangePullSubscription(subscription_id=ID, deliveries_max=9, expected=(1,), at=AT)
    with pytest.raises(SubscriptionVersionStale):
        decide(state, change)
    assert decide(state, change.model_copy(update={"expected": (2,)}))


@pytest.mark.parametrize(
    ("change", "place"),
    [({"types": ()}, "/types"), ({"lease_seconds": 0.5}, "/lease"), ({"unacknowledged_max": 0}, "/max_unacknowledged")],
)
def test_a_change_to_terms_that_cannot_be_is_refused_by_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(Invalid) as refusal:
        decide(evolve(None, MADE), ChangePullSubscription(subscription_id=ID, at=AT, **change))
    assert [fault.pointer for fault in refusal.value.faults] == [place]


def test_a_tenant_has_so_many_and_no_more() -> None:
    state = None
    for number in range(PULL_SUBSCRIPTIONS_MAX):
        state = evolve(state, replace(MADE, subscription_id=SubscriptionId(f"s-{number}")))
    with pytest.raises(TooManySubscriptions):
        decide(state, create(id="one more"))


@pytest.mark.parametrize(
    ("terms", "place"),
    [
        (PullTerms(types=()), "/types"),
        (PullTerms(types=("execution.*",)), "/types/0"),
        (PullTerms(types=("quantum.******",)), "/types/0"),
        (PullTerms(subjects=("",)), "/subjects/0"),
        (PullTerms(description="\0"), "/description"),
        (PullTerms(lease_seconds=0.5), "/lease"),
        (PullTerms(lease_seconds=float("nan")), "/lease"),
        (PullTerms(lease_seconds=3_601), "/lease"),
        (PullTerms(deliveries_max=0), "/max_deliveries"),
        (PullTerms(unacknowledged_max=10_001), "/max_unacknowledged"),
    ],
)
def test_terms_that_cannot_be_are_refused_by_their_place(terms: PullTerms, place: str) -> None:
    with pytest.raises(Invalid) as refusal:
        decide(None, create(terms))
    assert [fault.pointer for fault in refusal.value.faults] == [place]


def test_a_lease_is_an_events_id_with_or_without_the_number_of_the_delivery() -> None:
    assert ReadLease.read(str(EVENT)) == ReadLease(EVENT)
    assert ReadLease.read(f"{EVENT}/3") == ReadLease(EVENT, 3)
    assert ReadLease.read(ReadLease(EVENT, 12).written()) == ReadLease(EVENT, 12)
    for text in (
        "",
        "/",
        f"{EVENT}/",
        f"{EVENT}/x",
        f"{EVENT}/-1",
        f"{EVENT}/1/2",
        f"{EVENT}/²",
        f"{EVENT}/{'9' * 10}",
        "01980c5e",
    ):
        assert ReadLease.read(text) is None, text


def test_patterns_as_the_database_reads_them() -> None:
    assert types_pattern(("*", "quantum.intent.created")) is None
    assert types_pattern(("quantum.a.*", "quantum.b")) == r"^(quantum\.a\..*|quantum\.b)(\.v[0-9]+)?$"
    assert subjects_pattern(()) is None
    assert subjects_pattern(("execution/a+b",)) == r"^(execution/a\+b)$"
