# intent_ref: commands.subscription
"""What one may ask of a tenant's subscriptions, and what then happens."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from domain.refusals import Invalid, NotFound, SubscriptionIsDisabled, SubscriptionVersionStale, TooManySubscriptions
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
from domain.subscription_rules import header_faults, terms_faults
from domain.values import SecretId, SubscriptionId

SUBSCRIPTIONS_MAX = 100
FORMER_SECRET_HOURS_MAX = 168.0
DETAIL_CHARS_MAX = 500


class _SubscriptionCommand(BaseModel):
    model_config = ConfigDict(frozen=True)
    subscription_id: SubscriptionId
    at: AwareDatetime


class CreateSubscription(_SubscriptionCommand):
    """Let events go to an address. The secret is kept elsewhere, under `secret_id`, and the headers' values under `headers_id`:
    here they are only judged.
    """

    terms: Terms
    start: Start
    secret_id: SecretId
    headers: dict[str, str] = Field({}, repr=False)
    headers_id: SecretId | None = None


class ChangeSubscription(_SubscriptionCommand):
    """Let these terms hold from now on; what is not set stays as it is. `expected` are the versions that may be changed."""

    url: str = ""
    types: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    description: str | None = None
    order: Order = "per-subject"
    max_in_flight: int = 1
    headers: dict[str, str] = Field({}, repr=False)
    headers_id: SecretId | None = None
    expected: tuple[int, ...] | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The terms that are set; of headers their names, and where their values are kept."""
        others = {"subscription_id", "at", "expected", "headers", "headers_id"}
        changes = {name: getattr(self, name) for name in self.model_fields_set - others}
        return {**changes, **_kept(self.headers, self.headers_id)} if "headers" in self.model_fields_set else changes


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

    Raises `Invalid`, `NotFound`, `SubscriptionVersionStale`, `TooManySubscriptions` or `SubscriptionIsDisabled`.
    """
    known = state.by_id if state is not None else {}
    if isinstance(command, CreateSubscription):
        terms = replace(command.terms, **_kept(command.headers, command.headers_id))
        _check(terms, command.headers)
        if command.subscription_id in known:
            return []
        if len(known) >= SUBSCRIPTIONS_MAX:
            raise TooManySubscriptions(SUBSCRIPTIONS_MAX)
        return [SubscriptionCreated(command.subscription_id, terms, command.start, command.secret_id, command.at)]
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
            if command.expected is not None and subscription.version not in command.expected:
                raise SubscriptionVersionStale(id, subscription.version)
            terms = replace(subscription.terms, **command.changes)
            _check(terms, command.headers)
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


def _kept(headers: Mapping[str, str], headers_id: SecretId | None) -> dict[str, Any]:
    return {"headers": tuple(headers), "headers_id": headers_id if headers else None}


def _check(terms: Terms, headers: Mapping[str, str]) -> None:
    if faults := terms_faults(terms) + header_faults(headers):
        raise Invalid(faults)


def _check_enabled(subscription: Subscription) -> None:
    if subscription.status == "disabled":
        raise SubscriptionIsDisabled(subscription.subscription_id)
