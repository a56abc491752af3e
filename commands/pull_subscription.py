# intent_ref: commands.pull-subscription
"""What one may ask of a tenant's pull subscriptions, and what then happens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.pull_subscription import (
    PullStart,
    PullSubscription,
    PullSubscriptionChanged,
    PullSubscriptionCreated,
    PullSubscriptionDeleted,
    PullSubscriptionEvent,
    PullSubscriptions,
    PullTerms,
    pull_terms_faults,
)
from domain.refusals import Invalid, NotFound, SubscriptionVersionStale, TooManySubscriptions
from domain.values import SubscriptionId

PULL_SUBSCRIPTIONS_MAX = 100


class CreatePullSubscription(BaseModel):
    """Let events wait to be fetched, from `start` on."""

    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    terms: PullTerms
    start: PullStart
    at: AwareDatetime


class ChangePullSubscription(BaseModel):
    """Let these terms hold from now on; what is not set stays as it is. `expected` are the versions that may be changed."""

    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    types: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    description: str | None = None
    lease_seconds: float = 0.0
    deliveries_max: int = 0
    unacknowledged_max: int = 0
    expected: tuple[int, ...] | None = None
    at: AwareDatetime

    @property
    def changes(self) -> dict[str, Any]:
        """The terms that are set."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"subscription_id", "expected", "at"}}


class DeletePullSubscription(BaseModel):
    """Let it be gone, with all that waits to be acknowledged and its dead letters."""

    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    at: AwareDatetime


PullSubscriptionCommand = CreatePullSubscription | ChangePullSubscription | DeletePullSubscription


def decide(state: PullSubscriptions | None, command: PullSubscriptionCommand) -> list[PullSubscriptionEvent]:
    """What happens on `command`; nothing where things are that way already.

    Raises `Invalid`, `NotFound`, `SubscriptionVersionStale` or `TooManySubscriptions`.
    """
    known = state.by_id if state is not None else {}
    match command:
        case CreatePullSubscription():
            _check(command.terms)
            if command.subscription_id in known:
                return []
            if len(known) >= PULL_SUBSCRIPTIONS_MAX:
                raise TooManySubscriptions(PULL_SUBSCRIPTIONS_MAX)
            return [PullSubscriptionCreated(command.subscription_id, command.terms, command.start, command.at)]
        case ChangePullSubscription():
            before = _known(known, command.subscription_id)
            if command.expected is not None and before.version not in command.expected:
                raise SubscriptionVersionStale(before.subscription_id, before.version)
            terms = replace(before.terms, **command.changes)
            _check(terms)
            return [PullSubscriptionChanged(before.subscription_id, terms, command.at)] if terms != before.terms else []
        case DeletePullSubscription():
            return [PullSubscriptionDeleted(_known(known, command.subscription_id).subscription_id, command.at)]
        case _:
            assert_never(command)


def _known(known: Mapping[str, PullSubscription], id: SubscriptionId) -> PullSubscription:
    if id not in known:
        raise NotFound("pull subscription", id)
    return known[id]


def _check(terms: PullTerms) -> None:
    if faults := pull_terms_faults(terms):
        raise Invalid(faults)
