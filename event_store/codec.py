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

from domain import execution, intent, module, tenant

DomainEvent = tenant.TenantEvent | intent.IntentEvent | module.ModuleEvent | execution.ExecutionEvent

TOPICS: dict[str, type[Any]] = {
    "tenant.registered.v1": tenant.TenantRegistered,
    "tenant.suspended.v1": tenant.TenantSuspended,
    "tenant.reactivated.v1": tenant.TenantReactivated,
    "intent.created.v1": intent.IntentCreated,
    "intent.revised.v1": intent.IntentRevised,
    "intent.rolled_back.v1": intent.IntentRolledBack,
    "intent.deprecated.v1": intent.IntentDeprecated,
    "intent.activated.v1": intent.IntentActivated,
    "intent.archived.v1": intent.IntentArchived,
    "module.registered.v1": module.ModuleRegistered,
    "module.changed.v1": module.ModuleChanged,
    "module.removed.v1": module.ModuleRemoved,
    "execution.started.v1": execution.ExecutionStarted,
    "execution.step_started.v1": execution.StepStarted,
    "execution.step_retrying.v1": execution.StepRetrying,
    "execution.step_completed.v1": execution.StepCompleted,
    "execution.step_failed.v1": execution.StepFailed,
    "execution.completed.v1": execution.ExecutionCompleted,
    "execution.failed.v1": execution.ExecutionFailed,
    "execution.cancelled.v1": execution.ExecutionCancelled,
    "execution.paused.v1": execution.ExecutionPaused,
    "execution.resumed.v1": execution.ExecutionResumed,
    "execution.retried.v1": execution.ExecutionRetried,
}

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the JSON of one version of an event into that of the next; pure, and total over what was ever written."""

UPCASTERS: dict[str, tuple[str, Upcaster]] = {}
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
