# intent_ref: event-store.codec
"""Events as bytes: orjson out, cached pydantic adapters in, under topics that outlive the names of classes.

A topic is `<concept>.<what happened>.v<n>` and stands for one JSON shape for ever. When an event's shape changes, its class
moves to the next version in `TOPICS` and `UPCASTERS` says how the old JSON becomes the new; the log is never rewritten, and
`tests/golden/` keeps a file of every version ever written.
"""

from collections.abc import Callable
from typing import Any

import orjson
from pydantic import TypeAdapter

from domain import custom_event, execution_events, intent, module, pull_subscription, subscription, tenant

DomainEvent = (
    tenant.TenantEvent | intent.IntentEvent | module.ModuleEvent | execution_events.ExecutionEvent
    | subscription.SubscriptionEvent | custom_event.CustomEventEmitted | pull_subscription.PullSubscriptionEvent
)  # fmt: skip

TOPICS: dict[str, type[Any]] = {
    "tenant.registered.v1": tenant.TenantRegistered,
    "tenant.suspended.v1": tenant.TenantSuspended,
    "tenant.reactivated.v1": tenant.TenantReactivated,
    "tenant.limits_set.v1": tenant.TenantLimitsSet,
    "intent.created.v1": intent.IntentCreated,
    "intent.revised.v1": intent.IntentRevised,
    "intent.rolled_back.v1": intent.IntentRolledBack,
    "intent.deprecated.v1": intent.IntentDeprecated,
    "intent.activated.v1": intent.IntentActivated,
    "intent.archived.v1": intent.IntentArchived,
    "intent.schedule_paused.v1": intent.IntentSchedulePaused,
    "intent.schedule_resumed.v1": intent.IntentScheduleResumed,
    "module.registered.v2": module.ModuleRegistered,
    "module.changed.v2": module.ModuleChanged,
    "module.removed.v1": module.ModuleRemoved,
    "subscription.created.v2": subscription.SubscriptionCreated,
    "subscription.changed.v2": subscription.SubscriptionChanged,
    "subscription.secret_rotated.v1": subscription.SubscriptionSecretRotated,
    "subscription.paused.v1": subscription.SubscriptionPaused,
    "subscription.resumed.v1": subscription.SubscriptionResumed,
    "subscription.disabled.v1": subscription.SubscriptionDisabled,
    "subscription.enabled.v1": subscription.SubscriptionEnabled,
    "subscription.deleted.v1": subscription.SubscriptionDeleted,
    "pull_subscription.created.v1": pull_subscription.PullSubscriptionCreated,
    "pull_subscription.changed.v1": pull_subscription.PullSubscriptionChanged,
    "pull_subscription.deleted.v1": pull_subscription.PullSubscriptionDeleted,
    "execution.started.v1": execution_events.ExecutionStarted,
    "execution.step_started.v1": execution_events.StepStarted,
    "execution.step_retrying.v1": execution_events.StepRetrying,
    "execution.step_completed.v1": execution_events.StepCompleted,
    "execution.step_failed.v1": execution_events.StepFailed,
    "execution.completed.v1": execution_events.ExecutionCompleted,
    "execution.failed.v1": execution_events.ExecutionFailed,
    "execution.cancelled.v1": execution_events.ExecutionCancelled,
    "execution.paused.v1": execution_events.ExecutionPaused,
    "execution.resumed.v1": execution_events.ExecutionResumed,
    "execution.retried.v1": execution_events.ExecutionRetried,
    "execution.step_skipped.v1": execution_events.StepSkipped,
    "execution.step_waiting.v1": execution_events.StepWaiting,
    "execution.step_approved.v1": execution_events.StepApproved,
    "execution.step_rejected.v1": execution_events.StepRejected,
    "execution.step_expanded.v1": execution_events.StepExpanded,
    "execution.step_falling_back.v1": execution_events.StepFallingBack,
    "execution.step_cancelled.v1": execution_events.StepCancelled,
    "execution.signal_received.v1": execution_events.SignalReceived,
    "execution.resource_provisioned.v1": execution_events.ResourceProvisioned,
    "execution.resource_released.v1": execution_events.ResourceReleased,
    "execution.cancellation_requested.v1": execution_events.CancellationRequested,
    "execution.failing.v1": execution_events.ExecutionFailing,
    "execution.compensation_started.v1": execution_events.CompensationStarted,
    "execution.step_compensated.v1": execution_events.StepCompensated,
    "execution.compensation_failed.v1": execution_events.CompensationFailed,
    "execution.terminated.v1": execution_events.ExecutionTerminated,
    "execution.rerun.v1": execution_events.ExecutionRerun,
    "execution.stalled.v1": execution_events.ExecutionStalled,
    "execution.queued.v1": execution_events.ExecutionQueued,
    "execution.admitted.v1": execution_events.ExecutionAdmitted,
    "custom.emitted.v1": custom_event.CustomEventEmitted,
}

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the JSON of one version of an event into that of the next; pure, and total over what was ever written."""


def _described_by_v2(module_event: dict[str, Any]) -> dict[str, Any]:
    """A transport without a secret to sign with; what actions may say since then has its defaults."""
    return {**module_event, "transport": {**module_event["transport"], "secret": None}}


def _headers_named_v2(subscription_event: dict[str, Any]) -> dict[str, Any]:
    """Headers by name alone. Their values stay in the old event, where the deliverer finds them and nobody else looks."""
    terms = subscription_event["terms"]
    return {**subscription_event, "terms": {**terms, "headers": list(terms["headers"]), "headers_id": None}}


UPCASTERS: dict[str, tuple[str, Upcaster]] = {
    "module.registered.v1": ("module.registered.v2", _described_by_v2),
    "module.changed.v1": ("module.changed.v2", _described_by_v2),
    "subscription.created.v1": ("subscription.created.v2", _headers_named_v2),
    "subscription.changed.v1": ("subscription.changed.v2", _headers_named_v2),
}
"""Old topic -> (the topic of the next version, how to get there)."""

_TOPIC_OF = {event_class: topic for topic, event_class in TOPICS.items()}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {topic: TypeAdapter(event_class) for topic, event_class in TOPICS.items()}


class UnknownTopic(LookupError):
    """The log holds an event this release does not know: it was written by a newer one. Upgrade, then read again."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"Unknown event topic {topic!r}. {self.__doc__}")
        self.topic = topic


class UndecodableEvent(ValueError):
    """An event's bytes are not what its topic promises."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"Cannot decode an event of topic {topic!r}: {reason}")
        self.topic = topic


def topic_of(event_class: type[Any]) -> str:
    """The current topic of an event class."""
    return _TOPIC_OF[event_class]


def encode(event: DomainEvent) -> tuple[str, bytes]:
    """(topic, payload) of an event."""
    return _TOPIC_OF[type(event)], orjson.dumps(event, option=orjson.OPT_UTC_Z)


def decode(topic: str, payload: bytes) -> DomainEvent:
    """The event behind stored bytes, upcast to its current class.

    Raises `UnknownTopic`, or `UndecodableEvent` when the bytes do not fit.
    """
    adapter = _ADAPTERS.get(topic)
    try:
        if adapter is not None:
            event: DomainEvent = adapter.validate_json(payload)
            return event
        return _upcast(topic, payload)
    except UnknownTopic:
        raise
    except Exception as fault:  # bytes that do not fit, or an upcaster that had not thought of them
        raise UndecodableEvent(topic, str(fault)) from fault


def _upcast(topic: str, payload: bytes) -> DomainEvent:
    if topic not in UPCASTERS:
        raise UnknownTopic(topic)
    data = orjson.loads(payload)
    while topic in UPCASTERS:
        topic, upcaster = UPCASTERS[topic]
        data = upcaster(data)
    if topic not in _ADAPTERS:
        raise UnknownTopic(topic)
    event: DomainEvent = _ADAPTERS[topic].validate_python(data)
    return event
