# intent_ref: commands.subscription
"""What one may ask of a tenant's subscriptions, and what then happens."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict

from domain.refusals import Invalid, NotFound, SubscriptionIsDisabled, TooManySubscriptions
from domain.subscription import (
    Order,
    Start,
    Subscription,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionDisabled,
    SubscriptionEnabled,
    SubscriptionEvent,
    SubscriptionPaused,
    SubscriptionResumed,
    Subscriptions,
    SubscriptionSecretRotated,
    Terms,
)
from domain.subscription_rules import terms_faults
from domain.values import SecretId, SubscriptionId

SUBSCRIPTIONS_MAX = 100
FORMER_SECRET_HOURS_MAX = 168.0
DETAIL_CHARS_MAX = 500


class _SubscriptionCommand(BaseModel):
    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    at: AwareDatetime


class CreateSubscription(_SubscriptionCommand):
    """Let events go to an address. The secret is kept elsewhere, under `secret_id`."""

    terms: Terms
    start: Start
    secret_id: SecretId


class ChangeSubscription(_SubscriptionCommand):
    """Let these terms hold from now on; what is not set stays as it is."""

    url: str = ""
    types: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    description: str | None = None
    order: Order = "per-subject"
    max_in_flight: int = 1
    headers: dict[str, str] = {}

    @property
    def changes(self) -> dict[str, Any]:
        """The terms that are set."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"subscription_id", "at"}}


class RotateSubscriptionSecret(_SubscriptionCommand):
    """Let the secret `secret_id` sign; the present one goes on signing beside it for a while."""

    secret_id: SecretId
    former_hours: float


class PauseSubscription(_SubscriptionCommand):
    """Let nothing be delivered until it is resumed; nothing is lost meanwhile."""


class ResumeSubscription(_SubscriptionCommand):
    """Let a paused subscription go on where it stopped."""


class DisableSubscription(_SubscriptionCommand):
    """Let the platform give up on the receiver until somebody enables the subscription again."""

    reason: str
    detail: str


class EnableSubscription(_SubscriptionCommand):
    """Let a disabled subscription go on where it stopped."""


class DeleteSubscription(_SubscriptionCommand):
    """Let it be gone, with its secrets and all that waits to be delivered."""


SubscriptionCommand = (
    CreateSubscription | ChangeSubscription | RotateSubscriptionSecret | PauseSubscription | ResumeSubscription
    | DisableSubscription | EnableSubscription | DeleteSubscription
)  # fmt: skip


def decide(state: Subscriptions | None, command: SubscriptionCommand) -> list[SubscriptionEvent]:
    """What happens on `command`; nothing where things are that way already.

    Raises `Invalid`, `NotFound`, `TooManySubscriptions` or `SubscriptionIsDisabled`.
    """
    known = state.by_id if state is not None else {}
    if isinstance(command, CreateSubscription):
        _check(command.terms)
        if command.subscription_id in known:
            return []
        if len(known) >= SUBSCRIPTIONS_MAX:
            raise TooManySubscriptions(SUBSCRIPTIONS_MAX)
        return [SubscriptionCreated(command.subscription_id, command.terms, command.start, command.secret_id, command.at)]
    subscription = known.get(command.subscription_id)
    if subscription is None:
        raise NotFound("subscription", command.subscription_id)
    return _change(subscription, command)


def _change(
    subscription: Subscription,
    command: ChangeSubscription | RotateSubscriptionSecret | PauseSubscription | ResumeSubscription | DisableSubscription
    | EnableSubscription | DeleteSubscription,
) -> list[SubscriptionEvent]:  # fmt: skip
    id, at, status = subscription.subscription_id, command.at, subscription.status
    match command:
        case ChangeSubscription():
            terms = replace(subscription.terms, **command.changes)
            _check(terms)
            return [SubscriptionChanged(id, terms, at)] if terms != subscription.terms else []
        case RotateSubscriptionSecret():
            hours = min(max(0.0, command.former_hours), FORMER_SECRET_HOURS_MAX)
            until = at + timedelta(hours=hours)
            return [SubscriptionSecretRotated(id, command.secret_id, subscription.secret_id, until, at)]
        case PauseSubscription():
            _check_enabled(subscription)
            return [SubscriptionPaused(id, at)] if status == "active" else []
        case ResumeSubscription():
            _check_enabled(subscription)
            return [SubscriptionResumed(id, at)] if status == "paused" else []
        case DisableSubscription():
            detail = command.detail[:DETAIL_CHARS_MAX]
            return [SubscriptionDisabled(id, command.reason, detail, at)] if status != "disabled" else []
        case EnableSubscription():
            return [SubscriptionEnabled(id, at)] if status == "disabled" else []
        case DeleteSubscription():
            return [SubscriptionDeleted(id, at)]
        case _:
            assert_never(command)


def _check(terms: Terms) -> None:
    if faults := terms_faults(terms):
        raise Invalid(faults)


def _check_enabled(subscription: Subscription) -> None:
    if subscription.status == "disabled":
        raise SubscriptionIsDisabled(subscription.subscription_id)
