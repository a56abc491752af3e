# intent_ref: domain.intent
"""An intent: a versioned, declarative definition of what should happen. Every version is kept."""

from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, assert_never

from domain.immutable import immutable
from domain.values import IntentId, Version


@immutable
class IntentCreated:
    intent_id: IntentId
    name: str
    definition: dict[str, Any]
    description: str | None
    labels: dict[str, str]
    at: datetime


@immutable
class IntentRevised:
    """A new version. `description` and `labels` are those of the intent from now on."""

    intent_id: IntentId
    version: Version
    definition: dict[str, Any]
    description: str | None
    labels: dict[str, str]
    at: datetime


@immutable
class IntentRolledBack:
    """A new version with the definition of `to_version`."""

    intent_id: IntentId
    version: Version
    to_version: Version
    definition: dict[str, Any]
    at: datetime


@immutable
class IntentDeprecated:
    intent_id: IntentId
    at: datetime


@immutable
class IntentActivated:
    intent_id: IntentId
    at: datetime


@immutable
class IntentArchived:
    intent_id: IntentId
    name: str
    at: datetime


@immutable
class IntentSchedulePaused:
    """The intent's schedule starts nothing until it is resumed; times that pass meanwhile do not count as missed."""

    intent_id: IntentId
    at: datetime


@immutable
class IntentScheduleResumed:
    """The intent's schedule goes on with the first time after this."""

    intent_id: IntentId
    at: datetime


IntentEvent = (
    IntentCreated | IntentRevised | IntentRolledBack | IntentDeprecated | IntentActivated | IntentArchived | IntentSchedulePaused
    | IntentScheduleResumed
)  # fmt: skip
IntentStatus = Literal["active", "deprecated", "archived"]


@immutable
class IntentVersion:
    """One version of the definition, and the version it was rolled back to, if it was."""

    version: Version
    definition: dict[str, Any]
    created_at: datetime
    rolled_back_to: Version | None = None


@immutable
class Intent:
    """An intent as its events left it; `versions` in order, the last one current."""

    intent_id: IntentId
    name: str
    status: IntentStatus
    description: str | None
    labels: dict[str, str]
    versions: tuple[IntentVersion, ...]
    created_at: datetime
    updated_at: datetime
    schedule_paused: bool = False

    @property
    def current(self) -> IntentVersion:
        """The newest version."""
        return self.versions[-1]

    def version(self, number: int) -> IntentVersion | None:
        """The version with this number, if there is one."""
        return self.versions[number - 1] if 1 <= number <= len(self.versions) else None


def evolve(state: Intent | None, event: IntentEvent) -> Intent:
    """The intent after `event`."""
    if isinstance(event, IntentCreated):
        first = IntentVersion(Version(1), event.definition, event.at)
        return Intent(
            event.intent_id,
            event.name,
            "active",
            event.description,
            event.labels,
            (first,),
            event.at,
            event.at,
        )
    assert state is not None, "an intent's first event creates it"
    match event:
        case IntentRevised():
            version = IntentVersion(event.version, event.definition, event.at)
            return replace(
                state, versions=(*state.versions, version), description=event.description, labels=event.labels,
                updated_at=event.at,
            )  # fmt: skip
        case IntentRolledBack():
            version = IntentVersion(event.version, event.definition, event.at, event.to_version)
            return replace(state, versions=(*state.versions, version), updated_at=event.at)
        case IntentDeprecated():
            return replace(state, status="deprecated", updated_at=event.at)
        case IntentActivated():
            return replace(state, status="active", updated_at=event.at)
        case IntentArchived():
            return replace(state, status="archived", updated_at=event.at)
        case IntentSchedulePaused():
            return replace(state, schedule_paused=True)
        case IntentScheduleResumed():
            return replace(state, schedule_paused=False)
        case _:
            assert_never(event)
