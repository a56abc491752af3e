# intent_ref: commands.pull-subscription
"""What one may ask of a tenant's pull subscriptions, and what then happens."""

from typing import assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.pull_subscription import (
    PullStart,
    PullSubscriptionCreated,
    PullSubscriptionDeleted,
    PullSubscriptionEvent,
    PullSubscriptions,
    PullTerms,
    pull_terms_faults,
)
from domain.refusals import Invalid, NotFound, TooManySubscriptions
from domain.values import SubscriptionId

PULL_SUBSCRIPTIONS_MAX = 100


class CreatePullSubscription(BaseModel):
    """Let events wait to be fetched, from `start` on."""

    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    terms: PullTerms
    start: PullStart
    at: AwareDatetime


class DeletePullSubscription(BaseModel):
    """Let it be gone, with all that waits to be acknowledged and its dead letters."""

    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    at: AwareDatetime


PullSubscriptionCommand = CreatePullSubscription | DeletePullSubscription


def decide(state: PullSubscriptions | None, command: PullSubscriptionCommand) -> list[PullSubscriptionEvent]:
    """What happens on `command`; nothing where things are that way already.

    Raises `Invalid`, `NotFound` or `TooManySubscriptions`.
    """
    known = state.by_id if state is not None else {}
    match command:
        case CreatePullSubscription():
            if faults := pull_terms_faults(command.terms):
                raise Invalid(faults)
            if command.subscription_id in known:
                return []
            if len(known) >= PULL_SUBSCRIPTIONS_MAX:
                raise TooManySubscriptions(PULL_SUBSCRIPTIONS_MAX)
            return [PullSubscriptionCreated(command.subscription_id, command.terms, command.start, command.at)]
        case DeletePullSubscription():
            if command.subscription_id not in known:
                raise NotFound("pull subscription", command.subscription_id)
            return [PullSubscriptionDeleted(command.subscription_id, command.at)]
        case _:
            assert_never(command)
